"""Bad rows are counted by part, and each part is held to the limit by itself."""

from __future__ import annotations

import pytest

from finetune_api.dataset import Dataset
from finetune_api.status import DroppedRows
from finetune_trainer.data.bad_rows import BadRowLog
from finetune_trainer.errors import StageError


def log(*, given: bool = False) -> BadRowLog:
    where = (
        {"files": dict.fromkeys(("train", "validation", "test"), "s3://data/f.jsonl")}
        if given
        else {"uri": "s3://data/f.jsonl"}
    )
    dataset = {**where, "template": {"name": "raw"}, "badRows": {"maxPercent": 10}}
    return BadRowLog(Dataset.model_validate(dataset))


def test_without_bad_rows_there_are_no_counts() -> None:
    assert log().dropped_by() is None


def test_a_row_that_falls_out_before_a_cut_has_no_part() -> None:
    bad = log()
    bad.add_unsplit("line 1", "no JSON", "train")
    bad.add("line 2", "null", "test")
    assert bad.dropped_by() == DroppedRows(unsplit=1, test=1)
    assert bad.count == 2


def test_a_row_of_a_file_that_is_not_cut_has_its_part() -> None:
    bad = log(given=True)
    for part in ("train", "validation", "test"):
        bad.add_unsplit("line 1", "no JSON", part)
    assert bad.dropped_by() == DroppedRows(train=1, validation=1, test=1)


def test_of_many_reasons_the_first_few_are_told_and_the_others_counted() -> None:
    bad = log()
    for line in range(20):
        bad.add(f"line {line}", f"{line} {'is wrong and ' * 80}can be mended", "train")
    told = bad.examples()
    assert told.count("can be mended") == 5
    assert told.endswith("; and 15 more")
    assert len(told) < 1000


def test_the_mend_of_a_long_reason_is_whole() -> None:
    bad = log()
    why = f"message 1 calls a tool, which the model's chat template leaves out; {'use a model that knows tools ' * 6}"
    for line in range(80):
        bad.add(f"line {line}", why, "train")
    assert bad.examples() == f"80 rows, the first line 0: {why}"


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_one_part_over_the_limit_ends_the_job_though_the_whole_is_below(part: str) -> None:
    bad = log()
    for line in range(3):
        bad.add(f"line {line}", "null", part)  # type: ignore[arg-type]  # a parameter is a str to mypy
    bad.check(1000)
    with pytest.raises(
        StageError,
        match=rf"3 of 20 {part} rows can't be used, more than .*maxPercent 10: 3 rows, the first line 0: null",
    ):
        bad.check_parts({"train": 100, "validation": 100, "test": 100, part: 20})
    bad.check_parts({"train": 100, "validation": 100, "test": 100, part: 30})


def test_rows_that_never_came_to_their_part_count_into_its_size() -> None:
    bad = log(given=True)
    bad.add_unsplit("test line 1", "no JSON", "test")
    with pytest.raises(StageError, match="1 of 9 test rows"):
        bad.check_parts({"train": 100, "validation": 100, "test": 8})
    bad.check_parts({"train": 100, "validation": 100, "test": 9})


def test_rows_without_a_part_are_compared_with_all_that_was_cut() -> None:
    bad = log()
    for line in range(11):
        bad.add_unsplit(f"line {line}", "no JSON", "train")
    bad.check_parts({"train": 80, "validation": 10, "test": 9})
    with pytest.raises(StageError, match="11 of 109 rows"):
        bad.check_parts({"train": 80, "validation": 10, "test": 8})


def test_examples_are_those_of_the_part() -> None:
    bad = log()
    bad.add("line 1", "null", "train")
    bad.add("line 2", "null", "test")
    with pytest.raises(StageError, match=r"1 of 5 test rows .*: line 2: null$"):
        bad.check_parts({"train": 100, "validation": 5, "test": 5})
