"""What two results were computed by, held against each other."""

from __future__ import annotations

import pytest

from finetune_api.report import StageReport
from finetune_api.stage import JobIdentity
from finetune_trainer.output.manifest import Manifest
from finetune_trainer.output.surroundings import changes

DIGEST = "sha256:" + "d" * 64
MACHINE = {"device": "cpu", "capability": "AVX2", "threads": 2, "architecture": "x86_64", "processor": "one"}
VERSIONS = {"torch": "2.9.0", "python": "3.11.2"}


def manifest(machine: dict[str, object], versions: dict[str, object] | None = None) -> Manifest:
    return Manifest(
        digest=DIGEST,
        job=JobIdentity(namespace="", name="tiny", uid="uid-1"),
        spec={},
        model_revision="r",
        fingerprint=DIGEST,
        report=StageReport(stage="train", spec_digest=DIGEST),
        adapter_revision=None,
        files=(),
        versions=VERSIONS if versions is None else versions,
        machine=machine,
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, []),
        ({"threads": 4}, ["threads 2, now 4"]),
        ({"capability": "AVX512"}, ["instruction set or GPU AVX2, now AVX512"]),
        ({"device": "cuda", "capability": "H100"}, ["device cpu, now cuda", "instruction set or GPU AVX2, now H100"]),
        ({"processor": "two"}, ["processor one, now two"]),
        ({"processor": None}, []),
    ],
)
def test_what_the_machine_differs_in_is_told(change: dict[str, object], told: list[str]) -> None:
    assert [str(one) for one in changes(manifest(MACHINE), manifest(MACHINE | change))] == told


def test_versions_that_differ_are_told() -> None:
    found = changes(manifest(MACHINE), manifest(MACHINE, VERSIONS | {"torch": "2.10.0"}))
    assert [str(one) for one in found] == ["torch 2.9.0, now 2.10.0"]


def test_what_an_older_version_did_not_record_is_told_as_that() -> None:
    found = changes(manifest({"architecture": "x86_64", "threads": 2}), manifest(MACHINE))
    assert [str(one) for one in found] == [
        "device not recorded, now cpu",
        "instruction set or GPU not recorded, now AVX2",
    ]


def test_words_of_somebodys_manifest_stay_on_one_line() -> None:
    (found,) = changes(manifest(MACHINE | {"capability": "a\nb" + "c" * 200}), manifest(MACHINE))
    assert found.then is not None
    assert found.then.startswith("a bc")
    assert len(found.then) == 80
