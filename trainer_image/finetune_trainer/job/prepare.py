"""The prepare stage: rows are read, split, rendered, tokenised and stored for train. No weights, no GPU.

It ends the job where the result is there already (``reuse.py``), so that no GPU is asked for in vain.
"""

from __future__ import annotations

from finetune_api.report import StageReport
from finetune_trainer.job.context import Work
from finetune_trainer.job.gate import judged
from finetune_trainer.job.handover import prepare_once
from finetune_trainer.job.reuse import take_or_reuse
from finetune_trainer.output.folder import abort_uploads

__all__ = ["run_prepare"]


def run_prepare(work: Work) -> StageReport:
    """Do the stage.

    Raises
    ------
    StageError
        Any reason of reading, templating and storing.
    """
    if (reused := take_or_reuse(work)) is not None:
        return judged(reused, work.spec.evaluation, work.console)
    abort_uploads(work.output)
    return prepare_once(work).report
