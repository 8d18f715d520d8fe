"""The log of each attempt below output.uri: ``logs/<stage>-<attempt>.jsonl``, for questions that come after the pod.

Stored when a stage ends, whether well or badly, and by a pod that was told to stop in mid-training. It is a help and
no result: the manifest doesn't list it, storing it never fails a stage, and logs alone don't make a folder taken. A
process that is killed outright stores none.
"""

from __future__ import annotations

from typing import Final

from finetune_api.names import StageName
from finetune_api.stage import JobIdentity
from finetune_trainer.errors import StageError
from finetune_trainer.output.folder import LOGS, is_log
from finetune_trainer.output.ownership import check_owner
from finetune_trainer.process.console import Console
from finetune_trainer.storage.store import Store

__all__ = ["KEPT_LOGS", "store_log"]

KEPT_LOGS: Final = 20
"""Newest logs of a stage; a job that is preempted every hour would fill its folder otherwise."""


def store_log(store: Store, job: JobIdentity, stage: StageName, console: Console) -> str | None:
    """Store what the console has written, if the folder is this job's.

    Returns
    -------
    str | None
        Path below output.uri; None where it couldn't be stored, which is told in the log alone.
    """
    try:
        check_owner(store, job)
    except StageError:
        return None  # it reuses another job's result, or never came to claim the folder
    try:
        numbers = sorted(number for file in store.list() if (number := _attempt(file.key, stage)) is not None)
        path = _path(stage, numbers[-1] + 1 if numbers else 1)
        store.put_bytes(path, console.kept.read())
        for number in numbers[: max(0, len(numbers) + 1 - KEPT_LOGS)]:
            store.delete(_path(stage, number))
    except StageError as error:
        console.event("log_not_stored", f"the log was not stored at output.uri: {error.message}", level="warning")
        return None
    return path


def _path(stage: StageName, attempt: int) -> str:
    return f"{LOGS}{stage}-{attempt}.jsonl"


def _attempt(key: str, stage: StageName) -> int | None:
    """Return the number in the name of a log of this stage."""
    number = key.removeprefix(f"{LOGS}{stage}-").removesuffix(".jsonl")
    return int(number) if is_log(key) and number.isdecimal() else None
