"""Prepare as a whole: files in, encoded rows and honest counts out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import normalizers
from transformers import PreTrainedTokenizerFast

from finetune_api.job import FineTuneJobSpec
from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError
from finetune_trainer.prepare import load_prepared, prepare, prepared_digest, save_prepared
from finetune_trainer.prepared import PARTS, EncodedPart, Part, Prepared
from finetune_trainer.preparedio import PREPARED_FILES, fingerprint
from tests.support.tiny_tokenizer import make_tokenizer

ROOT = Path(__file__).resolve().parents[2]
LABELS = ("billing", "bug", "card arrival")
TURN_END = 4


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    return make_tokenizer(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    return make_tokenizer(tmp_path_factory.mktemp("plain"), chat=False)


def intents(n: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"text": f"message number {i}", "label": LABELS[i % 3]} for i in range(start, start + n)]


def spec_of(template: dict[str, Any] | None = None, **blocks: Any) -> FineTuneJobSpec:
    dataset = {"uri": "s3://data/rows.jsonl", "template": template or {"name": "intent"}, **blocks.pop("dataset", {})}
    if "files" in dataset:
        del dataset["uri"]
    return FineTuneJobSpec.model_validate({"model": {"uri": "s3://models/m/"}, "dataset": dataset, **blocks})


def write(path: Path, rows: Iterable[dict[str, Any] | str]) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8")
    return path


class Dataset:
    """Runs prepare on rows that the test writes."""

    def __init__(self, folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
        self.folder, self.tokenizer = folder, tokenizer

    def prepare(
        self, rows: Iterable[dict[str, Any] | str] | Mapping[str, Iterable[dict[str, Any] | str]], spec: FineTuneJobSpec
    ) -> Prepared:
        given = rows if isinstance(rows, Mapping) else {"all": rows}
        files = {part: write(self.folder / f"{part}.jsonl", content) for part, content in given.items()}
        return prepare(spec=spec, files=files, tokenizer=self.tokenizer)

    def refused(self, rows: Any, spec: FineTuneJobSpec) -> StageError:
        with pytest.raises(StageError) as caught:
            self.prepare(rows, spec)
        return caught.value


@pytest.fixture
def dataset(tmp_path: Path, chat: PreTrainedTokenizerFast) -> Dataset:
    return Dataset(tmp_path, chat)


@pytest.fixture
def plain_dataset(tmp_path: Path, plain: PreTrainedTokenizerFast) -> Dataset:
    return Dataset(tmp_path, plain)


def row_ids(part: EncodedPart, i: int) -> list[int]:
    return [int(t) for t in part.tokens[part.offsets[i] : part.offsets[i + 1]]]


def texts_of(prepared: Prepared, tokenizer: PreTrainedTokenizerFast, part: Part) -> list[tuple[str, str]]:
    rows = prepared.parts[part]
    cut = [(row_ids(rows, i), int(rows.prompt_lengths[i])) for i in range(len(rows))]
    return [(str(tokenizer.decode(ids[:n])), str(tokenizer.decode(ids[n:]))) for ids, n in cut]


# The whole.


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
    prepared = prepare(spec=spec_of(), files={"all": path}, tokenizer=chat)
    expected = dataset.prepare(intents(100), spec_of())
    for part in PARTS:
        assert np.array_equal(prepared.parts[part].tokens, expected.parts[part].tokens)
        assert np.array_equal(prepared.parts[part].rows, expected.parts[part].rows + 1)


def test_progress_reaches_the_number_of_rows(tmp_path: Path, chat: PreTrainedTokenizerFast) -> None:
    calls: list[tuple[int, int]] = []
    path = write(tmp_path / "r.jsonl", intents(1500))
    prepare(spec=spec_of(), files={"all": path}, tokenizer=chat, progress=lambda *a: calls.append(a))
    assert calls[-1] == (1500, 1500)
    assert len(calls) >= 4
    assert calls == sorted(calls)


# Templates.


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
    assert prepared.texts["test"][0].prompt == f"system: Be brief.\n\nuser: a {i}\n\nassistant: b\n\nuser: c"


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
        ({"name": "qa"}, "template qa needs column 'context', which no row has"),
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


# Labels and choices.


def test_the_label_set_comes_from_the_train_rows_alone(dataset: Dataset) -> None:
    rows = {"train": intents(50), "test": [*intents(30, 100), {"text": "t", "label": "unseen"}]}
    spec = spec_of(
        dataset={
            "files": {"train": "s3://data/train.jsonl", "test": "s3://data/test.jsonl"},
            "split": {"trainPercent": 80, "validationPercent": 20, "testPercent": 0},
        }
    )
    prepared = dataset.prepare(rows, spec)
    assert prepared.choice_sets[0].texts == LABELS
    assert (prepared.summary.test, prepared.summary.dropped) == (30, 1)


def test_an_answer_that_is_no_choice_is_a_bad_row(dataset: Dataset) -> None:
    rows = [*intents(99), {"text": "t", "label": "other"}]
    strict = spec_of({"name": "intent", "choices": list(LABELS)}, dataset={"badRows": {"policy": "Fail"}})
    assert "line 100: the answer 'other' is none of the choices" in dataset.refused(rows, strict).message
    inline = {"inline": {"prompt": "{{ text }}", "completion": "{{ label }}"}, "choices": list(LABELS)}
    strict = spec_of(inline, dataset={"badRows": {"policy": "Fail"}})
    assert "the answer 'other' is none of dataset.template.choices" in dataset.refused(rows, strict).message


@pytest.mark.parametrize("choices", [None, ["billing", "bug"]])
def test_a_classification_with_one_label_is_refused(dataset: Dataset, choices: list[str] | None) -> None:
    rows = [{"text": f"t {i}", "label": "bug"} for i in range(50)]
    error = dataset.refused(rows, spec_of({"name": "topic", **({"choices": choices} if choices else {})}))
    assert error.reason is Reason.DATASET_INVALID
    assert "train rows have the answer 'bug' in column 'label'" in error.message


def test_a_column_of_free_text_is_no_label(dataset: Dataset) -> None:
    rows = [{"text": f"t {i}", "label": f"l {i}"} for i in range(400)]
    error = dataset.refused(rows, spec_of())
    assert error.reason is Reason.DATASET_INVALID
    assert "different values in the train rows, and template intent is for at most 256 labels" in error.message


def test_choices_that_are_the_same_tokens_are_refused(dataset: Dataset) -> None:
    dataset.tokenizer = make_tokenizer(dataset.folder / "nfc")
    dataset.tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    choices = ["caf\u00e9", "cafe\u0301"]
    rows = [{"text": f"t {i}", "label": choices[i % 2]} for i in range(50)]
    error = dataset.refused(rows, spec_of())
    assert error.reason is Reason.TEMPLATE_INVALID
    assert "are the same tokens to this model" in error.message
    own = [{"question": f"q {i}", "choices": ["a", "b"], "answer": 0} for i in range(99)]
    own.append({"question": "last", "choices": choices, "answer": 0})
    assert dataset.prepare(own, spec_of({"name": "multiple-choice"})).summary.dropped == 1


def test_end_tokens_are_scored_where_one_choice_begins_another(dataset: Dataset) -> None:
    rows = [{"text": f"t {i}", "label": ("card", "card arrival")[i % 2]} for i in range(50)]
    assert dataset.prepare(rows, spec_of()).score_end_tokens
    assert not dataset.prepare(intents(50), spec_of()).score_end_tokens


def test_choice_accuracy_without_choices_is_refused(dataset: Dataset) -> None:
    rows = [{"prompt": f"p {i}", "completion": "c"} for i in range(50)]
    error = dataset.refused(rows, spec_of({"name": "raw"}, evaluation={"metric": "ChoiceAccuracy"}))
    assert error.reason is Reason.INVALID_SPEC
    assert "set dataset.template.choices" in error.message


def test_a_metric_in_the_spec_wins(dataset: Dataset) -> None:
    prepared = dataset.prepare(intents(50), spec_of(evaluation={"metric": "ExactMatch"}))
    assert prepared.metric == "ExactMatch"
    assert prepared.choice_sets


# Counting.


def test_duplicates_and_conflicts_are_counted_and_never_straddle_parts(dataset: Dataset) -> None:
    rows = intents(200)
    rows += [{"text": r["text"].upper(), "label": r["label"]} for r in rows[:20]]
    rows += [{"text": r["text"], "label": "other"} for r in rows[100:110]]
    prepared = dataset.prepare(rows, spec_of())
    assert (prepared.summary.duplicates, prepared.summary.conflicts, prepared.summary.rows) == (20, 20, 230)
    side = {int(r): p for p in PARTS for r in prepared.parts[p].rows}
    assert all(side[101 + i] == side[221 + i] for i in range(10))


def test_rows_that_differ_in_an_unused_column_only_are_duplicates(dataset: Dataset) -> None:
    rows = [r | {"id": i} for i, r in enumerate([*intents(60), *intents(60)])]
    for template in ({"name": "intent"}, {"inline": {"prompt": "{{ text }}", "completion": "{{ label }}"}}):
        assert dataset.prepare(rows, spec_of(template)).summary.duplicates == 60
    whole = {"inline": {"prompt": "{{ row | tojson }}", "completion": "{{ label }}"}}
    assert dataset.prepare(rows, spec_of(whole)).summary.duplicates == 0


def test_group_and_stratum_columns_shape_the_split(dataset: Dataset) -> None:
    rows = [r | {"who": {"id": i // 4}} for i, r in enumerate(intents(400))]
    prepared = dataset.prepare(rows, spec_of(dataset={"split": {"groupBy": "who"}}))
    for part in PARTS:
        lines = {int(r) for r in prepared.parts[part].rows}
        assert all(4 * ((r - 1) // 4) + j + 1 in lines for r in lines for j in range(4))
    prepared = dataset.prepare(intents(300), spec_of(dataset={"split": {"stratifyBy": "label"}}))
    assert [getattr(prepared.summary, p) for p in PARTS] == [240, 30, 30]
    assert list(np.bincount(prepared.parts["test"].answer)) == [10, 10, 10]


@pytest.mark.parametrize("field", ["groupBy", "stratifyBy"])
def test_a_split_column_that_no_row_has_is_refused(dataset: Dataset, field: str) -> None:
    error = dataset.refused(intents(50), spec_of(dataset={"split": {field: "who"}}))
    assert error.reason is Reason.INVALID_SPEC
    assert f"dataset.split.{field} names column 'who', which no row has; columns: text, label" in error.message


def test_given_files_keep_their_rows_and_leaks_leave_train(dataset: Dataset) -> None:
    train, test = intents(200), intents(50, 190)
    spec = spec_of(
        dataset={
            "files": {"train": "s3://data/train.jsonl", "test": "s3://data/test.jsonl"},
            "split": {"trainPercent": 80, "validationPercent": 20, "testPercent": 0},
        }
    )
    prepared = dataset.prepare({"train": train, "test": test}, spec)
    assert (prepared.summary.test, prepared.summary.leaked) == (50, 10)
    assert prepared.summary.train + prepared.summary.validation == 190
    assert prepared.summary.rows == 250
    assert max(int(r) for p in ("train", "validation") for r in prepared.parts[p].rows) == 190


def test_a_bad_row_is_named_with_its_file(dataset: Dataset) -> None:
    spec = spec_of(
        dataset={
            "files": {"train": "s3://data/train.jsonl", "test": "s3://data/test.jsonl"},
            "split": {"trainPercent": 80, "validationPercent": 20, "testPercent": 0},
            "badRows": {"policy": "Fail"},
        }
    )
    error = dataset.refused({"train": intents(50), "test": [*intents(2, 90), "no json"]}, spec)
    assert error.reason is Reason.DATASET_INVALID
    assert error.message.startswith("test line 3: not JSON")


# Bad rows.


def test_bad_rows_of_every_kind_are_dropped_and_counted(dataset: Dataset) -> None:
    rows: list[dict[str, Any] | str] = [
        *intents(200),
        "no json",
        "[]",
        {"text": "", "label": "bug"},
        {"label": "bug"},
        {"text": "a", "label": "bug<|im_end|>"},
    ]
    prepared = dataset.prepare(rows, spec_of())
    assert (prepared.summary.rows, prepared.summary.dropped) == (205, 5)
    assert sum(len(prepared.parts[p]) for p in PARTS) == 200


@pytest.mark.parametrize(("percent", "fine"), [(2, True), (1, False), (0, False)])
def test_more_bad_rows_than_allowed_end_the_job(dataset: Dataset, percent: int, fine: bool) -> None:
    rows: list[dict[str, Any] | str] = [*intents(98), "x", {"text": "a"}]
    spec = spec_of(dataset={"badRows": {"maxPercent": percent}})
    if fine:
        assert dataset.prepare(rows, spec).summary.dropped == 2
        return
    error = dataset.refused(rows, spec)
    assert error.reason is Reason.DATASET_INVALID
    if percent == 1:
        assert error.message == (
            "2 of 100 rows can't be used, more than dataset.badRows.maxPercent 1: "
            "line 99: not JSON: Expecting value at column 1; line 100: column 'label' is missing"
        )
    else:
        assert "1 of 100 rows can't be used" in error.message


def test_rows_that_fail_only_when_encoded_count_against_the_limit_too(dataset: Dataset) -> None:
    rows = [{"prompt": f"p {i}", "completion": "long " * 100 if i % 10 == 0 else "c"} for i in range(100)]
    error = dataset.refused(rows, spec_of({"name": "raw"}, training={"maxLength": 40}))
    assert error.reason is Reason.DATASET_INVALID
    assert "10 of 100 rows can't be used, more than dataset.badRows.maxPercent 5" in error.message


def test_when_every_row_is_bad_the_rows_are_named_not_the_empty_parts(dataset: Dataset) -> None:
    error = dataset.refused([{"text": " ", "label": "bug"}] * 30, spec_of())
    assert error.message.startswith("30 of 30 rows can't be used")
    assert "line 1: column 'text' is empty" in error.message


def test_of_many_bad_rows_the_first_few_are_named(dataset: Dataset) -> None:
    message = dataset.refused([*intents(10), *["x"] * 20], spec_of()).message
    assert message.count("line 1") == 5
    assert message.endswith("; and 15 more")
    assert len(message) < 1000


def test_policy_fail_ends_at_the_first_bad_row(dataset: Dataset) -> None:
    spec = spec_of(dataset={"badRows": {"policy": "Fail", "maxPercent": 100}})
    error = dataset.refused([*intents(50), "x", "y"], spec)
    assert error.reason is Reason.DATASET_INVALID
    assert error.message.startswith("line 51: not JSON")


def test_a_completion_too_long_for_max_length_is_a_bad_row_and_a_prompt_is_cut(dataset: Dataset) -> None:
    rows = [{"prompt": f"p {i}", "completion": "c"} for i in range(98)]
    rows += [{"prompt": "long " * 100, "completion": "c"}, {"prompt": "p", "completion": "long " * 100}]
    prepared = dataset.prepare(rows, spec_of({"name": "raw"}, training={"maxLength": 40}))
    assert (prepared.summary.dropped, prepared.summary.truncated) == (1, 1)
    assert max(int(prepared.parts[p].lengths.max()) for p in PARTS) == 40


# Parts that must not be empty.


@pytest.mark.parametrize(
    ("split", "part"),
    [
        ({"trainPercent": 98, "validationPercent": 1, "testPercent": 1}, "validation"),
        ({"trainPercent": 99, "validationPercent": 0, "testPercent": 1}, "test"),
        ({"trainPercent": 1, "validationPercent": 1, "testPercent": 98}, "train"),
    ],
)
def test_an_empty_part_is_refused_with_what_to_change(dataset: Dataset, split: dict[str, Any], part: str) -> None:
    error = dataset.refused(intents(3), spec_of(dataset={"split": split}))
    assert error.reason is Reason.DATASET_INVALID
    assert f"no row fell into {part} (train " in error.message
    assert f"raise split.{part}Percent above {split[part + 'Percent']}" in error.message
    assert "set split.stratifyBy for exact shares, or choose another split.seed" in error.message


def test_validation_may_be_empty_if_asked_for(dataset: Dataset) -> None:
    split = {"trainPercent": 80, "validationPercent": 0, "testPercent": 20}
    prepared = dataset.prepare(intents(50), spec_of(dataset={"split": split}))
    part = prepared.parts["validation"]
    assert (len(part), prepared.summary.validation) == (0, 0)
    assert list(part.offsets) == [0]


def test_a_given_test_file_without_a_usable_row_is_refused(dataset: Dataset) -> None:
    spec = spec_of(
        dataset={
            "files": {"train": "s3://data/train.jsonl", "test": "s3://data/test.jsonl"},
            "split": {"trainPercent": 80, "validationPercent": 20, "testPercent": 0},
        }
    )
    error = dataset.refused({"train": intents(60), "test": ["x"]}, spec)
    assert error.reason is Reason.DATASET_INVALID
    assert "dataset.files.test has no row that can be used (1 bad rows: test line 1: not JSON" in error.message


# Answers' length.


def test_the_bound_of_a_generated_answer_is_the_longest_expected_one_plus_a_margin(dataset: Dataset) -> None:
    rows = [{"prompt": f"p {i}", "completion": "x" if i != 7 else "z" * 99} for i in range(60)]
    assert dataset.prepare(rows, spec_of({"name": "raw"})).max_new_tokens == 100 + 25
    assert dataset.prepare(rows[10:], spec_of({"name": "raw"})).max_new_tokens == 2 + 8
    asked = spec_of({"name": "raw"}, evaluation={"maxNewTokens": 5})
    assert dataset.prepare(rows, asked).max_new_tokens == 5


# Storing.


ARRAYS = {f.name for f in fields(EncodedPart)}
REST = {f.name for f in fields(Prepared)} - {"parts"}


def same(one: Prepared, other: Prepared) -> bool:
    pairs = [(getattr(one.parts[p], a), getattr(other.parts[p], a)) for p in PARTS for a in ARRAYS]
    return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in pairs) and all(
        getattr(one, name) == getattr(other, name) for name in REST
    )


@pytest.fixture
def odd(dataset: Dataset) -> Prepared:
    """Rows with what JSON lines could trip over, choices of their own, and an empty part."""
    rows = [
        {"question": f"q \u2028 \x85 \r {i}", "choices": [f"ü {i % 3}", 'a "b"\n'], "answer": i % 2} for i in range(60)
    ]
    split = {"trainPercent": 70, "validationPercent": 0, "testPercent": 30}
    return dataset.prepare(rows, spec_of({"name": "multiple-choice"}, dataset={"split": split}))


def test_what_is_saved_comes_back(odd: Prepared, tmp_path: Path) -> None:
    paths = save_prepared(odd, tmp_path / "prepared")
    assert sorted(p.name for p in paths) == sorted(PREPARED_FILES)
    assert sorted((tmp_path / "prepared").iterdir()) == sorted(paths)
    loaded = load_prepared(tmp_path / "prepared")
    assert same(loaded, odd)
    assert "\u2028" in loaded.texts["test"][0].prompt


def test_saving_twice_gives_the_same_bytes_and_the_digest_tells_any_change(odd: Prepared, tmp_path: Path) -> None:
    save_prepared(odd, tmp_path / "one")
    save_prepared(load_prepared(tmp_path / "one"), tmp_path / "two")
    digest = prepared_digest(tmp_path / "one")
    assert prepared_digest(tmp_path / "two") == digest
    for name in PREPARED_FILES:
        path = tmp_path / "two" / name
        content = path.read_bytes()
        path.write_bytes(content + b"\n")
        assert prepared_digest(tmp_path / "two") != digest
        path.write_bytes(content)
    assert prepared_digest(tmp_path / "two") == digest


def test_the_preview_holds_the_first_train_rows_as_rendered(dataset: Dataset, tmp_path: Path) -> None:
    prepared = dataset.prepare(intents(50), spec_of())
    save_prepared(prepared, tmp_path / "p")
    lines = [json.loads(x) for x in (tmp_path / "p" / "preview.jsonl").read_text().splitlines()]
    assert [x["row"] for x in lines] == list(prepared.parts["train"].rows[:3])
    assert lines[0].keys() == {"row", "prompt", "completion"}


@pytest.mark.parametrize("name", PREPARED_FILES)
@pytest.mark.parametrize("content", [None, b"{", b'{"a": 1}'])
def test_a_file_that_is_missing_or_broken_is_told(
    odd: Prepared, tmp_path: Path, name: str, content: bytes | None
) -> None:
    save_prepared(odd, tmp_path / "p")
    (tmp_path / "p" / name).unlink()
    if content is not None:
        (tmp_path / "p" / name).write_bytes(content)
    with pytest.raises(StageError, match="prepared rows can't be read back") as caught:
        load_prepared(tmp_path / "p")
    assert caught.value.reason is Reason.VERIFICATION_FAILED
    if content is None:
        with pytest.raises(StageError, match="prepared rows can't be read back"):
            prepared_digest(tmp_path / "p")


SCRIPT = """
import json, sys
from pathlib import Path
from finetune_api.job import FineTuneJobSpec
from finetune_trainer.prepare import prepare, prepared_digest, save_prepared
from tests.support.tiny_tokenizer import make_tokenizer
folder, out, spec = Path(sys.argv[1]), Path(sys.argv[2]), FineTuneJobSpec.model_validate_json(sys.argv[3])
prepared = prepare(spec=spec, files={"all": folder / "rows.jsonl"}, tokenizer=make_tokenizer(out / "tokenizer"))
save_prepared(prepared, out / "prepared")
print(json.dumps([prepared.summary.fingerprint, prepared_digest(out / "prepared"), "torch" in sys.modules]))
"""


def test_two_processes_with_other_hash_seeds_prepare_the_same_bytes_and_need_no_torch(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", [r | {"who": f"g{i % 40}"} for i, r in enumerate(intents(300))])
    wire = spec_of(dataset={"split": {"groupBy": "who", "stratifyBy": "label"}}).model_dump_json(
        by_alias=True, exclude_none=True
    )
    path = os.pathsep.join(str(ROOT / p) for p in ("crds", "trainer_image", "."))
    results = []
    for seed in ("1", "77"):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(tmp_path), str(tmp_path / seed), wire],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path},
            capture_output=True,
            check=True,
        )
        results.append(json.loads(done.stdout))
    assert results[0] == results[1]
    assert results[0][2] is False


def test_the_fingerprint_changes_with_the_rows_the_split_and_the_template(dataset: Dataset) -> None:
    def printed(rows: list[dict[str, Any]], spec: FineTuneJobSpec) -> str | None:
        return dataset.prepare(rows, spec).summary.fingerprint

    base = printed(intents(60), spec_of())
    others = [
        printed([*intents(59), {"text": "message number 59", "label": "bug"}], spec_of()),
        printed(intents(60), spec_of(dataset={"split": {"seed": 43}})),
        printed(intents(60), spec_of({"name": "topic"})),
        printed(intents(60), spec_of({"name": "intent", "choices": list(LABELS[::-1])})),
    ]
    assert len({base, *others}) == 5
    assert printed(intents(60), spec_of(training={"epochs": 9})) == base


@pytest.mark.parametrize("name", sorted(f.name for f in fields(EncodedPart)))
@pytest.mark.parametrize("part", PARTS)
def test_the_fingerprint_changes_with_any_number_of_any_array(dataset: Dataset, part: Part, name: str) -> None:
    prepared = dataset.prepare(intents(60), spec_of())
    changed = getattr(prepared.parts[part], name).copy()
    changed[-1] += 1
    other = {**prepared.parts, part: replace(prepared.parts[part], **{name: changed})}
    assert fingerprint(prepared.parts, prepared.choice_sets, prepared.end_ids) == prepared.summary.fingerprint
    assert fingerprint(other, prepared.choice_sets, prepared.end_ids) != prepared.summary.fingerprint
