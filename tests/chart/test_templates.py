"""What the chart makes of its values."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from finetune_api.names import child_labels
from tests.chart.kit import OPERATOR_RULES, Values, container, kinds, one
from tests.support.apiserver import CRD_FILES
from tests.support.helm import CHART, DIGEST, RUNTIME_VALUES, helm, refusal, render, render_anew

# --- as a whole ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [{}, RUNTIME_VALUES], ids=["defaults", "runtime"])
def test_helm_lint_has_nothing_to_say(values: Values) -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART), values=values)


def test_the_defaults_make_these_kinds() -> None:
    assert kinds(render()) == [
        "ClusterRole",
        "ClusterRole",
        "ClusterRole",
        "ClusterRole",
        "ClusterRoleBinding",
        "ClusterRoleBinding",
        "CustomResourceDefinition",
        "CustomResourceDefinition",
        "Deployment",
        "Role",
        "Role",
        "RoleBinding",
        "RoleBinding",
        "Secret",
        "Service",
        "Service",
        "ServiceAccount",
    ]


def test_two_renders_are_the_same() -> None:
    assert render_anew() == render_anew()


def test_no_template_looks_anything_up_makes_anything_up_or_hooks_in() -> None:
    for path in (CHART / "templates").iterdir():
        text = path.read_text()
        for word in (
            "lookup",
            "helm.sh/hook",
            "rand",
            "genCA",
            "genSelf",
            "genSigned",
            "uuidv4",
            "now |",
            "derivePassword",
        ):
            assert word not in text, path.name


def test_every_object_carries_the_recommended_labels() -> None:
    for o in render(
        {**RUNTIME_VALUES, "networkPolicy": {"enabled": True}, "metrics": {"serviceMonitor": {"enabled": True}}}
    ):
        labels = o["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "finetune-operator", o["kind"]
        assert labels["app.kubernetes.io/instance"] == "finetune-operator"
        assert labels["app.kubernetes.io/managed-by"] == "Helm"
        assert labels["helm.sh/chart"].startswith("finetune-operator-")


def test_another_release_shares_no_cluster_wide_name() -> None:
    def names(release: str) -> set[tuple[str, str]]:
        objects = render({"crds": {"enabled": False}}, release=release)
        return {(o["kind"], o["metadata"]["name"]) for o in objects}

    assert not names("one") & names("two")


def test_names_stay_within_63_characters() -> None:
    long = render({"fullnameOverride": "x" * 100})
    assert max(len(o["metadata"]["name"]) for o in long) <= 63
    assert len({(o["kind"], o["metadata"]["name"]) for o in long}) == len(long)


# --- CRDs ------------------------------------------------------------------------------------------------------------


def test_the_definitions_are_the_generated_ones() -> None:
    rendered = {o["metadata"]["name"]: o["spec"] for o in render() if o["kind"] == "CustomResourceDefinition"}
    generated = [yaml.safe_load(path.read_text()) for path in CRD_FILES]
    assert rendered == {crd["metadata"]["name"]: crd["spec"] for crd in generated}


def test_the_definitions_stay_when_the_release_goes() -> None:
    for o in render():
        if o["kind"] == "CustomResourceDefinition":
            assert o["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_the_definitions_may_go_with_the_release() -> None:
    for o in render({"crds": {"keep": False}}):
        if o["kind"] == "CustomResourceDefinition":
            assert "annotations" not in o["metadata"]


def test_the_definitions_can_be_left_out() -> None:
    assert "CustomResourceDefinition" not in kinds(render({"crds": {"enabled": False}}))


# --- rights ----------------------------------------------------------------------------------------------------------


def test_the_operator_may_do_exactly_this() -> None:
    assert one("ClusterRole", name="finetune-operator")["rules"] == OPERATOR_RULES


def test_nobody_gets_secrets_wildcards_or_a_way_to_more_rights() -> None:
    for o in render({**RUNTIME_VALUES}):
        for rule in o.get("rules", ()):
            words = {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
            assert not any("*" in word for word in words)
            if o["kind"] != "Role":  # the one of live reports, below
                assert "secrets" not in words
            assert not words & {"pods/exec", "pods/log", "roles", "clusterroles", "rolebindings"}
            assert not words & {"escalate", "bind", "impersonate", "serviceaccounts/token"}


def test_kueues_objects_may_be_left_alone() -> None:
    rules = one("ClusterRole", {"kueue": {"enabled": False}}, name="finetune-operator")["rules"]
    assert rules == [rule for rule in OPERATOR_RULES if rule["apiGroups"] != ["kueue.x-k8s.io"]]


# --- live reports ----------------------------------------------------------------------------------------------------


def test_of_secrets_the_operator_may_patch_its_own_one_and_read_none() -> None:
    role = one("Role", name="finetune-operator-progress")
    (rule,) = role["rules"]
    assert rule == {
        "apiGroups": [""],
        "resources": ["secrets"],
        "resourceNames": ["finetune-operator-progress"],
        "verbs": ["patch"],
    }
    assert role["metadata"]["namespace"] == "finetune-system"


def test_no_upgrade_takes_the_authority_away() -> None:
    secret = one("Secret")
    assert not {"data", "stringData"} & secret.keys()


def test_pods_reach_the_endpoint_by_the_name_that_its_certificate_has() -> None:
    service = one("Service", name="finetune-operator-progress")
    env = {entry["name"]: entry.get("value") for entry in container()["env"]}
    host = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc"
    assert env["FINETUNE_PROGRESS_URL"] == f"https://{host}:{service['spec']['ports'][0]['port']}"
    assert {"name": "progress", "containerPort": int(env["FINETUNE_PROGRESS_PORT"])} in container()["ports"]


def test_the_secret_that_may_be_patched_is_the_one_that_is_mounted() -> None:
    env = {entry["name"]: entry.get("value") for entry in container()["env"]}
    volumes = {volume["name"]: volume for volume in one("Deployment")["spec"]["template"]["spec"]["volumes"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container()["volumeMounts"]}
    assert volumes["progress"]["secret"]["secretName"] == env["FINETUNE_PROGRESS_SECRET"]
    assert volumes["progress"]["secret"]["optional"] is True
    assert mounts["progress"] == env["FINETUNE_PROGRESS_CA_DIR"]


def test_without_live_reports_there_is_no_right_no_secret_and_no_port() -> None:
    values = {"progress": {"enabled": False}}
    objects = render(values)
    assert "Secret" not in kinds(objects)
    assert [o["metadata"]["name"] for o in objects if o["kind"] == "Role"] == ["finetune-operator-leader"]
    assert "tokenreviews" not in json.dumps(objects)
    assert "progress" not in json.dumps(one("Deployment", values))


def test_a_network_policy_lets_pods_of_jobs_report_from_every_namespace() -> None:
    policy = one("NetworkPolicy", {"networkPolicy": {"enabled": True}})
    (entry,) = [e for e in policy["spec"]["ingress"] if e["ports"][0]["port"] == "progress"]
    (peer,) = entry["from"]
    wanted = peer["podSelector"]["matchLabels"]
    assert peer["namespaceSelector"] == {}
    assert wanted.items() <= child_labels("name", "uid", "train").items()


# ---------------------------------------------------------------------------------------------------------------------


def test_the_binding_joins_the_operators_account_and_its_role() -> None:
    binding = one("ClusterRoleBinding", {"serviceAccount": {"name": "robot"}}, name="finetune-operator")
    assert binding["roleRef"]["name"] == "finetune-operator"
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "robot", "namespace": "finetune-system"}]
    deployment = one("Deployment", {"serviceAccount": {"name": "robot"}})
    assert deployment["spec"]["template"]["spec"]["serviceAccountName"] == "robot"


@pytest.mark.parametrize(
    ("name", "roles", "rules"),
    [
        (
            "finetune-operator-view",
            {"view", "edit", "admin"},
            [
                {
                    "apiGroups": ["finetune.dev"],
                    "resources": ["finetunejobs", "finetuneruntimes"],
                    "verbs": ["get", "list", "watch"],
                }
            ],
        ),
        (
            "finetune-operator-edit",
            {"edit", "admin"},
            [
                {
                    "apiGroups": ["finetune.dev"],
                    "resources": ["finetunejobs"],
                    "verbs": ["create", "update", "patch", "delete", "deletecollection"],
                }
            ],
        ),
    ],
)
def test_users_roles_are_aggregated_and_write_no_status(name: str, roles: set[str], rules: list[Any]) -> None:
    role = one("ClusterRole", name=name)
    prefix = "rbac.authorization.k8s.io/aggregate-to-"
    assert {label.removeprefix(prefix) for label in role["metadata"]["labels"] if label.startswith(prefix)} == roles
    assert role["rules"] == rules


def test_users_roles_can_be_left_out() -> None:
    roles = [
        o["metadata"]["name"] for o in render({"rbac": {"aggregateUserRoles": False}}) if o["kind"] == "ClusterRole"
    ]
    assert sorted(roles) == ["finetune-operator", "finetune-operator-read-runtimes"]


def test_every_user_may_read_runtimes_and_no_more() -> None:
    name = "finetune-operator-read-runtimes"
    rules = [{"apiGroups": ["finetune.dev"], "resources": ["finetuneruntimes"], "verbs": ["get", "list", "watch"]}]
    assert one("ClusterRole", name=name)["rules"] == rules
    binding = one("ClusterRoleBinding", name=name)
    assert binding["roleRef"]["name"] == name
    group = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:authenticated"}
    assert binding["subjects"] == [group]


def test_reading_runtimes_can_be_left_to_the_platform_team() -> None:
    names = [o["metadata"]["name"] for o in render({"rbac": {"readRuntimes": False}})]
    assert "finetune-operator-read-runtimes" not in names


def test_an_existing_account_must_be_named() -> None:
    assert "ServiceAccount" not in kinds(render({"serviceAccount": {"create": False, "name": "mine"}}))
    assert "serviceAccount.name is empty" in refusal({"serviceAccount": {"create": False}})


def test_annotations_reach_the_account() -> None:
    values = {"serviceAccount": {"annotations": {"example.com/role": "r"}}}
    assert one("ServiceAccount", values)["metadata"]["annotations"] == {"example.com/role": "r"}


# --- the Deployment --------------------------------------------------------------------------------------------------


def test_one_operator_is_replaced_by_one_that_works_before_it_counts_as_ready() -> None:
    spec = one("Deployment")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    assert "affinity" not in spec["template"]["spec"]
    assert "PodDisruptionBudget" not in kinds(render())


def test_two_operators_stay_apart_and_are_updated_one_after_the_other() -> None:
    values = {"replicas": 2}
    deployment = one("Deployment", values)["spec"]
    assert deployment["replicas"] == 2
    assert deployment["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    chosen = deployment["selector"]
    (term,) = deployment["template"]["spec"]["affinity"]["podAntiAffinity"][
        "preferredDuringSchedulingIgnoredDuringExecution"
    ]
    assert term["podAffinityTerm"] == {"topologyKey": "kubernetes.io/hostname", "labelSelector": chosen}
    assert one("PodDisruptionBudget", values)["spec"] == {"maxUnavailable": 1, "selector": chosen}


def test_an_affinity_of_ones_own_takes_the_place_of_the_one_for_two() -> None:
    affinity = {"nodeAffinity": {}}
    pod = one("Deployment", {"replicas": 2, "affinity": affinity})["spec"]["template"]["spec"]
    assert pod["affinity"] == affinity


@pytest.mark.parametrize("release", ["finetune-operator", "x" * 53])
def test_the_lease_that_may_be_written_is_the_one_that_the_operator_is_told_of(release: str) -> None:
    pod = one("Deployment", release=release)["spec"]["template"]["spec"]
    env = {entry["name"]: entry.get("value") for entry in pod["containers"][0]["env"]}
    (role,) = [o for o in render(release=release) if o["kind"] == "Role" and o["metadata"]["name"].endswith("-leader")]
    assert role["rules"] == [
        {
            "apiGroups": ["coordination.k8s.io"],
            "resources": ["leases"],
            "resourceNames": [env["FINETUNE_LEASE"]],
            "verbs": ["get", "create", "update"],
        }
    ]


def test_the_holder_of_the_lease_is_named_after_its_pod() -> None:
    fields = {e["name"]: e["valueFrom"]["fieldRef"]["fieldPath"] for e in container()["env"] if "valueFrom" in e}
    assert fields == {
        "FINETUNE_NAMESPACE": "metadata.namespace",
        "FINETUNE_POD_NAME": "metadata.name",
        "FINETUNE_POD_UID": "metadata.uid",
    }


@pytest.mark.parametrize(
    ("terms", "told"),
    [
        (
            {"renewSeconds": 15},
            "leaderElection.renewSeconds is 15; use less than leaderElection.leaseSeconds (15)",
        ),
        (
            {"retrySeconds": 6},
            "leaderElection.retrySeconds is 6; use at most half of leaderElection.renewSeconds (10)",
        ),
    ],
)
def test_terms_that_the_operator_would_refuse_are_refused_here(terms: dict[str, int], told: str) -> None:
    assert told in refusal({"leaderElection": terms})


def test_the_pod_passes_pod_security_restricted() -> None:
    pod = one("Deployment")["spec"]["template"]["spec"]
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "fsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container()["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert [set(volume) - {"name"} for volume in pod["volumes"]] == [{"emptyDir"}, {"secret"}]
    assert container()["volumeMounts"] == [
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "progress", "mountPath": "/etc/finetune-progress", "readOnly": True},
    ]
    assert pod["enableServiceLinks"] is False


def test_the_container_runs_the_operator_with_its_settings() -> None:
    found = container({"logLevel": "DEBUG", "workers": 4, "progress": {"enabled": False}})
    assert found["command"] == ["python", "-m", "finetune_operator"]
    assert {e["name"]: e["value"] for e in found["env"] if "value" in e} == {
        "FINETUNE_LOG_LEVEL": "DEBUG",
        "FINETUNE_WORKERS": "4",
        "FINETUNE_HEALTH_PORT": "8080",
        "FINETUNE_METRICS_PORT": "9090",
        "FINETUNE_LEASE": "finetune-operator",
        "FINETUNE_LEASE_SECONDS": "15",
        "FINETUNE_LEASE_RENEW_SECONDS": "10",
        "FINETUNE_LEASE_RETRY_SECONDS": "2",
    }


def test_the_number_of_workers_is_the_operators_own_unless_set() -> None:
    assert "FINETUNE_WORKERS" not in [e["name"] for e in container()["env"]]


def test_the_probes_ask_the_health_port() -> None:
    found = container()
    ports = {port["name"]: port["containerPort"] for port in found["ports"]}
    assert ports == {"health": 8080, "metrics": 9090, "progress": 8443}
    assert found["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "health"}
    assert found["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "health"}


def test_the_container_says_what_it_needs() -> None:
    assert container()["resources"] == {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}}


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ({}, "finetune-operator:0.1.0"),
        ({"tag": "v2"}, "finetune-operator:v2"),
        ({"repository": "r.example/op", "digest": DIGEST}, f"r.example/op@{DIGEST}"),
        ({"repository": "r.example/op", "digest": DIGEST, "tag": "v2"}, f"r.example/op@{DIGEST}"),
    ],
    ids=["app version", "tag", "digest", "digest wins"],
)
def test_the_image_is_named_by_digest_tag_or_version(image: Values, expected: str) -> None:
    assert container({"image": image})["image"] == expected


def test_scheduling_values_reach_the_pod() -> None:
    values = {
        "nodeSelector": {"pool": "system"},
        "tolerations": [{"key": "system", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "high",
        "imagePullSecrets": [{"name": "pull"}],
    }
    pod = one("Deployment", values)["spec"]["template"]["spec"]
    assert {key: pod[key] for key in values} == values


def test_labels_and_annotations_reach_the_pod_beside_our_own() -> None:
    deployment = one("Deployment", {"podLabels": {"team": "ml"}, "podAnnotations": {"a": "b"}})
    template = deployment["spec"]["template"]["metadata"]
    assert template["labels"]["team"] == "ml"
    assert template["annotations"] == {"a": "b"}
    assert deployment["spec"]["selector"]["matchLabels"].items() <= template["labels"].items()


# --- metrics and network ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Service", "NetworkPolicy", "ServiceMonitor"])
def test_what_selects_the_operator_finds_its_pod_or_service(kind: str) -> None:
    values = {"networkPolicy": {"enabled": True}, "metrics": {"serviceMonitor": {"enabled": True}}}
    spec = one(kind, values, name="finetune-operator-metrics" if kind == "Service" else "")["spec"]
    selector = spec.get("podSelector", spec.get("selector", {}))
    labels = selector.get("matchLabels", selector)
    target = (
        one("Service", name="finetune-operator-metrics")
        if kind == "ServiceMonitor"
        else one("Deployment")["spec"]["template"]
    )
    assert labels
    assert labels.items() <= target["metadata"]["labels"].items()


def test_the_service_leads_to_the_metrics() -> None:
    assert one("Service", name="finetune-operator-metrics")["spec"]["ports"] == [
        {"name": "metrics", "port": 9090, "targetPort": "metrics"}
    ]


def test_a_service_monitor_is_made_on_demand() -> None:
    values = {"metrics": {"serviceMonitor": {"enabled": True, "interval": "15s", "labels": {"release": "prometheus"}}}}
    monitor = one("ServiceMonitor", values)
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert monitor["spec"]["endpoints"] == [{"port": "metrics", "path": "/metrics", "interval": "15s"}]


def test_a_network_policy_lets_in_probes_and_metrics_and_out_to_the_api_server_and_dns() -> None:
    peers = [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]
    values = {"networkPolicy": {"enabled": True, "metricsFrom": peers, "apiServerPorts": [6443]}}
    spec = one("NetworkPolicy", values)["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert spec["ingress"] == [
        {"ports": [{"port": "health", "protocol": "TCP"}]},
        {"ports": [{"port": "metrics", "protocol": "TCP"}], "from": peers},
        {"ports": [{"port": "progress", "protocol": "TCP"}], "from": spec["ingress"][2]["from"]},
    ]
    assert [[port["port"] for port in rule["ports"]] for rule in spec["egress"]] == [[6443], [53, 53]]
