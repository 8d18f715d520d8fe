"""What the cluster needs inside its own API: the DNS service, the node's state, and its advertised GPUs."""

from __future__ import annotations

import datetime
from typing import Any

from . import api
from .settings import DEFAULT_GPUS, DNS_SERVICE_IP, NODE_IP, NODE_NAME, Paths
from .shell import DevclusterError

GPU = "nvidia.com/gpu"
NODE_PATH = f"/api/v1/nodes/{NODE_NAME}"
RBAC = "rbac.authorization.k8s.io"


def apply_dns(paths: Paths) -> None:
    """CoreDNS runs on the node, not in a pod: a Service without selector points at it."""
    role: dict[str, Any] = {
        "apiVersion": f"{RBAC}/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "system:coredns"},
        "rules": [
            {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
        ],
    }
    binding = {
        "apiVersion": f"{RBAC}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "system:coredns"},
        "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": "system:coredns"},
        "subjects": [{"apiGroup": RBAC, "kind": "User", "name": "system:coredns"}],
    }
    ports = [{"name": protocol.lower(), "port": 53, "protocol": protocol} for protocol in ("UDP", "TCP")]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kube-dns"},
        "spec": {"clusterIP": DNS_SERVICE_IP, "ports": ports},
    }
    endpoints = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "kube-dns", "labels": {"kubernetes.io/service-name": "kube-dns"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [NODE_IP], "conditions": {"ready": True}}],
        "ports": ports,
    }
    api.apply(paths, f"/apis/{RBAC}/v1/clusterroles/system:coredns", role)
    api.apply(paths, f"/apis/{RBAC}/v1/clusterrolebindings/system:coredns", binding)
    api.apply(paths, "/api/v1/namespaces/kube-system/services/kube-dns", service)
    api.apply(paths, "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices/kube-dns", endpoints)


def is_ready(paths: Paths, kubelet_started: float) -> bool:
    """Whether the kubelet that runs now says so: after a crash, the one before it may have had the last word."""
    try:
        conditions = api.call(paths, "GET", NODE_PATH)["status"].get("conditions", [])
    except DevclusterError:
        return False
    return says_ready(conditions, kubelet_started)


def says_ready(conditions: list[dict[str, Any]], since: float) -> bool:
    for condition in conditions:
        if condition["type"] == "Ready":
            heard = datetime.datetime.fromisoformat(condition["lastHeartbeatTime"]).timestamp()
            # The API server's times are whole seconds.
            return condition["status"] == "True" and heard >= int(since)
    return False


def has_default_account(paths: Paths) -> bool:
    accounts = api.call(paths, "GET", "/api/v1/namespaces/default/serviceaccounts")["items"]
    return any(account["metadata"]["name"] == "default" for account in accounts)


def describe(paths: Paths) -> str:
    try:
        document = api.call(paths, "GET", NODE_PATH)
    except DevclusterError:
        return "not registered"
    status = document["status"]
    version = status.get("nodeInfo", {}).get("kubeletVersion", "?")
    return f"Kubernetes {version}, {status.get('allocatable', {}).get(GPU, '0')} {GPU}"


def set_gpus(paths: Paths, count: int) -> None:
    """Advertises GPUs that nothing backs: scheduling and quotas are real, the arithmetic runs on the CPU."""
    key = GPU.replace("/", "~1")
    fields = ("capacity", "allocatable")
    patch = [{"op": "add", "path": f"/status/{field}/{key}", "value": str(count)} for field in fields]
    api.call(paths, "PATCH", f"{NODE_PATH}/status", patch, "application/json-patch+json")
    (paths.home / "gpus").write_text(str(count))


def ensure_gpus(paths: Paths) -> None:
    """As many as were last asked for: a kubelet that starts again sets resources it doesn't know to zero."""
    record = paths.home / "gpus"
    wanted = int(record.read_text()) if record.exists() else DEFAULT_GPUS
    status = api.call(paths, "GET", NODE_PATH)["status"]
    if any(status.get(part, {}).get(GPU) != str(wanted) for part in ("capacity", "allocatable")):
        set_gpus(paths, wanted)
