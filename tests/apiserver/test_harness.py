"""The harness itself: a server that answers, tells users apart and leaves nothing behind."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.apiserver import ApiServer, run_kubectl


def test_the_administrator_may_do_everything(bare_apiserver: ApiServer) -> None:
    assert bare_apiserver.kubectl("auth", "can-i", "*", "*", "--all-namespaces").strip() == "yes"


def test_a_service_account_may_do_only_what_its_rules_say(bare_apiserver: ApiServer, namespace: str) -> None:
    rules = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}]
    kubeconfig = bare_apiserver.service_account("reader", namespace=namespace, rules=rules, cluster_wide=False)
    assert run_kubectl(kubeconfig, "-n", namespace, "get", "configmaps").returncode == 0
    refused = run_kubectl(kubeconfig, "-n", namespace, "get", "secrets")
    assert "forbidden" in refused.stderr.lower()
    elsewhere = run_kubectl(kubeconfig, "-n", "kube-system", "get", "configmaps")
    assert "forbidden" in elsewhere.stderr.lower()


def test_a_stopped_server_leaves_no_process_and_no_folder() -> None:
    with ApiServer.started() as server:
        folder = server.folder
        assert _processes_naming(folder)
    assert not _processes_naming(folder)
    assert not folder.exists()


def _processes_naming(folder: Path) -> list[str]:
    listing = subprocess.run(["ps", "-ww", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listing.splitlines() if str(folder) in line]
