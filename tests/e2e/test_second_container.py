"""A stage ends when the trainer's container has ended, whatever else runs in its pod.

Service meshes, log shippers and secret agents put containers into everybody's pods at admission. One that doesn't end
by itself keeps the pod Running, so the Job never hears of an end. Here the API server itself adds such a container to
all pods of one namespace. All jobs of this module run side by side there.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from finetune_api.names import LABEL_JOB_NAME, LABEL_STAGE
from finetune_api.reasons import Reason
from hack.demo.kube import CommandError
from tests.e2e.world import Tenant, World, until

pytestmark = pytest.mark.timeout(600)

ADMISSION = "admissionregistration.k8s.io/v1beta1"
POLICY = "e2e-second-container"
# It ends when it is told to, as a proxy does, and not before.
WAITS = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit()); signal.pause()"
ONE, TWO, WRONG = NAMES = ("one-stage", "two-stages", "unknown-column")


def injection(image: str, namespace: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The policy that adds the container to a pod that is created, and its binding to one namespace."""
    proxy = f"""Object.spec.containers{{
      name: "proxy",
      image: "{image}",
      command: ["python", "-c", "{WAITS}"],
      resources: Object.spec.containers.resources{{
        requests: {{"cpu": "10m", "memory": "32Mi"}},
        limits: {{"memory": "64Mi"}}
      }},
      securityContext: Object.spec.containers.securityContext{{
        allowPrivilegeEscalation: false,
        capabilities: Object.spec.containers.securityContext.capabilities{{drop: ["ALL"]}}
      }}
    }}"""
    patch = f'[JSONPatch{{op: "add", path: "/spec/containers/-", value: {proxy}}}]'
    pods = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    policy = {
        "failurePolicy": "Fail",
        "reinvocationPolicy": "Never",
        "matchConstraints": {"resourceRules": [pods]},
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": patch}}],
    }
    here = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
    binding = {"policyName": POLICY, "matchResources": here}
    return (
        {"apiVersion": ADMISSION, "kind": "MutatingAdmissionPolicy", "metadata": {"name": POLICY}, "spec": policy},
        {
            "apiVersion": ADMISSION,
            "kind": "MutatingAdmissionPolicyBinding",
            "metadata": {"name": POLICY},
            "spec": binding,
        },
    )


def works(tenant: Tenant) -> bool:
    """Whether a pod would get the container: the API server learns of a policy a moment after it is created."""
    container = {
        "name": "trainer",
        "image": tenant.world.images.operator,
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    security = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "asks", "namespace": tenant.namespace},
        "spec": {"securityContext": security, "containers": [container]},
    }
    with contextlib.suppress(CommandError):  # the namespace has no service account yet
        made = tenant.world.kube.kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=json.dumps(pod))
        return len(json.loads(made)["spec"]["containers"]) == 2
    return False


@dataclass
class Lives:
    """The jobs of this module.

    Attributes
    ----------
    containers
        By job and stage, the containers of each pod that was seen.
    """

    tenant: Tenant
    containers: dict[tuple[str, str], list[list[str]]] = field(default_factory=dict)

    def status(self, name: str) -> dict[str, Any]:
        return dict(self.tenant.wait_finished(name)["status"])

    def look(self) -> None:
        """Note the containers of all pods that are there."""
        pods = self.tenant.pods()
        for key in {_of(pod) for pod in pods}:
            self.containers[key] = [[c["name"] for c in pod["spec"]["containers"]] for pod in pods if _of(pod) == key]


def _of(pod: dict[str, Any]) -> tuple[str, str]:
    labels = pod["metadata"]["labels"]
    return labels[LABEL_JOB_NAME], labels[LABEL_STAGE]


@pytest.fixture(scope="module")
def lives(world: World, pair: str, shared_tenant: Tenant) -> Lives:
    """All jobs, at their end."""
    tenant, kube = shared_tenant, world.kube
    objects = injection(world.images.operator, tenant.namespace)
    try:
        kube.apply(*objects)
        until("pods get the second container", lambda: works(tenant), timeout=60)
        tenant.put_rows()
        tenant.apply(*jobs(tenant, pair))
        lives = Lives(tenant)

        def ended() -> bool:
            lives.look()
            return all(tenant.status(name).get("phase") in ("Succeeded", "Failed") for name in NAMES)

        until("all jobs have ended", ended, timeout=300, pause=1)
    finally:
        for made in objects:
            kube.kubectl("delete", made["kind"], POLICY, "--ignore-not-found")
    return lives


def jobs(tenant: Tenant, pair: str) -> list[dict[str, Any]]:
    """One job of a single stage, one of two, and one that can never succeed."""
    manifests = [
        tenant.job(name, runtimeRef={"name": pair}, resources={"gpusPerNode": int(name == TWO)}) for name in NAMES
    ]
    manifests[2]["spec"]["dataset"]["template"] = {
        "inline": {"prompt": "{{ utterance }}", "completion": "{{ label }}"},
    }
    return manifests


def test_every_pod_has_the_second_container(lives: Lives) -> None:
    assert lives.containers == {
        key: [["trainer", "proxy"]] for key in [(ONE, "train"), (TWO, "prepare"), (TWO, "train"), (WRONG, "train")]
    }


@pytest.mark.parametrize(("name", "stages"), [(ONE, ["train"]), (TWO, ["prepare", "train"])])
def test_a_job_succeeds_with_both_scores_though_the_other_container_runs_on(
    name: str, stages: list[str], lives: Lives
) -> None:
    status = lives.status(name)
    assert status["phase"] == "Succeeded", status
    assert {"baseline", "test"} <= status["results"].keys()
    assert [(stage["name"], stage["state"], stage["attempts"]) for stage in status["stages"]] == [
        (stage, "Succeeded", 1) for stage in stages
    ]


def test_a_job_that_fails_for_good_says_why_though_the_other_container_runs_on(lives: Lives) -> None:
    status = lives.status(WRONG)
    assert status["phase"] == "Failed", status
    assert status["failure"]["reason"] == Reason.TEMPLATE_INVALID
    assert "utterance" in status["failure"]["message"]
    assert status["failure"]["exitCode"] == 16
    assert [stage["attempts"] for stage in status["stages"]] == [1]


def test_what_would_run_on_is_removed_at_once(lives: Lives) -> None:
    """Job and pod of a finished stage stay for a day; these have to go, since they hold what the pod asked for."""
    tenant = lives.tenant
    until("no job and no pod is left", lambda: not tenant.jobs() and not tenant.pods(), timeout=120, pause=1)
    assert {tenant.status(name)["phase"] for name in NAMES} == {"Succeeded", "Failed"}
