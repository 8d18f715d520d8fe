"""Which metric a job has: what the spec names, else what suits the template and the choices. Pure.

Decided where the rows are prepared, on a CPU, so that a metric that these rows can't have ends a job before any GPU is
asked for. The metrics themselves are the evaluator's.
"""

from __future__ import annotations

from typing import Literal

from finetune_api.metrics import CHOICE_METRICS, LABEL_METRICS, TOKEN_METRICS, MetricName
from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError

__all__ = ["metric_for"]


def metric_for(
    asked: Literal["Auto", MetricName],
    wished: Literal["Auto", MetricName] = "Auto",
    *,
    choice_sets: int,
    thoughts: bool = False,
) -> MetricName:
    """Choose a job's metric.

    What the spec names is taken. ``Auto`` is what the template wishes: over choices if that goes over choices, else
    ChoiceAccuracy where choices are known; over text if that needs no choices, else ExactMatch where answers are open.

    Parameters
    ----------
    asked
        ``evaluation.metric``.
    wished
        The template's metric.
    choice_sets
        Number of different choice sets: none where answers are open, one where all rows share their choices.
    thoughts
        Whether thoughts stand before the answers, which alone are scored.

    Raises
    ------
    StageError
        InvalidSpec: the metric that the spec names needs choices, and there are none, or each row has its own; or it
        counts tokens, those of thoughts too.
    """
    if thoughts and asked in TOKEN_METRICS:
        raise StageError(
            Reason.INVALID_SPEC,
            f"evaluation.metric {asked} would count the tokens of thoughts too, and scored is the answer alone; use a "
            "metric over text such as ExactMatch, or set dataset.template.messages.thinking to Drop",
            tells_mend=True,
        )
    if asked != "Auto":
        if why := _unfit(asked, choice_sets):
            raise StageError(Reason.INVALID_SPEC, f"evaluation.metric {asked} {why}", tells_mend=True)
        return asked
    over_choices = wished != "Auto" and wished in CHOICE_METRICS
    if wished != "Auto" and over_choices == (choice_sets > 0) and not _unfit(wished, choice_sets):
        return wished
    return "ChoiceAccuracy" if choice_sets else "ExactMatch"


def _unfit(name: MetricName, choice_sets: int) -> str:
    """Why a metric can't be had with these choices, with the mend; empty where it can."""
    if name in CHOICE_METRICS and choice_sets == 0:
        return "needs known choices; set dataset.template.choices, or a metric over text such as ExactMatch"
    if name in LABEL_METRICS and choice_sets > 1:
        return (
            "needs labels that all rows share, and here rows have choices of their own; use ChoiceAccuracy, or set "
            "dataset.template.choices"
        )
    return ""
