"""The cluster's certificates and kubeconfigs, made with the openssl command.

Called once by `up` when the state folder has none. Two CAs, because the API server must tell a client's certificate
from the front proxy's; elliptic keys, because ten RSA keys would cost seconds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from .settings import API_SERVICE_IP, API_URL, CLUSTER_DOMAIN, NODE_IP, NODE_NAME, Paths
from .shell import run

DAYS = "3650"
SERVER_NAMES = (
    "DNS:kubernetes",
    "DNS:kubernetes.default",
    "DNS:kubernetes.default.svc",
    f"DNS:kubernetes.default.svc.{CLUSTER_DOMAIN}",
    "DNS:localhost",
    f"DNS:{NODE_NAME}",
    "IP:127.0.0.1",
    f"IP:{NODE_IP}",
    f"IP:{API_SERVICE_IP}",
)


@dataclass(frozen=True)
class Leaf:
    """One certificate: `name` is its file, user and group are what the API server reads from a client's subject."""

    name: str
    user: str
    group: str = ""
    authority: str = "ca"
    server: bool = False
    kubeconfig: bool = False

    def subject(self) -> str:
        return (f"/O={self.group}" if self.group else "") + f"/CN={self.user}"


LEAVES = (
    Leaf("apiserver", "kube-apiserver", server=True),
    Leaf("apiserver-kubelet-client", "kube-apiserver-kubelet-client", "system:masters"),
    Leaf("front-proxy-client", "front-proxy-client", authority="front-proxy-ca"),
    Leaf("node-server", f"system:node:{NODE_NAME}", "system:nodes", server=True),
    Leaf("admin", "devcluster-admin", "system:masters", kubeconfig=True),
    Leaf("kube-controller-manager", "system:kube-controller-manager", kubeconfig=True),
    Leaf("kube-scheduler", "system:kube-scheduler", kubeconfig=True),
    Leaf("kubelet", f"system:node:{NODE_NAME}", "system:nodes", kubeconfig=True),
    Leaf("kube-proxy", "system:kube-proxy", kubeconfig=True),
    Leaf("coredns", "system:coredns", kubeconfig=True),
)


def ensure(paths: Paths) -> None:
    """Makes what is missing; the service account key comes last and so marks the set as complete."""
    if (paths.pki / "sa.key").exists():
        return
    paths.pki.mkdir(parents=True, exist_ok=True)
    paths.pki.chmod(0o700)
    for authority in ("ca", "front-proxy-ca"):
        _authority(paths.pki, authority)
    for leaf in LEAVES:
        _leaf(paths.pki, leaf)
        if leaf.kubeconfig:
            write_kubeconfig(paths, leaf)
    _key(paths.pki / "sa.partial")
    run(["openssl", "pkey", "-in", str(paths.pki / "sa.partial"), "-pubout", "-out", str(paths.pki / "sa.pub")])
    (paths.pki / "sa.partial").rename(paths.pki / "sa.key")


def _key(path: Path) -> None:
    run(["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", str(path)])


def _authority(pki: Path, name: str) -> None:
    _key(pki / f"{name}.key")
    run(
        ["openssl", "req", "-x509", "-new", "-sha256", "-days", DAYS, "-key", str(pki / f"{name}.key")]
        + ["-subj", f"/CN=finetune-devcluster-{name}", "-out", str(pki / f"{name}.crt")]
        + ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    )


def _leaf(pki: Path, leaf: Leaf) -> None:
    key, request, extensions = pki / f"{leaf.name}.key", pki / f"{leaf.name}.csr", pki / f"{leaf.name}.ext"
    _key(key)
    run(["openssl", "req", "-new", "-sha256", "-key", str(key), "-subj", leaf.subject(), "-out", str(request)])
    lines = ["basicConstraints=critical,CA:FALSE", "keyUsage=critical,digitalSignature"]
    lines.append(f"extendedKeyUsage={'serverAuth' if leaf.server else 'clientAuth'}")
    if leaf.server:
        lines.append("subjectAltName=" + ",".join(SERVER_NAMES))
    extensions.write_text("\n".join(lines) + "\n")
    run(
        ["openssl", "x509", "-req", "-sha256", "-days", DAYS, "-in", str(request), "-extfile", str(extensions)]
        + ["-CA", str(pki / f"{leaf.authority}.crt"), "-CAkey", str(pki / f"{leaf.authority}.key"), "-CAcreateserial"]
        + ["-out", str(pki / f"{leaf.name}.crt")]
    )
    request.unlink()
    extensions.unlink()


def write_kubeconfig(paths: Paths, leaf: Leaf) -> None:
    """Paths, not embedded data, for the parts on this machine; the admin's is embedded, since people copy that file."""
    pki = paths.pki
    files = {"certificate-authority": "ca.crt", "client-certificate": f"{leaf.name}.crt", "client-key": f"{leaf.name}.key"}
    entries: dict[str, str] = {key: str(pki / file) for key, file in files.items()}
    cluster = {"server": API_URL, "certificate-authority": entries.pop("certificate-authority")}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "devcluster", "cluster": cluster}],
        "users": [{"name": leaf.user, "user": entries}],
        "contexts": [{"name": "devcluster", "context": {"cluster": "devcluster", "user": leaf.user}}],
        "current-context": "devcluster",
    }
    paths.etc.mkdir(parents=True, exist_ok=True)
    # JSON is YAML, and the standard library writes JSON.
    target = paths.etc / f"{leaf.name}.kubeconfig"
    target.write_text(json.dumps(document, indent=2) + "\n")
    target.chmod(0o600)
