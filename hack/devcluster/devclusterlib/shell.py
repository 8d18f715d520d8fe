"""Running commands, telling progress, and the one exception that means "say this to the user and stop".

Used by every other module. Progress goes to standard error, because several commands' standard output is for machines
(`images`, `build`, `s3`, ...).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path


class DevclusterError(Exception):
    """A failure whose message is all that the user needs; anything else is a bug and shows its traceback."""


def require_root() -> None:
    if os.geteuid() != 0:
        raise DevclusterError("this needs root (namespaces, mounts, control groups); try: sudo -E devcluster …")


def say(text: str) -> None:
    # One write, so that lines of stages that run side by side don't mix.
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """Times one stage and prints a line when it ends, so that a slow start shows where the time goes."""
    started = time.monotonic()
    try:
        yield
    except BaseException:
        say(f"{name:<34} FAILED after {time.monotonic() - started:.1f} s")
        raise
    say(f"{name:<34} {time.monotonic() - started:6.1f} s")


def run(
    command: Sequence[str],
    *,
    check: bool = True,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs a command quietly; on failure its own words become the error."""
    try:
        done = subprocess.run(
            list(command),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            env=None if env is None else dict(env),
            cwd=cwd,
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError as error:
        raise DevclusterError(f"{command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise DevclusterError(f"{' '.join(command)}: no answer within {timeout:g} s") from error
    if check and done.returncode != 0:
        words = (done.stderr.strip() or done.stdout.strip())[-3000:]
        raise DevclusterError(f"{' '.join(command)}: exit {done.returncode}\n{words}")
    return done


def output(command: Sequence[str], **options: object) -> str:
    return run(command, **options).stdout.strip()  # type: ignore[arg-type]  # run() types them


@contextlib.contextmanager
def locked(path: Path, waiting_for: str) -> Iterator[None]:
    """Holds an exclusive file lock; the kernel drops it when the holder dies, so it can't go stale."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for {waiting_for} (another devcluster command is busy with it)")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def wait_until(what: str, check: Callable[[], object], timeout: float, pause: float = 0.2) -> None:
    """Polls `check` until it returns something true; the error says what was awaited."""
    deadline = time.monotonic() + timeout
    while not check():
        if time.monotonic() > deadline:
            raise DevclusterError(f"{what}: not within {timeout:g} s")
        time.sleep(pause)
