"""The one check for a model's own code, which both stages make before a library opens the folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError
from finetune_trainer.storage.modelfiles import check_no_code


def write(folder: Path, name: str, **content: object) -> None:
    (folder / name).write_text(json.dumps(content))


OWN = {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.Model", "AutoTokenizer": ["own.T", None]}


@pytest.mark.parametrize(
    ("config", "tokenizer", "named"),
    [
        ({"model_type": "of_its_own", "auto_map": OWN}, {}, "config.json"),
        ({"auto_map": OWN}, {}, "config.json"),
        ({"model_type": "clip", "auto_map": OWN}, {}, "config.json"),
        ({"model_type": "llama"}, {"auto_map": OWN, "tokenizer_class": "OwnTokenizer"}, "tokenizer_config.json"),
        ({"model_type": "llama"}, {"auto_map": ["own.T", None], "tokenizer_class": "OwnT"}, "tokenizer_config.json"),
        ({"model_type": "of_its_own"}, {"auto_map": OWN}, "tokenizer_config.json"),
    ],
)
def test_code_that_a_model_needs_is_refused(
    tmp_path: Path, config: dict[str, Any], tokenizer: dict[str, Any], named: str
) -> None:
    write(tmp_path, "config.json", **config)
    write(tmp_path, "tokenizer_config.json", **tokenizer)
    with pytest.raises(StageError, match=f"{named} asks for code of its own") as caught:
        check_no_code(tmp_path)
    assert caught.value.reason is Reason.UNSAFE_MODEL


@pytest.mark.parametrize(
    ("config", "tokenizer"),
    [
        ({"model_type": "llama"}, {}),
        ({"model_type": "llama", "auto_map": OWN}, {"auto_map": OWN, "tokenizer_class": "PreTrainedTokenizerFast"}),
        ({"model_type": "phi3", "auto_map": OWN}, {"auto_map": OWN, "tokenizer_class": "LlamaTokenizer"}),
        ({"model_type": "gpt2", "auto_map": OWN}, {"auto_map": OWN}),
        ({"model_type": "gpt2"}, {"auto_map": {"AutoProcessor": "own.P"}, "tokenizer_class": "OwnTokenizer"}),
    ],
)
def test_code_beside_what_transformers_has_itself_is_no_reason(
    tmp_path: Path, config: dict[str, Any], tokenizer: dict[str, Any]
) -> None:
    write(tmp_path, "config.json", **config)
    write(tmp_path, "tokenizer_config.json", **tokenizer)
    check_no_code(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_configuration_that_is_no_json_object_is_an_invalid_model(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(StageError, match=r"config\.json") as caught:
        check_no_code(tmp_path)
    assert caught.value.reason is Reason.MODEL_INVALID
