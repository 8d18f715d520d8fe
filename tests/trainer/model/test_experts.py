"""Mixtures of experts: what a token costs, and adapters on the experts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    GptOssConfig,
    JetMoeConfig,
    MixtralConfig,
    PreTrainedConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)

from finetune_api.job import LoRA
from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError
from finetune_trainer.model.adapter import attach, merge_into
from finetune_trainer.model.continued import check_base
from finetune_trainer.model.device import Precision
from finetune_trainer.model.load import LoadedModel, load_model
from finetune_trainer.model.lora import add_lora, check_adapters
from finetune_trainer.model.shape import adapted_layers, shape_of
from finetune_trainer.output.export import export, reload_and_compare
from finetune_trainer.storage.adapterfiles import TENSORS, FetchedAdapter
from finetune_trainer.training.loop import train
from finetune_trainer.training.plan import Hyperparameters
from tests.support.tiny_model import make_prepared
from tests.support.tiny_tokenizer import make_tokenizer

CPU = torch.device("cpu")
COMMON: Final[dict[str, Any]] = {
    "vocab_size": 512,
    "initializer_range": 0.15,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_experts_per_tok": 2,
}
HEADS: Final[dict[str, Any]] = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
CONFIGS: Final[Mapping[str, PreTrainedConfig]] = {
    "mixtral": MixtralConfig(**COMMON, **HEADS, num_local_experts=4),
    "qwen3_moe": Qwen3MoeConfig(
        **COMMON, **HEADS, head_dim=8, num_experts=8, moe_intermediate_size=16, mlp_only_layers=[0]
    ),
    "qwen2_moe": Qwen2MoeConfig(
        **COMMON, **HEADS, num_experts=4, moe_intermediate_size=32, shared_expert_intermediate_size=48
    ),
    "gpt_oss": GptOssConfig(**COMMON, **HEADS, head_dim=8, num_local_experts=4, sliding_window=128),
    "deepseek_v3": DeepseekV3Config(
        **COMMON,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        moe_intermediate_size=32,
        n_shared_experts=1,
        n_routed_experts=4,
        kv_lora_rank=16,
        q_lora_rank=16,
        qk_rope_head_dim=8,
        v_head_dim=8,
        qk_nope_head_dim=8,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
    ),
    "jetmoe": JetMoeConfig(**COMMON, num_key_value_heads=2, kv_channels=8, num_local_experts=4),
}


def make(folder: Path, name: str, precision: Precision = "Float32") -> LoadedModel:
    make_tokenizer(folder, chat=True, bos=False)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(CONFIGS[name]).save_pretrained(folder)
    return load_model(folder, device=CPU, precision=precision)


@pytest.mark.parametrize(
    ("name", "body"),
    [
        # attention q, o 32x32, k, v 32x16; a router of 32 a expert; 2 of the experts, each 3 x 32x64
        ("mixtral", 2 * (2 * 32 * 32 + 2 * 32 * 16 + 4 * 32 + 2 * 3 * 32 * 64)),
        # one dense layer of 64, one with 2 of 8 experts of 16
        ("qwen3_moe", 2 * (2 * 32 * 32 + 2 * 32 * 16) + 3 * 32 * 64 + 8 * 32 + 2 * 3 * 32 * 16),
        # the shared expert of 48 and its gate serve every token
        ("qwen2_moe", 2 * (2 * 32 * 32 + 2 * 32 * 16 + 4 * 32 + 3 * 32 * 48 + 32 + 2 * 3 * 32 * 32)),
    ],
)
def test_a_token_costs_the_experts_that_it_passes_through(tmp_path: Path, name: str, body: int) -> None:
    loaded = make(tmp_path, name)
    assert shape_of(loaded).body == body
    loaded = add_lora(loaded, LoRA(rank=4), seed=1)
    shape = shape_of(loaded)
    assert shape.body == body
    assert 0 < shape.adapters < shape.trained  # experts that sleep cost nothing


def test_experts_and_all_linear_layers_carry_adapters_and_both_are_named(tmp_path: Path) -> None:
    carrying, bare = adapted_layers(add_lora(make(tmp_path, "deepseek_v3"), LoRA(rank=4), seed=1))
    attention = ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj")
    assert carrying == {
        **{f"model.layers.*.self_attn.{name}": 2 for name in attention},
        **{f"model.layers.*.mlp.{name}_proj": 1 for name in ("gate", "up", "down")},
        **{f"model.layers.*.mlp.shared_experts.{name}_proj": 1 for name in ("gate", "up", "down")},
        "model.layers.*.mlp.experts.gate_up_proj": 1,
        "model.layers.*.mlp.experts.down_proj": 1,
    }
    assert bare == {"model.layers.*.mlp.gate": 1}


@pytest.mark.parametrize("precision", ["Float32", "BFloat16"])
@pytest.mark.parametrize("name", CONFIGS)
def test_adapters_on_experts_are_trained_stored_and_merged(tmp_path: Path, name: str, precision: Precision) -> None:
    loaded = make(tmp_path / "base", name, precision)
    prepared = make_prepared(loaded.tokenizer)
    loaded = add_lora(loaded, LoRA(rank=4), seed=1)
    how = Hyperparameters(method="LoRA", epochs=2, batch_size=16, learning_rate="1e-2", seed=7)
    outcome = train(loaded, prepared, how)
    assert outcome.losses[-1] < outcome.losses[0]
    touched = [weight for key, weight in outcome.weights.items() if "experts" in key and "lora_B" in key]
    assert name == "jetmoe" or (touched and all(bool(weight.any()) for weight in touched))
    exported = export(loaded, outcome.weights, prepared, tmp_path / "out", kind="Both", base_name="base")
    reload_and_compare(exported)


@pytest.mark.parametrize("name", CONFIGS)
def test_what_can_carry_adapters_is_known_without_weights(tmp_path: Path, name: str) -> None:
    CONFIGS[name].save_pretrained(tmp_path)
    check_adapters(tmp_path, LoRA())


def test_what_can_not_carry_adapters_is_refused_without_weights(tmp_path: Path) -> None:
    CONFIGS["mixtral"].save_pretrained(tmp_path)
    with pytest.raises(StageError, match="carry adapters without dropout"):
        check_adapters(tmp_path, LoRA(dropout="0.1"))


def test_dora_on_experts_is_refused_with_the_mend(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"training\.lora\.useDora .* mixtral.*experts.*set it to false") as error:
        add_lora(make(tmp_path, "mixtral"), LoRA(use_dora=True), seed=1)
    assert error.value.reason is Reason.INVALID_SPEC


@pytest.mark.parametrize(
    ("wanted", "ends"),
    [(["q_proj"], {"q_proj"}), (["gate_up_proj"], {"gate_up_proj"}), (["q_proj", "experts.*"], {"q_proj", "experts"})],
)
def test_of_a_mixture_the_layers_that_were_asked_for_carry_adapters(
    tmp_path: Path, wanted: list[str], ends: set[str]
) -> None:
    loaded = add_lora(make(tmp_path, "mixtral"), LoRA(rank=2, target_modules=wanted), seed=1)
    carrying, _ = adapted_layers(loaded)
    assert carrying
    assert all(any(end in name for end in ends) for name in carrying)
    assert all(any(end in name for name in carrying) for end in ends)


def test_dropout_on_experts_is_refused_with_the_mend(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"training\.lora\.dropout 0\.1 .* mixtral.*experts.*set it to 0") as error:
        add_lora(make(tmp_path, "mixtral"), LoRA(dropout="0.1"), seed=1)
    assert error.value.reason is Reason.INVALID_SPEC


def test_experts_that_no_adapter_reaches_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune_trainer.model.lora._targets", lambda *_: (["q_proj"], []))
    with pytest.raises(
        StageError, match=r"LoRA is not possible with mixtral, but Full is: its experts \(model"
    ) as error:
        add_lora(make(tmp_path, "mixtral"), LoRA(rank=4), seed=1)
    assert error.value.reason is Reason.MODEL_INVALID


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe"])
def test_an_adapter_on_experts_is_gone_on_with_and_merged_where_it_was(tmp_path: Path, name: str) -> None:
    loaded = add_lora(make(tmp_path / "base", name), LoRA(rank=4), seed=1)
    prepared = make_prepared(loaded.tokenizer)
    how = Hyperparameters(method="LoRA", epochs=1, batch_size=16, learning_rate="1e-2", seed=7)
    outcome = train(loaded, prepared, how)
    exported = export(loaded, outcome.weights, prepared, tmp_path / "out", kind="Adapter", base_name="base")
    folder = tmp_path / "out/adapter"
    given = FetchedAdapter(
        uri="s3://bucket/a/",
        folder=folder,
        revision="r",
        config=json.loads((folder / "adapter_config.json").read_text()),
        shapes={name: tuple(tensor.shape) for name, tensor in load_file(folder / TENSORS).items()},
    )
    check_base(given, loaded.model.config, {}, base="base")
    again = attach(load_model(tmp_path / "base", device=CPU, precision="Float32"), given, LoRA(rank=4, alpha=32))
    assert again.trained_parameters == loaded.trained_parameters > 0
    asked = exported.sample.ask(again)
    assert [row.loss for row in asked.rows] == [row.loss for row in exported.reference.rows]
    merged = merge_into(load_model(tmp_path / "base", device=CPU, precision="Float32"), given)
    assert exported.sample.ask(merged).loss == pytest.approx(exported.reference.loss, rel=1e-4)
    assert adapted_layers(merged)[0] == {}
