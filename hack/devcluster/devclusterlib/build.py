"""Go binaries: built once from the pinned wrapper modules under modules/, then found in the cache.

Sits beside the cluster itself: `devcluster build` needs neither root nor Debian, which lets the test tier that runs
just kube-apiserver and etcd use it anywhere. The cache key covers the wrapper's go.mod and go.sum (which pin every
dependency by hash) and the link flags, so a changed pin is a new folder and an old binary is never taken for it.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .settings import MODULES_DIR, Paths
from .shell import DevclusterError, locked, say, stage


@dataclass(frozen=True)
class GoModule:
    """One wrapper module and the commands that are built from it; without a path it is a program of our own."""

    name: str
    path: str
    packages: dict[str, str]  # binary name -> package
    variables: tuple[tuple[str, str], ...] = ()  # set by the linker; values may name {version}, {major}, {minor}

    @property
    def directory(self) -> Path:
        return MODULES_DIR / self.name

    def version(self) -> str:
        if not self.path:
            return "own"
        text = (self.directory / "go.mod").read_text()
        match = re.search(rf"^(?:require)?\s*{re.escape(self.path)} (v\S+)$", text, re.MULTILINE)
        if match is None:
            raise DevclusterError(f"{self.directory}/go.mod requires no {self.path}")
        return match.group(1)

    def link_flags(self) -> str:
        major, minor = (*self.version().removeprefix("v").split("."), "", "")[:2]
        values = {"version": self.version(), "major": major, "minor": minor}
        return "-s -w" + "".join(f" -X {name}={value.format(**values)}" for name, value in self.variables)

    def cache_key(self) -> str:
        digest = hashlib.sha256()
        pinned = ("go.mod", "go.sum") if self.path else ("go.mod", "main.go")
        texts = [(self.directory / name).read_bytes() for name in pinned]
        for text in (*texts, self.link_flags().encode()):
            digest.update(hashlib.sha256(text).digest())
        return f"{self.name}-{self.version()}-{platform.machine()}-{digest.hexdigest()[:12]}"


def _one(name: str, path: str, package: str) -> GoModule:
    return GoModule(name, path, {name: package})


MODULES = (
    GoModule(
        "kubernetes",
        "k8s.io/kubernetes",
        {
            name: f"k8s.io/kubernetes/cmd/{name}"
            for name in (
                "kube-apiserver",
                "kube-controller-manager",
                "kube-scheduler",
                "kubelet",
                "kube-proxy",
                "kubectl",
            )
        },
        variables=(
            ("k8s.io/component-base/version.gitVersion", "{version}"),
            ("k8s.io/component-base/version.gitMajor", "{major}"),
            ("k8s.io/component-base/version.gitMinor", "{minor}"),
            ("k8s.io/component-base/version.gitTreeState", "clean"),
        ),
    ),
    _one("etcd", "go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/server/v3"),
    _one("coredns", "github.com/coredns/coredns", "github.com/coredns/coredns"),
    _one("versitygw", "github.com/versity/versitygw", "github.com/versity/versitygw/cmd/versitygw"),
    _one("registry", "github.com/distribution/distribution/v3", "github.com/distribution/distribution/v3/cmd/registry"),
    GoModule(
        "helm",
        "helm.sh/helm/v3",
        {"helm": "helm.sh/helm/v3/cmd/helm"},
        variables=(
            ("helm.sh/helm/v3/internal/version.version", "{version}"),
            # What `helm template` and `helm lint` take the cluster to be; without it, a Kubernetes of 2020.
            ("helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor", "1"),
            ("helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor", "34"),
        ),
    ),
    _one("kwok", "sigs.k8s.io/kwok", "sigs.k8s.io/kwok/cmd/kwok"),
    _one("kueue", "sigs.k8s.io/kueue", "sigs.k8s.io/kueue/cmd/kueue"),
    GoModule("pause", "", {"pause": "."}),
)
MODULE_OF = {binary: module for module in MODULES for binary in module.packages}

# What `up` needs. The others (kwok, kueue, ...) are built when somebody asks for them.
CLUSTER_BINARIES = (*MODULES[0].packages, "etcd", "coredns", "versitygw", "registry", "helm", "pause")


def binary_path(paths: Paths, binary: str) -> Path:
    """Where a binary is, or will be, in the cache."""
    return paths.cache / "bin" / MODULE_OF[binary].cache_key() / binary


def build(paths: Paths, binaries: Iterable[str]) -> list[Path]:
    """Builds what the cache lacks, two modules at a time (linking uses one core), and returns all the paths."""
    wanted = list(binaries)
    unknown = [name for name in wanted if name not in MODULE_OF]
    if unknown:
        raise DevclusterError(f"no such part: {', '.join(unknown)}; there are {', '.join(sorted(MODULE_OF))}")
    missing: dict[str, list[str]] = {}
    for name in wanted:
        if not binary_path(paths, name).exists():
            missing.setdefault(MODULE_OF[name].name, []).append(name)
    with concurrent.futures.ThreadPoolExecutor(max_workers=2) as pool:
        jobs = [pool.submit(_build_module, paths, MODULE_OF[names[0]], names) for names in missing.values()]
        for job in jobs:
            job.result()
    return [binary_path(paths, name) for name in wanted]


def _build_module(paths: Paths, module: GoModule, binaries: list[str]) -> None:
    target = paths.cache / "bin" / module.cache_key()
    with locked(paths.cache / "locks" / f"build-{module.name}", f"the build of {module.name}"):
        # Somebody else may have built them while this caller waited for the lock.
        todo = [name for name in binaries if not (target / name).exists()]
        if not todo:
            return
        if shutil.which("go") is None:
            raise DevclusterError("go is not installed; the cluster's parts are built from Go modules (see go.dev/dl)")
        target.mkdir(parents=True, exist_ok=True)
        say(f"building {', '.join(todo)} ({module.path or module.name} {module.version()})")
        with stage(f"build {module.name}"), tempfile.TemporaryDirectory(dir=target, prefix=".build-") as scratch:
            _go_build(module, todo, Path(scratch))
            for name in todo:
                os.rename(Path(scratch) / name, target / name)


def _go_build(module: GoModule, binaries: list[str], into: Path) -> None:
    # Named outputs, one `go build` each, would link one after the other; with a folder as output go links in parallel,
    # but names each binary after its package's last element ("v3" for etcd), hence the two ways.
    packages = [module.packages[name] for name in binaries]
    folder_works = all(package.endswith(f"/{name}") for name, package in zip(binaries, packages, strict=True))
    outputs = (
        [(f"{into}/", packages)]
        if folder_works
        else [(str(into / name), [package]) for name, package in zip(binaries, packages, strict=True)]
    )
    env = os.environ | {"CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": "-mod=readonly -trimpath -buildvcs=false"}
    for output, names in outputs:
        done = subprocess.run(
            ["go", "build", "-ldflags", module.link_flags(), "-o", output, *names],
            cwd=module.directory,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise DevclusterError(f"go build of {module.name} failed:\n{done.stdout[-4000:]}")
