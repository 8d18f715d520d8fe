"""The real Kueue as a process of this machine, for tests on a real API server.

Binary, definitions and webhooks are those of the module that ``hack/devcluster/modules/kueue`` pins. The webhooks about
Jobs reach only into namespaces with the label :data:`MANAGED`, and go with the process: a webhook that nobody answers
would fail every Job of the cluster.
"""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from hack.demo.kube import ROOT, CommandError, Kube, devcluster, run

__all__ = ["MANAGED", "running_kueue"]

MANAGED: Final = {"kueue-managed": "true"}
"""Labels of a namespace whose Jobs Kueue's webhooks see."""

MODULE: Final = ROOT / "hack/devcluster/modules/kueue"
WEBHOOK_PORT: Final = 9443
HEALTH_PORT: Final = 9444
JOBS: Final = ("mjob.kb.io", "vjob.kb.io")
IN_ITS_OWN_ETC: Final = """
mount -t tmpfs none /etc
mkdir -p /etc/kueue/metrics/certs
cp "$1"/tls.* /etc/kueue/metrics/certs/
shift
exec "$@" --feature-gates=VisibilityOnDemand=false
"""
"""Kueue reads a certificate for its metrics from there alone, even where it serves none."""
CONVERTED: Final = ("localqueues", "clusterqueues", "cohorts", "workloads", "multikueueclusters")
"""Kinds that Kueue itself converts between its versions."""


@contextmanager
def running_kueue(kube: Kube, folder: Path, *, address: str) -> Iterator[None]:
    """Install Kueue's definitions, and run it while the block does; ``address`` is where the API server reaches it."""
    binary = devcluster("build", "kueue", show=True)
    manifests = Path(run("go", "list", "-C", MODULE, "-m", "-f", "{{.Dir}}", "sigs.k8s.io/kueue").strip()) / "config"
    authority = _certificate(folder, address)
    hooks = _webhooks(manifests, address, authority)
    server_side = ("apply", "--server-side", "--force-conflicts", "-f", "-")
    definitions = _definitions(manifests, address, authority)
    kube.kubectl(*server_side, stdin=yaml.safe_dump_all(definitions))
    kube.kubectl("wait", "--for=condition=Established", "--timeout=60s", *(f"crd/{_name(crd)}" for crd in definitions))
    _await_served(kube, {str(crd["spec"]["names"]["plural"]) for crd in definitions})
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kueue-system"}})
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(_configuration(folder, address)))
    log = (folder / "kueue.log").open("wb")
    process = subprocess.Popen(
        ["unshare", "--mount", "sh", "-euc", IN_ITS_OWN_ETC, "sh", str(folder), binary, "--config", str(config)],
        env={**os.environ, "KUBECONFIG": str(kube.kubeconfig)},
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        # Before it is ready it waits for answers to what its own webhooks are asked about.
        kube.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(hooks))
        _await_ready(process, address, folder / "kueue.log")
        try:
            yield
        finally:
            _remove(kube, [_name(crd) for crd in definitions])
    finally:
        for hook in hooks:
            kube.kubectl("delete", hook["kind"], _name(hook), "--ignore-not-found")
        process.terminate()
        process.wait()
        log.close()


def _definitions(manifests: Path, address: str, authority: str) -> list[dict[str, Any]]:
    found = []
    for path in sorted((manifests / "components/crd/bases").glob("*.yaml")):
        crd = yaml.safe_load(path.read_text())
        if crd["spec"]["names"]["plural"] in CONVERTED:
            client = {"url": f"https://{address}:{WEBHOOK_PORT}/convert", "caBundle": authority}
            webhook = {"clientConfig": client, "conversionReviewVersions": ["v1"]}
            crd["spec"]["conversion"] = {"strategy": "Webhook", "webhook": webhook}
        found.append(crd)
    return found


def _webhooks(manifests: Path, address: str, authority: str) -> list[dict[str, Any]]:
    found = []
    for document in yaml.safe_load_all((manifests / "components/webhook/manifests.yaml").read_text()):
        own = []
        for webhook in document["webhooks"]:
            groups = {group for rule in webhook["rules"] for group in rule["apiGroups"]}
            if webhook["name"] not in JOBS and groups != {"kueue.x-k8s.io"}:
                continue
            path = webhook["clientConfig"]["service"]["path"]
            webhook["clientConfig"] = {"url": f"https://{address}:{WEBHOOK_PORT}{path}", "caBundle": authority}
            if webhook["name"] in JOBS:
                webhook["namespaceSelector"] = {"matchLabels": MANAGED}
            own.append(webhook)
        name = f"kueue-{document['metadata']['name']}"
        found.append({**document, "metadata": {"name": name}, "webhooks": own})
    return found


def _configuration(folder: Path, address: str) -> dict[str, Any]:
    return {
        "apiVersion": "config.kueue.x-k8s.io/v1beta2",
        "kind": "Configuration",
        "health": {"healthProbeBindAddress": f"{address}:{HEALTH_PORT}"},
        "metrics": {"bindAddress": "0"},
        "webhook": {"host": address, "port": WEBHOOK_PORT, "certDir": str(folder)},
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {"enable": False},
        "manageJobsWithoutQueueName": False,
        "integrations": {"frameworks": ["batch/job"]},
    }


def _certificate(folder: Path, address: str) -> str:
    """Write ``tls.crt`` and ``tls.key`` for an address; return the certificate as a caBundle."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kueue")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    (folder / "tls.crt").write_bytes(pem)
    (folder / "tls.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return base64.b64encode(pem).decode()


def _remove(kube: Kube, definitions: list[str]) -> None:
    """Take all of Kueue's objects and kinds away while it runs: it lets go of what it keeps, and converts for it."""
    for kind in ("localqueues", "workloads", "clusterqueues", "resourceflavors"):
        scope = ["-A"] if kind in ("localqueues", "workloads") else []
        kube.kubectl("delete", f"{kind}.kueue.x-k8s.io", "--all", *scope, "--timeout=60s")
    kube.kubectl("delete", "crd", *definitions, "--timeout=60s")


def _name(raw: dict[str, Any]) -> str:
    return str(raw["metadata"]["name"])


def _await_served(kube: Kube, plurals: set[str]) -> None:
    """Kueue ends where a kind is not served yet."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(CommandError):
            served = json.loads(kube.kubectl("get", "--raw", "/apis/kueue.x-k8s.io/v1beta2"))["resources"]
            if plurals <= {resource["name"] for resource in served}:
                return
        time.sleep(0.5)
    raise AssertionError("the API server does not serve all of Kueue's kinds")


def _await_ready(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with direct.open(f"http://{address}:{HEALTH_PORT}/readyz", timeout=5):
                return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.5)
    raise AssertionError(f"Kueue is not ready; its last words:\n{log.read_text(errors='replace')[-3000:]}")
