"""A job's spec can't change under its feet: both halves of the transition rules, and what may change."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from finetune_api.crd import job_crd
from tests.apiserver.conftest import Objects
from tests.support.casekit import MINIMAL, edited

SPEC_SCHEMA = job_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
MUTABLE = {"suspend", "ttlSecondsAfterFinished", "activeDeadlineSeconds", "queueName", "workloadPriorityClassName"}

CHANGES: Mapping[str, tuple[Any, Any]] = {
    "runtimeRef.name": ("gpu", "other"),
    "model.uri": ("hf://org/name", "hf://org/other"),
    "model.revision": ("main", "v2"),
    "model.credentialsRef": ({"name": "hub"}, {"name": "other"}),
    "model.adapter": ({"uri": "s3://bucket/a/"}, {"uri": "s3://bucket/b/"}),
    "dataset.uri": ("s3://bucket/rows.jsonl", "s3://bucket/other.jsonl"),
    "dataset.digest": ("sha256:" + "a" * 64, "sha256:" + "b" * 64),
    "dataset.format": ("Jsonl", "Csv"),
    "dataset.encoding": ("Windows-1252", "UTF-16"),
    "dataset.credentialsRef": ({"name": "s3"}, {"name": "other"}),
    "dataset.template.name": ("intent", "topic"),
    "dataset.template.columns": ({"text": "a"}, {"text": "b"}),
    "dataset.template.choices": (["a", "b"], ["b", "a"]),
    "dataset.template.paraphrases": ("All", "Default"),
    "dataset.split.trainPercent": (80, 70),
    "dataset.split.validationPercent": (10, 20),
    "dataset.split.testPercent": (10, 20),
    "dataset.split.seed": (42, 43),
    "dataset.split.stratifyBy": ("a", "b"),
    "dataset.split.groupBy": ("a", "b"),
    "dataset.split.by": ("a", "b"),
    "dataset.nearDuplicates": ("Drop", "Report"),
    "dataset.badRows.policy": ("Drop", "Fail"),
    "dataset.badRows.maxPercent": (5, 6),
    "training.method": ("LoRA", "Full"),
    "training.lora": ({"rank": 8}, {"rank": 9}),
    "training.epochs": (3, 4),
    "training.learningRate": ("2e-4", "3e-4"),
    "training.batchSize": (8, 16),
    "training.maxSteps": (100, 200),
    "training.scheduler": ("Cosine", "Linear"),
    "training.warmupPercent": ("5", "6"),
    "training.optimizer": ("AdamW", "Adafactor"),
    "training.weightDecay": ("0", "0.1"),
    "training.maxGradNorm": ("1", "2"),
    "training.validation": ({"everySteps": 50}, {"everySteps": 60}),
    "training.maxLength": (1024, 512),
    "training.precision": ("Auto", "Float32"),
    "training.seed": (7, 8),
    "training.selectBy": ("Score", "Loss"),
    "training.checkpoint": ({"intervalSeconds": 60}, {"intervalSeconds": 600}),
    "training.earlyStopping": ({"patience": 2}, {"patience": 3}),
    "evaluation.metric": ("Auto", "ExactMatch"),
    "evaluation.maxNewTokens": (8, 9),
    "evaluation.stop": (["###"], ["---"]),
    "evaluation.limit": (100, 200),
    "evaluation.fewShot": (4, 8),
    "evaluation.minScore": ("0.8", "0.9"),
    "evaluation.minGain": ("0", "0.1"),
    "evaluation.failOn": (["NoGain"], ["FewTestRows"]),
    "output.uri": ("s3://bucket/out/", "s3://bucket/other/"),
    "output.ifExists": ("Fail", "Reuse"),
    "output.export": ("Adapter", "Model"),
    "output.credentialsRef": ({"name": "s3"}, {"name": "other"}),
    "resources.gpusPerNode": (1, 0),
    "resources.nodes": (1, 2),
    "backoffLimit": (2, 3),
    "serviceAccountName": ("trainer", "other"),
}
"""Path -> value at creation and another one."""

FULL = edited(MINIMAL["FineTuneJob"], {path: before for path, (before, _) in CHANGES.items()})
INLINE = {"inline": {"prompt": "p", "completion": "c"}}
PROMPTSOURCE = {"promptsource": {"uri": "s3://bucket/t.yaml", "name": "n"}}
FILES = {"train": "s3://bucket/a.csv", "validation": "s3://bucket/b.csv", "test": "s3://bucket/c.csv"}
PLAIN_CHAT = edited(MINIMAL["FineTuneJob"], {"dataset.template": {"name": "messages"}})
CHAT = edited(PLAIN_CHAT, {"dataset.template.messages": {"learn": "Last"}})
FILES_JOB = edited(
    MINIMAL["FineTuneJob"],
    {
        "dataset": {
            "files": FILES,
            "template": INLINE,
            "split": {"trainPercent": 100, "validationPercent": 0, "testPercent": 0},
        }
    },
)


def _patch(path: str, value: Any) -> dict[str, Any]:
    return {"spec": functools.reduce(lambda inner, key: {key: inner}, reversed(path.split(".")), value)}


def _top(path: str) -> str:
    return path.partition(".")[0]


def _optional(schema: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Paths of the fields that an object may lack after defaulting."""
    for name, child in schema.get("properties", {}).items():
        path = f"{prefix}{name}"
        if name not in schema.get("required", ()) and "default" not in child:
            yield path
        else:
            yield from _optional(child, f"{path}.")


