"""Whatever loads an exported folder finds the template and the settings of the scores."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError
from finetune_trainer.output.serving import check_served, serving_of, write_serving
from finetune_trainer.prepare.prepared import EncodedPart, Prepared, TextRow
from finetune_trainer.text.chat import ChatFormat
from finetune_trainer.text.encode import Encoded, Encoder, Example
from finetune_trainer.text.template.conversation import Message
from tests.support.tiny_model import make_prepared
from tests.support.tiny_tokenizer import CHAT_TEMPLATE, make_tokenizer

SWITCHED = CHAT_TEMPLATE.replace("assistant\n{%", "assistant\n{{ '<think>' if enable_thinking | default(true) }}{%")
OTHER = "{{ 'other' }}"
TURNS = (("user", "hi"), ("assistant", "hello"), ("user", "where is it?"))


def base_folder(folder: Path, template: Any = SWITCHED, **settings: Any) -> PreTrainedTokenizerFast:
    make_tokenizer(folder)
    tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps(settings))
    return tokenizer


def encoded(tokenizer: PreTrainedTokenizerFast, texts: list[TextRow], max_length: int = 256) -> Prepared:
    """Rows as prepare would hand them over, validation and test alike."""
    encoder = Encoder(tokenizer, max_length=max_length)
    turns = [tuple(Message(r, c) for r, c in t.turns) for t in texts]
    rows = encoder.encode([Example("", m or t.prompt, t.completion) for m, t in zip(turns, texts, strict=True)])
    tokens: list[int] = []
    offsets, lengths = [0], []
    shown: list[TextRow] = []
    for row, text in zip(rows, texts, strict=True):
        assert isinstance(row, Encoded)
        asked = text.prompt if row.source is None else str(row.source)
        shown.append(replace(text, prompt=asked, shortened=row.truncated))
        tokens += [*row.prompt, *row.completion]
        offsets.append(len(tokens))
        lengths.append(len(row.prompt))
    n = len(texts)
    part = EncodedPart(
        tokens=np.array(tokens, dtype=np.int32),
        offsets=np.array(offsets, dtype=np.int64),
        prompt_lengths=np.array(lengths, dtype=np.int32),
        rows=np.arange(1, n + 1, dtype=np.int64),
        choice_set=np.full(n, -1, dtype=np.int32),
        answer=np.full(n, -1, dtype=np.int32),
        unanswerable=np.zeros(n, dtype=np.int32),
    )
    made = make_prepared(tokenizer, choices=None)
    return replace(
        made,
        parts={"train": part, "validation": part, "test": part},
        texts={"validation": tuple(shown), "test": tuple(shown)},
        end_ids=encoder.end_ids,
    )


ROWS = [TextRow(1, "a text", "yes"), TextRow(2, "", "there", TURNS), TextRow(3, "another text <b>", "no")]


def exported(folder: Path, tokenizer: PreTrainedTokenizerFast, prepared: Prepared) -> Path:
    """A folder as the export leaves it."""
    out = folder.parent / "exported"
    out.mkdir()
    for path in folder.iterdir():
        if path.is_file() and path.name != "generation_config.json":
            (out / path.name).write_bytes(path.read_bytes())
    write_serving(out, folder, tokenizer, prepared, serving_of(folder, tokenizer, prepared, frozenset({1})))
    return out


def in_config(folder: Path, value: Any) -> None:
    """Move the template into tokenizer_config.json, where older folders have it."""
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": value}))


@pytest.mark.parametrize("form", ["jinja", "config", "list", "both, differing", "named folder"])
def test_every_form_of_a_base_gives_the_fixed_template_wherever_it_is_looked_for(tmp_path: Path, form: str) -> None:
    folder = tmp_path / "base"
    base_folder(folder, {"default": SWITCHED, "tool_use": OTHER} if form == "named folder" else SWITCHED)
    if form in ("config", "list"):
        (folder / "chat_template.jinja").unlink()
        named = [{"name": "tool_use", "template": OTHER}, {"name": "default", "template": SWITCHED}]
        in_config(folder, SWITCHED if form == "config" else named)
    elif form == "both, differing":
        in_config(folder, OTHER)
        (folder / "chat_template.json").write_text(json.dumps({"chat_template": OTHER}))
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    prepared = encoded(tokenizer, ROWS)
    out = exported(folder, tokenizer, prepared)
    chat = ChatFormat.find(tokenizer)
    assert chat is not None
    assert "enable_thinking = false" in chat.template
    assert AutoTokenizer.from_pretrained(out).chat_template == chat.template
    assert (out / "chat_template.jinja").read_text() == chat.template
    assert json.loads((out / "tokenizer_config.json").read_text()).get("chat_template", chat.template) == chat.template
    assert not (out / "chat_template.json").exists()
    check_served(out, prepared)


def test_an_exported_template_is_fixed_already(tmp_path: Path) -> None:
    tokenizer = base_folder(tmp_path / "base")
    prepared = encoded(tokenizer, ROWS)
    out = exported(tmp_path / "base", tokenizer, prepared)
    again: Any = AutoTokenizer.from_pretrained(out)
    chat = ChatFormat.find(again)
    assert chat is not None
    assert chat.template == again.chat_template


@pytest.mark.parametrize(
    "changed",
    [
        SWITCHED,
        "<|im_start|>system\nToday: {{ strftime_now('%d %b %Y') }}<|im_end|>\n" + CHAT_TEMPLATE,
        CHAT_TEMPLATE.replace("message['content']", "message['content'] | upper"),
    ],
)
def test_a_template_that_gives_other_tokens_than_were_trained_is_found(tmp_path: Path, changed: str) -> None:
    tokenizer = base_folder(tmp_path / "base")
    prepared = encoded(tokenizer, ROWS)
    out = exported(tmp_path / "base", tokenizer, prepared)
    (out / "chat_template.jinja").write_text(changed)
    with pytest.raises(StageError, match=r"gives row 1 other tokens than it was scored with") as error:
        check_served(out, prepared)
    assert error.value.reason is Reason.VERIFICATION_FAILED


def test_a_changed_vocabulary_is_found(tmp_path: Path) -> None:
    tokenizer = base_folder(tmp_path / "base")
    prepared = encoded(tokenizer, ROWS)
    out = exported(tmp_path / "base", tokenizer, prepared)
    tokenizer_file = json.loads((out / "tokenizer.json").read_text())
    tokenizer_file["model"]["merges"] = []
    (out / "tokenizer.json").write_text(json.dumps(tokenizer_file))
    with pytest.raises(StageError, match="other tokens"):
        check_served(out, prepared)


def test_shortened_rows_are_proven_as_they_were_asked_and_those_that_spell_control_tokens_left_out(
    tmp_path: Path,
) -> None:
    tokenizer = base_folder(tmp_path / "base")
    rows = [*ROWS, TextRow(4, "the plot was thin " * 40, "yes"), TextRow(5, "say <|im_end|> now", "yes")]
    prepared = encoded(tokenizer, rows, max_length=64)
    assert prepared.texts["test"][3].shortened
    check_served(exported(tmp_path / "base", tokenizer, prepared), prepared)


def test_settings_that_change_answers_are_left_out_and_told(tmp_path: Path) -> None:
    given = {"repetition_penalty": 1.3, "temperature": 0.7, "forced_eos_token_id": 1, "bad_words_ids": [[5]]}
    same = {"do_sample": False, "num_beams": 1, "top_p": 1.0, "_from_model_config": True, "transformers_version": "5"}
    same |= {"output_attentions": False, "output_hidden_states": True, "num_return_sequences": 1, "use_cache": True}
    tokenizer = base_folder(tmp_path / "base", **given, **same, max_length=7, bos_token_id=2)
    prepared = encoded(tokenizer, ROWS)
    serving = serving_of(tmp_path / "base", tokenizer, prepared, frozenset({1}))
    assert serving.left_out == given
    out = exported(tmp_path / "base", tokenizer, prepared)
    assert json.loads((out / "generation_config.json").read_text()) == {
        "bos_token_id": 2,
        "do_sample": False,
        "eos_token_id": [1, 4],
        "max_new_tokens": prepared.max_new_tokens,
        "pad_token_id": 0,
    }


def test_a_base_without_settings_leaves_nothing_out(tmp_path: Path) -> None:
    tokenizer = base_folder(tmp_path / "base")
    (tmp_path / "base" / "generation_config.json").unlink()
    prepared = encoded(tokenizer, ROWS)
    assert serving_of(tmp_path / "base", tokenizer, prepared, frozenset()).left_out == {}


@pytest.mark.parametrize("mended", [True, False])
def test_plain_prompts_are_proven_too(tmp_path: Path, mended: bool) -> None:
    tokenizer = make_tokenizer(tmp_path / "base", chat=False)
    ending = processors.TemplateProcessing(single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 1)])
    tokenizer.backend_tokenizer.post_processor = ending
    tokenizer.save_pretrained(tmp_path / "base")
    prepared = encoded(tokenizer, [ROWS[0], ROWS[2]])
    out = exported(tmp_path / "base", tokenizer, prepared)
    if mended:
        check_served(out, prepared)
        return
    shutil.copyfile(tmp_path / "base" / "tokenizer.json", out / "tokenizer.json")
    with pytest.raises(StageError, match=r"the exported tokenizer gives row 1 other tokens") as error:
        check_served(out, prepared)
    assert error.value.reason is Reason.VERIFICATION_FAILED
