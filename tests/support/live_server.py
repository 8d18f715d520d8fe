"""What live reports need of a real API server: the operator's rights and settings, and tokens as kubelet gets them.

Used by ``tests/apiserver/test_live_reports.py`` and by ``benchmarks/progress_bench``; ``live_kit.py`` does without one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from finetune_api.names import PROGRESS_AUDIENCE
from finetune_operator.cluster.protocol import Raw
from tests.support.apiserver import ApiServer
from tests.support.operator_process import LEASE_RULES, OPERATOR_RULES

__all__ = ["ACCOUNT", "SECRET", "SYSTEM", "listening_settings", "operator_rights", "pod_token"]

SYSTEM: Final = "finetune-system"
SECRET: Final = "finetune-operator-progress"
ACCOUNT: Final = "trainer"
"""Service account of the pods that report."""


def operator_rights(api: ApiServer) -> Path:
    """Make the operator's account and its Secret in :data:`SYSTEM`; returns its kubeconfig."""
    api.service_account("operator", namespace=SYSTEM, rules=OPERATOR_RULES)
    rule = {"apiGroups": [""], "resources": ["secrets"], "resourceNames": [SECRET], "verbs": ["patch"]}
    api.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET, "namespace": SYSTEM}})
    return api.service_account("operator", namespace=SYSTEM, rules=[rule, *LEASE_RULES], cluster_wide=False)


def listening_settings(port: int) -> dict[str, Any]:
    """Settings of an operator that takes live reports at a port of this machine."""
    return {
        "FINETUNE_PROGRESS_URL": f"https://localhost:{port}",
        "FINETUNE_PROGRESS_PORT": str(port),
        "FINETUNE_PROGRESS_SECRET": SECRET,
        "FINETUNE_NAMESPACE": SYSTEM,
    }


def pod_token(api: ApiServer, pod: Raw, audience: str = PROGRESS_AUDIENCE) -> str:
    """Return a token as kubelet gets it for the pod's projected volume."""
    meta = pod["metadata"]
    bound = {"kind": "Pod", "apiVersion": "v1", "name": meta["name"], "uid": meta["uid"]}
    spec = {"audiences": [audience], "expirationSeconds": 3600, "boundObjectRef": bound}
    status, body = api.request(
        "POST",
        f"/api/v1/namespaces/{meta['namespace']}/serviceaccounts/{ACCOUNT}/token",
        {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec},
    )
    if status != 201:
        raise RuntimeError(f"no token for {meta['name']}: {body}")
    return str(body["status"]["token"])
