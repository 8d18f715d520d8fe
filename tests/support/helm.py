"""Runs the real helm on the chart: renders it for template tests, installs it for API server tests."""

from __future__ import annotations

import functools
import json
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from tests.support.apiserver import REPO_ROOT, binary

__all__ = ["CHART", "DIGEST", "RELEASE", "RUNTIME_VALUES", "HelmError", "helm", "refusal", "render", "render_anew"]

CHART: Final = REPO_ROOT / "charts" / "finetune-operator"
RELEASE: Final = "finetune-operator"
NAMESPACE: Final = "finetune-system"
DIGEST: Final = "sha256:" + "0" * 64
RUNTIME_VALUES: Final[Mapping[str, Any]] = {
    "runtime": {
        "image": {"repository": "registry.example/trainer", "digest": DIGEST},
        "outputPrefix": "s3://results/",
        "storage": [{"prefix": "s3://", "endpoint": "https://s3.example", "addressingStyle": "Path"}],
        "train": {"resources": {"memory": "16Gi"}},
    }
}


class HelmError(RuntimeError):
    """Helm failed; the text is what it wrote to stderr."""


def helm(*args: str, values: Mapping[str, Any] | None = None, kubeconfig: Path | None = None) -> str:
    """Run helm and return its output.

    Raises
    ------
    HelmError
        Helm failed.
    """
    with tempfile.TemporaryDirectory(prefix="finetune-helm-") as home:
        environment = {"HOME": home, "PATH": "/usr/bin:/bin"}
        if kubeconfig is not None:
            environment["KUBECONFIG"] = str(kubeconfig)
        done = subprocess.run(
            [str(binary("helm")), *args, *(["--values", "-"] if values is not None else [])],
            input=None if values is None else yaml.safe_dump(dict(values)),
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    if done.returncode != 0:
        raise HelmError(done.stderr)
    return done.stdout


def render(values: Mapping[str, Any] | None = None, *args: str, release: str = RELEASE) -> list[dict[str, Any]]:
    """Objects that ``helm template`` makes of the chart."""
    text = _rendered(json.dumps(values or {}), args, release)
    return [document for document in yaml.load_all(text, Loader=yaml.CSafeLoader) if document]


def render_anew() -> str:
    """The text of a render with a runtime that no earlier call has made."""
    return _rendered.__wrapped__(json.dumps(dict(RUNTIME_VALUES)), (), RELEASE)


@functools.cache
def _rendered(values: str, args: tuple[str, ...], release: str) -> str:
    # Named, since a helm that was built without link flags takes the cluster for an ancient one.
    fixed = ("--namespace", NAMESPACE, "--kube-version", "1.34.0")
    return helm("template", release, str(CHART), *fixed, *args, values=json.loads(values))


def refusal(values: Mapping[str, Any]) -> str:
    """What helm says about values that it refuses."""
    try:
        render(values)
    except HelmError as error:
        return str(error)
    raise AssertionError(f"helm took {values}")
