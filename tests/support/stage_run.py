"""Runs a stage in this process and keeps what a pod would leave: report, log, output."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.report import StageReport
from finetune_api.stage import StageInput
from finetune_trainer.console import Console
from finetune_trainer.stages import run_stage
from tests.support.tiny_job import environment

__all__ = ["Finished", "run"]


@dataclass
class Finished:
    """A job that has run: its reports, its log, and its output as plain files."""

    spec: dict[str, Any]
    prepare: StageReport | None
    report: StageReport
    log: list[dict[str, Any]]
    output: Path


def run(
    stage_input: StageInput, folder: Path, *, fresh: bool = False, credentials: Path | None = None
) -> tuple[StageReport, list[dict[str, Any]]]:
    stream = io.StringIO()
    console = Console(job="team-a/tiny", stage=stage_input.stage, stream=stream, interactive=False)
    report = run_stage(stage_input, environment=environment(folder, credentials), console=console, fresh=fresh)
    return report, [json.loads(line) for line in stream.getvalue().splitlines()]
