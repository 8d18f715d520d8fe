"""Derives the conditions of a FineTuneJob from one verdict, so that they can never contradict each other.

Pure. ``Succeeded`` is the summary of a bounded object (Unknown until the end, then fixed), ``Finished`` is for
``kubectl wait``, ``Reconciling`` and ``Stalled`` are kstatus' pair of abnormal-true conditions: a job is InProgress
until its end, then Current or Failed, and never goes back; one that is suspended is Current, since that is what was
asked for. There is no ``Ready``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from finetune_api.status import Condition
from finetune_operator.decide.text import rfc3339, sanitise

__all__ = ["CONDITION_TYPES", "Suspension", "Verdict", "derive_conditions"]

Truth = Literal["True", "False", "Unknown"]
Suspension = Literal["Suspending", "SpecSuspended"]
"""Pods still stand, or none is left."""

CONDITION_TYPES: Final = (
    "Succeeded",
    "Finished",
    "Suspended",
    "Prepared",
    "ArtifactPublished",
    "Reconciling",
    "Stalled",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Where a job stands.

    ``succeeded`` is None until the end; ``reason`` is a CamelCase word, ``message`` a sentence for people; ``prepared``
    tells whether the rows are read, split and tokenised; ``suspension`` how far spec.suspend is carried out.
    """

    succeeded: bool | None
    reason: str
    message: str
    prepared: bool = False
    suspension: Suspension | None = None


def derive_conditions(
    verdict: Verdict, *, prior: Iterable[Condition], generation: int, now: datetime
) -> list[Condition]:
    """Return all conditions; ``lastTransitionTime`` moves only where ``status`` differs from ``prior``."""
    before = {condition.type: condition for condition in prior}
    ended, failed = verdict.succeeded is not None, verdict.succeeded is False
    at_rest = ended or verdict.suspension == "SpecSuspended"
    message = sanitise(verdict.message)
    truths: dict[str, tuple[Truth, str, str]] = {
        "Succeeded": (_truth(verdict.succeeded), verdict.reason, message),
        "Finished": (_truth(ended), verdict.reason, ""),
        "Suspended": _suspended(verdict, before.get("Suspended")),
        "Prepared": _step(done=verdict.prepared, name="Prepared", verdict=verdict),
        "ArtifactPublished": _step(done=verdict.succeeded is True, name="Published", verdict=verdict),
        "Reconciling": (_truth(not at_rest), verdict.reason, "" if ended else message),
        "Stalled": (_truth(failed), verdict.reason, message if failed else ""),
    }
    return [
        Condition(
            type=kind,
            status=status,
            reason=reason,
            message=text,
            observed_generation=generation,
            last_transition_time=(
                old.last_transition_time if (old := before.get(kind)) and old.status == status else rfc3339(now)
            ),
        )
        for kind, (status, reason, text) in truths.items()
    ]


def _truth(value: bool | None) -> Truth:
    return "Unknown" if value is None else "True" if value else "False"


def _suspended(verdict: Verdict, prior: Condition | None) -> tuple[Truth, str, str]:
    if verdict.suspension is not None:
        return _truth(verdict.suspension == "SpecSuspended"), verdict.suspension, ""
    # A job that ends while it is being suspended was not resumed.
    earlier = ("Resumed",) if verdict.succeeded is not None else ("Resumed", "Suspending", "SpecSuspended")
    return "False", "Resumed" if prior is not None and prior.reason in earlier else "NotSuspended", ""


def _step(*, done: bool, name: str, verdict: Verdict) -> tuple[Truth, str, str]:
    """A step on the way: reached, not reached yet, or never to be reached."""
    if done:
        return "True", name, ""
    if verdict.succeeded is None:
        return "Unknown", "Pending", ""
    return "False", verdict.reason, ""
