"""A dataset of the hub from its files to the summary: its parts, its label names, its commit."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from finetune_api.job import FineTuneJobSpec
from finetune_api.reasons import Reason
from finetune_api.runtime import ResolvedStorage
from finetune_trainer.errors import StageError
from finetune_trainer.prepare.prepare import prepare
from finetune_trainer.prepare.prepared import Prepared
from finetune_trainer.process.console import no_progress
from finetune_trainer.storage.access import Access
from finetune_trainer.storage.rows import fetch_dataset
from tests.support.hubserver import HubServer
from tests.support.prepare_kit import LABELS, Dataset, intents

HUB = "hf://datasets/org/rows"


CARD = f"""---
dataset_info:
  features:
  - name: text
    dtype: string
  - name: label
    dtype:
      class_label:
        names:
{chr(10).join(f"          '{number}': {name}" for number, name in enumerate(LABELS))}
---
"""


def numbered(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "label": LABELS.index(row["label"])} for row in rows]


def packed(rows: list[dict[str, Any]], *, with_names: bool = True) -> bytes:
    """As the hub's own tools write them: classes by number, and their names beside them."""
    table = pa.Table.from_pylist(numbered(rows))
    features = {"text": {"dtype": "string", "_type": "Value"}, "label": {"names": list(LABELS), "_type": "ClassLabel"}}
    data = io.BytesIO()
    about = json.dumps({"info": {"features": features}})
    parquet.write_table(table.replace_schema_metadata({"huggingface": about} if with_names else None), data)
    return data.getvalue()


@pytest.fixture
def hub_rows(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    hub.repos["datasets/org/rows"] = {
        "data/train-00000-of-00001.parquet": packed(intents(60)),
        "data/validation-00000-of-00001.parquet": packed(intents(12, 60)),
        "data/test-00000-of-00001.parquet": packed(intents(15, 66)),
    }
    return hub


def prepared(dataset: Dataset, **fields: Any) -> Prepared:
    spec = {"model": {"uri": "s3://models/m/"}, "dataset": {"template": {"name": "intent"}, **fields}}
    job = FineTuneJobSpec.model_validate(spec, context={"local": True})
    scratch = dataset.folder
    access = Access(storage=ResolvedStorage(), credentials_dir=scratch / "none", scratch=scratch)
    files = fetch_dataset(job.dataset, access=access, folder=scratch / "got", progress=no_progress)
    return prepare(spec=job, files=files, tokenizer=dataset.tokenizer, folder=scratch / "out" / "prepared")


def test_the_parts_of_the_hub_are_those_of_the_job(hub_rows: HubServer, dataset: Dataset) -> None:
    found = prepared(dataset, uri=HUB)
    # Rows 66 to 71 stand in validation and in test, so the sealed part keeps them.
    assert (found.summary.train, found.summary.validation, found.summary.test) == (60, 6, 15)
    assert (found.percents, found.summary.leaked) == ((100, 0, 0), 6)


def test_classes_keep_the_names_that_the_hub_has_for_them(hub_rows: HubServer, dataset: Dataset) -> None:
    assert prepared(dataset, uri=HUB).choice_sets[0].texts == tuple(sorted(LABELS))


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in numbered(rows)).encode()


def cells(rows: list[dict[str, Any]]) -> bytes:
    return "".join(["text,label\n", *(f'"{row["text"]}",{row["label"]}\n' for row in numbered(rows))]).encode()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("train.parquet", packed(intents(60), with_names=False)),
        ("train.jsonl", lines(intents(60))),
        ("train.csv", cells(intents(60))),
    ],
    ids=["Parquet", "Jsonl", "Csv"],
)
def test_classes_have_the_names_of_the_card_where_the_files_have_none(
    hub_rows: HubServer, dataset: Dataset, caplog: pytest.LogCaptureFixture, name: str, data: bytes
) -> None:
    hub_rows.repos["datasets/org/rows"] = {"README.md": CARD.encode(), name: data}
    with caplog.at_level(logging.INFO, "finetune_trainer"):
        assert prepared(dataset, uri=HUB).choice_sets[0].texts == tuple(sorted(LABELS))
    told = f"the numbers in the column 'label' of {name} are classes, by the names in the dataset's README.md: "
    assert [told + ", ".join(LABELS)] == [message for message in caplog.messages if "README.md" in message]


