"""The train stage: baseline, training, export, storing, and the test on the weights that were stored.

The order makes the numbers believable: the test runs on what was read back from storage, and the manifest that says
"complete" is written when everything it lists has been read back.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from finetune_api.report import StageReport
from finetune_api.status import Results, Score
from finetune_trainer.checkpoint.checkpoints import Checkpoints, Identity, clear_checkpoints, machine_of
from finetune_trainer.evaluation.references import references
from finetune_trainer.evaluation.results import Evaluation, results
from finetune_trainer.evaluation.trust import Evidence, warnings_of
from finetune_trainer.job.base_model import Host, Inputs, bring_inputs, host_of
from finetune_trainer.job.context import Work
from finetune_trainer.job.gate import judged
from finetune_trainer.job.publish import METRICS, publish_result, store_model, verify
from finetune_trainer.job.reuse import own_result, take_or_reuse
from finetune_trainer.job.score import score_after, score_train
from finetune_trainer.job.tune import Tuned, tune
from finetune_trainer.job.watcher import TrainingWatcher
from finetune_trainer.model.device import processor
from finetune_trainer.output.folder import abort_uploads
from finetune_trainer.output.ownership import check_owner
from finetune_trainer.output.samples import SAMPLES, SampleFile
from finetune_trainer.prepare.prepared import Prepared
from finetune_trainer.text.choices import shared_beginning

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
        return judged(existing, work.spec.evaluation, work.console)
    inputs, console, limit = bring_inputs(work), work.console, work.spec.evaluation.limit
    host = host_of(gpus=work.spec.resources.gpus_per_node, simulated=work.stage_input.simulated_gpus, console=console)
    with (work.folder / METRICS).open("w", encoding="utf-8") as metrics:
        samples = SampleFile(work.folder / SAMPLES, inputs.prepared)
        watcher = TrainingWatcher(
            console, metrics, inputs.prepared.metric, samples, watched=_watched(work, inputs.prepared)
        )
        checkpoints = checkpoints_of(work, inputs, host)
        try:
            tuned = tune(work, inputs, host, checkpoints, watcher)
            stored = store_model(work, tuned.exported.folder)
            model = verify(stored, tuned.exported, inputs.prepared, console)
            after = score_after(model, inputs.prepared, limit=limit, watcher=watcher, console=console)
            train = score_train(model, inputs.prepared, watcher=watcher, console=console)
            report = report_of(work, inputs, tuned, after, train)
            report = publish_result(
                work, inputs, report, tuned=tuned, stored=stored, after=after, machine=surroundings(host)
            )
        finally:
            checkpoints.close()
    checkpoints.clear()
    return judged(report, work.spec.evaluation, console)


def _watched(work: Work, prepared: Prepared) -> int:
    """Rows of each validation."""
    rows, validation = len(prepared.parts["validation"]), work.spec.training.validation
    return rows if validation is None else min(rows, validation.limit or rows)


def surroundings(host: Host) -> dict[str, Any]:
    """Return what the bits of the arithmetic depend on, for the manifest."""
    machine = {"device": host.device.type, **machine_of(host.device, host.threads)}
    return machine | ({"processor": name} if (name := processor()) else {})


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
        adapter_revision=inputs.adapter.revision if inputs.adapter else None,
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


def report_of(work: Work, inputs: Inputs, tuned: Tuned, after: Evaluation, train: Score | None) -> StageReport:
    """Return the report as far as it doesn't depend on files."""
    found = results(tuned.before, after)
    if tuned.few_shot is not None:
        found = found.model_copy(update={"few_shot": tuned.few_shot.score(after)})
    warned = _with_warnings(work, inputs.prepared, tuned, found, train=train, unclosed=after.unclosed)
    return StageReport(
        stage="train",
        spec_digest=work.spec_digest,
        dataset=inputs.prepared.summary,
        resolved=tuned.resolved,
        validation=list(tuned.validation[-NEWEST_POINTS:]) or None,
        results=_with_references(inputs.prepared, after, warned),
        compute=tuned.cost,
    )


def _with_references(prepared: Prepared, after: Evaluation, found: Results) -> Results:
    """Add what is reached without a language model on the rows that were scored."""
    scores = references(prepared, np.array(after.indices, dtype=np.int64))
    return found.model_copy(update={"references": scores or None})


def _with_warnings(
    work: Work, prepared: Prepared, tuned: Tuned, found: Results, *, train: Score | None, unclosed: int
) -> Results:
    """Add when not to trust the results, and log it."""
    validation = work.spec.training.validation
    rows = len(prepared.parts["validation"])
    limit = (validation.limit if validation else None) or rows
    one_list = len(prepared.choice_sets) == 1
    evidence = Evidence(
        results=found,
        data=prepared.summary,
        rows=prepared.texts["test"],
        choices=prepared.choice_sets[0].texts if one_list else (),
        answers=prepared.parts["test"].answer if one_list else prepared.parts["test"].answer[:0],
        overlapping=prepared.score_end_tokens,
        alike=shared_beginning(prepared.choice_sets[0].ids) if one_list else 0,
        validation=(float(tuned.kept.score), min(limit, rows)) if tuned.kept else None,
        train=train,
        few_shot=tuned.few_shot.missing if tuned.few_shot else "",
        unclosed=(tuned.before.unclosed, unclosed),
        validations=len(tuned.validation),
    )
    warnings = warnings_of(evidence)
    for warning in warnings:
        work.console.event(
            "result_warning", f"{warning.type}: {warning.message}", level="warning", type=str(warning.type)
        )
    return found.model_copy(update={"warnings": warnings or None})
