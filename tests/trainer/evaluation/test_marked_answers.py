"""Calls of tools that begin with a special token: without it an answer is a text that looks like one, and is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.evaluation.answers import Answers
from finetune_trainer.prepare.prepare import prepare
from finetune_trainer.prepare.prepared import Prepared
from tests.support.chat_templates import TOOL_TEMPLATES, with_tools
from tests.support.prepare_kit import row_ids, spec_of, write

MARK = "[TOOL_CALLS]"


def prepared(folder: Path, answer: dict[str, Any]) -> tuple[Prepared, Any]:
    tokenizer = with_tools(TOOL_TEMPLATES["list"])
    tokenizer.add_special_tokens({"additional_special_tokens": [MARK]})
    rows = [
        {"messages": [{"role": "user", "content": f"{i} of {7 * i}"}, {"role": "assistant", **answer}]}
        for i in range(60)
    ]
    path = write(folder / "rows.jsonl", rows)
    spec = spec_of({"name": "messages"})
    return prepare(spec=spec, files={"all": path}, tokenizer=tokenizer, folder=folder / "prepared"), tokenizer


def completion(rows: Prepared) -> list[int]:
    part = rows.parts["test"]
    return row_ids(part, 0)[int(part.prompt_lengths[0]) :]


def test_an_answer_without_the_special_token_of_a_call_is_not_the_call(tmp_path: Path) -> None:
    call = {"tool_calls": [{"function": {"name": "find", "arguments": {"what": "a b"}}}]}
    rows, tokenizer = prepared(tmp_path, call)
    answers = Answers(tokenizer, rows, frozenset(), whole=True)
    expected = completion(rows)
    mark = tokenizer.convert_tokens_to_ids(MARK)
    assert expected[0] == mark
    assert answers.said(expected).answer == answers.reference(expected) == rows.texts["test"][0].completion
    assert answers.said(expected[1:]).answer == str(answers.reference(expected)).removeprefix(MARK)
    assert not answers.finished(expected[:1], None if answers.whole else answers.reference(expected))


@pytest.mark.parametrize("text", ["plain", f"spelled {MARK} out"])
def test_where_no_answer_has_one_special_tokens_are_no_text(tmp_path: Path, text: str) -> None:
    rows, tokenizer = prepared(tmp_path, {"content": text})
    answers = Answers(tokenizer, rows, frozenset(), whole=True)
    expected = completion(rows)
    mark = tokenizer.convert_tokens_to_ids(MARK)
    assert mark not in expected
    assert answers.said([mark, *expected]).answer == answers.reference(expected) == text
