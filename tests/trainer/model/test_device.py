"""Threads, device and precision."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError
from finetune_trainer.model import device as hardware
from finetune_trainer.model.device import (
    configure_threads,
    cpu_quota,
    gpu_memory_errors,
    pick_device,
    processor,
    resolve_precision,
)

CPU = torch.device("cpu")


def version_2(root: Path, text: str) -> Path:
    (root / "cpu.max").write_text(text)
    return root


def version_1(root: Path, quota: str, period: str = "100000") -> Path:
    (root / "cpu").mkdir()
    (root / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (root / "cpu" / "cpu.cfs_period_us").write_text(period)
    return root


def test_the_quota_of_cgroup_version_2_is_read(tmp_path: Path) -> None:
    assert cpu_quota(version_2(tmp_path, "150000 100000\n")) == 1.5


def test_the_quota_of_cgroup_version_1_is_read(tmp_path: Path) -> None:
    assert cpu_quota(version_1(tmp_path, "400000\n", "200000\n")) == 2.0


def test_no_quota_is_no_number(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None
    assert cpu_quota(version_1(tmp_path, "-1\n")) is None
    assert cpu_quota(version_2(tmp_path, "max 100000\n")) is None


@pytest.fixture
def restored_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("quota", "threads"), [("140000", 1), ("180000", 2), ("10000", 1), ("200000", 2), ("800000", 4)]
)
@pytest.mark.usefixtures("restored_threads")
def test_threads_follow_quota_and_processors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, threads: int
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 2, 3})
    assert configure_threads(version_2(tmp_path, f"{quota} 100000")) == threads
    assert torch.get_num_threads() == threads


@pytest.mark.usefixtures("restored_threads")
def test_fewer_threads_can_be_asked_for_but_not_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 2, 3})
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert configure_threads(tmp_path) == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "16")
    assert configure_threads(tmp_path) == 4


def test_a_job_without_gpus_runs_on_the_cpu() -> None:
    assert pick_device(0) == CPU


def test_a_gpu_that_is_not_there_is_named_with_what_to_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(StageError, match="gpusPerNode") as error:
        pick_device(1)
    assert error.value.reason is Reason.TRAINER_ERROR


@pytest.mark.parametrize("asked", ["BFloat16", "Float32"])
def test_a_precision_that_is_asked_for_is_taken(asked: hardware.Precision) -> None:
    assert resolve_precision(asked, CPU) == asked


@pytest.mark.parametrize(
    ("supported", "float32", "bfloat16", "chosen"),
    [
        (True, 1.0, 0.3, "BFloat16"),
        (True, 1.0, 0.9, "Float32"),
        (True, 1.0, 4.0, "Float32"),
        (False, 1.0, 0.1, "Float32"),
    ],
)
def test_auto_takes_the_precision_that_is_clearly_faster_here(
    monkeypatch: pytest.MonkeyPatch, supported: bool, float32: float, bfloat16: float, chosen: str
) -> None:
    seconds = {torch.float32: float32, torch.bfloat16: bfloat16}
    monkeypatch.setattr(hardware, "_cpu_has_bfloat16", lambda: supported)
    monkeypatch.setattr(hardware, "_matmul_seconds", lambda *dtypes: [seconds[d] for d in dtypes])
    assert resolve_precision("Auto", CPU) == chosen


def test_the_probe_times_every_type_and_leaves_the_threads_alone() -> None:
    before = torch.get_num_threads()
    first, second = hardware._matmul_seconds(torch.float32, torch.float32)
    assert 0 < first < 1
    assert first == pytest.approx(second, rel=0.5)
    assert torch.get_num_threads() == before


def test_a_full_gpu_is_a_reason_of_its_own_that_says_when() -> None:
    with pytest.raises(StageError, match="during training: 3 GiB more") as error, gpu_memory_errors("training"):
        raise torch.OutOfMemoryError("3 GiB more")
    assert error.value.reason is Reason.GPU_OUT_OF_MEMORY


def test_the_peak_of_memory_is_at_least_what_python_needs() -> None:
    assert 50e6 < hardware.peak_memory_bytes(CPU) < 50e9


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("processor\t: 0\nmodel name\t: One CPU @ 2.0GHz\nprocessor\t: 1\nmodel name\t: Two\n", "One CPU @ 2.0GHz"),
        ("processor\t: 0\nBogoMIPS\t: 50\n", None),
        ("model name\t:\n", None),
    ],
)
def test_the_processor_is_named_as_the_system_names_it(text: str, name: str | None, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert processor(tmp_path / "cpuinfo") == name
    assert processor(tmp_path / "nowhere") is None
