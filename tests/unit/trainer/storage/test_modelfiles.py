"""The one check for a model's own code, which both stages make before a library opens the folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError
from finetune_trainer.storage.modelfiles import CONFIGURATIONS, check_no_code


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_code_of_a_models_own_is_refused_in_every_configuration_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"auto_map": {"AutoModelForCausalLM": "own.Model"}}')
    with pytest.raises(StageError, match=f"{name} asks for code of its own") as caught:
        check_no_code(tmp_path)
    assert caught.value.reason is Reason.UNSAFE_MODEL


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_configuration_that_is_no_json_object_is_an_invalid_model(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(StageError, match=r"config\.json") as caught:
        check_no_code(tmp_path)
    assert caught.value.reason is Reason.MODEL_INVALID
