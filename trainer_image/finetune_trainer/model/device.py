"""What the container may use: threads from the cgroup's CPU quota, the device, and the faster precision on it.

``os.cpu_count`` counts the node's processors; a pod that starts one thread for each of them under a quota of two spends
its time being throttled.
"""

from __future__ import annotations

import logging
import math
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError

__all__ = [
    "Precision",
    "configure_threads",
    "cpu_quota",
    "dtype_of",
    "gpu_memory_errors",
    "peak_memory_bytes",
    "pick_device",
    "processor",
    "resolve_precision",
    "to_device",
]

Precision = Literal["BFloat16", "Float32"]
CGROUP: Final = Path("/sys/fs/cgroup")
PROBES: Final = 20

log = logging.getLogger(__name__)


def cpu_quota(root: Path = CGROUP) -> float | None:
    """Processors that the cgroup grants, or None without a quota; reads cgroup v2 (cpu.max) and v1 (cpu.cfs_*)."""
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except OSError:
        try:
            quota = (root / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if quota in ("max", "-1"):
        return None
    return int(quota) / int(period)


def configure_threads(root: Path = CGROUP) -> int:
    """Give torch as many threads as the container has processors and return their number; call before any arithmetic.

    Half a processor and more is worth a thread: two threads under a quota of 1.8 are held up for a tenth of the time,
    which costs less than the 0.8 processors that one thread leaves unused. The result is recorded, since sums of floats
    depend on it. ``OMP_NUM_THREADS`` is respected if it asks for fewer.
    """
    threads = len(os.sched_getaffinity(0))
    quota = cpu_quota(root)
    if quota is not None:
        threads = min(threads, max(1, math.floor(quota + 0.5)))
    if os.environ.get("OMP_NUM_THREADS", "").isdigit():
        threads = min(threads, max(1, int(os.environ["OMP_NUM_THREADS"])))
    torch.set_num_threads(threads)
    return threads


def pick_device(gpus: int) -> torch.device:
    """Return the device to compute on.

    Raises
    ------
    StageError
        TrainerError when a GPU was asked for and the container has none that works.
    """
    if gpus == 0:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise StageError(
            Reason.TRAINER_ERROR,
            "resources.gpusPerNode asks for a GPU, but the container finds none that works: check the node's driver, "
            "and train.runtimeClassName and gpuResourceName of the FineTuneRuntime",
        )
    return torch.device("cuda", 0)


def processor(path: Path = Path("/proc/cpuinfo")) -> str | None:
    """Return the model of the CPU, which libraries choose their kernels by; None where the system names none."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, None) or None


def dtype_of(precision: Precision) -> torch.dtype:
    """Type of the weights and of the arithmetic."""
    return torch.bfloat16 if precision == "BFloat16" else torch.float32


def resolve_precision(requested: Literal["Auto", "BFloat16", "Float32"], device: torch.device) -> Precision:
    """Choose once, before the baseline, so that all scores of a job come from the same arithmetic.

    Auto is bfloat16 on a GPU. On a CPU it is what multiplies matrices faster here: processors without bfloat16
    instructions emulate it slowly, so support is asked for and then timed.
    """
    if requested != "Auto":
        return requested
    if device.type == "cuda":
        return "BFloat16" if torch.cuda.is_bf16_supported() else "Float32"
    if not _cpu_has_bfloat16():
        return "Float32"
    float32, bfloat16 = _matmul_seconds(torch.float32, torch.bfloat16)
    log.info("matrix product: float32 %.2f ms, bfloat16 %.2f ms", float32 * 1e3, bfloat16 * 1e3)
    # A lead that norms, casts and the optimizer's master copy would eat up is none.
    return "BFloat16" if bfloat16 < 0.75 * float32 else "Float32"


def _cpu_has_bfloat16() -> bool:
    return bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _matmul_seconds(*dtypes: torch.dtype) -> list[float]:
    """Best time of a product of a small model's size in each type.

    Taken in turns and on one thread, and the best of many, so that a busy neighbour does not decide the precision of a
    job: each product takes a millisecond or so, less than the time slice between two interruptions.
    """
    operands = [(torch.ones(128, 1024, dtype=d), torch.ones(1024, 1024, dtype=d)) for d in dtypes]
    best = [math.inf] * len(dtypes)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(PROBES):
            for i, (a, b) in enumerate(operands):
                start = time.perf_counter()
                torch.mm(a, b)
                best[i] = min(best[i], time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return best


def peak_memory_bytes(device: torch.device) -> int:
    """Peak memory of the GPU's allocator, or of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def gpu_memory_errors(what: str) -> Iterator[None]:
    """Turn the allocator's error into the reason that users know.

    Raises
    ------
    StageError
        GPUOutOfMemory, saying during what.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise StageError(Reason.GPU_OUT_OF_MEMORY, f"the GPU's memory was full during {what}: {error}") from error


def to_device(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """Copy to the device; the host does not wait for a GPU."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
