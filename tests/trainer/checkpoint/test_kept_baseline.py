"""The stored baseline: read as it was written, or not at all, and never a reason to fail."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune_api.reasons import Reason
from finetune_trainer.checkpoint.format import Identity
from finetune_trainer.checkpoint.kept_baseline import BASELINE, Baseline, load_baseline, store_baseline
from finetune_trainer.checkpoint.sealed import seal, unseal
from finetune_trainer.evaluation.results import Evaluation, RowResult
from tests.support.recording_store import IDENTITY, Recording


@pytest.fixture
def store(tmp_path: Path) -> Recording:
    return Recording(tmp_path / "out")


def evaluation() -> Evaluation:
    rows = [
        RowResult(
            index=i,
            row=i + 2,
            chosen=i % 3 if i else None,
            right_choice=i % 2 == 0 if i else None,
            exact_match=bool(i % 2),
            exact_match_tokens=False,
            loss=[0.1 + 0.2, 1e-300, float("inf")][i % 3],
            tokens=3,
            tokens_correct=i % 4,
            predicted="ja\u2028 \U0001f600" if i else None,
            generated=None,
            expected="no",
            correct=bool(i % 2),
        )
        for i in range(6)
    ]
    return Evaluation(metric="ExactMatch", rows=tuple(rows), seconds=1.5)


def test_a_baseline_is_read_as_it_was_written(store: Recording) -> None:
    kept = Baseline(evaluation=evaluation(), precision="BFloat16", branching=False)
    store_baseline(store, IDENTITY, kept)
    assert load_baseline(store, IDENTITY) == kept


def test_without_a_baseline_there_is_none(store: Recording) -> None:
    assert load_baseline(store, IDENTITY) is None


@pytest.mark.parametrize("damage", ["cut", "a bit flips", "another document", "not even JSON", "of another version"])
def test_a_damaged_baseline_is_ignored(damage: str, store: Recording, caplog: pytest.LogCaptureFixture) -> None:
    store_baseline(store, IDENTITY, Baseline(evaluation=evaluation(), precision="Float32", branching=None))
    data = store.get_bytes(BASELINE)
    if damage == "of another version":
        content = unseal(data)
        del content["evaluation"]["columns"]["loss"]
        data = seal(content)
    else:
        data = {
            "cut": data[:-20],
            "a bit flips": data.replace(b"1e-300", b"1e-301"),
            "another document": json.dumps([1]).encode(),
            "not even JSON": b"\xff\xfe",
        }[damage]
    store.put_bytes(BASELINE, data)
    assert load_baseline(store, IDENTITY) is None
    assert "baseline" in caplog.text


@pytest.mark.parametrize("field", Identity.model_fields)
def test_the_baseline_of_another_training_is_ignored(field: str, store: Recording) -> None:
    store_baseline(store, IDENTITY, Baseline(evaluation=evaluation(), precision="Float32", branching=None))
    assert load_baseline(store, IDENTITY.model_copy(update={field: "another"})) is None


def test_a_baseline_that_cannot_be_stored_is_a_warning(store: Recording, caplog: pytest.LogCaptureFixture) -> None:
    store.refused["put"] = Reason.ARTIFACT_UPLOAD_FAILED
    store_baseline(store, IDENTITY, Baseline(evaluation=evaluation(), precision="Float32", branching=None))
    assert "later attempt" in caplog.text
