"""The chart on a real API server: every object is accepted, a release installs, upgrades and goes as it says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.apiserver import ApiServer, run_kubectl
from tests.support.casekit import MINIMAL
from tests.support.helm import CHART, NAMESPACE, RELEASE, RUNTIME_VALUES, helm, render
from tests.support.operator_process import OperatorProcess, eventually

INSTALL = ("upgrade", "--install", RELEASE, str(CHART), "--namespace", NAMESPACE, "--create-namespace")
ACCOUNT = f"system:serviceaccount:{NAMESPACE}:{RELEASE}"


@pytest.fixture(scope="module")
def cluster() -> Iterator[ApiServer]:
    """A server of its own: the release owns the CRDs here."""
    with ApiServer.started() as server:
        yield server


@pytest.fixture(scope="module")
def said(cluster: ApiServer) -> str:
    """What helm said at the one install, on a cluster that doesn't know our kinds."""
    return helm(*INSTALL, values=RUNTIME_VALUES, kubeconfig=cluster.kubeconfig)


@contextmanager
def operator(cluster: ApiServer, *, wait: bool = True) -> Iterator[OperatorProcess]:
    """The operator with the rights and the file that the release gives it; there is no kubelet here to start it."""
    config = json.loads(cluster.kubectl("-n", NAMESPACE, "get", "configmap", f"{RELEASE}-runtime", "-o", "json"))
    file = cluster.folder / "runtime.json"
    file.write_text(config["data"]["runtime.json"])
    kubeconfig = cluster.kubeconfig_for_token("release", cluster.token(RELEASE, namespace=NAMESPACE))
    with OperatorProcess.started(kubeconfig, wait=wait, FINETUNE_RUNTIME_FILE=str(file)) as process:
        yield process


def runtime(cluster: ApiServer) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cluster.kubectl("get", "ftr", "default", "-o", "json"))
    return found


def upgrade(cluster: ApiServer, **changes: Any) -> None:
    values = {"runtime": {**RUNTIME_VALUES["runtime"], **changes}}
    helm(*INSTALL, values=values, kubeconfig=cluster.kubeconfig)


def test_one_install_makes_everything_and_says_what_comes_next(cluster: ApiServer, said: str) -> None:
    assert "kubectl get ftj --watch" in said
    names = cluster.kubectl("-n", NAMESPACE, "get", "deployment,service,serviceaccount", "-o", "name").split()
    assert names == [
        f"deployment.apps/{RELEASE}",
        f"service/{RELEASE}-metrics",
        f"service/{RELEASE}-progress",
        f"serviceaccount/{RELEASE}",
    ]


def test_a_second_run_changes_nothing(cluster: ApiServer, said: str) -> None:
    def state() -> str:
        kinds = "deployment,service,serviceaccount,configmap,clusterrole,clusterrolebinding,crd"
        path = "{range .items[*]}{.kind}/{.metadata.name} {.metadata.resourceVersion}{'\\n'}{end}"
        return cluster.kubectl("-n", NAMESPACE, "get", kinds, "-o", f"jsonpath={path}")

    before = state()
    helm(*INSTALL, values=RUNTIME_VALUES, kubeconfig=cluster.kubeconfig)
    assert state() == before


def test_the_operator_is_ready_once_the_runtime_of_the_values_stands(cluster: ApiServer, said: str) -> None:
    with operator(cluster) as process:
        found = runtime(cluster)
        assert found["spec"]["outputPrefix"] == "s3://results/"
        assert found["spec"]["train"]["resources"] == {"cpu": "2", "memory": "16Gi", "ephemeralStorage": "20Gi"}
        assert found["spec"]["storage"][0]["endpoint"] == "https://s3.example"
        assert found["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "finetune-operator"
        assert process.unexpected() == []


def test_a_runtime_that_somebody_deletes_comes_back(cluster: ApiServer, said: str) -> None:
    with operator(cluster) as process:
        uid = runtime(cluster)["metadata"]["uid"]
        cluster.kubectl("delete", "ftr", "default", "--wait=false")
        eventually(lambda: cluster.kubectl("get", "ftr", "default", "--ignore-not-found", "-o", "name"))
        assert runtime(cluster)["metadata"]["uid"] != uid
        assert process.unexpected() == []


def test_an_edit_by_hand_stays_until_the_values_change(cluster: ApiServer, said: str) -> None:
    def edited() -> tuple[Any, Any]:
        spec = runtime(cluster)["spec"]
        return spec["terminationGracePeriodSeconds"], spec["outputPrefix"]

    upgrade(cluster, terminationGracePeriodSeconds=61)
    with operator(cluster):
        pass
    patch = '{"spec": {"terminationGracePeriodSeconds": 62, "outputPrefix": "s3://mended/", "simulatedGpus": true}}'
    cluster.kubectl("patch", "ftr", "default", "--type=merge", "-p", patch)
    with operator(cluster):
        assert edited() == (62, "s3://mended/")
    upgrade(cluster)
    with operator(cluster):
        spec = runtime(cluster)["spec"]
        assert (spec["outputPrefix"], spec["terminationGracePeriodSeconds"]) == ("s3://results/", 180)
        assert spec["simulatedGpus"] is False


def test_a_runtime_that_the_api_server_refuses_keeps_the_operator_from_being_ready(
    cluster: ApiServer, said: str
) -> None:
    storage = [{"prefix": "s3://"}, {"prefix": "s3://"}]
    upgrade(cluster, storage=storage)
    with operator(cluster, wait=False) as process:
        eventually(lambda: process.records("RuntimeRefused"))
        status, body = process.get("/readyz")
        assert status == 503
        assert "storage has two entries with the same prefix; remove one" in body
        assert process.get("/healthz")[0] == 200
    upgrade(cluster)


def test_every_object_of_a_full_render_is_accepted(cluster: ApiServer, said: str) -> None:
    values = {
        **RUNTIME_VALUES,
        "networkPolicy": {"enabled": True, "metricsFrom": [{"podSelector": {}}]},
        "podLabels": {"team": "ml"},
        "nodeSelector": {"pool": "system"},
        "tolerations": [{"key": "system", "operator": "Exists"}],
        "priorityClassName": "system-cluster-critical",
        "imagePullSecrets": [{"name": "pull"}],
        "workers": 4,
        "replicas": 2,
    }
    objects = json.dumps({"apiVersion": "v1", "kind": "List", "items": render(values)})
    strict = ("apply", "--dry-run=server", "--server-side", "--force-conflicts", "--validate=strict", "-f", "-")
    done = run_kubectl(cluster.kubeconfig, *strict, stdin=objects)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(render(values))


def test_the_pod_is_admitted_where_pod_security_restricted_is_enforced(cluster: ApiServer, said: str) -> None:
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
    "tokenreviews.authentication.k8s.io": {"create"},
    "workloads.kueue.x-k8s.io": {"list"},
    "workloadpriorityclasses.kueue.x-k8s.io": {"get"},
}
NOTHING = [
    "secrets",
    "leases.coordination.k8s.io",
    "configmaps",
    "pods/exec",
    "pods/log",
    "serviceaccounts",
    "roles.rbac.authorization.k8s.io",
    "nodes",
    "localqueues.kueue.x-k8s.io",
]
VERBS = {"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"}


