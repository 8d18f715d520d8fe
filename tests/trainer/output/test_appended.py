"""A tokenizer that ends every text is exported as one that doesn't, so that plain calls ask what was scored."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError
from finetune_trainer.output import appended
from finetune_trainer.output.appended import appended_tokens, check_can_stop, stop_appending
from finetune_trainer.text.encode import Encoder, Example
from tests.support.tiny_tokenizer import make_tokenizer

EOS, BOS = ("<eos>", 1), ("<bos>", 2)
BEHIND = processors.TemplateProcessing(
    single="<bos> $A <eos>", pair="<bos> $A <eos> $B <eos>", special_tokens=[BOS, EOS]
)
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "template": (BEHIND, {}),
    "sequence": (processors.Sequence([processors.ByteLevel(trim_offsets=False), BEHIND]), {}),
    "two behind": (processors.TemplateProcessing(single="$A <bos> <eos>", special_tokens=[BOS, EOS]), {}),
    "bert": (processors.BertProcessing(EOS, BOS), {}),
    "roberta": (processors.RobertaProcessing(EOS, BOS, trim_offsets=False), {}),
    "flag and template": (BEHIND, {"add_bos_token": True, "add_eos_token": True}),
}


def ending(folder: Path, kind: str, *, chat: bool = False) -> PreTrainedTokenizerFast:
    """Write a tokenizer that ends every text, and load it."""
    processor, settings = KINDS[kind]
    made = make_tokenizer(folder, chat=chat)
    made.backend_tokenizer.post_processor = processor
    made.save_pretrained(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, **settings}))
    tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(folder)
    assert tokenizer("a b")["input_ids"][-1] == EOS[1]
    return tokenizer


@pytest.mark.parametrize("kind", KINDS)
def test_a_plain_call_gives_the_prompts_tokens_once_nothing_is_put_behind_it(tmp_path: Path, kind: str) -> None:
    tokenizer = ending(tmp_path / "base", kind)
    check_can_stop(tmp_path / "base", tokenizer)
    assert appended_tokens(tokenizer)[-1] == "<eos>"
    (row,) = Encoder(tokenizer, max_length=64).encode([Example("", "where is it?", "there")])
    assert not isinstance(row, str)
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "base", copy)
    assert stop_appending(copy, tokenizer)
    changed: Any = AutoTokenizer.from_pretrained(copy)
    assert changed("where is it?")["input_ids"] == list(row.prompt)  # type: ignore[union-attr]
    assert row.prompt[-1] != EOS[1]  # type: ignore[union-attr]
    assert appended_tokens(changed) == ()


def test_what_prepare_tries_is_a_copy(tmp_path: Path) -> None:
    tokenizer = ending(tmp_path / "base", "flag and template")
    before = {path.name: path.read_bytes() for path in (tmp_path / "base").iterdir()}
    check_can_stop(tmp_path / "base", tokenizer)
    assert {path.name: path.read_bytes() for path in (tmp_path / "base").iterdir()} == before


def test_a_tokenizer_that_can_not_be_changed_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = ending(tmp_path / "base", "template")
    monkeypatch.setattr(appended, "_cut", dict)
    with pytest.raises(StageError, match="puts <eos> behind every text") as error:
        check_can_stop(tmp_path / "base", tokenizer)
    assert error.value.reason is Reason.MODEL_INVALID


def test_a_model_with_a_chat_template_keeps_its_tokenizer(tmp_path: Path) -> None:
    assert appended_tokens(ending(tmp_path / "base", "template", chat=True)) == ()
