"""The tool's own buildah image store, apart from the machine's, so that purging it touches nobody else's images."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .settings import NODE_IP, RUN_DIR, Paths
from .shell import DevclusterError, run, say

# buildah starts a step from a sealed copy of itself in memory, and sealing fails now and then while the kernel moves
# those pages about. What was done before is cached, so trying again costs little.
TRANSIENT = "sealing memfd"
TRIES = 4

STEP = re.compile(r"^(?:\[\d+/\d+\] )?STEP (\d+/\d+: .*)")
MAX_LINE = 110


@dataclass(frozen=True)
class Store:
    """Runs buildah on one store; `own=False` is the machine's default one, which `load` falls back to."""

    paths: Paths
    own: bool = True

    def command(self, *arguments: str) -> list[str]:
        # The run root must vanish with a restart of the machine (it counts mounts), hence /run.
        places = ["--root", str(self.paths.cache / "containers"), "--runroot", str(RUN_DIR / "containers")]
        return ["buildah", *(places if self.own else []), "--storage-driver", "overlay", *arguments]

    def environment(self) -> dict[str, str]:
        scratch = self.paths.cache / "tmp"
        scratch.mkdir(parents=True, exist_ok=True)
        # buildah's default network folder is /etc/cni; it leaves a lock file there.
        settings = self.paths.cache / "containers.conf"
        settings.write_text(f'[network]\nnetwork_config_dir = "{self.paths.cache}/tmp/networks"\n')
        # Layers of several GB pass through the temporary folder, and /tmp may be memory. The registry is never
        # behind the machine's proxy.
        direct = ",".join(filter(None, (os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), NODE_IP)))
        return os.environ | {
            "TMPDIR": str(scratch),
            "CONTAINERS_CONF": str(settings),
            "NO_PROXY": direct,
            "no_proxy": direct,
        }

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = run(self.command(*arguments), env=self.environment(), check=False)
        for _ in range(TRIES - 1):
            if done.returncode == 0 or TRANSIENT not in done.stderr:
                break
            done = run(self.command(*arguments), env=self.environment(), check=False)
        if check and done.returncode != 0:
            raise DevclusterError(f"buildah {arguments[0]} failed (exit {done.returncode}):\n{done.stderr[-3000:]}")
        return done

    def output(self, *arguments: str) -> str:
        return self.run(*arguments).stdout.strip()

    def stream(self, *arguments: str) -> None:
        """For long steps: says each step that isn't in the cache, and all of buildah's words only if it fails."""
        for attempt in range(TRIES):
            returncode, words = self._stream_once(*arguments)
            if returncode == 0:
                return
            if TRANSIENT not in words or attempt == TRIES - 1:
                raise DevclusterError(f"buildah {arguments[0]} failed (exit {returncode}):\n{words}")
            say(f"again: {TRANSIENT} is a passing failure of the kernel's")

    def _stream_once(self, *arguments: str) -> tuple[int, str]:
        last: deque[str] = deque(maxlen=60)
        with subprocess.Popen(
            self.command(*arguments),
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            for step in steps_done(kept(process.stdout or (), last)):
                say(step)
        return process.returncode, "".join(last)

    def has(self, image: str) -> bool:
        return self.run("inspect", "--type=image", "--format={{.FromImageID}}", image, check=False).returncode == 0


def kept(lines: Iterable[str], last: deque[str]) -> Iterator[str]:
    """Passes lines on and keeps the last ones."""
    for line in lines:
        last.append(line)
        yield line


def steps_done(lines: Iterable[str]) -> Iterator[str]:
    """Picks the build steps out of buildah's words that were really carried out, each on one short line."""
    step: str | None = None
    for line in lines:
        if found := STEP.match(line):
            step = found[1] if len(found[1]) <= MAX_LINE else f"{found[1][:MAX_LINE]} …"
        elif "Using cache" in line:
            step = None
        elif step is not None:
            yield f"  {step}"
            step = None


@contextlib.contextmanager
def kept_blob_cache(paths: Paths) -> Iterator[None]:
    """Where buildah remembers which compressed layer stands for which plain one, and so what the registry has already.

    Its place is fixed, so a link stands there meanwhile; where the machine has one of its own, that one serves.
    """
    place = Path("/var/lib/containers/cache")
    if place.exists():
        yield
        return
    kept = paths.cache / "blob-info"
    kept.mkdir(parents=True, exist_ok=True)
    made_parent = not place.parent.exists()
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    place.symlink_to(kept)
    try:
        yield
    finally:
        place.unlink()
        if made_parent:
            with contextlib.suppress(OSError):
                place.parent.rmdir()
