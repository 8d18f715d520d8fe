"""Runs a stage from its input to its report; every failure becomes a reason, and no secret gets into a message."""

from __future__ import annotations

import tempfile
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Final

from finetune_api.digest import spec_digest
from finetune_api.reasons import REASONS, Reason
from finetune_api.report import (
    MAX_REPORT_BYTES,
    SHORT_REPORT_BYTES,
    ReportedFailure,
    StageReport,
    encode_report,
)
from finetune_api.stage import StageInput
from finetune_trainer.errors import StageError
from finetune_trainer.job.context import OnInputs, Work
from finetune_trainer.job.local import mend_of
from finetune_trainer.output.logs import store_log
from finetune_trainer.output.ownership import release
from finetune_trainer.process.console import Console
from finetune_trainer.process.environment import Environment
from finetune_trainer.process.interrupt import Interrupt, Interrupted
from finetune_trainer.process.logs import logging_to
from finetune_trainer.process.reporter import Reporter
from finetune_trainer.process.watchdog import Watchdog, stacks
from finetune_trainer.storage.access import Access
from finetune_trainer.storage.store import FIELDS, OUTPUT_PREFIX

__all__ = ["exit_code", "failure_of", "run_stage", "write_report"]

MAX_MESSAGE: Final = 1024

_LOG_SECONDS: Final = 20.0
"""Time for storing the log of a stage that hangs."""


def run_stage(
    stage_input: StageInput,
    *,
    environment: Environment,
    console: Console,
    fresh: bool = False,
    interrupt: Interrupt | None = None,
    on_inputs: OnInputs | None = None,
) -> StageReport:
    """Run a stage.

    Parameters
    ----------
    fresh
        Started by a person: what an earlier run of this job completed is met like another job's result.
    interrupt
        Whoever handles SIGTERM; without one the stage is never told to stop.
    on_inputs
        Told what was read, before anything is made of it.

    Returns
    -------
    StageReport
        Results, or the failure; ordinary exceptions don't leave this function.

    Raises
    ------
    Interrupted
        The process was told to stop, and the state of the training is saved.
    """
    own = stage_input.template
    digest = stage_input.spec_digest or spec_digest(stage_input.spec, template=own.document if own else None)
    console.hide(environment.secrets())
    interrupt = interrupt or Interrupt()
    begun: list[Work] = []
    watchdog = Watchdog(
        stage_input.stall_seconds,
        signs=lambda: console.signs,
        stalled=lambda: _end_stalled(
            stage_input, digest, begun, environment=environment, console=console, interrupt=interrupt
        ),
    )
    try:
        with (
            logging_to(console),
            watchdog,
            Reporter(environment.progress_url, environment.progress_dir, console),
            tempfile.TemporaryDirectory(dir=environment.work_dir, prefix="stage-") as scratch,
        ):
            access = Access(
                storage=stage_input.storage, credentials_dir=environment.credentials_dir, scratch=Path(scratch)
            )
            work = Work(
                stage_input=stage_input,
                spec_digest=digest,
                environment=environment,
                console=console,
                access=access,
                folder=Path(scratch),
                output=access.open("output", stage_input.output_uri, _named_by(stage_input)),
                fresh=fresh,
                interrupt=interrupt,
                on_inputs=on_inputs,
            )
            begun.append(work)
            return _run_to_report(work)
    except Exception as error:  # whatever it is, it has to reach the report
        failure = failure_of(error, console, local=_is_local(stage_input))
        return StageReport(stage=stage_input.stage, spec_digest=digest, failure=failure)


def _is_local(stage_input: StageInput) -> bool:
    """Whether a person runs it: only a cluster has namespaces."""
    return not stage_input.job.namespace


def _named_by(stage_input: StageInput) -> str:
    return OUTPUT_PREFIX if stage_input.spec.output.uri is None else FIELDS["output"]


def _run_to_report(work: Work) -> StageReport:
    """Run, and store the log; a job that fails before it has stored anything else leaves no folder that is taken."""
    try:
        report = _run(work)
    except Interrupted:
        _store_log(work)
        raise
    except Exception as error:
        report = StageReport(
            stage=work.stage_input.stage,
            spec_digest=work.spec_digest,
            failure=failure_of(error, work.console, local=_is_local(work.stage_input)),
        )
    report = _with_log(report, _store_log(work))
    if report.failure is not None:
        with suppress(StageError):  # the failure at hand is the one to tell
            release(work.output, work.stage_input.job)
    return report


