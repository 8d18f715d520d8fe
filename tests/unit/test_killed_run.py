"""A test run that is killed leaves no server behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.guard import ending_with_us

ROOT = Path(__file__).resolve().parents[2]
RUN = """
import subprocess, time
from tests.support.guard import ending_with_us

def test_that_never_ends():
    server = subprocess.Popen([*ending_with_us(), "sleep", "600"])
    print("child", server.pid, flush=True)
    time.sleep(600)
"""


def alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_servers_of_a_killed_run_end_with_it(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "test_small.py").write_text(RUN)
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-c", os.devnull, "--rootdir", str(tmp_path)]
    running = subprocess.Popen(
        [*command, str(tmp_path)], env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True
    )
    assert running.stdout is not None
    pid = next(int(line.split()[-1]) for line in running.stdout if "child" in line)
    assert alive(pid)
    running.send_signal(number)
    running.communicate(timeout=60)
    deadline = time.monotonic() + 10
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(pid)


def test_a_server_whose_run_died_before_it_had_begun_does_not_begin() -> None:
    command = [*ending_with_us(), "echo", "began"]
    from_another = [sys.executable, "-c", "import subprocess, sys; subprocess.run(sys.argv[1:])", *command]
    assert subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout == b"began\n"
    assert subprocess.run(from_another, stdout=subprocess.PIPE, check=True).stdout == b""
