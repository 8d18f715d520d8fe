"""Several datasets in one: common columns, weights that repeat train rows alone, and counts by source."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune_api.dataset import Dataset as DatasetSpec
from finetune_api.job import FineTuneJobSpec
from finetune_api.reasons import Reason
from finetune_api.status import SourceRows
from finetune_trainer.data.mixed import copies_of_rows, renamed
from finetune_trainer.data.source import BadRow, Row
from finetune_trainer.errors import StageError
from finetune_trainer.prepare.prepare import prepare
from finetune_trainer.prepare.prepared import Prepared
from finetune_trainer.process.console import no_progress
from finetune_trainer.storage.access import Access
from finetune_trainer.storage.rows import fetch_dataset
from tests.support.prepare_kit import Dataset, intents, spec_of


def spec(folder: Path, rows: list[list[dict[str, Any]]], *more: dict[str, Any], **dataset: Any) -> FineTuneJobSpec:
    """A job on several files of one name, with more said of each source."""
    sources = []
    for number, (content, fields) in enumerate(zip(rows, more, strict=True)):
        path = folder / str(number) / "rows.jsonl"
        path.parent.mkdir()
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
        sources.append({"uri": f"file://{path}", **fields})
    made = spec_of().model_dump(mode="json", by_alias=True, exclude_none=True)
    made["dataset"] = {"sources": sources, "template": {"name": "intent"}, **dataset}
    return FineTuneJobSpec.model_validate(made, context={"local": True})


def prepared(dataset: Dataset, job: FineTuneJobSpec, access: Access) -> Prepared:
    files = fetch_dataset(job.dataset, access=access, folder=dataset.folder / "got", progress=no_progress)
    return prepare(spec=job, files=files, tokenizer=dataset.tokenizer, folder=dataset.folder / "out" / "prepared")


def test_sources_are_mixed_and_counted_in_their_order(dataset: Dataset, access: Access) -> None:
    job = spec(dataset.folder, [intents(100), intents(200, 100)], {}, {})
    summary = prepared(dataset, job, access).summary
    assert summary.sources is not None
    assert [one.rows for one in summary.sources] == [100, 200]
    for part in ("train", "validation", "test"):
        assert sum(getattr(one, part) for one in summary.sources) == getattr(summary, part)
    assert summary.rows == 300


def test_a_weight_repeats_train_rows_and_no_others(dataset: Dataset, access: Access) -> None:
    plain = prepared(dataset, spec(dataset.folder, [intents(100), intents(100, 100)], {}, {}), access)
    other = Dataset(dataset.folder / "other", dataset.tokenizer)
    other.folder.mkdir()
    job = spec(other.folder, [intents(100), intents(100, 100)], {"weight": "2.5"}, {"weight": "0.5"})
    mixed = prepared(other, job, access)
    before, after = plain.summary, mixed.summary
    assert before.sources is not None
    assert after.sources is not None
    assert [(s.validation, s.test) for s in before.sources] == [(s.validation, s.test) for s in after.sources]
    assert after.sources[0].train == 2 * before.sources[0].train + round(before.sources[0].train / 2)
    assert after.sources[1].train == round(before.sources[1].train / 2)
    assert after.train == len(mixed.parts["train"]) == sum(s.train for s in after.sources)


def test_columns_get_common_names(dataset: Dataset, access: Access) -> None:
    other = [{"body": row["text"], "topic": row["label"]} for row in intents(100, 100)]
    job = spec(dataset.folder, [intents(100), other], {}, {"columns": {"text": "body", "label": "topic"}})
    summary = prepared(dataset, job, access).summary
    assert (summary.rows, summary.dropped) == (200, 0)


def test_a_column_that_its_source_lacks_is_named_with_the_field(dataset: Dataset, access: Access) -> None:
    other = [{"words": row["text"], "label": row["label"]} for row in intents(50, 50)]
    job = spec(dataset.folder, [intents(50), other], {}, {"columns": {"text": "body"}})
    with pytest.raises(StageError) as caught:
        prepared(dataset, job, access)
    assert caught.value.reason is Reason.INVALID_SPEC
    assert "dataset.sources[1].columns makes 'text' of 'body', which no row of that source has" in caught.value.message


def test_files_of_one_name_are_told_apart_by_their_source(dataset: Dataset, access: Access) -> None:
    rows = [intents(100), intents(100, 100)]
    del rows[1][3]["text"]
    job = spec(dataset.folder, rows, {}, {}, badRows={"policy": "Fail"})
    with pytest.raises(StageError) as caught:
        prepared(dataset, job, access)
    assert caught.value.message.startswith("sources[1] rows.jsonl line 4")


def test_rows_that_two_sources_share_count_once(dataset: Dataset, access: Access) -> None:
    summary = prepared(dataset, spec(dataset.folder, [intents(100), intents(100, 50)], {}, {}), access).summary
    assert (summary.rows, summary.duplicates) == (200, 50)


def test_columns_can_change_places() -> None:
    row = renamed(Row(1, {"a": 1, "b": 2, "c": 3}), (("a", "b"), ("b", "a")))
    assert isinstance(row, Row)
    assert row.values == {"c": 3, "a": 2, "b": 1}


def test_a_source_whose_own_column_would_be_taken_for_a_renamed_one_ends_the_job(
    dataset: Dataset, access: Access
) -> None:
    job = spec(dataset.folder, [intents(50), intents(50, 50)], {}, {"columns": {"text": "body"}})
    with pytest.raises(StageError, match="has the column 'text', which sources"):
        prepared(dataset, job, access)


def test_a_new_name_that_the_row_has_already_makes_it_a_bad_one() -> None:
    row = renamed(Row(7, {"text": "x", "body": "y"}), (("text", "body"),))
    assert isinstance(row, BadRow)
    assert (row.number, "has the column 'text', which sources[].columns makes of 'body'" in row.why) == (7, True)


@pytest.mark.parametrize(
    ("weight", "counts"),
    [
        (None, {1: 10}),
        ("1", {1: 10}),
        ("0.3", {0: 7, 1: 3}),
        ("2", {2: 10}),
        ("2.5", {2: 5, 3: 5}),
        ("0.01", {0: 10}),
        ("1e1", {10: 10}),
    ],
)
def test_a_weight_is_exact_to_a_row(weight: str | None, counts: dict[int, int]) -> None:
    about = DatasetSpec.model_validate(
        {
            "sources": [{"uri": "s3://bucket/a"}, {"uri": "s3://bucket/b", "weight": weight}],
            "template": {"name": "topic"},
        }
    )
    sides = np.array([0] * 10 + [0] * 10 + [1, 2, -1], dtype=np.int8)
    sources = np.array([0] * 10 + [1] * 13, dtype=np.uint8)
    copies = copies_of_rows(sides, sources, about)
    assert Counter(copies[10:20].tolist()) == counts
    assert copies[:10].tolist() == [1] * 10
    assert copies[20:].tolist() == [1, 1, 0]
    assert (copies == copies_of_rows(sides, sources, about)).all()


def test_without_sources_nothing_is_told_of_them(dataset: Dataset) -> None:
    assert dataset.prepare(intents(60), spec_of()).summary.sources is None
    assert SourceRows().to_wire() == {"rows": 0, "train": 0, "validation": 0, "test": 0}


def test_what_can_not_be_learned_is_not_counted_as_a_sources(dataset: Dataset, access: Access) -> None:
    first = [{"text": f"of the first {i}", "label": ("bug", "billing")[i % 2]} for i in range(60)]
    other = [{"text": f"of the other {i}", "label": "unheard of" if i < 4 else "bug"} for i in range(100)]
    template = {"name": "intent", "choices": ["bug", "billing"]}
    job = spec(dataset.folder, [first, other], {}, {"weight": "2"}, template=template, badRows={"maxPercent": 50})
    summary = prepared(dataset, job, access).summary
    assert summary.dropped > 0
    assert summary.sources is not None
    assert sum(one.train for one in summary.sources) == summary.train


def test_near_duplicates_are_those_of_rows_that_the_weights_take(dataset: Dataset, access: Access) -> None:
    long = "please tell me why the card that I ordered has not come to my new address and when will it be here"
    own = [{"text": f"{long} a{i} b{i} c{i} d{i} e{i}", "label": ("bug", "billing")[i % 2]} for i in range(100)]
    nearly = [row | {"text": row["text"] + " thanks"} for row in own]
    whole = spec(dataset.folder, [own, nearly], {}, {"weight": "1"})
    counted = prepared(dataset, whole, access).summary.near_duplicates
    other = Dataset(dataset.folder / "other", dataset.tokenizer)
    other.folder.mkdir()
    tenth = spec(other.folder, [own, nearly], {}, {"weight": "0.02"})
    fewer = prepared(other, tenth, access).summary.near_duplicates
    assert counted is not None
    assert fewer is not None
    assert fewer.train < counted.train
    assert fewer.test < counted.test


def test_a_row_that_is_taken_often_and_can_not_be_used_is_one_bad_row(dataset: Dataset, access: Access) -> None:
    good = [{"text": f"of the first {i}", "label": ("bug", "billing")[i % 2]} for i in range(60)]
    bad = [{"text": f"of the other {i}", "label": "unheard of"} for i in range(10)]
    template = {"name": "intent", "choices": ["bug", "billing"]}
    rows = {"badRows": {"maxPercent": 50}, "template": template}
    once = prepared(dataset, spec(dataset.folder, [good, good[:5] + bad], {}, {"weight": "1"}, **rows), access).summary
    other = Dataset(dataset.folder / "other", dataset.tokenizer)
    other.folder.mkdir()
    often = prepared(other, spec(other.folder, [good, good[:5] + bad], {}, {"weight": "3"}, **rows), access).summary
    assert once.dropped > 0
    assert often.dropped == once.dropped
