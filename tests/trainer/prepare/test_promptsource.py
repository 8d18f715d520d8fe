"""A job whose template is a prompt of PromptSource: rows, choices, counts, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from finetune_api.job import FineTuneJobSpec
from finetune_api.reasons import Reason
from finetune_api.runtime import ResolvedStorage
from finetune_trainer.errors import StageError
from finetune_trainer.output.data_words import left_out
from finetune_trainer.storage.access import Access
from finetune_trainer.storage.templatefile import MAX_BYTES, fetch_template
from tests.support.prepare_kit import Dataset, spec_of, texts_of
from tests.support.promptsource import FILE

LABELS = ("refund", "broken", "question")
ROWS: list[dict[str, Any]] = [
    {"text": f"ticket number {i}", "label": i % 2, "note": f"note {i}", "first": f"one {i}", "second": f"two {i}"}
    for i in range(90)
]
SPLIT = {"trainPercent": 60, "validationPercent": 20, "testPercent": 20}


def spec(name: str, uri: str = "s3://data/templates.yaml", **template: Any) -> FineTuneJobSpec:
    return spec_of({"promptsource": {"uri": uri, "name": name}, **template}, dataset={"split": SPLIT})


@pytest.fixture
def tickets(dataset: Dataset) -> Dataset:
    dataset.template_source = FILE
    return dataset


def refused(tickets: Dataset, rows: list[dict[str, Any]], asked: FineTuneJobSpec) -> str:
    error = tickets.refused(rows, asked)
    assert error.reason is Reason.TEMPLATE_INVALID
    return error.message


def test_fixed_choices_are_scored_as_choices(tickets: Dataset, chat: PreTrainedTokenizerFast) -> None:
    prepared = tickets.prepare(ROWS, spec("by_number"))
    assert prepared.metric == "ChoiceAccuracy"
    assert [choices.texts for choices in prepared.choice_sets] == [LABELS]
    answers = {answer.removesuffix("<|im_end|>").strip() for _, answer in texts_of(prepared, chat, "train")}
    assert answers == {"refund", "broken"}
    assert {LABELS[i] for i in prepared.parts["train"].answer.tolist()} == answers


def test_every_row_may_have_choices_of_its_own(tickets: Dataset) -> None:
    prepared = tickets.prepare(ROWS, spec("of_the_row"))
    assert (prepared.metric, len(prepared.choice_sets), prepared.summary.dropped) == ("ChoiceAccuracy", 90, 0)
    for part in ("train", "validation", "test"):
        rows = prepared.parts[part]
        for row, number, answer in zip(rows.rows, rows.choice_set, rows.answer, strict=True):
            i = int(row) - 1
            assert prepared.choice_sets[int(number)].texts == (f"one {i}", f"two {i}")
            assert int(answer) == i % 2


def test_rows_that_render_to_nothing_are_counted_and_are_no_bad_rows(tickets: Dataset) -> None:
    prepared = tickets.prepare(ROWS, spec("only_broken"))
    summary = prepared.summary
    assert (summary.skipped, summary.dropped, summary.rows) == (45, 0, 90)
    assert summary.train + summary.validation + summary.test == 45
    assert {int(row) % 2 for part in prepared.parts.values() for row in part.rows} == {0}  # labels of 1: even lines
    assert "45 that the template renders to nothing for" in left_out(summary)


def test_without_skipped_rows_none_are_told(tickets: Dataset) -> None:
    summary = tickets.prepare(ROWS, spec("by_number")).summary
    assert summary.skipped is None
    assert "renders to nothing" not in left_out(summary)


def test_a_prompt_about_something_else_is_warned_of(tickets: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    tickets.prepare(ROWS, spec("only_broken"))
    assert "its score is not one of that task" in caplog.text


def test_a_prompt_that_renders_nothing_at_all_is_refused(tickets: Dataset) -> None:
    rows = [{**row, "label": 0} for row in ROWS]
    assert "renders nothing for all 90 rows; take another prompt of the file" in refused(
        tickets, rows, spec("only_broken")
    )


def test_labels_of_minus_1_are_bad_rows_rather_than_the_last_choice(tickets: Dataset) -> None:
    error = tickets.refused([{**row, "label": -1} for row in ROWS], spec("by_number"))
    assert error.reason is Reason.DATASET_INVALID
    assert "is asked for -1" in error.message


def test_a_column_that_no_row_has_is_told_with_those_there_are(tickets: Dataset) -> None:
    rows = [{"body": row["text"], "label": row["label"]} for row in ROWS]
    message = refused(tickets, rows, spec("by_number"))
    assert message == "dataset.template.promptsource uses 'text', which is no column; columns: body, label"


def test_a_column_of_the_name_of_the_choices_is_refused(tickets: Dataset) -> None:
    rows = [{**row, "answer_choices": "x"} for row in ROWS]
    assert "the data has a column 'answer_choices'" in refused(tickets, rows, spec("by_number"))


def test_choices_of_the_job_beside_those_of_the_prompt_are_refused(tickets: Dataset) -> None:
    message = refused(tickets, ROWS, spec("by_number", choices=["a", "b"]))
    assert message == "dataset.template.choices stands beside the answer_choices of prompt 'by_number'; remove it"


def test_an_unknown_prompt_is_refused_with_the_field(tickets: Dataset) -> None:
    message = refused(tickets, ROWS, spec("by_letter"))
    assert message.startswith("dataset.template.promptsource: the file has no prompt called 'by_letter'; there are 8")


def test_another_wording_of_the_same_prompt_has_another_digest(tickets: Dataset) -> None:
    one = tickets.prepare(ROWS, spec("by_number")).template_digest
    tickets.template_source = FILE.replace("What does the customer want?", "What is asked for?")
    assert tickets.prepare(ROWS, spec("by_number")).template_digest != one


def local(folder: Path, uri: str) -> FineTuneJobSpec:
    asked = {"promptsource": {"uri": uri, "name": "a"}}
    return FineTuneJobSpec.model_validate(
        {"model": {"uri": "file:///m/"}, "dataset": {"uri": "file:///rows.jsonl", "template": asked}},
        context={"local": True},
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no file at"),
        (b"\xff\xfe\x00", "is no text in UTF-8"),
        (b"x" * (MAX_BYTES + 1), f"has {MAX_BYTES + 1} bytes, more than the {MAX_BYTES} of any such file"),
    ],
)
def test_a_file_that_can_not_be_had_names_the_field(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "t.yaml").write_bytes(content)
    access = Access(storage=ResolvedStorage(), credentials_dir=tmp_path / "none", scratch=tmp_path)
    asked = local(tmp_path, f"file://{tmp_path}/t.yaml")
    with pytest.raises(StageError) as caught:
        fetch_template(asked.dataset.template, own=None, access=access, folder=tmp_path / "work")
    assert caught.value.reason is Reason.TEMPLATE_INVALID
    assert caught.value.message.startswith("dataset.template.promptsource.uri: ")
    assert message in caught.value.message


def test_a_file_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text("\ufeff" + FILE, encoding="utf-8")
    access = Access(storage=ResolvedStorage(), credentials_dir=tmp_path / "none", scratch=tmp_path)
    asked = local(tmp_path, f"file://{tmp_path}/t.yaml")
    assert fetch_template(asked.dataset.template, own=None, access=access, folder=tmp_path / "work") == FILE
