"""The configuration files of the parts, as text: pure functions from paths to contents.

`parts.py` says which file belongs to which part; `up` writes them before it starts anything. JSON is used wherever the
reader takes YAML, since the standard library writes JSON.
"""

from __future__ import annotations

import json

from .settings import (
    BRIDGE,
    CGROUP_ROOT,
    CLUSTER_DOMAIN,
    DNS_SERVICE_IP,
    NODE_IP,
    PAUSE_IMAGE,
    POD_CIDR,
    REGISTRY,
    Paths,
)


def containerd(paths: Paths) -> str:
    """containerd 1.6 (version 2 file). Everything it would put in fixed places is moved below the state folder."""
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    return f"""\
version = 2
root = "{paths.home}/containerd"
state = "{paths.home}/run/containerd"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
]
[grpc]
  address = "{paths.containerd_socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{paths.home}/opt"
[{cri}]
  sandbox_image = "{PAUSE_IMAGE}"
  # Without CAP_SYS_RESOURCE (containers, sandboxed machines) no score can be lowered, and every sandbox would die.
  restrict_oom_score_adj = true
  tolerate_missing_hugetlb_controller = true
  # So that `down` finds the pods' namespaces among its own mounts.
  netns_mounts_under_state_dir = true
  [{cri}.cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{paths.etc}/cni"
  [{cri}.containerd]
    snapshotter = "overlayfs"
    # The trainer image is several GB; the registry has its layers already.
    discard_unpacked_layers = true
    [{cri}.containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [{cri}.containerd.runtimes.runc.options]
        SystemdCgroup = false
        Root = "{paths.home}/run/runc"
  [{cri}.registry]
    config_path = "{paths.etc}/registries"
"""


def registry_hosts() -> str:
    """Tells containerd that the local registry is plain HTTP."""
    return f'server = "http://{REGISTRY}"\n\n[host."http://{REGISTRY}"]\n  capabilities = ["pull", "resolve"]\n'


def cni(paths: Paths) -> str:
    bridge = {
        "type": "bridge",
        "bridge": BRIDGE,
        "isGateway": True,
        "ipMasq": True,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": f"{paths.home}/cni",
            "ranges": [[{"subnet": POD_CIDR}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    return _json({"cniVersion": "1.0.0", "name": CGROUP_ROOT, "plugins": [bridge, portmap]})


def kubelet(paths: Paths) -> str:
    return _json(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(paths.pki / "ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(paths.pki / "node-server.crt"),
            "tlsPrivateKeyFile": str(paths.pki / "node-server.key"),
            "healthzBindAddress": NODE_IP,
            "containerRuntimeEndpoint": f"unix://{paths.containerd_socket}",
            "cgroupDriver": "cgroupfs",
            # A root of our own, so that `down` knows which control groups, and so which processes, are the cluster's.
            "cgroupRoot": f"/{CGROUP_ROOT}",
            "failSwapOn": False,
            "oomScoreAdj": 0,
            "clusterDNS": [DNS_SERVICE_IP],
            "clusterDomain": CLUSTER_DOMAIN,
            # Not the machine's: its search domains would reach every pod.
            "resolvConf": str(paths.etc / "resolv.conf"),
            "podLogsDir": str(paths.logs / "pods"),
            "volumePluginDir": str(paths.home / "kubelet" / "volume-plugins"),
            "evictionHard": {"memory.available": "100Mi"},
            "imageGCHighThresholdPercent": 100,
            # A small image must not wait behind the trainer's.
            "serializeImagePulls": False,
        }
    )


def corefile(paths: Paths) -> str:
    """Answers for the cluster's own names; every other name doesn't exist, said at once rather than by a time-out.

    Two blocks, because within one the template plugin would come before the kubernetes plugin, whatever the order here.
    """
    return f"""\
{CLUSTER_DOMAIN}:53 in-addr.arpa:53 {{
    bind {NODE_IP}
    errors
    health {NODE_IP}:8080
    ready {NODE_IP}:8181
    kubernetes {CLUSTER_DOMAIN} in-addr.arpa {{
        kubeconfig {paths.etc}/coredns.kubeconfig
        pods insecure
        ttl 5
    }}
}}
.:53 {{
    bind {NODE_IP}
    template ANY ANY . {{
        rcode NXDOMAIN
    }}
}}
"""


def registry(paths: Paths) -> str:
    return _json(
        {
            "version": 0.1,
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {
                # In the cache: after `down` and `up` the images need not be compressed and sent again.
                "filesystem": {"rootdirectory": str(paths.cache / "registry")},
                "delete": {"enabled": True},
                "maintenance": {"uploadpurging": {"enabled": False}},
            },
            "http": {"addr": REGISTRY},
        }
    )


def _json(document: object) -> str:
    return json.dumps(document, indent=2) + "\n"