OPTIONAL = [p for p in _optional(SPEC_SCHEMA) if p not in MUTABLE]


@pytest.fixture(scope="module")
def stored(shared_objects: Objects) -> Objects:
    """Jobs that the dry-run patches of this module try to change."""
    for name, spec in (
        ("minimal", MINIMAL["FineTuneJob"]),
        ("full", FULL),
        ("files", FILES_JOB),
        ("chat", CHAT),
        ("plain-chat", PLAIN_CHAT),
    ):
        status, body = shared_objects.create(spec, name=f"stored-{name}")
        assert status == 201, body["message"]
    return shared_objects


def _refused(answer: tuple[int, Any], field: str) -> None:
    status, body = answer
    assert status == 422, body
    assert f"{field} is immutable; create a new FineTuneJob" in body["message"]


@pytest.mark.parametrize("path", CHANGES)
def test_a_value_can_not_be_changed(stored: Objects, path: str) -> None:
    _refused(stored.patch("stored-full", _patch(path, CHANGES[path][1]), dry_run=True), _top(path))


@pytest.mark.parametrize("path", [p for p in OPTIONAL if p in CHANGES])
def test_a_field_can_not_be_removed(stored: Objects, path: str) -> None:
    _refused(stored.patch("stored-full", _patch(path, None), dry_run=True), _top(path))


@pytest.mark.parametrize("path", [p for p in OPTIONAL if p in CHANGES])
def test_a_field_can_not_be_added(stored: Objects, path: str) -> None:
    if path in ("dataset.uri", "dataset.template.name"):  # the minimal job has them; the other one doesn't
        name, value = "stored-files", CHANGES[path][0]
    else:
        name, value = "stored-minimal", CHANGES[path][0]
    _refused(stored.patch(name, _patch(path, value), dry_run=True), _top(path))


@pytest.mark.parametrize(
    ("name", "patch"),
    [
        ("stored-files", {"files": {"train": "s3://bucket/new.csv"}}),
        ("stored-files", {"files": {"validation": None}, "split": {"trainPercent": 90, "validationPercent": 10}}),
        ("stored-files", {"files": {"test": None}, "split": {"trainPercent": 90, "testPercent": 10}}),
        ("stored-files", {"files": None, "uri": "s3://bucket/rows.csv", "split": None}),
        ("stored-minimal", {"files": {"train": "s3://bucket/rows.csv"}, "uri": None}),
        ("stored-files", {"template": {"inline": {"prompt": "other"}}}),
        ("stored-files", {"template": {"inline": None, "name": "qa"}}),
        ("stored-minimal", {"template": INLINE | {"name": None}}),
        ("stored-chat", {"template": {"messages": None}}),
        ("stored-chat", {"template": {"messages": {"learn": "All"}}}),
        ("stored-plain-chat", {"template": {"messages": {"learn": "Last"}}}),
        ("stored-plain-chat", {"template": {"messages": {"tools": "offered"}}}),
        ("stored-minimal", {"template": PROMPTSOURCE | {"name": None}}),
        ("stored-minimal", {"split": {"orderBy": "day"}}),
        ("stored-minimal", {"sources": [{"uri": "s3://bucket/rows.jsonl"}], "uri": None}),
        ("stored-minimal", {"template": {"configMapRef": {"name": "n", "key": "k"}, "name": None}}),
    ],
    ids=str,
)
def test_the_shape_of_the_dataset_can_not_be_changed(stored: Objects, name: str, patch: dict[str, Any]) -> None:
    _refused(stored.patch(name, {"spec": {"dataset": patch}}, dry_run=True), "dataset")


QUEUED = {"queueName": "team-a", "workloadPriorityClassName": "low"}
QUEUE_EDITS = [
    ("queueName", QUEUED, {"queueName": "other"}),
    ("queueName", {}, {"queueName": "team-a"}),
    ("queueName", {"queueName": "team-a"}, {"queueName": None}),
    ("workloadPriorityClassName", QUEUED, {"workloadPriorityClassName": "high"}),
    ("workloadPriorityClassName", {"queueName": "team-a"}, {"workloadPriorityClassName": "low"}),
    ("workloadPriorityClassName", QUEUED, {"workloadPriorityClassName": None}),
]


