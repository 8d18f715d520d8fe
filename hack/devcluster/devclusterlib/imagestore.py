"""The tool's own buildah image store, apart from the machine's, so that purging it touches nobody else's images."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from .settings import NODE_IP, RUN_DIR, Paths
from .shell import DevclusterError, run


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
        return run(self.command(*arguments), env=self.environment(), check=check)

    def output(self, *arguments: str) -> str:
        return self.run(*arguments).stdout.strip()

    def stream(self, *arguments: str, extra_env: Mapping[str, str] | None = None) -> None:
        """For long steps: buildah's own progress goes to standard error as it comes."""
        done = subprocess.run(
            self.command(*arguments),
            env=self.environment() | dict(extra_env or {}),
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),
            check=False,
        )
        if done.returncode != 0:
            raise DevclusterError(f"buildah {arguments[0]} failed (exit {done.returncode}); its output is above")

    def has(self, image: str) -> bool:
        return self.run("inspect", "--type=image", "--format={{.FromImageID}}", image, check=False).returncode == 0


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
