"""Calls of tools as answers: the special token before them counts, and what they call is compared as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finetune_trainer.data.parts import PARTS
from finetune_trainer.evaluation.answers import Answers
from finetune_trainer.evaluation.evaluate import evaluate
from finetune_trainer.model.load import LoadedModel, load_model
from finetune_trainer.prepare.arrayfile import map_arrays
from finetune_trainer.prepare.prepare import prepare
from finetune_trainer.prepare.prepared import Prepared
from finetune_trainer.training.samples import _only
from tests.support.chat_templates import TOOL_TEMPLATES, that_thinks, with_tools
from tests.support.prepare_kit import row_ids, spec_of, write
from tests.support.tiny_model import make_model
from tests.support.tiny_tokenizer import make_tokenizer

MARK = "[TOOL_CALLS]"


def prepared(folder: Path, answer: dict[str, Any], tokenizer: Any = None) -> tuple[Prepared, Any]:
    if tokenizer is None:
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


# Calls are compared as JSON.

CALL = {"tool_calls": [{"function": {"name": "find", "arguments": {"what": "a b", "most": 1}}}]}
WRITTEN = '[{"name": "find", "arguments": {"what": "a b", "most": 1}}]'
MATCHES = {
    WRITTEN: True,
    '[{"arguments":{"most":1,"what":"a b"},"name":"find"}]': True,
    WRITTEN.replace("1", '"1"'): False,
    WRITTEN.replace("find", "look"): False,
    WRITTEN.replace("}}]", "}}, {}]"): False,
    WRITTEN.replace("most", "what"): False,
    WRITTEN + " Found.": False,
    WRITTEN[:-1]: False,
}


def answers_of(rows: Prepared, tokenizer: Any, *, whole: bool = True) -> Answers:
    return Answers(tokenizer, rows, frozenset(), whole=whole)


def said(answers: Answers, tokenizer: Any, text: str, *before: int) -> str:
    return answers.said([*before, *tokenizer(text, add_special_tokens=False)["input_ids"]]).answer


@pytest.mark.parametrize("text", MATCHES)
def test_an_answer_with_the_expected_calls_is_right_however_their_json_is_written(tmp_path: Path, text: str) -> None:
    rows, tokenizer = prepared(tmp_path, CALL)
    answers, part = answers_of(rows, tokenizer), rows.parts["test"]
    assert part.called.tolist() == list(range(len(part)))
    assert rows.scores_calls
    reference = answers.reference(completion(rows))
    assert reference == MARK + WRITTEN
    mark = tokenizer.convert_tokens_to_ids(MARK)
    assert answers.matches(said(answers, tokenizer, text, mark), reference, calls=True) is MATCHES[text]
    assert not answers.matches(said(answers, tokenizer, text), reference, calls=True)
    # Without calls that were asked for, a text is a text.
    assert answers.matches(said(answers, tokenizer, text, mark), reference, calls=False) is (text == WRITTEN)
    assert not answers.matches(said(answers, tokenizer, text, mark), None, calls=True)


def test_where_no_answer_calls_no_row_is_compared_as_calls(tmp_path: Path) -> None:
    rows, _ = prepared(tmp_path, {"content": WRITTEN})
    assert not rows.scores_calls
    assert not any(rows.parts[part].calls(0) for part in PARTS)
    arrays = map_arrays(tmp_path / "prepared/rows.safetensors")
    assert not any(name.endswith("called") for name in arrays)


def test_the_rows_that_call_are_known_among_others(tmp_path: Path) -> None:
    tokenizer = with_tools(TOOL_TEMPLATES["list"])
    asked = [[{"role": "user", "content": f"{i} of {7 * i}"}] for i in range(60)]
    answers = [{"content": WRITTEN} if i % 3 else CALL for i in range(60)]
    rows = [
        {"messages": [*turns, {"role": "assistant", **answer}]} for turns, answer in zip(asked, answers, strict=True)
    ]
    path = write(tmp_path / "rows.jsonl", rows)
    found = prepare(
        spec=spec_of({"name": "messages"}), files={"all": path}, tokenizer=tokenizer, folder=tmp_path / "prepared"
    )
    for part in found.parts.values():
        expected = [(row - 1) % 3 == 0 for row in part.rows.tolist()]
        assert any(expected)
        assert [part.calls(i) for i in range(len(part))] == expected
        some = np.array([place for place in range(len(part)) if place != 1], dtype=np.int64)
        picked = _only(part, some)
        assert [picked.calls(i) for i in range(len(picked))] == [expected[place] for place in some]


def test_calls_are_decoded_to_their_end_and_texts_only_as_far_as_needed(tmp_path: Path) -> None:
    rows, tokenizer = prepared(tmp_path, CALL)
    answers = answers_of(rows, tokenizer, whole=False)
    reference = answers.reference(completion(rows))
    begun = tokenizer('[{"arg', add_special_tokens=False)["input_ids"]
    assert answers.finished(begun, reference)
    assert not answers.finished(begun, reference, calls=True)
    assert answers.finished(begun, None, calls=True)
    assert answers.finished([*begun, *answers.stops], reference, calls=True)


THINKING = (
    TOOL_TEMPLATES["list"]
    .replace(
        "[TOOL_CALLS]", "{% if m.reasoning_content %}[THINK]{{ m.reasoning_content }}[/THINK]{% endif %}[TOOL_CALLS]"
    )
    .replace(
        "{% else %}",
        "{% elif m.role == 'assistant' %}<|im_start|>assistant\n{% if m.reasoning_content %}[THINK]"
        "{{ m.reasoning_content }}[/THINK]{% endif %}{{ m.content }}<|im_end|>\n{% else %}",
    )
)


def test_behind_a_thought_the_special_token_of_a_call_counts_too(tmp_path: Path) -> None:
    tokenizer = that_thinks(THINKING)
    tokenizer.add_special_tokens({"additional_special_tokens": [MARK]}, replace_extra_special_tokens=False)
    rows, _ = prepared(tmp_path, {**CALL, "reasoning_content": "I look."}, tokenizer)
    think, closed, mark = tokenizer.convert_tokens_to_ids(["[THINK]", "[/THINK]", MARK])
    expected = completion(rows)
    assert [t for t in expected if t in (think, closed, mark)] == [think, closed, mark]
    for whole in (True, False):
        answers = answers_of(rows, tokenizer, whole=whole)
        reference = answers.reference(expected)
        assert reference == MARK + WRITTEN
        assert answers.said(expected[:-1]).answer == reference
        without = [token for token in expected[:-1] if token != mark]
        assert answers.said(without).answer == WRITTEN
        assert not answers.matches(WRITTEN, reference, calls=True)
        assert answers.said(expected[:-1]).thought == "I look."
        turned = '[{"arguments": {"most": 1, "what": "a b"}, "name": "find"}]'
        assert answers.matches(said(answers, tokenizer, turned, think, closed, mark), reference, calls=True)
        begun = [think, closed, mark, *tokenizer('[{"arg', add_special_tokens=False)["input_ids"]]
        assert answers.finished(begun, reference) is not whole
        assert not answers.finished(begun, reference, calls=True)


def test_a_special_token_of_the_thoughts_is_no_part_of_an_answer(tmp_path: Path) -> None:
    tokenizer = that_thinks(THINKING)
    tokenizer.add_special_tokens({"additional_special_tokens": [MARK]}, replace_extra_special_tokens=False)
    rows, _ = prepared(tmp_path, {**CALL, "reasoning_content": "I look."}, tokenizer)
    answers = answers_of(rows, tokenizer)
    opened, closed = tokenizer.convert_tokens_to_ids(["[THINK]", "[/THINK]"])
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    assert answers.said([opened, *plain, closed, *plain, opened, *plain, closed]).answer == "aa"


def learned(folder: Path, rows: Prepared, tokenizer: Any, text: str) -> LoadedModel:
    """A model that has learned by heart to call in another spelling."""
    make_model(folder, seed=3)
    loaded = load_model(folder, device=torch.device("cpu"), precision="Float32")
    mark = tokenizer.convert_tokens_to_ids(MARK)
    part = rows.parts["test"]
    answer = [mark, *tokenizer(text, add_special_tokens=False)["input_ids"], *rows.end_ids]
    prompts = [row_ids(part, i)[: int(part.prompt_lengths[i])] for i in range(len(part))]
    width = max(map(len, prompts)) + len(answer)
    ids = torch.full((len(prompts), width), rows.pad_id)
    labels = torch.full((len(prompts), width), -100)
    for i, prompt in enumerate(prompts):
        ids[i, : len(prompt) + len(answer)] = torch.tensor([*prompt, *answer])
        labels[i, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
    loaded.model.resize_token_embeddings(len(tokenizer))
    optimizer = torch.optim.AdamW(loaded.model.parameters(), lr=1e-2)
    for _ in range(120):
        loss = loaded.model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    loaded.model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load_model(folder, device=torch.device("cpu"), precision="Float32")


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ('[{"name": "find", "arguments": {"most": 1, "what": "a b"}}]', True),
        ('[{"name": "find", "arguments": {"most": "1", "what": "a b"}}]', False),
    ],
)
def test_a_model_that_calls_in_another_spelling_is_scored_by_what_it_calls(
    tmp_path: Path, text: str, right: bool
) -> None:
    (tmp_path / "tokenizer").mkdir()
    tokenizer = make_tokenizer(tmp_path / "tokenizer")
    tokenizer.chat_template = TOOL_TEMPLATES["list"]
    tokenizer.add_special_tokens({"additional_special_tokens": [MARK]})
    rows, _ = prepared(tmp_path, CALL, tokenizer)
    loaded = learned(tmp_path / "model", rows, tokenizer, text)
    for generate in (True, False):
        texts = rows.texts["test"] if generate else ()
        result = evaluate(loaded, rows.parts["test"], rows, texts=texts, generate=generate)
        assert [row.exact_match for row in result.rows] == [right] * len(rows.parts["test"])
        assert not any(row.exact_match_tokens for row in result.rows)
        if generate:
            assert {row.generated for row in result.rows} == {MARK + text}
