"""A real kube-apiserver with etcd on 127.0.0.1, for every test that asks what Kubernetes itself says.

Sits between the tests and the binaries that ``hack/devcluster/devcluster build`` makes. No node, no controller and no
scheduler runs: objects are stored, defaulted, validated and watched, and Jobs make no pods. Everything lies in one
temporary folder, and closing the server ends exactly the two processes that it started.

    with ApiServer.started() as api:
        api.apply_crds()
        status, body = api.request("GET", "/api/v1/namespaces")
"""

from __future__ import annotations

import http.client
import json
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.support.guard import ending_with_us

__all__ = ["CRD_FILES", "REPO_ROOT", "ApiServer", "binary", "run_kubectl"]

REPO_ROOT: Final = Path(__file__).resolve().parents[2]
CRD_FILES: Final = (
    REPO_ROOT / "crds" / "finetune.dev_finetunejobs.yaml",
    REPO_ROOT / "crds" / "finetune.dev_finetuneruntimes.yaml",
)
ADMIN_TOKEN: Final = "test-admin"
START_SECONDS: Final = 60.0
_built: dict[str, Path] = {}


def binary(name: str) -> Path:
    """Path of a binary of the development cluster; built on the first call (minutes when nothing is cached)."""
    if name not in _built:
        tool = REPO_ROOT / "hack" / "devcluster" / "devcluster"
        done = subprocess.run([str(tool), "build", name], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"devcluster build {name} failed:\n{done.stderr}")
        _built[name] = Path(done.stdout.strip().splitlines()[-1])
    return _built[name]


