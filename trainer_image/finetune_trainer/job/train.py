"""The train stage: baseline, training, export, storing, and the test on the weights that were stored.

The order makes the numbers believable: the test runs on what was read back from storage, and the manifest that says
"complete" is written when everything it lists has been read back.
"""

from __future__ import annotations

from typing import Final

from finetune_api.report import StageReport
from finetune_trainer.checkpoint.checkpoints import Checkpoints, Identity, clear_checkpoints
from finetune_trainer.evaluation.results import Evaluation, results
from finetune_trainer.job.base_model import Host, Inputs, bring_inputs, host_of
from finetune_trainer.job.context import Work
from finetune_trainer.job.publish import METRICS, publish_result, store_model, verify
from finetune_trainer.job.reuse import own_result, take_or_reuse
from finetune_trainer.job.score import score_after
from finetune_trainer.job.tune import Tuned, tune
from finetune_trainer.job.watcher import TrainingWatcher
from finetune_trainer.output.folder import abort_uploads
from finetune_trainer.output.ownership import check_owner

__all__ = ["run_train"]

NEWEST_POINTS: Final = 10


def run_train(work: Work) -> StageReport:
    """Do the stage.

    Raises
    ------
    StageError
        Any reason that the trainer can find.
    """
    if (existing := take_existing(work)) is not None:
        return existing
    inputs, console, limit = bring_inputs(work), work.console, work.spec.evaluation.limit
    host = host_of(gpus=work.spec.resources.gpus_per_node, simulated=work.stage_input.simulated_gpus, console=console)
    with (work.folder / METRICS).open("w", encoding="utf-8") as metrics:
        watcher = TrainingWatcher(console, metrics)
        checkpoints = checkpoints_of(work, inputs, host)
        try:
            tuned = tune(work, inputs, host, checkpoints, watcher)
            stored = store_model(work, tuned.exported.folder)
            model = verify(stored, tuned.exported, inputs.prepared, console)
            after = score_after(model, inputs.prepared, limit=limit, watcher=watcher, console=console)
            report = report_of(work.spec_digest, inputs, tuned, after)
            report = publish_result(work, inputs, report, tuned=tuned, stored=stored, after=after, threads=host.threads)
        finally:
            checkpoints.close()
    checkpoints.clear()
    return report


def take_existing(work: Work) -> StageReport | None:
    """Return the report of a result that is there already; None: the folder is ours, and something is to be done."""
    if work.stage_input.includes_prepare:
        if (reused := take_or_reuse(work)) is not None:
            return reused
    else:
        # Prepare has claimed the folder; it may have been taken since.
        check_owner(work.output, work.stage_input.job)
    abort_uploads(work.output)
    if (done := own_result(work)) is not None:
        clear_checkpoints(work.output)  # that attempt may have been stopped before it came to that
        return done
    return None


def checkpoints_of(work: Work, inputs: Inputs, host: Host) -> Checkpoints:
    """Open what earlier attempts at this very training left."""
    identity = Identity(
        spec_digest=work.spec_digest,
        fingerprint=inputs.prepared.summary.fingerprint,
        model_revision=inputs.model_revision,
        method=work.spec.training.method,
        device=host.device.type,
    )
    return Checkpoints(
        work.output,
        identity,
        folder=work.folder,
        pod=work.environment.pod_uid,
        interval=float(work.spec.training.checkpoint.interval_seconds),
        metrics=work.folder / METRICS,
        may_write=lambda: check_owner(work.output, work.stage_input.job),
        console=work.console,
        interrupt=work.interrupt,
    )


def report_of(spec_digest: str, inputs: Inputs, tuned: Tuned, after: Evaluation) -> StageReport:
    """Return the report as far as it doesn't depend on files."""
    return StageReport(
        stage="train",
        spec_digest=spec_digest,
        dataset=inputs.prepared.summary,
        resolved=tuned.resolved,
        validation=list(tuned.validation[-NEWEST_POINTS:]) or None,
        results=results(tuned.before, after),
        compute=tuned.cost,
    )
