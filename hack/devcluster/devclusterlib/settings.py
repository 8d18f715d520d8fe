"""Every fixed name, address, port and path of the development cluster.

The lowest layer of devclusterlib: it imports nothing of it. Anything that two modules must agree on stands here, so
that a change of, say, the pod network is one line.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

TOOL_DIR = Path(__file__).resolve().parent.parent
REPO_ROOT = TOOL_DIR.parent.parent
MODULES_DIR = TOOL_DIR / "modules"

# One network namespace holds the whole cluster, so that nothing of it touches the machine's own network.
NETNS = "finetune-dev"
NETNS_FILE = Path("/run/netns") / NETNS
VETH_MACHINE = "ftdev0"
VETH_NODE = "ftdev1"
MACHINE_IP = "10.77.0.1"
NODE_IP = "10.77.0.2"
LINK_PREFIX = 24
LINK_CIDR = "10.77.0.0/24"
POD_CIDR = "10.244.0.0/24"
CLUSTER_CIDR = "10.244.0.0/16"
SERVICE_CIDR = "10.96.0.0/16"
API_SERVICE_IP = "10.96.0.1"
DNS_SERVICE_IP = "10.96.0.10"
BRIDGE = "cni0"

NODE_NAME = "node1"
CLUSTER_DOMAIN = "cluster.local"
API_PORT = 6443
ETCD_PORT = 2379
S3_PORT = 7070
REGISTRY_PORT = 5000
REGISTRY = f"{NODE_IP}:{REGISTRY_PORT}"
API_URL = f"https://{NODE_IP}:{API_PORT}"
PAUSE_IMAGE = "finetune.dev/pause:1"
CGROUP_ROOT = "finetune-dev"
DEFAULT_GPUS = 2
RUN_DIR = Path("/run/finetune-devcluster")

# A throw-away server on a private link of one machine: fixed keys are simpler than secret ones, and protect nothing.
S3_ENDPOINT = f"http://{NODE_IP}:{S3_PORT}"
S3_ACCESS_KEY = "devcluster"
S3_SECRET_KEY = "devcluster-secret"
S3_REGION = "us-east-1"


@dataclass(frozen=True)
class Paths:
    """Where things live: `home` is the cluster's state (down removes it), `cache` what is worth keeping (--purge)."""

    home: Path
    cache: Path

    @staticmethod
    def from_environment() -> Paths:
        env = os.environ
        cache_home = Path(env.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return Paths(
            home=Path(env.get("FINETUNE_DEVCLUSTER_HOME") or "/var/lib/finetune-devcluster").absolute(),
            cache=Path(env.get("FINETUNE_DEVCLUSTER_CACHE") or cache_home / "finetune-devcluster").absolute(),
        )

    @property
    def pki(self) -> Path:
        return self.home / "pki"

    @property
    def etc(self) -> Path:
        return self.home / "etc"

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def pids(self) -> Path:
        return self.home / "pids"

    @property
    def data(self) -> Path:
        return self.home / "data"

    @property
    def kubeconfig(self) -> Path:
        return self.etc / "admin.kubeconfig"

    @property
    def containerd_socket(self) -> Path:
        return self.home / "run" / "containerd.sock"
