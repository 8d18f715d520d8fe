"""What a model can take is read from its config.json; rows that it can't take are refused without its weights."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    FalconConfig,
    Gemma3Config,
    GPTJConfig,
    MambaConfig,
    MptConfig,
    OPTConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    XGLMConfig,
)

from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError
from finetune_trainer.evaluation.abilities import try_out
from finetune_trainer.evaluation.evaluate import evaluate
from finetune_trainer.model.limits import (
    Limits,
    check_length,
    check_tokens,
    length_warning,
    limits_of,
    read_config,
    tokenizer_warning,
)
from finetune_trainer.model.load import load_model
from finetune_trainer.text.choices import ChoiceSet
from tests.support.tiny_model import Architecture, make_model, make_prepared

SMALL: dict[str, Any] = {"vocab_size": 128, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1}
WIDTHS: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


def limits(folder: Path) -> Limits:
    return limits_of(read_config(folder))


@pytest.mark.parametrize(
    ("architecture", "positions", "bounded"),
    [("llama", 512, False), ("gpt2", 512, True), ("bloom", None, False), ("mamba", None, False)],
)
def test_positions_are_bounded_where_a_table_of_them_is_learned(
    tmp_path: Path, architecture: Architecture, positions: int | None, bounded: bool
) -> None:
    make_model(tmp_path, architecture=architecture)
    (tmp_path / "model.safetensors").unlink()
    assert limits(tmp_path) == Limits(vocabulary=512, positions=positions, bounded=bounded)


@pytest.mark.parametrize(
    "config",
    [
        GPTJConfig(n_embd=32, n_layer=2, n_head=4, rotary_dim=4, n_positions=32, **SMALL),
        MptConfig(d_model=32, n_heads=4, n_layers=2, max_seq_len=32, **SMALL),
        OPTConfig(max_position_embeddings=32, ffn_dim=64, word_embed_proj_dim=32, **WIDTHS, **SMALL),
        FalconConfig(max_position_embeddings=32, alibi=True, **WIDTHS, **SMALL),
        FalconConfig(max_position_embeddings=32, alibi=False, **WIDTHS, **SMALL),
        XGLMConfig(max_position_embeddings=32, d_model=32, ffn_dim=64, num_layers=2, attention_heads=4, **SMALL),
        MambaConfig(hidden_size=32, state_size=4, num_hidden_layers=2, **SMALL),
    ],
    ids=["gptj", "mpt", "opt", "falcon-alibi", "falcon-rotary", "xglm", "mamba"],
)
def test_a_model_is_bounded_if_and_only_if_it_fails_beyond(config: PreTrainedConfig) -> None:
    model: Any = AutoModelForCausalLM.from_config(config)
    found = limits_of(config)
    ids = torch.arange(48)[None] + 3
    with torch.no_grad():
        model(ids[:, :32])
        if found.bounded:
            assert found.positions == 32
            with pytest.raises((IndexError, RuntimeError)):
                model(ids)
        else:
            model(ids)


def test_the_text_part_of_a_larger_model_counts() -> None:
    text = {"vocab_size": 300, "max_position_embeddings": 77, **WIDTHS, "head_dim": 8, "intermediate_size": 64}
    assert limits_of(Gemma3Config(text_config=text)) == Limits(vocabulary=300, positions=77, bounded=False)


def test_rows_longer_than_a_table_of_positions_are_refused_with_both_numbers() -> None:
    check_length(Limits(vocabulary=9, positions=64, bounded=True), 64)
    check_length(Limits(vocabulary=9, positions=64, bounded=False), 1024)
    check_length(Limits(vocabulary=9, positions=None, bounded=False), 1024)
    with pytest.raises(StageError, match=r"training\.maxLength 65 is more than the 64 positions") as error:
        check_length(Limits(vocabulary=9, positions=64, bounded=True), 65)
    assert error.value.reason is Reason.INVALID_SPEC


@pytest.fixture
def tokenizer(tmp_path: Path) -> PreTrainedTokenizerBase:
    make_model(tmp_path)
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(tmp_path)
    return loaded


@pytest.mark.parametrize("place", ["train", "test", "choice", "end"])
def test_a_token_that_the_embeddings_lack_is_found_wherever_it_is_needed(
    tokenizer: PreTrainedTokenizerBase, place: str
) -> None:
    prepared = make_prepared(tokenizer)
    if place in ("train", "test"):
        part = prepared.parts[place]  # type: ignore[index]  # the two are parts
        tokens = np.array(part.tokens)
        tokens[-3] = 512
        prepared = dataclasses.replace(
            prepared, parts={**prepared.parts, place: dataclasses.replace(part, tokens=tokens)}
        )
    elif place == "choice":
        prepared = dataclasses.replace(prepared, choice_sets=[ChoiceSet(("a", "b"), ((5,), (6, 512)))])
    else:
        prepared = dataclasses.replace(prepared, end_ids=(1, 512))
    check_tokens(Limits(vocabulary=513, positions=None, bounded=False), prepared, tokenizer)
    with pytest.raises(StageError, match=r"need token 512 .* have 512 rows \(vocab_size") as error:
        check_tokens(Limits(vocabulary=512, positions=None, bounded=False), prepared, tokenizer)
    assert error.value.reason is Reason.MODEL_INVALID


def test_tokens_that_no_row_needs_are_only_told(tokenizer: PreTrainedTokenizerBase) -> None:
    small = Limits(vocabulary=len(tokenizer) - 1, positions=None, bounded=False)
    warning = tokenizer_warning(small, tokenizer)
    assert warning is not None
    assert f"{len(tokenizer)} tokens and the model embeddings for {len(tokenizer) - 1}" in warning
    assert tokenizer_warning(Limits(vocabulary=len(tokenizer), positions=None, bounded=False), tokenizer) is None


def test_rows_beyond_rotary_positions_are_told(tokenizer: PreTrainedTokenizerBase) -> None:
    prepared = make_prepared(tokenizer)
    longest = max(int(part.lengths.max()) for part in prepared.parts.values())
    warning = length_warning(Limits(vocabulary=512, positions=longest - 1, bounded=False), prepared)
    assert warning is not None
    assert f"{longest} tokens and the model was made for {longest - 1} positions" in warning
    assert length_warning(Limits(vocabulary=512, positions=longest, bounded=False), prepared) is None
    assert length_warning(Limits(vocabulary=512, positions=None, bounded=False), prepared) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "led"}, "led is an encoder-decoder model that can't be tuned here"),
        ({"model_type": "clip"}, "clip is no causal language model"),
        ({"model_type": "of_tomorrow"}, "of_tomorrow"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantised"),
        ({"vocab_size": "many"}, "config.json"),
    ],
)
def test_a_model_of_another_kind_is_refused_by_its_config_alone(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    make_model(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(StageError, match=words) as error:
        limits(tmp_path)
    assert error.value.reason is Reason.MODEL_INVALID


@pytest.mark.parametrize("branching", [True, False])
def test_an_answer_ends_where_the_positions_end(tmp_path: Path, branching: bool) -> None:
    make_model(tmp_path, architecture="gpt2")
    wide = load_model(tmp_path, device=torch.device("cpu"), precision="Float32")
    prepared = make_prepared(wide.tokenizer, choices=None, max_new_tokens=12)
    part = prepared.parts["test"]
    most = int(part.lengths.max())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "n_positions": most}))
    from safetensors.torch import load_file, save_file

    weights = load_file(tmp_path / "model.safetensors")
    weights["transformer.wpe.weight"] = weights["transformer.wpe.weight"][:most].clone()
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    tight = try_out(load_model(tmp_path, device=torch.device("cpu"), precision="Float32"))
    assert tight.abilities is not None
    tight = dataclasses.replace(tight, abilities=dataclasses.replace(tight.abilities, branching=branching))
    texts = prepared.texts["test"]
    free = evaluate(wide, part, prepared, texts=texts, generate=True)
    bounded = evaluate(tight, part, prepared, texts=texts, generate=True)
    for before, after in zip(free.rows, bounded.rows, strict=True):
        assert str(before.generated).startswith(str(after.generated).rstrip("�"))
    assert [row.loss for row in bounded.rows] == pytest.approx([row.loss for row in free.rows], rel=1e-4)