def may(cluster: ApiServer, resource: str, *, name: str = "", namespace: str = "team-a", **who: Any) -> set[str]:
    """Verbs that somebody, the operator's account unless said, may use on a resource, or on one object of it."""
    kind, _, subresource = resource.partition("/")
    plural, _, group = kind.partition(".")
    allowed = set()
    for verb in VERBS:
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                **(who or {"user": ACCOUNT}),
                "resourceAttributes": {
                    "namespace": namespace,
                    "verb": verb,
                    "group": group,
                    "resource": plural,
                    "subresource": subresource,
                    "name": name,
                },
            },
        }
        body = cluster.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)[1]
        if body["status"]["allowed"]:
            allowed.add(verb)
    return allowed


@pytest.mark.parametrize("resource", [*MAY, *NOTHING])
def test_the_operators_account_may_do_exactly_this(cluster: ApiServer, said: str, resource: str) -> None:
    assert may(cluster, resource) == MAY.get(resource, set())


@pytest.mark.parametrize(("name", "verbs"), [("default", {"create", "patch"}), ("other", set())])
def test_the_operators_account_may_write_the_runtime_of_the_values_and_no_other(
    cluster: ApiServer, said: str, name: str, verbs: set[str]
) -> None:
    assert may(cluster, "finetuneruntimes.finetune.dev", name=name) == {"get", "list", "watch"} | verbs


@pytest.mark.parametrize(
    ("name", "namespace", "verbs"),
    [
        ("finetune-operator-progress", NAMESPACE, {"patch"}),
        ("other", NAMESPACE, set()),
        ("finetune-operator-progress", "team-a", set()),
    ],
)
def test_of_all_secrets_the_operators_account_may_patch_its_own_one(
    cluster: ApiServer, said: str, name: str, namespace: str, verbs: set[str]
) -> None:
    assert may(cluster, "secrets", name=name, namespace=namespace) == verbs


@pytest.mark.parametrize(
    ("name", "namespace", "verbs"),
    [
        (RELEASE, NAMESPACE, {"get", "create", "update"}),
        ("other", NAMESPACE, set()),
        (RELEASE, "team-a", set()),
    ],
)
def test_of_all_leases_the_operators_account_may_write_its_own_one(
    cluster: ApiServer, said: str, name: str, namespace: str, verbs: set[str]
) -> None:
    assert may(cluster, "leases.coordination.k8s.io", name=name, namespace=namespace) == verbs


def test_an_upgrade_leaves_the_authority_where_it_is(cluster: ApiServer, said: str) -> None:
    path = f"/api/v1/namespaces/{NAMESPACE}/secrets/finetune-operator-progress"
    patch = {"data": {"tls.crt": "a2VwdA=="}}
    assert cluster.request("PATCH", path, patch, content_type="application/merge-patch+json")[0] == 200
    helm("upgrade", RELEASE, str(CHART), "-n", NAMESPACE, "--reuse-values", kubeconfig=cluster.kubeconfig)
    assert cluster.request("GET", path)[1]["data"] == {"tls.crt": "a2VwdA=="}


def test_a_tenant_whose_role_ends_at_a_namespace_reads_runtimes_and_writes_none(cluster: ApiServer, said: str) -> None:
    """As with the chart's edit role by a RoleBinding: that reaches nothing without a namespace."""
    cluster.kubectl("create", "namespace", "team-a")
    role = f"--clusterrole={RELEASE}-edit"
    cluster.kubectl("-n", "team-a", "create", "rolebinding", "anna", role, "--user=anna")
    anna = {"user": "anna", "groups": ["system:authenticated"]}
    assert may(cluster, "finetuneruntimes.finetune.dev", **anna) == {"get", "list", "watch"}
    assert "create" in may(cluster, "finetunejobs.finetune.dev", **anna)
    nobody = {"user": "system:anonymous", "groups": ["system:unauthenticated"]}
    assert may(cluster, "finetuneruntimes.finetune.dev", **nobody) == set()


def test_uninstalling_keeps_the_definitions_the_jobs_and_the_runtime(cluster: ApiServer, said: str) -> None:
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
    assert cluster.kubectl("get", "ftr", "-o", "name").split() == ["finetuneruntime.finetune.dev/default"]
