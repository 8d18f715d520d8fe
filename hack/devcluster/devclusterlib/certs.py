"""The cluster's certificates and kubeconfigs, made with the openssl command.

Called once by `up` when the state folder has none. Two CAs, because the API server must tell a client's certificate
from the front proxy's; elliptic keys, because ten RSA keys would cost seconds.
"""

from __future__ import annotations

import base64
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
    run(_words("openssl pkey -pubout", out=paths.pki / "sa.pub", **{"in": paths.pki / "sa.partial"}))
    (paths.pki / "sa.partial").rename(paths.pki / "sa.key")


def _key(path: Path) -> None:
    run(_words("openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256", out=path))


def _words(*texts: str, **options: Path) -> list[str]:
    """A command line from plain text, plus options whose values are paths (which may hold spaces)."""
    words = [word for text in texts for word in text.split()]
    for name, path in options.items():
        words += [f"-{name}", str(path)]
    return words


def _authority(pki: Path, name: str) -> None:
    _key(pki / f"{name}.key")
    run(
        _words(
            f"openssl req -x509 -new -sha256 -days {DAYS} -subj /CN=finetune-devcluster-{name}",
            "-addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign",
            key=pki / f"{name}.key",
            out=pki / f"{name}.crt",
        )
    )


def _leaf(pki: Path, leaf: Leaf) -> None:
    key, request, extensions = pki / f"{leaf.name}.key", pki / f"{leaf.name}.csr", pki / f"{leaf.name}.ext"
    _key(key)
    run([*_words("openssl req -new -sha256", key=key, out=request), "-subj", leaf.subject()])
    lines = ["basicConstraints=critical,CA:FALSE", "keyUsage=critical,digitalSignature"]
    lines.append(f"extendedKeyUsage={'serverAuth' if leaf.server else 'clientAuth'}")
    if leaf.server:
        lines.append("subjectAltName=" + ",".join(SERVER_NAMES))
    extensions.write_text("\n".join(lines) + "\n")
    run(
        _words(
            f"openssl x509 -req -sha256 -days {DAYS} -CAcreateserial",
            CA=pki / f"{leaf.authority}.crt",
            CAkey=pki / f"{leaf.authority}.key",
            extfile=extensions,
            out=pki / f"{leaf.name}.crt",
            **{"in": request},
        )
    )
    request.unlink()
    extensions.unlink()


def write_kubeconfig(paths: Paths, leaf: Leaf) -> None:
    """With the certificates inside, not their paths: people copy such a file elsewhere."""

    def data(name: str) -> str:
        return base64.b64encode((paths.pki / name).read_bytes()).decode()

    cluster = {"server": API_URL, "certificate-authority-data": data("ca.crt")}
    user = {"client-certificate-data": data(f"{leaf.name}.crt"), "client-key-data": data(f"{leaf.name}.key")}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "devcluster", "cluster": cluster}],
        "users": [{"name": leaf.user, "user": user}],
        "contexts": [{"name": "devcluster", "context": {"cluster": "devcluster", "user": leaf.user}}],
        "current-context": "devcluster",
    }
    paths.etc.mkdir(parents=True, exist_ok=True)
    # JSON is YAML, and the standard library writes JSON.
    target = paths.etc / f"{leaf.name}.kubeconfig"
    target.write_text(json.dumps(document, indent=2) + "\n")
    target.chmod(0o600)
