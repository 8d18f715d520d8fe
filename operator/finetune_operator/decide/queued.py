"""Tells why Kueue does not let a child run, from what it says on the Job's Workload.

Pure. Nothing on the Job itself says why it waits, and Kueue has one word for a Job that waits for its turn and for one
that can never have a turn: what only somebody can mend is told apart here, with the mend. Foreign wording is matched
loosely; a text that isn't known is shown as it is.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final, NamedTuple

from finetune_operator.decide.plan import ChildView, QueueWord
from finetune_operator.decide.text import bare, rfc3339, sanitise

__all__ = ["INADMISSIBLE", "QUEUED", "QUEUE_REASONS", "Told", "queue_says"]

QUEUED: Final = "Queued"
INADMISSIBLE: Final = "Inadmissible"
"""Reason of a wait that ends only when somebody mends something."""

QUEUE_REASONS: Final = frozenset({QUEUED, INADMISSIBLE})

WORKLOAD_SECONDS: Final = 30
"""How long Kueue may take to make the Workload of a Job."""

_UNCOVERED: Final = re.compile(r"unavailable in ClusterQueue", re.IGNORECASE)
_UNFIT: Final = re.compile(
    r"insufficient quota for \S+ in flavor (?P<small>[^\s,]+)"
    r"|flavor (?P<other>[^\s,]+) doesn't match node affinity"
    r"|untolerated taint [^,]{1,400}? in flavor (?P<tainted>[^\s,]+)",
    re.IGNORECASE,
)
_IN_USE: Final = re.compile(r"insufficient unused quota for \S+ in flavor ([^\s,]+)", re.IGNORECASE)
_MAKES_ROOM: Final = re.compile(r"pending the preemption", re.IGNORECASE)
_MAX_READ: Final = 4000
_NO_QUEUE: Final = re.compile(r"^LocalQueue \S+ (?:doesn't exist|is terminating or missing)$")


class Told(NamedTuple):
    """What is told of a wait."""

    reason: str
    message: str


def queue_says(child: ChildView, *, now: datetime) -> Told:
    """Tell why a suspended child that stands in a queue does not run."""
    word = child.word
    if word is None:
        return _waits(child)
    if not word.installed:
        return _mend(
            f"Job {child.name} waits for LocalQueue {bare(child.queue)}, and Kueue is not installed in this cluster. "
            "Install Kueue, or suspend the job, take queueName out of it and resume it."
        )
    if not word.readable:
        return _waits(child, "The operator may not read why (kueue.enabled of its chart).")
    return _without_workload(child, word, now) if word.workload is None else _workload_says(child, word)


def _workload_says(child: ChildView, word: QueueWord) -> Told:
    if (word.evicted or "").startswith("Deactivated"):
        return _mend(
            f"Workload {bare(word.workload)} of Job {child.name} is deactivated: {bare(word.evicted_message)}. "
            "Set its spec.active to true, and the job goes on."
        )
    text = bare(word.message)
    if word.reason == "Inadmissible":
        return _mend(f"Kueue does not admit Job {child.name}: {text}. {_mend_of(child, text)}")
    if _never_fits(sanitise(word.message or "", _MAX_READ)):
        return _mend(
            f"Job {child.name} asks for more than LocalQueue {bare(child.queue)} can ever give it: {text}. Raise the "
            "quota of its ClusterQueue, or delete the job and apply it anew for another queue or runtime."
        )
    if word.evicted is not None:
        return _evicted(child, word)
    return _waits(child, f"{text}." if text else "")


def _without_workload(child: ChildView, word: QueueWord, now: datetime) -> Told:
    if word.priority_missing:
        return _mend(
            f'WorkloadPriorityClass "{bare(child.priority)}" does not exist, so Kueue does not queue Job {child.name}. '
            "Create it, or suspend the job, change workloadPriorityClassName and resume it."
        )
    if child.suspended_at is None or (now - child.suspended_at).total_seconds() < WORKLOAD_SECONDS:
        return _waits(child)
    return _mend(
        f"Kueue has made no Workload of Job {child.name}{_since(child)}: its controller does not run, or does not "
        "manage Jobs of this namespace (integrations.frameworks needs batch/job)."
    )


def _never_fits(text: str) -> bool:
    """Tell whether no flavor can ever take the job: each one that is told of is too small, or does not suit it.

    Where one flavor is only in use, the job waits for that. Kueue names a flavor once for each resource.
    """
    if _MAKES_ROOM.search(text):
        return False
    unfit = {name for found in _UNFIT.finditer(text) for name in found.groups() if name}
    return bool(_UNCOVERED.search(text)) or (bool(unfit) and set(_IN_USE.findall(text)) <= unfit)


def _mend_of(child: ChildView, text: str) -> str:
    if not _NO_QUEUE.match(text):
        return "An administrator of Kueue can tell more."
    fields = "queueName, or prepareQueueName of the FineTuneRuntime" if child.stage == "prepare" else "queueName"
    return f"Create it in the namespace of the job, or suspend the job, change {fields} and resume it."


def _evicted(child: ChildView, word: QueueWord) -> Told:
    then = "It goes on from what it saved" if child.stage == "train" else "It begins anew"
    why = f": {bare(word.evicted_message)}" if word.evicted_message else ""
    return Told(
        QUEUED,
        f"Kueue has stopped Job {child.name}{_since(child)} ({bare(word.evicted)}){why}. {then} when LocalQueue "
        f"{bare(child.queue)} admits it again.",
    )


def _waits(child: ChildView, why: str = "") -> Told:
    told = f"Job {child.name} waits in Kueue's LocalQueue {bare(child.queue)}{_since(child)}."
    return Told(QUEUED, f"{told} {why}" if why else told)


def _mend(message: str) -> Told:
    return Told(INADMISSIBLE, message)


def _since(child: ChildView) -> str:
    return f" since {rfc3339(child.suspended_at)}" if child.suspended_at else ""
