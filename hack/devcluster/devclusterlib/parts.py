"""The cluster's parts: for each its command line, its configuration files and the question that tells its health.

Pure descriptions; `cluster.py` writes the files and starts the processes in this order. All of them run in the network
namespace, the S3 server and the registry too, so that pods, kubelet and machine reach them under one address.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from . import configs
from .build import MODULE_OF, binary_path
from .settings import (
    API_PORT,
    CLUSTER_CIDR,
    ETCD_PORT,
    NODE_IP,
    NODE_NAME,
    REGISTRY,
    S3_ACCESS_KEY,
    S3_ENDPOINT,
    S3_PORT,
    S3_REGION,
    S3_SECRET_KEY,
    SERVICE_CIDR,
    Paths,
)

ETCD_HEALTH_PORT = 2381


@dataclass(frozen=True)
class Part:
    """One process. `files` are written before it starts; `health` is an address that answers 200 when all is well."""

    name: str
    command: tuple[str, ...]
    health: str = ""
    files: Mapping[Path, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)

    def fingerprint(self) -> str:
        """Changes when the part would have to be restarted to be what is described here."""
        files = sorted((str(path), text) for path, text in self.files.items())
        described = [self.command, files, sorted(self.env.items())]
        return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16]


def all_parts(paths: Paths) -> list[Part]:
    return [
        etcd(paths),
        s3(paths),
        registry(paths),
        containerd(paths),
        apiserver(paths),
        controller_manager(paths),
        scheduler(paths),
        kube_proxy(paths),
        coredns(paths),
        kubelet(paths),
    ]


# Started together at first, while the API server (the first of the rest) needs etcd alone.
FOUNDATION = ("etcd", "s3", "registry", "containerd")
# What people call them on the command line besides their own names.
ALIASES = {
    "apiserver": "kube-apiserver",
    "controller-manager": "kube-controller-manager",
    "scheduler": "kube-scheduler",
    "proxy": "kube-proxy",
    "dns": "coredns",
    "versitygw": "s3",
}


def _binary(paths: Paths, name: str) -> str:
    # Debian's packages are found on the path; what is built here, in the cache.
    return str(binary_path(paths, name)) if name in MODULE_OF else name


def etcd(paths: Paths) -> Part:
    client, peer = f"http://127.0.0.1:{ETCD_PORT}", "http://127.0.0.1:2380"
    return Part(
        "etcd",
        (
            _binary(paths, "etcd"),
            "--name=devcluster",
            f"--data-dir={paths.data}/etcd",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=devcluster={peer}",
            f"--listen-metrics-urls=http://{NODE_IP}:{ETCD_HEALTH_PORT}",
            # A cluster that lives as long as the machine is up has nothing to gain from waiting for the disk.
            "--unsafe-no-fsync",
            "--log-level=warn",
        ),
        health=f"http://{NODE_IP}:{ETCD_HEALTH_PORT}/health",
    )


def s3(paths: Paths) -> Part:
    return Part(
        "s3",
        (
            _binary(paths, "versitygw"),
            "--region",
            S3_REGION,
            "--port",
            f"{NODE_IP}:{S3_PORT}",
            "--health",
            "/health",
            "--quiet",
            "--keep-alive",
            # Lets `versitygw admin create-user` make a second user, which tests of denied access need.
            "--iam-dir",
            f"{paths.data}/s3-users",
            "posix",
            f"{paths.data}/s3",
        ),
        health=f"{S3_ENDPOINT}/health",
        env={"ROOT_ACCESS_KEY": S3_ACCESS_KEY, "ROOT_SECRET_KEY": S3_SECRET_KEY},
    )


def registry(paths: Paths) -> Part:
    config = paths.etc / "registry.yml"
    return Part(
        "registry",
        (_binary(paths, "registry"), "serve", str(config)),
        health=f"http://{REGISTRY}/v2/",
        files={config: configs.registry(paths)},
        # It would look for a trace collector otherwise.
        env={"OTEL_TRACES_EXPORTER": "none"},
    )


def containerd(paths: Paths) -> Part:
    config = paths.etc / "containerd.toml"
    return Part(
        "containerd",
        (_binary(paths, "containerd"), "--config", str(config), "--log-level", "warn"),
        files={
            config: configs.containerd(paths),
            paths.etc / "registries" / REGISTRY / "hosts.toml": configs.registry_hosts(),
            paths.etc / "cni" / "10-devcluster.conflist": configs.cni(paths),
        },
    )


def apiserver(paths: Paths) -> Part:
    pki = paths.pki
    return Part(
        "kube-apiserver",
        (
            _binary(paths, "kube-apiserver"),
            f"--etcd-servers=http://127.0.0.1:{ETCD_PORT}",
            f"--advertise-address={NODE_IP}",
            f"--secure-port={API_PORT}",
            f"--service-cluster-ip-range={SERVICE_CIDR}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            # Off by default in 1.34. Tests change pods with it as an injecting webhook does, without running one.
            "--feature-gates=MutatingAdmissionPolicy=true",
            "--runtime-config=admissionregistration.k8s.io/v1beta1=true",
            "--allow-privileged=true",
            f"--client-ca-file={pki}/ca.crt",
            f"--tls-cert-file={pki}/apiserver.crt",
            f"--tls-private-key-file={pki}/apiserver.key",
            f"--cert-dir={paths.home}/run/certificates",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={pki}/sa.pub",
            f"--service-account-signing-key-file={pki}/sa.key",
            f"--kubelet-certificate-authority={pki}/ca.crt",
            f"--kubelet-client-certificate={pki}/apiserver-kubelet-client.crt",
            f"--kubelet-client-key={pki}/apiserver-kubelet-client.key",
            # The default asks for the node's name first, which no DNS server knows.
            "--kubelet-preferred-address-types=InternalIP",
            f"--requestheader-client-ca-file={pki}/front-proxy-ca.crt",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={pki}/front-proxy-client.crt",
            f"--proxy-client-key-file={pki}/front-proxy-client.key",
        ),
        health=f"https://{NODE_IP}:{API_PORT}/readyz",
    )


def _with_kubeconfig(paths: Paths, name: str) -> tuple[str, ...]:
    config = paths.etc / f"{name}.kubeconfig"
    return (
        _binary(paths, name),
        f"--kubeconfig={config}",
        f"--authentication-kubeconfig={config}",
        f"--authorization-kubeconfig={config}",
        f"--tls-cert-file={paths.pki}/node-server.crt",
        f"--tls-private-key-file={paths.pki}/node-server.key",
        "--leader-elect=false",
    )


def controller_manager(paths: Paths) -> Part:
    pki = paths.pki
    return Part(
        "kube-controller-manager",
        (
            *_with_kubeconfig(paths, "kube-controller-manager"),
            "--use-service-account-credentials",
            f"--service-account-private-key-file={pki}/sa.key",
            f"--root-ca-file={pki}/ca.crt",
            f"--cluster-signing-cert-file={pki}/ca.crt",
            f"--cluster-signing-key-file={pki}/ca.key",
            "--allocate-node-cidrs",
            # The default is a folder that it makes on the machine.
            f"--flex-volume-plugin-dir={paths.home}/kubelet/volume-plugins",
            f"--cluster-cidr={CLUSTER_CIDR}",
            # The defaults complete only about three Jobs a second, which scale runs would measure instead of us.
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
            "--concurrent-job-syncs=50",
        ),
        health=f"https://{NODE_IP}:10257/healthz",
    )


def scheduler(paths: Paths) -> Part:
    return Part(
        "kube-scheduler",
        _with_kubeconfig(paths, "kube-scheduler"),
        health=f"https://{NODE_IP}:10259/healthz",
    )


def kube_proxy(paths: Paths) -> Part:
    return Part(
        "kube-proxy",
        (
            _binary(paths, "kube-proxy"),
            f"--kubeconfig={paths.etc}/kube-proxy.kubeconfig",
            f"--hostname-override={NODE_NAME}",
            f"--cluster-cidr={CLUSTER_CIDR}",
            "--proxy-mode=iptables",
            f"--healthz-bind-address={NODE_IP}:10256",
            f"--metrics-bind-address={NODE_IP}:10249",
            "--oom-score-adj=0",
            # A namespace of its own may not write these settings.
            "--conntrack-max-per-core=0",
            "--conntrack-min=0",
            "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0",
        ),
        health=f"http://{NODE_IP}:10256/healthz",
    )


def coredns(paths: Paths) -> Part:
    config = paths.etc / "Corefile"
    return Part(
        "coredns",
        (_binary(paths, "coredns"), "-conf", str(config)),
        health=f"http://{NODE_IP}:8181/ready",
        files={config: configs.corefile(paths)},
    )


def kubelet(paths: Paths) -> Part:
    config, resolv = paths.etc / "kubelet.json", paths.etc / "resolv.conf"
    return Part(
        "kubelet",
        (
            _binary(paths, "kubelet"),
            f"--config={config}",
            f"--kubeconfig={paths.etc}/kubelet.kubeconfig",
            f"--root-dir={paths.home}/kubelet",
            f"--cert-dir={paths.home}/kubelet/pki",
            f"--node-ip={NODE_IP}",
            f"--hostname-override={NODE_NAME}",
        ),
        health=f"http://{NODE_IP}:10248/healthz",
        files={config: configs.kubelet(paths), resolv: f"nameserver {NODE_IP}\n"},
    )
