"""Prepare as a whole: files in, encoded rows and honest counts out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from finetune_api.reasons import Reason
from finetune_trainer.data.parts import PARTS
from finetune_trainer.prepare.prepare import prepare
from finetune_trainer.prepare.prepared import EncodedPart
from finetune_trainer.process.console import Progress
from tests.support.prepare_kit import LABELS, TURN_END, Dataset, intents, row_ids, spec_of, texts_of, write


def test_a_labelled_dataset_becomes_three_parts_of_encoded_rows(
    dataset: Dataset, chat: PreTrainedTokenizerFast
) -> None:
    prepared = dataset.prepare(intents(300), spec_of())
    assert prepared.metric == "ChoiceAccuracy"
    assert prepared.end_ids == (TURN_END,)
    assert [c.texts for c in prepared.choice_sets] == [LABELS]
    summary = prepared.summary
    assert (summary.rows, summary.dropped, summary.duplicates, summary.conflicts, summary.truncated) == (
        300,
        0,
        0,
        0,
        0,
    )
    assert summary.train + summary.validation + summary.test == 300
    assert summary.tokens == len(prepared.parts["train"].tokens)
    seen: list[int] = []
    for part in PARTS:
        rows = prepared.parts[part]
        assert len(rows) == getattr(summary, part) > 0
        assert rows.offsets[0] == 0
        assert rows.offsets[-1] == len(rows.tokens)
        for i, (prompt, completion) in enumerate(texts_of(prepared, chat, part)):
            source = intents(300)[rows.rows[i] - 1]
            assert prompt == (
                "<|im_start|>user\nWhat does the writer of this message want?\n"
                "Answer with one of: billing, bug, card arrival.\n\n"
                f"Message: {source['text']}\nIntent:<|im_end|>\n<|im_start|>assistant\n"
            )
            assert completion == f"{source['label']}<|im_end|>"
            assert LABELS[rows.answer[i]] == source["label"]
            assert rows.choice_set[i] == 0
        seen += [int(r) for r in rows.rows]
    assert sorted(seen) == list(range(1, 301))


def test_the_arrays_have_the_promised_types(dataset: Dataset) -> None:
    part = dataset.prepare(intents(100), spec_of()).parts["train"]
    types = {f.name: str(getattr(part, f.name).dtype) for f in fields(EncodedPart)}
    assert types == {
        "tokens": "int32",
        "offsets": "int64",
        "prompt_lengths": "int32",
        "rows": "int64",
        "choice_set": "int32",
        "answer": "int32",
        "unanswerable": "int32",
        "gaps": "int32",
        "called": "int32",
    }


def test_a_choices_tokens_are_those_of_the_completions(dataset: Dataset) -> None:
    prepared = dataset.prepare(intents(100), spec_of())
    part = prepared.parts["test"]
    for i in range(len(part)):
        completion = tuple(row_ids(part, i)[part.prompt_lengths[i] :])
        assert completion == prepared.choice_sets[0].ids[part.answer[i]] + prepared.end_ids


def test_validation_and_test_rows_stay_as_text_and_train_as_a_preview(dataset: Dataset) -> None:
    prepared = dataset.prepare(intents(100), spec_of())
    for part in ("validation", "test"):
        assert [t.row for t in prepared.texts[part]] == list(prepared.parts[part].rows)
    assert [t.row for t in prepared.texts["train"]] == list(prepared.parts["train"].rows[:3])
    first = prepared.texts["test"][0]
    assert f"Message: message number {first.row - 1}\n" in first.prompt
    assert first.completion == LABELS[(first.row - 1) % 3]


def test_a_model_without_a_chat_template_gets_plain_text(
    plain_dataset: Dataset, plain: PreTrainedTokenizerFast
) -> None:
    prepared = plain_dataset.prepare(intents(100), spec_of())
    prompt, completion = texts_of(prepared, plain, "test")[0]
    assert prompt.startswith("What does the writer")
    assert prompt.endswith("Intent:")
    assert completion in {f" {label}<eos>" for label in LABELS}


@pytest.mark.parametrize(("name", "content"), [("r.csv", "text,label\n{}"), ("r.tsv", "text\tlabel\n{}")])
def test_separated_values_give_the_same_rows(
    tmp_path: Path, chat: PreTrainedTokenizerFast, name: str, content: str, dataset: Dataset
) -> None:
    mark = "\t" if name.endswith("tsv") else ","
    path = tmp_path / name
    path.write_text(content.format("".join(f"{r['text']}{mark}{r['label']}\n" for r in intents(100))))
    prepared = prepare(spec=spec_of(), files={"all": path}, tokenizer=chat, folder=tmp_path / "out" / "prepared")
    expected = dataset.prepare(intents(100), spec_of())
    for part in PARTS:
        assert np.array_equal(prepared.parts[part].tokens, expected.parts[part].tokens)
        assert np.array_equal(prepared.parts[part].rows, expected.parts[part].rows + 1)


@pytest.fixture
def progress(tmp_path: Path, chat: PreTrainedTokenizerFast) -> dict[str, list[tuple[int, int]]]:
    """What each pass over 1500 rows says of itself."""
    calls: dict[str, list[tuple[int, int]]] = {}

    @contextlib.contextmanager
    def step(name: str, _text: str) -> Iterator[Progress]:
        calls[name] = []
        yield lambda done, total: calls[name].append((done, total))

    path = write(tmp_path / "r.jsonl", intents(1500))
    out = tmp_path / "out" / "prepared"
    out.parent.mkdir()
    prepare(spec=spec_of(), files={"all": path}, tokenizer=chat, folder=out, step=step)
    return calls


def test_progress_reaches_the_number_of_rows(progress: dict[str, list[tuple[int, int]]]) -> None:
    calls = progress["encode_rows"]
    assert calls[-1] == (1500, 1500)
    assert len(calls) >= 2
    assert calls == sorted(calls)


def test_passes_before_the_encoding_show_signs_of_life(progress: dict[str, list[tuple[int, int]]]) -> None:
    """Or a stage would stall where the dataset is large enough to be read for an hour."""
    assert list(progress) == ["read_rows", "split_rows", "encode_rows"]
    assert progress["read_rows"] == [(1024, 0)]
    assert progress["split_rows"] == [(1024, 1500)]


def test_messages_train_on_the_last_turn(dataset: Dataset, chat: PreTrainedTokenizerFast) -> None:
    rows = []
    for i in range(60):
        turns = [
            ("system", "Be brief."),
            ("user", f"a {i}"),
            ("assistant", "b"),
            ("user", "c"),
            ("assistant", f"d {i}"),
        ]
        rows.append({"messages": [{"role": r, "content": c} for r, c in turns]})
    prepared = dataset.prepare(rows, spec_of({"name": "messages"}))
    i = int(prepared.parts["test"].rows[0]) - 1
    prompt, completion = texts_of(prepared, chat, "test")[0]
    assert prompt == (
        f"<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\na {i}<|im_end|>\n"
        "<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n"
    )
    assert completion == f"d {i}<|im_end|>"
    assert prepared.metric == "ExactMatch"
    text = prepared.texts["test"][0]
    assert text.prompt == f"system: Be brief.\n\nuser: a {i}\n\nassistant: b\n\nuser: c"
    assert text.turns == (("system", "Be brief."), ("user", f"a {i}"), ("assistant", "b"), ("user", "c"))


def test_messages_need_a_chat_template(plain_dataset: Dataset) -> None:
    rows = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]
    error = plain_dataset.refused(rows, spec_of({"name": "messages"}))
    assert error.reason is Reason.TEMPLATE_INVALID
    assert "needs a model with a chat template" in error.message


def test_messages_with_choices_are_scored_among_them(dataset: Dataset) -> None:
    rows = [
        {"messages": [{"role": "user", "content": f"q {i}"}, {"role": "assistant", "content": ("yes", "no")[i % 2]}]}
        for i in range(60)
    ]
    prepared = dataset.prepare(rows, spec_of({"name": "messages", "choices": ["yes", "no"]}))
    assert prepared.metric == "ChoiceAccuracy"
    assert [prepared.choice_sets[0].texts[a] for a in prepared.parts["test"].answer] == [
        t.completion for t in prepared.texts["test"]
    ]


def test_rows_with_choices_of_their_own_get_a_choice_set_each(dataset: Dataset) -> None:
    rows = [{"question": f"q {i}", "choices": [f"one {i % 4}", "two"], "answer": "AB"[i % 2]} for i in range(80)]
    prepared = dataset.prepare(rows, spec_of({"name": "multiple-choice"}))
    assert sorted(c.texts[0] for c in prepared.choice_sets) == ["one 0", "one 1", "one 2", "one 3"]
    assert prepared.metric == "ChoiceAccuracy"
    part = prepared.parts["test"]
    for i, text in enumerate(prepared.texts["test"]):
        n = int(part.rows[i]) - 1
        choices = prepared.choice_sets[part.choice_set[i]]
        assert choices.texts == (f"one {n % 4}", "two")
        assert choices.texts[part.answer[i]] == text.completion == (f"one {n % 4}", "two")[n % 2]
        assert f"- one {n % 4}\n- two\n" in text.prompt


def test_choices_of_the_spec_keep_their_order_and_answers_may_be_numbers(dataset: Dataset) -> None:
    rows = [{"text": f"t {i}", "label": i % 2} for i in range(80)]
    prepared = dataset.prepare(rows, spec_of({"name": "sentiment", "choices": ["negative", "positive", "mixed"]}))
    assert prepared.choice_sets[0].texts == ("negative", "positive", "mixed")
    assert {t.completion for t in prepared.texts["test"]} == {"negative", "positive"}
    assert "Answer with one of: negative, positive, mixed." in prepared.texts["test"][0].prompt


def test_an_inline_template_sees_the_columns_and_the_choices(dataset: Dataset) -> None:
    inline = {"prompt": "{{ choices | listed }}: {{ a }} {{ row['b c'] }}", "completion": "{{ choices[d] }}"}
    rows = [{"a": i, "b c": "x", "d": i % 2} for i in range(80)]
    prepared = dataset.prepare(rows, spec_of({"inline": inline, "choices": ["no", "yes"]}))
    text = prepared.texts["test"][0]
    assert text.prompt == f"no, yes: {text.row - 1} x"
    assert text.completion == ("no", "yes")[(text.row - 1) % 2]
    assert prepared.metric == "ChoiceAccuracy"


def test_an_inline_template_without_choices_has_open_answers(dataset: Dataset) -> None:
    rows = [{"a": i, "b": i % 2} for i in range(80)]
    prepared = dataset.prepare(rows, spec_of({"inline": {"prompt": "{{ a }}", "completion": "{{ b }}"}}))
    assert prepared.metric == "ExactMatch"
    assert prepared.choice_sets == ()
    assert set(prepared.parts["test"].choice_set) == set(prepared.parts["test"].answer) == {-1}


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            {"name": "intent", "columns": {"text": "utterance"}},
            "template intent needs column 'utterance', which no row has; map it with template.columns: "
            "{text: YOUR_COLUMN}; columns: text, label",
        ),
        (
            {"name": "qa"},
            "template qa needs columns 'context', 'question', 'answer', which no row has; map them with "
            "template.columns: {context: YOUR_COLUMN, question: YOUR_COLUMN, answer: YOUR_COLUMN}; the fields of qa: "
            "context, question, answer; columns: text, label",
        ),
        (
            {"name": "instruction", "columns": {"instruction": "text", "output": "label", "input": "more"}},
            "needs column 'more', which no row has",
        ),
        (
            {"inline": {"prompt": "{{ text }} {{ tilte }}", "completion": "{{ label }}"}},
            "dataset.template.inline uses 'tilte', which is no column; columns: text, label",
        ),
        (
            {"inline": {"prompt": "{{ text }}", "completion": "{{ lable }}"}},
            "dataset.template.inline.completion uses 'lable', which no row has; columns: text, label",
        ),
        ({"inline": {"prompt": "same", "completion": "{{ label }}"}}, "inline.prompt uses no column of the data"),
        (
            {"inline": {"prompt": "a\n{{ text", "completion": "{{ label }}"}},
            "prompt, line 2: unexpected end of template",
        ),
    ],
)
def test_a_template_that_does_not_suit_the_data_names_what_it_lacks(
    dataset: Dataset, template: dict[str, Any], message: str
) -> None:
    error = dataset.refused(intents(50), spec_of(template))
    assert error.reason is Reason.TEMPLATE_INVALID
    assert message in error.message


def test_a_column_that_only_some_rows_have_makes_the_others_bad(dataset: Dataset) -> None:
    rows = [*intents(99), {"text": "no label"}]
    inline = {"inline": {"prompt": "{{ text }}", "completion": "{{ label }}"}}
    for template in (inline, {"name": "intent"}):
        prepared = dataset.prepare(rows, spec_of(template))
        assert prepared.summary.dropped == 1
    strict = spec_of(inline, dataset={"badRows": {"policy": "Fail"}})
    assert "line 100: column 'label' is missing" in dataset.refused(rows, strict).message


def test_a_null_in_an_inline_template_names_the_columns_that_are_null(dataset: Dataset) -> None:
    rows = [*intents(99), {"text": None, "label": "bug"}]
    inline = {"inline": {"prompt": "{{ text }}", "completion": "{{ label }}"}}
    strict = spec_of(inline, dataset={"badRows": {"policy": "Fail"}})
    assert "line 100: the template can't render it: a null would be printed (null columns: text)" in (
        dataset.refused(rows, strict).message
    )
