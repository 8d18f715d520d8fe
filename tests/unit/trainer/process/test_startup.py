"""The age of the process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from finetune_trainer.process import startup as uptime

PROGRAM = "import time; from finetune_trainer.process.startup import seconds_since_start as age; {}; print(age())"


def test_the_age_of_a_process_counts_from_its_start() -> None:
    shown = [
        float(subprocess.run([sys.executable, "-c", PROGRAM.format(what)], capture_output=True, check=True).stdout)
        for what in ("pass", "time.sleep(0.5)")
    ]
    assert shown[0] >= 0
    assert 0.5 <= shown[1] < 30


def test_a_system_without_proc_tells_no_age(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(uptime, "Path", lambda _: tmp_path / "nothing")
    assert uptime.seconds_since_start() is None
