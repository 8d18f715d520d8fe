"""Starting, finding and ending the cluster's long-running processes, by pid file and exactly these.

A pid file holds the process's start time as well, because pids are reused: after a restart of the machine, pid 4711 may
be somebody's editor. It also holds a fingerprint of the command and its configuration, so that `up` restarts a part
whose settings have changed and leaves the others alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from .shell import DevclusterError

# Kept, because a Popen object that is collected while its process runs warns about it.
_STARTED: list[subprocess.Popen[bytes]] = []


def start_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None when there is no such process or it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def running(pid_file: Path) -> tuple[int, str] | None:
    """The pid and fingerprint of the process that the file names, if it is still that process."""
    try:
        record = json.loads(pid_file.read_text())
        pid, started, fingerprint = int(record["pid"]), int(record["started"]), str(record["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (pid, fingerprint) if start_ticks(pid) == started else None


def start(
    pid_file: Path,
    command: Sequence[str],
    *,
    log: Path,
    fingerprint: str,
    env: Mapping[str, str],
    cwd: Path,
) -> None:
    """Starts a process that outlives this one, with its output in `log`."""
    for folder in (pid_file.parent, log.parent):
        folder.mkdir(parents=True, exist_ok=True)
    _raise_file_limit()
    try:
        with log.open("ab") as out:
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=dict(env),
                cwd=cwd,
            )
    except FileNotFoundError as error:
        raise DevclusterError(f"{command[0]} is not installed") from error
    _STARTED.append(process)
    record = {"pid": process.pid, "started": start_ticks(process.pid), "fingerprint": fingerprint}
    partial = pid_file.with_suffix(".partial")
    partial.write_text(json.dumps(record))
    partial.rename(pid_file)


def _raise_file_limit() -> None:
    """Children inherit it; the kubelet and containerd need more than a shell's usual 1024 open files."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def kill_and_wait(pids: Iterable[int], patience: float = 10.0) -> None:
    """SIGKILL, then wait until they are gone. Nothing here has anything to save: the state folder goes next."""
    waiting = {pid: ticks for pid in pids if (ticks := start_ticks(pid)) is not None}
    for pid in waiting:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + patience
    while waiting:
        waiting = {pid: ticks for pid, ticks in waiting.items() if start_ticks(pid) == ticks}
        if waiting and time.monotonic() > deadline:
            raise DevclusterError(f"processes that don't end: {sorted(waiting)}")
        if waiting:
            time.sleep(0.02)


def stop(pid_files: Iterable[Path]) -> None:
    """Ends the processes of the pid files, and removes the files."""
    files = list(pid_files)
    kill_and_wait(found[0] for found in map(running, files) if found is not None)
    for file in files:
        file.unlink(missing_ok=True)
    _STARTED[:] = [child for child in _STARTED if child.poll() is None]
