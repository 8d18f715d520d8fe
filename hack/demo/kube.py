"""A thin wrapper around kubectl and helm, used by the demo and by the end-to-end tests.

Both go through the same two programs that a user has, so what they show is what a user sees.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

__all__ = ["DEVCLUSTER", "ROOT", "CommandError", "Kube", "devcluster", "run"]

ROOT: Final = Path(__file__).resolve().parents[2]
DEVCLUSTER: Final = ROOT / "hack/devcluster/devcluster"


class CommandError(RuntimeError):
    """A command failed; the message holds the command and the end of what it said."""


def run(
    *command: str | Path, stdin: str | None = None, env: Mapping[str, str] | None = None, show: bool = False
) -> str:
    """Run a command and return its standard output; ``show`` lets its progress (standard error) through."""
    done = subprocess.run(
        [str(part) for part in command],
        input=stdin,
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=None if show else subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        said = (done.stderr or done.stdout or "").strip()
        raise CommandError(f"{' '.join(map(str, command))} ended with {done.returncode}: {said[-2000:]}")
    return done.stdout


def devcluster(*arguments: str, show: bool = False) -> str:
    """Run the development cluster's tool."""
    return run(DEVCLUSTER, *arguments, show=show).strip()


@dataclass(frozen=True, kw_only=True, slots=True)
class Kube:
    """kubectl and helm against one cluster."""

    kubeconfig: Path
    kubectl_path: str
    helm_path: str

    @classmethod
    def connect(cls, kubeconfig: Path) -> Kube:
        """Use the programs on PATH, else those that the development cluster builds."""
        paths = {name: shutil.which(name) or devcluster("build", name, show=True) for name in ("kubectl", "helm")}
        return cls(kubeconfig=kubeconfig, kubectl_path=paths["kubectl"], helm_path=paths["helm"])

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl."""
        return run(self.kubectl_path, "--kubeconfig", self.kubeconfig, *arguments, stdin=stdin)

    def helm(self, *arguments: str, stdin: str | None = None) -> str:
        """Run helm."""
        return run(self.helm_path, "--kubeconfig", self.kubeconfig, *arguments, stdin=stdin)

    def apply(self, *objects: Mapping[str, Any]) -> str:
        """``kubectl apply`` of objects, as JSON: PyYAML would write the text "3e-3" so that YAML 1.2 reads a number."""
        return self.kubectl("apply", "-f", "-", stdin="\n".join(json.dumps(o) for o in objects))

    def get(self, kind: str, name: str, namespace: str | None = None) -> dict[str, Any] | None:
        """Return one object, or None if it isn't there."""
        where = ["-n", namespace] if namespace else []
        text = self.kubectl("get", kind, name, *where, "-o", "json", "--ignore-not-found")
        return json.loads(text) if text.strip() else None

    def list(self, kind: str, namespace: str | None = None, selector: str | None = None) -> list[dict[str, Any]]:
        """Return all objects of a kind, in one namespace or in all."""
        where = ["-n", namespace] if namespace else ["-A"]
        chosen = ["-l", selector] if selector else []
        items: list[dict[str, Any]] = json.loads(self.kubectl("get", kind, *where, *chosen, "-o", "json"))["items"]
        return items

    def popen(self, *arguments: str) -> subprocess.Popen[str]:
        """Start kubectl with its output as lines; the caller ends it."""
        return subprocess.Popen(
            [self.kubectl_path, "--kubeconfig", str(self.kubeconfig), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
