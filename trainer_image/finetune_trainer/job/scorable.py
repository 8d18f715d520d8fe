"""Whether the metric fits the expected answers: looked at on a CPU, before anything is trained."""

from __future__ import annotations

import logging
from typing import Final

from finetune_api.reasons import Reason
from finetune_trainer.data.parts import Part
from finetune_trainer.errors import StageError
from finetune_trainer.evaluation.metrics.metric import TextMetric
from finetune_trainer.evaluation.metrics.registry import METRICS
from finetune_trainer.prepare.prepared import Prepared

__all__ = ["check_scorable"]

_SCORED: Final[tuple[Part, ...]] = ("test", "validation")
_SHOWN: Final = 60

log = logging.getLogger(__name__)


def check_scorable(prepared: Prepared) -> None:
    """Make sure that a metric over text can score most of the expected answers; warn of the others, which count as 0.

    Raises
    ------
    StageError
        DatasetInvalid: it can't score half of a part; names the metric, a row and the mend.
    """
    metric = METRICS[prepared.metric]
    if not isinstance(metric, TextMetric):
        return
    for part in _SCORED:
        texts, bad, first = prepared.texts[part], 0, ""
        for text in texts:
            if why := metric.scorable(text.completion):
                bad += 1
                shown = text.completion if len(text.completion) <= _SHOWN else text.completion[: _SHOWN - 3] + "..."
                first = first or f"row {text.row} ({shown!r}) {why}"
        told = f"{bad} of {len(texts)} {part} rows have an expected answer that evaluation.metric {metric.name} can't "
        if 2 * bad >= max(1, len(texts)) and bad:
            raise StageError(
                Reason.DATASET_INVALID,
                f"{told}score: {first}; choose another evaluation.metric, such as ExactMatch, or correct the answers",
                tells_mend=True,
            )
        if bad:
            log.warning("%sscore; they count as 0 before and after: %s", told, first)