@pytest.mark.parametrize(("field", "before", "edit"), QUEUE_EDITS, ids=str)
def test_a_queue_can_not_be_changed_while_the_job_may_run(
    objects: Objects, field: str, before: dict[str, Any], edit: dict[str, Any]
) -> None:
    assert objects.create(edited(MINIMAL["FineTuneJob"], before))[0] == 201
    status, body = objects.patch("case", {"spec": edit})
    assert status == 422
    words = f"{field} may change only while the job is suspended; set suspend: true before, or with it"
    assert words in body["message"]


@pytest.mark.parametrize(("field", "before", "edit"), QUEUE_EDITS, ids=str)
@pytest.mark.parametrize(("first", "then"), [(True, True), (True, False), (False, True)], ids=str)
def test_a_queue_may_be_changed_while_the_job_is_suspended(
    objects: Objects, field: str, before: dict[str, Any], edit: dict[str, Any], *, first: bool, then: bool
) -> None:
    assert objects.create(edited(MINIMAL["FineTuneJob"], {**before, "suspend": first}))[0] == 201
    status, body = objects.patch("case", {"spec": {**edit, "suspend": then}})
    assert status == 200, body
    assert body["spec"].get(field) == edit[field]


@pytest.mark.parametrize("block", ["training", "evaluation", "output", "resources", "runtimeRef", "backoffLimit"])
def test_a_block_with_defaults_can_not_be_reset(stored: Objects, block: str) -> None:
    path = {"training": "training.epochs", "resources": "resources.gpusPerNode", "backoffLimit": "backoffLimit"}
    name = f"reset-{block.lower()}"
    spec = edited(FULL, {path[block]: CHANGES[path[block]][1]} if block in path else {})
    assert stored.create(spec, name=name)[0] == 201
    _refused(stored.patch(name, _patch(block, None), dry_run=True), block)


def test_the_tables_name_every_field_of_the_spec() -> None:
    assert set(OPTIONAL) - set(CHANGES) == {
        "dataset.files",
        "dataset.sources",
        "dataset.template.configMapRef",
        "dataset.template.inline",
        "dataset.template.messages",
        "dataset.template.promptsource",
        "dataset.split.orderBy",
    }
    top_level = {_top(path) for path in CHANGES}
    assert set(SPEC_SCHEMA["properties"]) - top_level == MUTABLE


def test_writing_the_same_spec_again_is_no_change(stored: Objects) -> None:
    status, body = stored.patch("stored-full", {"spec": FULL})
    assert status == 200, body
    assert body["metadata"]["generation"] == 1


@pytest.mark.parametrize(("before", "after"), [(None, 60), (3600, 3600), (3600, 3601)], ids=["set", "kept", "raised"])
def test_the_deadline_may_be_set_and_raised(objects: Objects, before: int | None, after: int) -> None:
    assert objects.create(edited(MINIMAL["FineTuneJob"], {"activeDeadlineSeconds": before}))[0] == 201
    status, body = objects.patch("case", {"spec": {"activeDeadlineSeconds": after}})
    assert status == 200, body


@pytest.mark.parametrize("after", [3599, None], ids=["lowered", "removed"])
def test_the_deadline_can_not_be_lowered_or_removed(objects: Objects, after: int | None) -> None:
    assert objects.create(edited(MINIMAL["FineTuneJob"], {"activeDeadlineSeconds": 3600}))[0] == 201
    status, body = objects.patch("case", {"spec": {"activeDeadlineSeconds": after}})
    assert status == 422
    assert "activeDeadlineSeconds may only be raised, or set where it was unset" in body["message"]


@pytest.mark.parametrize("patch", [{"ttlSecondsAfterFinished": 60}, {"ttlSecondsAfterFinished": None}], ids=str)
def test_the_time_to_live_may_change(objects: Objects, patch: dict[str, Any]) -> None:
    assert objects.create(edited(MINIMAL["FineTuneJob"], {"ttlSecondsAfterFinished": 100}))[0] == 201
    status, body = objects.patch("case", {"spec": patch})
    assert status == 200, body


def test_a_job_may_be_suspended_and_resumed(objects: Objects) -> None:
    assert objects.create(MINIMAL["FineTuneJob"])[0] == 201
    for generation, suspend in enumerate([True, False, True], start=2):
        status, body = objects.patch("case", {"spec": {"suspend": suspend}})
        assert status == 200, body
        assert body["metadata"]["generation"] == generation