def run_kubectl(kubeconfig: Path, *args: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run kubectl and return what it said, whatever its exit code."""
    return subprocess.run(
        [str(binary("kubectl")), "--kubeconfig", str(kubeconfig), *args],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"HOME": str(kubeconfig.parent), "PATH": "/usr/bin:/bin"},
    )


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@dataclass
class ApiServer:
    """A running API server.

    Attributes
    ----------
    url
        ``https://127.0.0.1:<port>``.
    folder
        Temporary folder of this server: certificates, logs, kubeconfigs, data.
    """

    url: str
    folder: Path
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _arguments: dict[str, tuple[str, ...]] = field(default_factory=dict)

    # --- life -------------------------------------------------------------------------------------------------------

    @classmethod
    @contextmanager
    def started(cls, *flags: str) -> Iterator[ApiServer]:
        """Start etcd and the API server (with further ``flags``), wait until it is ready, and end both at the end."""
        folder = Path(tempfile.mkdtemp(prefix="finetune-apiserver-"))
        etcd_port, peer_port, port = _free_ports(3)
        server = cls(url=f"https://127.0.0.1:{port}", folder=folder)
        try:
            server._prepare()
            server._start_etcd(etcd_port, peer_port)
            server._start_apiserver(port, etcd_port, flags)
            server._wait_until_ready()
            yield server
        finally:
            server._stop()
            shutil.rmtree(folder, ignore_errors=True)

    def _prepare(self) -> None:
        key = self.folder / "service-accounts.key"
        subprocess.run(
            ["openssl", "ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", str(key)],
            check=True,
            capture_output=True,
        )
        (self.folder / "tokens.csv").write_text(f'{ADMIN_TOKEN},admin,admin,"system:masters"\n')

    def _start_etcd(self, port: int, peer_port: int) -> None:
        peer = f"http://127.0.0.1:{peer_port}"
        self.start(
            "etcd",
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls=http://127.0.0.1:{port}",
            f"--advertise-client-urls=http://127.0.0.1:{port}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        )

    def _start_apiserver(self, port: int, etcd_port: int, flags: Iterable[str]) -> None:
        key = self.folder / "service-accounts.key"
        self.start(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{etcd_port}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={port}",
            f"--cert-dir={self.folder / 'pki'}",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            # No controller makes the default service account and its token, so pods could never be created.
            "--disable-admission-plugins=ServiceAccount",
            # The kubernetes Service would need a reconcile that fails on a loopback address.
            "--endpoint-reconciler-type=none",
            *flags,
        )

    def start(self, name: str, *args: str) -> None:
        """Start one more binary of the development cluster beside the server; it ends with it."""
        self._arguments[name] = args
        with self.log(name).open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [*ending_with_us(), str(binary(name)), *args],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C at the terminal reaches the test run, not the servers
            )

    def restart_apiserver(self, *, down: float) -> None:
        """Kill the API server, leave it away for some seconds, and start it again on its port; etcd stays."""
        process = self._processes["kube-apiserver"]
        process.kill()
        process.wait()
        time.sleep(down)
        self.start("kube-apiserver", *self._arguments["kube-apiserver"])
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        last = "nothing was asked yet"
        while time.monotonic() < deadline:
            for name, process in self._processes.items():
                if process.poll() is not None:
                    raise RuntimeError(f"{name} ended with {process.returncode}:\n{self.log(name).read_text()[-4000:]}")
            try:
                status, body = self.request("GET", "/readyz")
            except OSError as error:
                last = str(error)
            else:
                if status == 200:
                    return
                last = str(body)
            time.sleep(0.1)
        raise RuntimeError(f"the API server isn't ready after {START_SECONDS:.0f} s: {last}")

    @contextmanager
    def away(self) -> Iterator[Path]:
        """Stop all while the block runs, and start them again as they were; yields the folder of etcd's data."""
        self._stop()
        try:
            yield self.folder / "etcd"
        finally:
            for name, args in self._arguments.items():
                self.start(name, *args)
            self._wait_until_ready()

    def _stop(self) -> None:
        for process in reversed(self._processes.values()):
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def log(self, name: str) -> Path:
        """Log file of ``etcd``, ``kube-apiserver`` or what was started beside them."""
        return self.folder / f"{name}.log"

    def pids(self) -> dict[str, int]:
        """Process ids by the names of the binaries."""
        return {name: process.pid for name, process in self._processes.items()}

    # --- access -----------------------------------------------------------------------------------------------------

    @property
    def ca_file(self) -> Path:
        """Certificates that the server is checked with."""
        return self.folder / "pki" / "apiserver.crt"

    @property
    def kubeconfig(self) -> Path:
        """Kubeconfig of a cluster administrator."""
        return self.kubeconfig_for_token("admin", ADMIN_TOKEN)

    def kubeconfig_for_token(self, name: str, token: str, *, server: str | None = None) -> Path:
        """Write a kubeconfig for a bearer token; ``server`` puts another address in, for example a proxy's."""
        path = self.folder / f"{name}.kubeconfig"
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [
                {"name": "test", "cluster": {"server": server or self.url, "certificate-authority": str(self.ca_file)}}
            ],
            "users": [{"name": name, "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": name, "namespace": "default"}}],
        }
        path.write_text(json.dumps(content))
        return path

    def service_account(
        self, name: str, *, namespace: str, rules: Iterable[Mapping[str, Any]] = (), cluster_wide: bool = True
    ) -> Path:
        """Create a service account that may do what RBAC ``rules`` say, and return a kubeconfig for it.

        ``cluster_wide`` binds the rules in every namespace, otherwise in ``namespace`` only. Call with the same name
        again (or bind roles by hand) to add rights.
        """
        kind = "ClusterRole" if cluster_wide else "Role"
        meta = {"name": name} if cluster_wide else {"name": name, "namespace": namespace}
        subject = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
        group = "rbac.authorization.k8s.io"
        self.apply(
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}},
            {"apiVersion": f"{group}/v1", "kind": kind, "metadata": meta, "rules": list(rules)},
            {
                "apiVersion": f"{group}/v1",
                "kind": f"{kind}Binding",
                "metadata": meta,
                "roleRef": {"apiGroup": group, "kind": kind, "name": name},
                "subjects": [subject],
            },
        )
        return self.kubeconfig_for_token(f"{namespace}-{name}", self.token(name, namespace=namespace))

    def token(self, service_account: str, *, namespace: str) -> str:
        """Return a token of a service account, valid for one hour."""
        status, body = self.request(
            "POST",
            f"/api/v1/namespaces/{namespace}/serviceaccounts/{service_account}/token",
            {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}},
        )
        if status != 201:
            raise RuntimeError(f"no token for {namespace}/{service_account}: {body}")
        return str(body["status"]["token"])

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content_type: str = "application/json",
        token: str = ADMIN_TOKEN,
        accept: str = "application/json",
    ) -> tuple[int, Any]:
        """One HTTP request; returns the status and the parsed JSON (the text where it is none)."""
        context = ssl.create_default_context(cafile=str(self.ca_file))
        connection = http.client.HTTPSConnection(self.url.removeprefix("https://"), context=context, timeout=30)
        headers = {"Authorization": f"Bearer {token}", "Content-Type": content_type, "Accept": accept}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        try:
            return response.status, json.loads(text)
        except json.JSONDecodeError:
            return response.status, text

    def kubectl(self, *args: str, stdin: str | None = None) -> str:
        """Run kubectl as the administrator and return its output.

        Raises
        ------
        RuntimeError
            kubectl failed; the message holds what it wrote to stderr.
        """
        done = run_kubectl(self.kubeconfig, *args, stdin=stdin)
        if done.returncode != 0:
            raise RuntimeError(f"kubectl {' '.join(args)} failed:\n{done.stderr}")
        return done.stdout

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """``kubectl apply`` for objects given as dicts."""
        self.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))

    def apply_crds(self) -> None:
        """Apply the generated CRDs and wait until they are served."""
        self.kubectl("apply", *(arg for path in CRD_FILES for arg in ("-f", str(path))))
        names = re.findall(r"^  name: (\S+\.finetune\.dev)$", "\n".join(p.read_text() for p in CRD_FILES), re.MULTILINE)
        # kubectl wait fails at once on an object that has no conditions yet, which a CRD has not in its first moments.
        deadline = time.monotonic() + 30
        while not (all(self._established(name) for name in names) and self._discovered()):
            if time.monotonic() > deadline:
                raise RuntimeError(f"the CRDs {', '.join(names)} are not established after 30 s")
            time.sleep(0.05)

    def _discovered(self) -> bool:
        """Tell whether clients find both kinds by their short names; that comes a moment after Established."""
        return all(run_kubectl(self.kubeconfig, "explain", name).returncode == 0 for name in ("ftj", "ftr"))

    def _established(self, crd: str) -> bool:
        _, body = self.request("GET", f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{crd}")
        conditions = (body.get("status") or {}).get("conditions") or []
        return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)

    def create_namespace(self, name: str) -> str:
        """Create a namespace and return its name."""
        status, body = self.request(
            "POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        )
        if status != 201:
            raise RuntimeError(f"namespace {name} was not created: {body}")
        return name