def test_names_that_a_file_brings_count_before_those_of_the_card(
    hub_rows: HubServer, dataset: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    hub_rows.repos["datasets/org/rows"]["README.md"] = CARD.replace(LABELS[0], "another").encode()
    with caplog.at_level(logging.INFO, "finetune_trainer"):
        assert prepared(dataset, uri=HUB).choice_sets[0].texts == tuple(sorted(LABELS))
    assert [m for m in caplog.messages if "have the names that the file brings" in m]
    assert not [m for m in caplog.messages if "are classes, by the names" in m]


def test_the_commit_is_told(hub_rows: HubServer, dataset: Dataset) -> None:
    assert prepared(dataset, uri=f"{HUB}@v1").summary.revision == hub_rows.commits["v1"]


def test_other_rows_have_no_commit(dataset: Dataset) -> None:
    from tests.support.prepare_kit import spec_of

    assert dataset.prepare(intents(60), spec_of()).summary.revision is None


def test_each_source_has_its_commit(hub_rows: HubServer, dataset: Dataset) -> None:
    path = dataset.folder / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in intents(60, 100)))
    sources = [{"uri": f"{HUB}#train"}, {"uri": f"file://{path}"}, {"uri": f"{HUB}@v1#test"}]
    summary = prepared(dataset, sources=sources).summary
    commits = hub_rows.commits
    assert [one.revision for one in summary.sources or []] == [commits["main"], None, commits["v1"]]
    assert summary.revision is not None
    assert summary.revision.startswith("sha256:")


def test_a_part_without_usable_rows_is_named_by_its_dataset(hub_rows: HubServer, dataset: Dataset) -> None:
    files = hub_rows.repos["datasets/org/rows"]
    files["data/test-00000-of-00001.parquet"] = packed([{**row, "text": None} for row in intents(3)])
    with pytest.raises(StageError) as caught:
        prepared(dataset, uri=HUB, badRows={"maxPercent": 100})
    assert caught.value.reason is Reason.DATASET_INVALID
    assert f"test, of {HUB} (dataset.uri), has no row that can be used" in caught.value.message


def test_a_split_without_an_answer_column_says_what_it_lacks(hub_rows: HubServer, dataset: Dataset) -> None:
    """As benchmarks publish their sealed parts: every label is -1."""
    files = hub_rows.repos["datasets/org/rows"]
    table = parquet.read_table(io.BytesIO(files["data/test-00000-of-00001.parquet"]))
    hidden = table.set_column(table.schema.get_field_index("label"), "label", pa.array([-1] * len(table)))
    data = io.BytesIO()
    parquet.write_table(hidden, data)
    files["data/test-00000-of-00001.parquet"] = data.getvalue()
    with pytest.raises(StageError) as caught:
        prepared(dataset, uri=HUB)
    assert caught.value.reason is Reason.DATASET_INVALID
    assert "data/test-00000-of-00001.parquet row 1" in caught.value.message


def test_the_validation_split_can_stand_for_a_sealed_one(hub_rows: HubServer, dataset: Dataset) -> None:
    found = prepared(dataset, files={"train": HUB, "test": f"{HUB}#validation"})
    assert (found.summary.test, found.percents) == (12, (90, 10, 0))


def test_files_of_a_split_name_their_rows_by_their_path(hub_rows: HubServer, dataset: Dataset, tmp_path: Path) -> None:
    files = hub_rows.repos["datasets/org/rows"]
    files["data/train-00000-of-00001.parquet"] = packed([*intents(59), {"text": "", "label": "bug"}])
    with pytest.raises(StageError) as caught:
        prepared(dataset, uri=HUB, badRows={"policy": "Fail"})
    assert "data/train-00000-of-00001.parquet row 60" in caught.value.message
