"""Which layers carry adapters and of which kind, through training, files and merge."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from finetune_api.job import LoRA
from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError
from finetune_trainer.evaluation.evaluate import evaluate
from finetune_trainer.model.device import Precision
from finetune_trainer.model.lora import add_lora, check_adapters
from finetune_trainer.model.shape import adapted_layers, shape_of
from finetune_trainer.output.export import export, reload_and_compare
from finetune_trainer.training.loop import train
from tests.support.tiny_model import Architecture, make_model, make_prepared
from tests.support.train_kit import FULL, load

PARTS = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    make_model(folder)
    return folder


def carrying(folder: Path, wanted: Sequence[str] | None) -> list[str]:
    """Layers with adapters, by their whole names."""
    loaded = add_lora(load(folder), LoRA(rank=2, target_modules=list(wanted) if wanted else None), seed=1)
    names = [name.split(".lora_A")[0] for name, _ in loaded.model.named_parameters() if "lora_A" in name]
    return sorted(names)


def layers(*parts: str, of: Sequence[int] = (0, 1)) -> list[str]:
    block = {"q": "self_attn", "k": "self_attn", "v": "self_attn", "o": "self_attn"}
    return sorted(f"model.layers.{i}.{block.get(part[0], 'mlp')}.{part}" for i in of for part in parts)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (None, layers(*PARTS)),
        (["q_proj", "v_proj"], layers("q_proj", "v_proj")),
        (["?_proj"], layers("q_proj", "k_proj", "v_proj", "o_proj")),
        (["*"], layers(*PARTS)),
        (["mlp.*"], layers("gate_proj", "up_proj", "down_proj")),
        (["layers.1.self_attn.q_proj"], layers("q_proj", of=[1])),
        (["model.layers.0.*", "v_proj"], sorted([*layers(*PARTS, of=[0]), *layers("v_proj", of=[1])])),
    ],
)
def test_the_layers_that_were_asked_for_carry_adapters_and_no_other(
    llama: Path, wanted: list[str] | None, expected: list[str]
) -> None:
    assert carrying(llama, wanted) == expected


@pytest.mark.parametrize("wanted", ["query", "lm_head", "embed_tokens", "*norm*", "proj", "layers.7.*"])
def test_a_layer_that_is_not_there_is_refused_with_what_is(llama: Path, wanted: str) -> None:
    lora = LoRA(target_modules=["q_proj", wanted])
    with pytest.raises(StageError) as raised:
        check_adapters(llama, lora)
    assert raised.value.reason is Reason.INVALID_SPEC
    assert raised.value.message == (
        f"training.lora.targetModules: no layer of llama that can carry adapters is called {wanted!r}; take of "
        f"{', '.join(PARTS)}, or leave targetModules out for all"
    )


def test_rank_stabilized_adapters_scale_by_the_root_of_the_rank(llama: Path) -> None:
    scales = {}
    for stabilized in (False, True):
        loaded = add_lora(load(llama), LoRA(rank=16, alpha=32, use_rslora=stabilized), seed=1)
        layers_with = [m for m in loaded.model.modules() if hasattr(m, "lora_A")]
        scales[stabilized] = {float(getattr(m, "scaling")["default"]) for m in layers_with}  # noqa: B009 - peft's, untyped
    assert scales == {False: {2.0}, True: {8.0}}


def test_gaussian_adapters_begin_otherwise_and_change_no_answer_yet(llama: Path) -> None:
    plain = load(llama)
    prepared = make_prepared(plain.tokenizer)
    expected = evaluate(plain, prepared.parts["test"], prepared, texts=(), generate=False).loss
    first = {}
    for init in ("Kaiming", "Gaussian"):
        loaded = add_lora(load(llama), LoRA.model_validate({"rank": 4, "initLoraWeights": init}), seed=1)
        assert evaluate(loaded, prepared.parts["test"], prepared, texts=(), generate=False).loss == expected
        first[init] = next(p for n, p in loaded.model.named_parameters() if "lora_A" in n)
    assert float(first["Gaussian"].detach().std()) == pytest.approx(1 / 4, rel=0.2)  # peft: one over the rank
    assert not torch.equal(first["Kaiming"], first["Gaussian"])


KINDS: dict[str, dict[str, Any]] = {
    "dora": {"useDora": True},
    "rslora": {"useRslora": True, "targetModules": ["q_proj", "layers.1.mlp.*"]},
    "dora, rslora, gaussian": {"useDora": True, "useRslora": True, "initLoraWeights": "Gaussian"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("architecture", "precision"), [("llama", "Float32"), ("llama", "BFloat16"), ("gpt2", "Float32")]
)
def test_what_was_trained_is_what_is_stored_beside_the_base_and_merged(
    tmp_path: Path, kind: str, architecture: Architecture, precision: Precision
) -> None:
    if architecture == "gpt2" and "targetModules" in KINDS[kind]:
        kinds = {**KINDS[kind], "targetModules": ["c_attn"]}
    else:
        kinds = KINDS[kind]
    base = tmp_path / "base"
    make_model(base, architecture=architecture)
    loaded = load(base, precision)
    prepared = make_prepared(loaded.tokenizer)
    lora = LoRA.model_validate({"rank": 4, **kinds})
    check_adapters(base, lora)
    loaded = add_lora(loaded, lora, seed=1)
    assert shape_of(loaded).adapters == loaded.trained_parameters
    before = evaluate(loaded, prepared.parts["test"], prepared, texts=(), generate=False)
    how = dataclasses.replace(FULL, method="LoRA", lora=lora, learning_rate="2e-2", epochs=3)
    outcome = train(loaded, prepared, how)
    inside = evaluate(loaded, prepared.parts["test"], prepared, texts=(), generate=False)
    assert inside.loss < 0.9 * before.loss
    exported = export(loaded, outcome.weights, prepared, tmp_path / "out", kind="Both", base_name=str(base))
    again = reload_and_compare(exported)  # and, on the way, the adapters to the bit and the merge within a hundredth
    outside = evaluate(again, prepared.parts["test"], prepared, texts=(), generate=False)
    assert outside.loss == pytest.approx(inside.loss, rel=1e-3 if precision == "Float32" else 2e-2)
    written = json.loads((tmp_path / "out/adapter/adapter_config.json").read_text())
    assert (written["use_dora"], written["use_rslora"]) == (lora.use_dora, lora.use_rslora)
    # A program that knows nothing of us loads both.
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "out/adapter")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out/model")
    ids = torch.arange(10, 30)[None]
    with torch.no_grad():
        torch.testing.assert_close(plain(ids).logits, merged(ids).logits, rtol=1e-3, atol=2e-3)


def test_what_carries_dora_adapters_is_counted_with_its_lengths(llama: Path) -> None:
    plain, dora = (add_lora(load(llama), LoRA(rank=4, use_dora=use), seed=1) for use in (False, True))
    assert adapted_layers(plain) == adapted_layers(dora)
    rows = sum(p.numel() for n, p in dora.model.named_parameters() if "lora_magnitude_vector" in n)
    assert rows > 0
    assert dora.trained_parameters == plain.trained_parameters + rows == shape_of(dora).adapters
