"""The child Job: golden files for every field, and the proof that tenant text reaches one leaf only."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_api.job import FineTuneJobSpec
from finetune_api.names import CREDENTIALS_DIR, DATA_DIR, ENV_STAGE_INPUT, MODEL_CACHE_DIR, StageName
from finetune_api.reasons import EXIT_RESUMABLE, final_exit_codes
from finetune_api.runtime import ResolvedRuntime
from finetune_api.stage import JobIdentity, StageInput
from finetune_operator.decide.manifests.job import CONTAINER, build_job
from finetune_operator.decide.manifests.queueing import ANNOTATION_QUEUE, LABEL_QUEUE
from finetune_operator.decide.plan import ReportEndpoint
from finetune_operator.decide.runtimes import resolve_runtime
from tests.support import builders as b
from tests.support.spec_strategies import specs

GOLDEN = Path(__file__).parent / "golden"
JOB = JobIdentity(namespace=b.NAMESPACE, name=b.NAME, uid=b.UID)
LONGEST = JobIdentity(namespace="n" * 63, name="a" * 40, uid=b.UID)
FULL_RUNTIME = b.runtime_spec(
    allowedServiceAccounts=["trainer"],
    imagePullSecrets=[{"name": "registry"}],
    prepare={
        "nodeSelector": {"pool": "cpu"},
        "tolerations": [{"key": "batch", "value": "yes"}],
        "runtimeClassName": "gvisor",
    },
    train={
        "runtimeClassName": "nvidia",
        "resources": {"cpu": "7500m", "memory": "64Gi", "ephemeralStorage": "200Gi"},
    },
    terminationGracePeriodSeconds=240,
    gpuResourceName="amd.com/gpu",
    storage=[
        {
            "prefix": "s3://team-a-data/",
            "endpoint": "https://s3.example.com",
            "caBundle": "-----BEGIN CERTIFICATE-----\n",
        }
    ],
)
VOLUMES = b.job_spec(
    model={"uri": "pvc://models/tiny/v1/", "credentialsRef": None},
    dataset={
        "uri": None,
        "credentialsRef": None,
        "files": {
            "train": "pvc://team.rows/2024/",
            "validation": "configmap://rows/validation.jsonl",
            "test": "configmap://rows/test.jsonl",
        },
        "split": {"trainPercent": None, "validationPercent": None, "testPercent": None},
    },
)
ENDPOINT = ReportEndpoint(
    url="https://finetune-operator-progress.finetune-system.svc:8443/v1/progress",
    ca="-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
    since=b.T0,
)
PLACEMENT = {"nodeSelector", "tolerations", "runtimeClassName"}


def build(
    stage: StageName,
    *,
    spec: dict[str, Any] | None = None,
    runtime: dict[str, Any] | None = None,
    job: JobIdentity = JOB,
    digest: str | None = None,
    seconds: int = 14400,
    endpoint: ReportEndpoint | None = None,
) -> dict[str, Any]:
    parsed = FineTuneJobSpec.model_validate(b.job_spec() if spec is None else spec)
    resolved = resolve_runtime(view=b.runtime(runtime), spec=parsed, job=job)
    assert isinstance(resolved, ResolvedRuntime), resolved
    return build_job(
        job=job,
        spec=parsed,
        runtime=resolved,
        stage=stage,
        deadline_seconds=seconds,
        prepared_digest=digest,
        endpoint=endpoint,
    )


def pod(manifest: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = manifest["spec"]["template"]["spec"]
    return spec


def container(manifest: dict[str, Any]) -> dict[str, Any]:
    (only,) = pod(manifest)["containers"]
    found: dict[str, Any] = only
    return found


def told(manifest: dict[str, Any]) -> str:
    env = {entry["name"]: entry.get("value") for entry in container(manifest)["env"]}
    return str(env[ENV_STAGE_INPUT])


# --- golden files -----------------------------------------------------------------------------------------------------

CASES: dict[str, dict[str, Any]] = {
    "prepare": {"stage": "prepare"},
    "train": {"stage": "train", "digest": b.DIGEST},
    "train-with-live-reports": {"stage": "train", "digest": b.DIGEST, "endpoint": ENDPOINT},
    "train-on-cpu": {
        "stage": "train",
        "spec": b.cpu_spec(
            model={"uri": "hf://org/model", "credentialsRef": None},
            dataset={"credentialsRef": None},
            output={"uri": None, "credentialsRef": None},
        ),
        "runtime": {"image": b.IMAGE, "outputPrefix": "s3://results/tuned/"},
    },
    "train-with-everything-at-maximal-length": {
        "stage": "train",
        "spec": b.job_spec(
            model={"credentialsRef": {"name": "m" * 253}},
            serviceAccountName="trainer",
            backoffLimit=100,
            ttlSecondsAfterFinished=60,
        ),
        "runtime": FULL_RUNTIME,
        "job": LONGEST,
        "digest": b.DIGEST,
    },
    "prepare-from-volumes": {"stage": "prepare", "spec": VOLUMES},
    "train-from-volumes": {"stage": "train", "spec": VOLUMES, "digest": b.DIGEST},
    "train-with-model-cache": {
        "stage": "train",
        "runtime": b.runtime_spec(modelCache={"claimName": "models", "maxSize": "500Gi"}),
        "digest": b.DIGEST,
    },
    "train-in-a-queue": {
        "stage": "train",
        "spec": b.job_spec(queueName="team-a-gpu", workloadPriorityClassName="high"),
        "digest": b.DIGEST,
    },
    "prepare-in-the-queue-of-the-runtime": {
        "stage": "prepare",
        "spec": b.job_spec(queueName="team-a-gpu"),
        "runtime": b.runtime_spec(prepareQueueName="cpu"),
    },
    "prepare-at-maximal-length": {"stage": "prepare", "runtime": FULL_RUNTIME, "job": LONGEST},
}


@pytest.mark.parametrize("name", CASES)
def test_the_manifest_is_the_golden_one(name: str) -> None:
    """Run with FINETUNE_UPDATE_GOLDEN=1 to write the files anew, then read the difference."""
    made = yaml.safe_dump(build(**CASES[name]), sort_keys=False, width=1000)
    path = GOLDEN / f"job-{name}.yaml"
    if os.environ.get("FINETUNE_UPDATE_GOLDEN"):
        path.write_text(made)
    assert made == path.read_text()


def test_every_golden_file_belongs_to_a_case() -> None:
    assert {path.name for path in GOLDEN.glob("job-*.yaml")} == {f"job-{name}.yaml" for name in CASES}


def mounted(manifest: dict[str, Any]) -> dict[str, str]:
    """Volume by the path at which the container has it, of those that a URI names."""
    mounts = container(manifest)["volumeMounts"]
    return {m["mountPath"]: m["name"] for m in mounts if m["mountPath"].startswith(DATA_DIR)}


def test_the_train_stage_has_the_models_volume_and_not_that_of_the_rows() -> None:
    assert mounted(build("train", spec=VOLUMES)) == {f"{DATA_DIR}/pvc/models": "claim-0"}


def test_the_one_stage_of_a_job_without_a_gpu_has_both() -> None:
    one = {**VOLUMES, "resources": {"gpusPerNode": 0}}
    assert set(mounted(build("train", spec=one))) == {
        f"{DATA_DIR}/pvc/models",
        f"{DATA_DIR}/pvc/team.rows",
        f"{DATA_DIR}/configmap/rows",
    }


@pytest.mark.parametrize("field", ["configMapRef", "promptsource"])
def test_a_template_in_a_config_map_is_mounted_where_rows_are_read(field: str) -> None:
    ref = {"name": "templates", "key": "t.yaml"}
    own = {"configMapRef": ref} if field == "configMapRef" else {"promptsource": {"name": "n", "configMapRef": ref}}
    spec = b.job_spec(dataset={"template": {"name": None, "columns": None, **own}})
    manifest = build("prepare", spec=spec)
    assert mounted(manifest) == {f"{DATA_DIR}/configmap/templates": "configmap-0"}
    (volume,) = [v["configMap"] for v in pod(manifest)["volumes"] if "configMap" in v]
    assert volume == {"name": "templates", "defaultMode": 0o440, "items": [{"key": "t.yaml", "path": "t.yaml"}]}
    assert mounted(build("train", spec=spec)) == {}


def test_rows_and_template_in_one_config_map_are_one_volume() -> None:
    template = {"name": None, "columns": None, "configMapRef": {"name": "all", "key": "t.yaml"}}
    spec = b.job_spec(dataset={"uri": "configmap://all/rows.csv", "template": template})
    (volume,) = [v["configMap"] for v in pod(build("prepare", spec=spec))["volumes"] if "configMap" in v]
    assert [item["key"] for item in volume["items"]] == ["rows.csv", "t.yaml"]


def test_model_and_rows_on_one_claim_are_mounted_once() -> None:
    spec = b.job_spec(model={"uri": "pvc://all/m/"}, dataset={"uri": "pvc://all/rows.csv"})
    assert mounted(build("prepare", spec=spec)) == {f"{DATA_DIR}/pvc/all": "claim-0"}


@pytest.mark.parametrize("stage", ["prepare", "train"])
def test_what_a_uri_names_is_mounted_for_reading_only(stage: StageName) -> None:
    manifest = build(stage, spec=VOLUMES)
    assert all(m["readOnly"] for m in container(manifest)["volumeMounts"] if m["mountPath"].startswith(DATA_DIR))
    claims = [v["persistentVolumeClaim"] for v in pod(manifest)["volumes"] if "persistentVolumeClaim" in v]
    assert claims
    assert all(claim["readOnly"] for claim in claims)


CACHE = b.runtime_spec(modelCache={"claimName": "models"})


def cache_of(manifest: dict[str, Any]) -> tuple[list[Any], list[Any], bool]:
    """The claims, the writable mounts of them, and whether the trainer is told of a cache."""
    claims = [v["persistentVolumeClaim"] for v in pod(manifest)["volumes"] if "persistentVolumeClaim" in v]
    mounts = [m["mountPath"] for m in container(manifest)["volumeMounts"] if m["name"] == "model-cache"]
    return claims, mounts, StageInput.model_validate_json(told(manifest)).model_cache is not None


@pytest.mark.parametrize("uri", ["s3://models/m/", "hf://org/model"])
def test_the_model_cache_is_mounted_writable_where_weights_are_downloaded(uri: str) -> None:
    spec = b.job_spec(model={"uri": uri})
    mounted_so = ([{"claimName": "models"}], [MODEL_CACHE_DIR], True)
    assert cache_of(build("train", spec=spec, runtime=CACHE)) == mounted_so
    assert cache_of(build("prepare", spec=spec, runtime=CACHE)) == ([], [], False)
    assert cache_of(build("train", spec=b.cpu_spec(model={"uri": uri}), runtime=CACHE)) == mounted_so


def test_a_model_that_is_read_where_it_lies_needs_no_cache() -> None:
    claims, mounts, told_of = cache_of(build("train", spec=b.job_spec(model={"uri": "pvc://m/"}), runtime=CACHE))
    assert (claims, mounts, told_of) == ([{"claimName": "m", "readOnly": True}], [], False)


def test_the_cache_changes_nothing_else_of_the_pod() -> None:
    with_cache, without = pod(build("train", runtime=CACHE)), pod(build("train"))
    assert with_cache["securityContext"] == without["securityContext"]
    (one,), (other,) = with_cache["containers"], without["containers"]
    assert one["securityContext"] == other["securityContext"]
    assert [m for m in one["volumeMounts"] if m["name"] != "model-cache"] == other["volumeMounts"]


# --- what must hold whatever the golden files say ---------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["prepare", "train"])
def test_names_and_labels_fit_even_at_their_maximal_length(stage: StageName) -> None:
    manifest = build(stage, job=LONGEST)
    assert len(manifest["metadata"]["name"]) + len("-x7k2p") <= 63
    assert all(len(value) <= 63 for value in manifest["metadata"]["labels"].values())
    of_pod = manifest["spec"]["template"]["metadata"]["labels"]
    assert manifest["metadata"]["labels"] | {"sidecar.istio.io/inject": "false"} == of_pod


def test_the_first_rule_that_matches_a_failed_pod_is_the_disruption() -> None:
    disruption, resumable, final = build("train")["spec"]["podFailurePolicy"]["rules"]
    assert disruption["action"] == "Ignore"
    assert disruption["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert resumable["action"] == "Ignore"
    assert resumable["onExitCodes"]["values"] == [EXIT_RESUMABLE]
    assert final["action"] == "FailJob"
    assert final["onExitCodes"]["values"] == final_exit_codes()


def test_retried_exit_codes_are_left_to_the_backoff_limit() -> None:
    (final,) = [r for r in build("train")["spec"]["podFailurePolicy"]["rules"] if r["action"] == "FailJob"]
    assert {0, 1, 30, 31, 33}.isdisjoint(final["onExitCodes"]["values"])


@pytest.mark.parametrize("stage", ["prepare", "train"])
def test_the_pod_passes_the_restricted_pod_security_standard(stage: StageName) -> None:
    """The rules of Kubernetes' Pod Security Standards, profile Restricted."""
    spec, main = pod(build(stage, runtime=FULL_RUNTIME)), container(build(stage, runtime=FULL_RUNTIME))
    assert {"hostNetwork", "hostPID", "hostIPC", "initContainers", "ephemeralContainers"}.isdisjoint(spec)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert main["securityContext"]["allowPrivilegeEscalation"] is False
    assert main["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert "privileged" not in main["securityContext"]
    assert "ports" not in main
    assert {next(k for k in volume if k != "name") for volume in spec["volumes"]} <= {"emptyDir", "secret"}


def test_the_pod_gets_no_api_credential_and_no_service_addresses() -> None:
    spec = pod(build("train"))
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False


def test_only_train_asks_for_a_gpu() -> None:
    prepare, train = build("prepare", runtime=FULL_RUNTIME), build("train", runtime=FULL_RUNTIME)
    assert "amd.com/gpu" not in container(prepare)["resources"]["limits"]
    assert container(train)["resources"]["limits"]["amd.com/gpu"] == "1"


@pytest.mark.parametrize("stage", ["prepare", "train"])
def test_each_stage_goes_to_the_nodes_that_the_runtime_names_for_it(stage: StageName) -> None:
    placed = pod(build(stage, runtime=FULL_RUNTIME))
    assert {field: placed[field] for field in PLACEMENT} == {
        "nodeSelector": FULL_RUNTIME[stage]["nodeSelector"],
        "tolerations": FULL_RUNTIME[stage]["tolerations"],
        "runtimeClassName": FULL_RUNTIME[stage]["runtimeClassName"],
    }


def test_a_stage_of_which_the_runtime_says_nothing_goes_to_any_node() -> None:
    assert PLACEMENT.isdisjoint(pod(build("prepare")))


def test_the_only_stage_of_a_job_on_the_cpu_goes_where_training_goes() -> None:
    alone = pod(build("train", spec=b.cpu_spec(), runtime=FULL_RUNTIME))
    assert alone["nodeSelector"] == {"gpu": "a100"}
    assert alone["runtimeClassName"] == "nvidia"


MESHES = {"sidecar.istio.io/inject", "linkerd.io/inject"}


def asked_of_meshes(manifest: dict[str, Any]) -> dict[str, str]:
    """What the pod tells injectors, in labels and annotations together."""
    metadata = manifest["spec"]["template"]["metadata"]
    return {key: value for part in ("labels", "annotations") for key, value in metadata[part].items() if key in MESHES}


@pytest.mark.parametrize("stage", ["prepare", "train"])
def test_pods_ask_service_meshes_for_no_proxy(stage: StageName) -> None:
    assert asked_of_meshes(build(stage)) == {"sidecar.istio.io/inject": "false", "linkerd.io/inject": "disabled"}


@pytest.mark.parametrize("stage", ["prepare", "train"])
def test_a_runtime_may_leave_it_to_the_mesh_and_nothing_else_of_the_pod_changes(stage: StageName) -> None:
    declined = build(stage)
    allowed = build(stage, runtime=b.runtime_spec(sidecarInjection="Allowed"))
    assert asked_of_meshes(allowed) == {}
    for part in ("labels", "annotations"):
        metadata = declined["spec"]["template"]["metadata"]
        metadata[part] = {key: value for key, value in metadata[part].items() if key not in MESHES}
    assert allowed == declined


def test_a_job_on_the_cpu_asks_for_no_gpu() -> None:
    assert "nvidia.com/gpu" not in container(build("train", spec=b.cpu_spec()))["resources"]["limits"]


@pytest.mark.parametrize("stage", ["prepare", "train"])
def test_requests_equal_limits(stage: StageName) -> None:
    resources = container(build(stage))["resources"]
    assert resources["requests"] == resources["limits"]


def test_secrets_are_mounted_read_only_and_apart_by_role() -> None:
    spec = b.job_spec(model={"credentialsRef": {"name": "hf-token"}}, dataset={"credentialsRef": None})
    manifest = build("train", spec=spec)
    mounts = {m["name"]: m for m in container(manifest)["volumeMounts"] if m["name"].startswith("credentials")}
    assert {name: mount["mountPath"] for name, mount in mounts.items()} == {
        "credentials-model": f"{CREDENTIALS_DIR}/model",
        "credentials-output": f"{CREDENTIALS_DIR}/output",
    }
    assert all(mount["readOnly"] for mount in mounts.values())
    secrets = {v["name"]: v["secret"] for v in pod(manifest)["volumes"] if "secret" in v}
    assert secrets["credentials-model"] == {"secretName": "hf-token", "defaultMode": 0o440}


def test_no_secret_is_an_environment_variable() -> None:
    assert all("secretKeyRef" not in str(entry) for entry in container(build("train"))["env"])


@pytest.mark.parametrize(("seconds", "expected"), [(14400, 14400), (1, 1), (0, 1), (-5, 1)])
def test_a_deadline_is_always_set(seconds: int, expected: int) -> None:
    assert build("train", seconds=seconds)["spec"]["activeDeadlineSeconds"] == expected


@pytest.mark.parametrize("word", ["$(FINETUNE_POD_UID)", "$$", "price: $5", "$", "\\$(X)", "\\u0024"])
def test_kubernetes_finds_no_dollar_sign_to_expand(word: str) -> None:
    spec = b.job_spec(
        dataset={"template": {"name": None, "columns": None, "inline": {"prompt": word, "completion": "x"}}}
    )
    text = told(build("train", spec=spec))
    assert "$" not in text
    template = StageInput.model_validate_json(text).spec.dataset.template
    assert template.inline is not None
    assert template.inline.prompt == word


def test_the_document_fits_into_one_line_of_an_environment() -> None:
    assert "\n" not in told(build("train"))


# --- a queue ----------------------------------------------------------------------------------------------------------


def test_the_pods_of_a_job_in_a_queue_are_not_marked_for_it() -> None:
    """Kueue's integration with plain pods would queue each of them a second time."""
    made = build("train", spec=b.job_spec(queueName="team-a-gpu", workloadPriorityClassName="high"))
    assert made["spec"]["template"] == build("train", spec=b.job_spec())["spec"]["template"] | {
        "spec": made["spec"]["template"]["spec"]
    }


def test_a_job_without_a_queue_stands_in_none_though_its_runtime_names_one() -> None:
    made = build("prepare", runtime=b.runtime_spec(prepareQueueName="cpu"))
    assert made == build("prepare")


def test_the_stage_that_trains_stands_in_the_jobs_own_queue() -> None:
    spec = b.job_spec(queueName="team-a-gpu")
    made = build("train", spec=spec, runtime=b.runtime_spec(prepareQueueName="cpu"))
    assert made["metadata"]["labels"][LABEL_QUEUE] == "team-a-gpu"


# --- injection --------------------------------------------------------------------------------------------------------


def skeleton(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest with the leaves that follow from the spec replaced by a mark."""
    made = copy.deepcopy(manifest)
    for field in ("backoffLimit", "ttlSecondsAfterFinished"):
        made["spec"][field] = "*"
    if "serviceAccountName" in pod(made):
        pod(made)["serviceAccountName"] = "*"
    if LABEL_QUEUE in made["metadata"]["labels"]:
        made["metadata"]["labels"][LABEL_QUEUE] = made["metadata"]["annotations"][ANNOTATION_QUEUE] = "*"
    for volume in pod(made)["volumes"]:
        if "secret" in volume:
            volume["secret"]["secretName"] = "*"
    for entry in container(made)["env"]:
        if entry["name"] == ENV_STAGE_INPUT:
            entry["value"] = "*"
    return made


@settings(max_examples=150, deadline=None)
@given(specs, st.sampled_from(["prepare", "train"]))
def test_no_valid_spec_changes_anything_but_the_known_leaves(spec: dict[str, Any], stage: StageName) -> None:
    runtime = b.runtime_spec(allowedServiceAccounts=[spec.get("serviceAccountName", "unused")])
    runtime["limits"] = {"activeDeadlineSeconds": 31536000}
    # The shape follows from which references are given and from gpusPerNode, and from nothing else.
    plain = b.job_spec(resources=spec["resources"])
    for block in ("model", "dataset", "output"):
        plain[block]["credentialsRef"] = {"name": "plain"}
        if "credentialsRef" not in spec[block]:
            del plain[block]["credentialsRef"]
    if "queueName" in spec:
        plain["queueName"] = "plain"
    if "serviceAccountName" in spec:
        plain["serviceAccountName"] = spec["serviceAccountName"]
    made = build(stage, spec=spec, runtime=runtime)
    assert skeleton(made) == skeleton(build(stage, spec=plain, runtime=runtime))
    assert made["spec"]["backoffLimit"] == spec["backoffLimit"]
    assert "ttlSecondsAfterFinished" not in made["spec"]
    assert pod(made).get("serviceAccountName") == spec.get("serviceAccountName")
    wanted = {
        r: spec[r]["credentialsRef"]["name"] for r in ("model", "dataset", "output") if "credentialsRef" in spec[r]
    }
    secrets = {v["name"]: v["secret"]["secretName"] for v in pod(made)["volumes"] if "secret" in v}
    assert secrets == {f"credentials-{role}": name for role, name in wanted.items()}


@settings(max_examples=150, deadline=None)
@given(specs)
def test_the_stage_reads_exactly_the_spec_that_the_user_wrote(spec: dict[str, Any]) -> None:
    runtime = b.runtime_spec(allowedServiceAccounts=[spec.get("serviceAccountName", "unused")])
    runtime["limits"] = {"activeDeadlineSeconds": 31536000}
    text = told(build("train", spec=spec, runtime=runtime))
    assert "$" not in text
    assert json.loads(text)["job"]["uid"] == b.UID
    assert StageInput.model_validate_json(text).spec == FineTuneJobSpec.model_validate(spec)


def test_the_container_is_named_as_the_failure_policy_names_it() -> None:
    assert container(build("train"))["name"] == CONTAINER


@pytest.mark.parametrize("stage", ["prepare", "train"])
def test_an_adapter_has_its_own_secret_and_its_volume_in_both_stages(stage: StageName) -> None:
    adapter = {"uri": "pvc://adapters/a/", "credentialsRef": {"name": "team-a-adapters"}}
    manifest = build(stage, spec=b.job_spec(model={"adapter": adapter}))
    secrets = {v["name"]: v["secret"]["secretName"] for v in pod(manifest)["volumes"] if "secret" in v}
    assert secrets["credentials-adapter"] == "team-a-adapters"
    assert secrets["credentials-model"] == "team-a-s3"
    paths = {m["name"]: m["mountPath"] for m in container(manifest)["volumeMounts"]}
    assert paths["credentials-adapter"] == f"{CREDENTIALS_DIR}/adapter"
    assert paths["claim-0"] == f"{DATA_DIR}/pvc/adapters"


# --- live reports -----------------------------------------------------------------------------------------------------


def test_without_reports_a_pod_has_no_token_at_all() -> None:
    assert "serviceAccountToken" not in json.dumps(build("train"))
    assert pod(build("train", endpoint=ENDPOINT))["automountServiceAccountToken"] is False


def test_the_stage_that_prepares_reports_nothing() -> None:
    assert build("prepare", endpoint=ENDPOINT) == build("prepare")


def test_a_runtime_that_forbids_reports_changes_nothing_of_a_pod() -> None:
    disabled = b.runtime_spec(progress="Disabled")
    assert build("train", runtime=disabled, endpoint=ENDPOINT) == build("train")


def test_the_token_is_good_for_reports_alone_and_not_for_long() -> None:
    (volume,) = [v for v in pod(build("train", endpoint=ENDPOINT))["volumes"] if "projected" in v]
    token = volume["projected"]["sources"][0]["serviceAccountToken"]
    assert token == {"audience": "finetune.dev/progress", "expirationSeconds": 3600, "path": "token"}
