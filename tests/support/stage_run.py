"""Runs a stage in this process and keeps what a pod would leave: report, log, output."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.report import StageReport
from finetune_api.stage import StageInput
from finetune_trainer.job.run import run_stage
from finetune_trainer.process.console import Console
from finetune_trainer.process.interrupt import Interrupt
from tests.support.tiny_job import environment

__all__ = ["Finished", "events", "run"]


@dataclass
class Finished:
    """A job that has run: its reports, its log, and its output as plain files."""

    spec: dict[str, Any]
    prepare: StageReport | None
    report: StageReport
    log: list[dict[str, Any]]
    output: Path


def run(
    stage_input: StageInput,
    folder: Path,
    *,
    fresh: bool = False,
    credentials: Path | None = None,
    interrupt: Interrupt | None = None,
    stream: io.StringIO | None = None,
) -> tuple[StageReport, list[dict[str, Any]]]:
    """Run a stage to its report; ``stream`` keeps the log of one that ends without."""
    stream = stream or io.StringIO()
    console = Console(job="team-a/tiny", stage=stage_input.stage, stream=stream, interactive=False)
    report = run_stage(
        stage_input,
        environment=environment(folder, credentials),
        console=console,
        fresh=fresh,
        interrupt=interrupt,
    )
    return report, events(stream)


def events(stream: io.StringIO) -> list[dict[str, Any]]:
    """Parse the log."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]
