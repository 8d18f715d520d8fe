"""The chart on a real API server: every object is accepted, a release installs, upgrades and goes as it says."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.support.apiserver import ApiServer, run_kubectl
from tests.support.casekit import MINIMAL
from tests.support.helm import CHART, NAMESPACE, RELEASE, RUNTIME_VALUES, helm, render

INSTALL = ("upgrade", "--install", RELEASE, str(CHART), "--namespace", NAMESPACE, "--create-namespace")
ACCOUNT = f"system:serviceaccount:{NAMESPACE}:{RELEASE}"


@pytest.fixture(scope="module")
def cluster() -> Iterator[ApiServer]:
    """A server of its own: the release owns the CRDs here."""
    with ApiServer.started() as server:
        yield server


@pytest.fixture(scope="module")
def first(cluster: ApiServer) -> str:
    """What helm said at the first install, on a cluster that doesn't know our kinds."""
    return helm(*INSTALL, values=RUNTIME_VALUES, kubeconfig=cluster.kubeconfig)


@pytest.fixture(scope="module")
def second(cluster: ApiServer, first: str) -> str:
    """What helm said when the same command was run again."""
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd/finetuneruntimes.finetune.dev")
    return helm(*INSTALL, values=RUNTIME_VALUES, kubeconfig=cluster.kubeconfig)


def test_the_first_install_makes_everything_but_the_runtime_and_says_so(cluster: ApiServer, first: str) -> None:
    assert 'The FineTuneRuntime "default" is still missing' in first
    assert "run the same command again" in first
    names = cluster.kubectl("-n", NAMESPACE, "get", "deployment,service,serviceaccount", "-o", "name").split()
    assert names == [f"deployment.apps/{RELEASE}", f"service/{RELEASE}-metrics", f"serviceaccount/{RELEASE}"]


def test_the_second_run_makes_the_runtime_and_says_what_comes_next(cluster: ApiServer, second: str) -> None:
    assert "kubectl get ftj --watch" in second
    runtime = json.loads(cluster.kubectl("get", "ftr", "default", "-o", "json"))
    assert runtime["spec"]["resources"]["train"] == {"cpu": "2", "memory": "16Gi", "ephemeralStorage": "20Gi"}


def test_a_third_run_changes_nothing(cluster: ApiServer, second: str) -> None:
    def state() -> str:
        kinds = "deployment,service,serviceaccount,finetuneruntime,clusterrole,clusterrolebinding,crd"
        path = "{range .items[*]}{.kind}/{.metadata.name} {.metadata.resourceVersion}{'\\n'}{end}"
        return cluster.kubectl("-n", NAMESPACE, "get", kinds, "-o", f"jsonpath={path}")

    before = state()
    helm(*INSTALL, values=RUNTIME_VALUES, kubeconfig=cluster.kubeconfig)
    assert state() == before


def test_every_object_of_a_full_render_is_accepted(cluster: ApiServer, second: str) -> None:
    values = {
        **RUNTIME_VALUES,
        "networkPolicy": {"enabled": True, "metricsFrom": [{"podSelector": {}}]},
        "podLabels": {"team": "ml"},
        "nodeSelector": {"pool": "system"},
        "tolerations": [{"key": "system", "operator": "Exists"}],
        "priorityClassName": "system-cluster-critical",
        "imagePullSecrets": [{"name": "pull"}],
        "workers": 4,
    }
    objects = json.dumps({"apiVersion": "v1", "kind": "List", "items": render(values)})
    strict = ("apply", "--dry-run=server", "--server-side", "--force-conflicts", "--validate=strict", "-f", "-")
    done = run_kubectl(cluster.kubeconfig, *strict, stdin=objects)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(render(values))


def test_the_pod_is_admitted_where_pod_security_restricted_is_enforced(cluster: ApiServer, second: str) -> None:
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": "strict", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        }
    )
    (deployment,) = [o for o in render() if o["kind"] == "Deployment"]
    template = deployment["spec"]["template"]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "operator", **template["metadata"]}}
    status, body = cluster.request(
        "POST", "/api/v1/namespaces/strict/pods?dryRun=All", pod | {"spec": template["spec"]}
    )
    assert status == 201, body


MAY = {
    "finetunejobs.finetune.dev": {"get", "list", "watch"},
    "finetunejobs.finetune.dev/status": {"patch"},
    "finetuneruntimes.finetune.dev": {"get", "list", "watch"},
    "jobs.batch": {"get", "list", "watch", "create", "patch", "delete"},
    "pods": {"get", "list", "watch"},
    "events": {"get", "list", "create", "patch"},
}
NOTHING = [
    "secrets",
    "configmaps",
    "pods/exec",
    "pods/log",
    "serviceaccounts",
    "roles.rbac.authorization.k8s.io",
    "nodes",
]
VERBS = {"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"}


@pytest.mark.parametrize("resource", [*MAY, *NOTHING])
def test_the_operators_account_may_do_exactly_this(cluster: ApiServer, second: str, resource: str) -> None:
    kind, _, subresource = resource.partition("/")
    name, _, group = kind.partition(".")
    allowed = set()
    for verb in VERBS:
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": ACCOUNT,
                "resourceAttributes": {
                    "namespace": "team-a",
                    "verb": verb,
                    "group": group,
                    "resource": name,
                    "subresource": subresource,
                },
            },
        }
        body = cluster.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)[1]
        if body["status"]["allowed"]:
            allowed.add(verb)
    assert allowed == MAY.get(resource, set())


def test_uninstalling_keeps_the_definitions_and_the_jobs(cluster: ApiServer, second: str) -> None:
    cluster.apply(
        {
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": "FineTuneJob",
            "metadata": {"name": "kept", "namespace": "default"},
            "spec": MINIMAL["FineTuneJob"],
        }
    )
    helm("uninstall", RELEASE, "--namespace", NAMESPACE, kubeconfig=cluster.kubeconfig)
    assert cluster.kubectl("get", "ftj", "-o", "name").split() == ["finetunejob.finetune.dev/kept"]
    assert cluster.kubectl("-n", NAMESPACE, "get", "deployment", "-o", "name") == ""
    assert cluster.kubectl("get", "ftr", "-o", "name") == ""
