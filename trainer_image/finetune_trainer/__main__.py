"""The command line of the trainer.

    finetune-trainer run job.yaml          everything, on this machine, without Kubernetes
    finetune-trainer stage prepare|train   one stage, in a pod of the operator
    finetune-trainer render job.yaml       what the template makes of the first rows
    finetune-trainer reproduce s3://…/out/ the job of a finished result once more, and whether it comes out the same

The exit code is 0 or that of the reason (finetune_api.reasons); 75 after SIGTERM: run the same again, and it goes on
from the state that was saved.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, get_args

from finetune_api.names import StageName
from finetune_api.report import ReportedFailure, StageReport
from finetune_trainer.errors import StageError
from finetune_trainer.job.input import local_input, stage_input_from_environment
from finetune_trainer.job.local import check_device
from finetune_trainer.job.run import exit_code, failure_of, run_stage, write_report
from finetune_trainer.process.console import Console
from finetune_trainer.process.environment import Environment
from finetune_trainer.process.interrupt import Interrupt, Interrupted
from finetune_trainer.process.notorch import hide_torch
from finetune_trainer.process.startup import seconds_since_start

__all__ = ["main"]

INTERRUPTED = 130
_AT: Final = "where an input lies now, such as dataset.uri=file:///data/rows.jsonl; may be repeated"
TERMINATED = b'{"level":"warning","event":"interrupted","message":"SIGTERM: stopped; run again, it is done anew"}\n'
TERMINATED_TEXT = b"! stopped by SIGTERM; run the same again\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    parser = argparse.ArgumentParser(prog="finetune-trainer", description="Fine-tune a language model and measure it.")
    commands = parser.add_subparsers(dest="command", required=True)

    run = commands.add_parser("run", help="run a FineTuneJob on this machine")
    run.add_argument("job", type=Path, help="YAML file with a FineTuneJob")
    run.add_argument("--work-dir", type=Path, help="where model and artifacts lie meanwhile (default: TMPDIR)")
    run.add_argument("--cpu", action="store_true", help="compute on the CPU, whatever resources.gpusPerNode says")
    run.add_argument("--json", action="store_true", help="JSON lines even on a terminal")

    stage = commands.add_parser("stage", help="run one stage in a pod of the operator")
    stage.add_argument("stage", choices=get_args(StageName))

    render = commands.add_parser("render", help="print the prompts that the template makes of the first rows")
    render.add_argument("job", type=Path, help="YAML file with a FineTuneJob")
    render.add_argument("--rows", type=int, default=3, help="how many rows (default: 3)")

    again = commands.add_parser("reproduce", help="run the job of a finished result once more, and compare")
    again.add_argument("uri", help="the result's folder: status.outputUri, with manifest.json in it")
    again.add_argument("--into", type=Path, help="keep the rerun's result in this folder (default: it is let go)")
    again.add_argument("--at", action="append", default=[], metavar="FIELD=URI", help=_AT)
    again.add_argument("--digest", help="what manifest.json must have: status.manifestDigest")
    again.add_argument("--work-dir", type=Path, help="where model and artifacts lie meanwhile (default: TMPDIR)")
    again.add_argument("--cpu", action="store_true", help="compute on the CPU, whatever computed then")
    again.add_argument("--json", action="store_true", help="JSON lines even on a terminal")

    options = parser.parse_args(arguments)
    if options.command == "reproduce" and (odd := [one for one in options.at if "=" not in one]):
        again.error(f"--at {odd[0]}: write FIELD=URI, such as dataset.uri=file:///data/rows.jsonl")
    # Read when torch is loaded, which happens later. On a busy node, threads that spin at each barrier cost a training
    # several times its time; on a quiet one, sleeping costs it a few percent.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        if options.command == "stage":
            interrupt = Interrupt(TERMINATED)
            with interrupt.installed():
                return _stage(options.stage, interrupt)
        if options.command == "run":
            interactive = False if options.json else None
            return _run(options.job, work_dir=options.work_dir, cpu=options.cpu, interactive=interactive)
        if options.command == "reproduce":
            return _reproduce(options, interactive=False if options.json else None)
        return _render(options.job, rows=options.rows)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED
    except Interrupted as stopped:
        return stopped.exit_code


def _run(path: Path, *, work_dir: Path | None, cpu: bool, interactive: bool | None) -> int:
    console = Console(job=path.stem, stage=None, interactive=interactive)
    try:
        stage_input = local_input(path).model_copy(update={"simulated_gpus": cpu})
        check_device(0 if cpu else stage_input.spec.resources.gpus_per_node)
        place = work_dir or Path(tempfile.gettempdir())
        place.mkdir(parents=True, exist_ok=True)
        environment = Environment(credentials_dir=place / "no-credentials", work_dir=place)
    except StageError as error:
        failure_of(error, console, local=True)
        return error.exit_code
    console = Console(job=stage_input.job.name, stage=None, interactive=interactive)
    interrupt = Interrupt(TERMINATED_TEXT if console.interactive else TERMINATED)
    with interrupt.installed():
        report = run_stage(stage_input, environment=environment, console=console, fresh=True, interrupt=interrupt)
    if console.interactive:
        _summarise(console, report, stage_input.output_uri)
    elif report.failure is None:
        console.event("result", output=stage_input.output_uri, **_told(report))
    return exit_code(report)


def _reproduce(options: argparse.Namespace, *, interactive: bool | None) -> int:
    from finetune_trainer.job.reproduce import Request, reproduce  # noqa: PLC0415 - brings numpy

    place = options.work_dir or Path(tempfile.gettempdir())
    place.mkdir(parents=True, exist_ok=True)
    request = Request(
        uri=options.uri,
        work_dir=place,
        into=options.into,
        places=dict(one.split("=", 1) for one in options.at),
        cpu=options.cpu,
        digest=options.digest,
    )
    console = Console(job="reproduce", stage=None, interactive=interactive)
    interrupt = Interrupt(TERMINATED_TEXT if console.interactive else TERMINATED)
    with interrupt.installed():
        return reproduce(request, console=console, interrupt=interrupt)


def _told(report: StageReport) -> dict[str, Any]:
    return {key: value for key, value in report.to_wire().items() if key not in {"v", "stage"}}


def _summarise(console: Console, report: StageReport, output_uri: str) -> None:
    if report.results is None:
        return
    from finetune_trainer.evaluation.words import TESTS, gain_of, rows_of, scores_of  # noqa: PLC0415 - brings numpy

    results, data = report.results, report.dataset
    rows = [
        (name, f"{score.score}  ({rows_of(score)}{', 95 % ' if score.ci95 else ''}{' to '.join(score.ci95 or [])})")
        for name, score in scores_of(results)
    ]
    rows.append(("gain", f"{gain_of(results)}  (p {results.p_value}, {TESTS.get(results.paired_test or '', '')})"))
    if (shown := results.few_shot) is not None:
        rows.append(("over few-shot", f"{shown.gain}  (p {shown.p_value}; {shown.context_tokens} tokens a row)"))
    rows += [("warning", f"{warning.type}: {warning.message}") for warning in results.warnings or []]
    rows.insert(0, ("metric", results.metric))
    if data is not None:
        rows.append(("rows", f"{data.train} train, {data.validation} validation, {data.test} test"))
    if report.compute is not None and report.compute.tokens_per_second is not None:
        rows.append(("training", f"{report.compute.train_seconds} s, {report.compute.tokens_per_second} tokens/s"))
    rows.append(("result", output_uri))
    console.table(rows)


def _stage(stage: StageName, interrupt: Interrupt) -> int:
    if stage == "prepare":
        hide_torch()
    environment = Environment.of_pod()
    console = Console(job="", stage=stage)
    try:
        stage_input = stage_input_from_environment(stage)
    except StageError as error:
        return _end_without_input(environment, console, failure_of(error, console))
    job = stage_input.job
    console = Console(job=f"{job.namespace}/{job.name}", stage=stage)
    console.event("started", seconds=seconds_since_start())
    interrupt.grace_seconds = stage_input.grace_seconds
    report = run_stage(stage_input, environment=environment, console=console, interrupt=interrupt)
    console.event("report", **_told(report))
    if environment.termination_log is not None:
        write_report(report, environment.termination_log, short=stage_input.short_report)
    return exit_code(report)


def _end_without_input(environment: Environment, console: Console, failure: ReportedFailure) -> int:
    """End when there is no spec to answer: the digest of nothing matches no job, so only code and text count."""
    report = StageReport(stage="prepare", spec_digest="sha256:" + "0" * 64, failure=failure)
    if environment.termination_log is not None:
        write_report(report, environment.termination_log)
    console.event("report", level="error", failure=failure.to_wire())
    return exit_code(report)


_NOT_CHECKED: Final = (
    "Not looked at: the model, what is shortened to training.maxLength tokens, answers against choices, the sizes of "
    "the parts, and output.uri; 'run' does.\n"
)


def _render(path: Path, *, rows: int) -> int:
    console = Console(job=path.stem, stage=None, interactive=True)
    try:
        from finetune_trainer.prepare.preview import preview  # noqa: PLC0415 - brings jinja

        for text in preview(local_input(path, needs_output=False), rows=rows):
            sys.stdout.write(text)
    except StageError as error:
        failure_of(error, console, local=True)
        return error.exit_code
    sys.stderr.write(_NOT_CHECKED)
    return 0


if __name__ == "__main__":
    sys.exit(main())
