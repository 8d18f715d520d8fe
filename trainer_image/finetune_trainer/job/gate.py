"""Whether a result is good enough for whoever asked: ``evaluation.minScore``, ``minGain`` and ``failOn``.

The result is whole and stored either way; a job that it isn't good enough for ends as NotAccepted and tells it. What is
compared are the numbers of the status, so that a person sees why. What lies at output.uri tells what the job that made
it asked for and whether it got that (:func:`acceptance`); another job that takes the result judges it anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from finetune_api.job import Evaluation
from finetune_api.metrics import LOWER_IS_BETTER
from finetune_api.reasons import REASONS, Reason
from finetune_api.report import ReportedFailure, StageReport
from finetune_api.status import Results
from finetune_trainer.process.console import Console

__all__ = ["acceptance", "judged", "objections"]


def judged(report: StageReport, evaluation: Evaluation, console: Console) -> StageReport:
    """Return the report of a complete result; with the failure where the job doesn't accept it."""
    if report.results is None or not (found := list(objections(report.results, evaluation))):
        return report
    reason = Reason.NOT_ACCEPTED
    words = f"{'; '.join(found)}"[:800].rstrip(". ")
    message = console.redact(f"{words}. {REASONS[reason].mend}")
    console.event("not_accepted", f"{reason}: {message}", level="error", reason=str(reason))
    return report.model_copy(update={"failure": ReportedFailure(reason=reason, message=message)})


def acceptance(results: Results, evaluation: Evaluation) -> dict[str, Any] | None:
    """Return, for ``results.json``, what was asked of the result and whether it is that; None where nothing was."""
    asked = {"minScore": evaluation.min_score, "minGain": evaluation.min_gain, "failOn": list(evaluation.fail_on or ())}
    told = {name: value for name, value in asked.items() if value not in (None, [])}
    if not told:
        return None
    found = list(objections(results, evaluation))
    return {"accepted": not found, "asked": told, **({"objections": found} if found else {})}


def objections(results: Results, evaluation: Evaluation) -> Iterator[str]:
    """Say what of the result is not what was asked for."""
    score, gain = results.test.score, results.gain
    if (least := evaluation.min_score) is not None:
        lower = results.metric in LOWER_IS_BETTER
        if Decimal(score) > Decimal(least) if lower else Decimal(score) < Decimal(least):
            yield f"evaluation.minScore asks for {least}, and {results.metric} is {score}"
    if (least := evaluation.min_gain) is not None and Decimal(gain) < Decimal(least):
        yield f"evaluation.minGain asks for {least}, and the gain is {gain}"
    for warning in results.warnings or []:
        if warning.type in (evaluation.fail_on or ()):
            told = f": {warning.message}" if warning.message else ""
            yield f"evaluation.failOn names {warning.type}{told}"
