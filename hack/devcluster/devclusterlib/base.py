"""The base image of the development builds: a minimal Debian or Ubuntu with Python, made by debootstrap.

The product's Dockerfiles start from a public Python image by default; the development cluster talks to no public image
registry and passes this one as BASE_IMAGE. It is made once from the machine's own package source (apt is asked which)
and stays in the image store under a tag that names its recipe.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from . import machine
from .imagestore import Store
from .settings import Paths
from .shell import DevclusterError, run

PACKAGES = ("python3", "python3-venv", "ca-certificates")
# Bump when what is done to the tree below changes.
RECIPE = 2
# Nothing in a container reads these (/dev is mounted over). apt's lists name the package source, which must not travel
# with an image.
EMPTIED = ("dev", "usr/share/doc", "usr/share/locale", "usr/share/man", "var/cache/apt", "var/lib/apt/lists", "var/log")
REMOVED = ("etc/apt/sources.list",)


def ensure(paths: Paths, store: Store) -> str:
    """The base image's name in the store; builds it when it isn't there."""
    release = _os_release(Path("/etc/os-release").read_text())
    suite = release.get("VERSION_CODENAME", "")
    recipe = f"{RECIPE} {suite} {' '.join(PACKAGES)}"
    name = f"localhost/finetune-base:{suite}-{hashlib.sha256(recipe.encode()).hexdigest()[:8]}"
    if not store.has(name):
        _build(paths, store, name, suite, "main,universe" if release.get("ID") == "ubuntu" else "main")
    return name


def _os_release(text: str) -> dict[str, str]:
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line)
    return {key: value.strip().strip('"') for key, value in pairs}


def _build(paths: Paths, store: Store, name: str, suite: str, components: str) -> None:
    scratch = paths.cache / "tmp"
    scratch.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=scratch, prefix="base-"))
    root = folder / "root"
    try:
        run(
            [
                "debootstrap",
                "--variant=minbase",
                f"--components={components}",
                f"--include={','.join(PACKAGES)}",
                suite,
                str(root),
                _mirror(suite),
            ],
            env=_with_apt_proxy(os.environ),
        )
        for folder_name in EMPTIED:
            shutil.rmtree(root / folder_name, ignore_errors=True)
            (root / folder_name).mkdir()
        for file_name in REMOVED:
            (root / file_name).unlink(missing_ok=True)
        archive = folder / "root.tar"
        run(["tar", "--create", "--file", str(archive), "--directory", str(root), "--one-file-system", "."])
        container = store.output("from", "scratch")
        store.run("add", "--quiet", container, str(archive), "/")
        store.run("config", "--cmd", "python3", container)
        store.run("commit", "--quiet", "--rm", container, name)
    finally:
        # debootstrap mounts /proc in there; on a failure it may stay.
        machine.unmount_below(folder)
        shutil.rmtree(folder)


def pick_mirror(targets: str, suite: str) -> str | None:
    """From lines "URI codename component": the source that carries the suite's main component."""
    for line in targets.splitlines():
        fields = line.split()
        if len(fields) == 3 and fields[1:] == [suite, "main"]:
            return fields[0]
    return None


def _mirror(suite: str) -> str:
    ask = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"]
    found = pick_mirror(run(ask, check=False).stdout, suite)
    if found is None:
        # apt tells only of lists that it has fetched.
        run(["apt-get", "update", "-q"])
        found = pick_mirror(run(ask, check=False).stdout, suite)
    if found is None:
        raise DevclusterError(f"apt has no source for {suite} main, which the base image is made from")
    return found


def _with_apt_proxy(env: Mapping[str, str]) -> dict[str, str]:
    """debootstrap fetches with wget, which reads the environment and not apt's settings."""
    proxy = run(["apt-config", "shell", "P", "Acquire::http::Proxy"], check=False).stdout.partition("=")[2].strip("'\n")
    return {"http_proxy": proxy, **env} if proxy else dict(env)