def _store_log(work: Work) -> str | None:
    return store_log(work.output, work.stage_input.job, work.stage_input.stage, work.console)


def _with_log(report: StageReport, path: str | None) -> StageReport:
    """Name the log in the failure, if there is one."""
    failure = report.failure and report.failure.model_copy(update={"log": path})
    return report.model_copy(update={"failure": failure})


def _run(work: Work) -> StageReport:
    # Imported when needed: prepare does without torch's arithmetic and loads in half the time.
    if work.stage_input.stage == "prepare":
        from finetune_trainer.job.prepare import run_prepare  # noqa: PLC0415

        return run_prepare(work)
    from finetune_trainer.job.train import run_train  # noqa: PLC0415

    return run_train(work)


def _end_stalled(
    stage_input: StageInput,
    digest: str,
    begun: list[Work],
    *,
    environment: Environment,
    console: Console,
    interrupt: Interrupt,
) -> None:
    """Report and end the process from beside: whatever hangs can't be asked to."""
    if interrupt.requested:
        return  # the grace period ends it
    where = f", in step {console.running}" if console.running else ""
    console.event("stalled", level="error", threads=stacks())
    error = StageError(Reason.STALLED, f"no sign of progress for {stage_input.stall_seconds} s{where}")
    report = StageReport(stage=stage_input.stage, spec_digest=digest, failure=failure_of(error, console))
    paths: list[str | None] = []
    # Storage may be what hangs, so it is waited for only a while.
    storing = threading.Thread(target=lambda: paths.extend(map(_store_log, begun)), daemon=True)
    storing.start()
    storing.join(_LOG_SECONDS)
    report = _with_log(report, next(iter(paths), None))
    if environment.termination_log is not None:
        write_report(report, environment.termination_log, short=stage_input.short_report)
    interrupt.leave(exit_code(report))


def failure_of(error: Exception, console: Console, *, local: bool = False) -> ReportedFailure:
    """Turn an exception into what is reported, and log it; only what can't be explained has its traceback logged.

    Parameters
    ----------
    local
        Whether a person runs it, and the mend has to be one without a cluster.
    """
    if isinstance(error, MemoryError):
        error = StageError(Reason.OUT_OF_MEMORY, "the process ran out of memory")
    elif type(error).__module__.startswith("torch") and type(error).__name__ == "OutOfMemoryError":
        error = StageError(Reason.GPU_OUT_OF_MEMORY, "the GPU's memory was full")
    if isinstance(error, StageError):
        mend = "" if error.tells_mend else mend_of(error.reason, local=local)
        reason, text = error.reason, f"{error.message.rstrip('. ')}. {mend}".rstrip()
        console.event("failed", f"{reason}: {text}", level="error", reason=str(reason))
    else:
        reason, text = Reason.TRAINER_ERROR, f"{type(error).__name__}: {error}"
        trace = "".join(traceback.format_exception(error))
        console.event(
            "failed", trace if console.interactive else text, level="error", reason=str(reason), traceback=trace
        )
        text = f"{text[:400]}. {mend_of(reason, local=local)}"
    return ReportedFailure(reason=reason, message=_one_line(console.redact(text)))


def _one_line(text: str) -> str:
    """Make text fit for a status: one line of printable characters, at most 1,024."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    short = " ".join(printable.split())
    return short if len(short) <= MAX_MESSAGE else short[: MAX_MESSAGE - 1] + "…"


def exit_code(report: StageReport) -> int:
    """Exit code of the process: 0, or the reason's (1 for a reason that only the operator finds)."""
    if report.failure is None:
        return 0
    return REASONS[report.failure.reason].exit_code or 1


def write_report(report: StageReport, path: Path, *, short: bool = False) -> None:
    """Write the termination message; ``short`` where an earlier one did not arrive whole."""
    path.write_bytes(encode_report(report, SHORT_REPORT_BYTES if short else MAX_REPORT_BYTES))
