"""What is otherwise where a person runs a job on a machine: there is no cluster whose parts a mend could name.

Beside ``input.py``, which reads such a job; ``run.py`` asks here for the mend of a reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from finetune_api.reasons import REASONS, Reason
from finetune_trainer.errors import StageError

__all__ = ["check_device", "mend_of"]

_HERE: Final[Mapping[Reason, str]] = {
    Reason.INVALID_SPEC: "Correct the named field and run it again.",
    Reason.STORAGE_UNAVAILABLE: "Check that the storage endpoint can be reached from here.",
    Reason.CREDENTIALS_NOT_FOUND: "Set the environment variables of the storage that is named.",
    Reason.TRAINER_ERROR: "Look at the traceback that was printed; report it if it is not your data.",
    Reason.OUT_OF_MEMORY: "Lower training.maxLength or batchSize, or use a machine with more memory.",
}
"""Mends that differ from those of the table, which name a cluster's objects or its pods."""


def mend_of(reason: Reason, *, local: bool) -> str:
    """Return what mends a failure, for whoever reads of it."""
    return _HERE.get(reason, REASONS[reason].mend) if local else REASONS[reason].mend


def check_device(gpus: int) -> None:
    """Make sure, before rows are prepared for a minute or an hour, that there is the GPU that the job asks for.

    Raises
    ------
    StageError
        InvalidSpec: there is none that works.
    """
    if not gpus:
        return
    from torch import cuda  # noqa: PLC0415 - takes seconds; a file that is wrong is told before

    if not cuda.is_available():
        raise StageError(
            Reason.INVALID_SPEC,
            f"resources.gpusPerNode is {gpus} (1 where it is left out), and no GPU works here; use --cpu, or "
            "resources.gpusPerNode: 0",
            tells_mend=True,
        )
