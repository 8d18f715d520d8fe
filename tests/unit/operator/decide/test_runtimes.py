"""What a FineTuneRuntime allows a job, and the snapshot that the job keeps."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.job import FineTuneJobSpec
from finetune_api.runtime import ResolvedRuntime, Storage
from finetune_api.stage import JobIdentity
from finetune_operator.decide.runtimes import Refusal, deadline_seconds, resolve_runtime, runtime_for
from tests.support import builders as b

JOB = JobIdentity(namespace=b.NAMESPACE, name=b.NAME, uid=b.UID)


def resolve(runtime: dict[str, Any], spec: dict[str, Any] | None = None) -> ResolvedRuntime | Refusal:
    parsed = FineTuneJobSpec.model_validate(b.job_spec() if spec is None else spec)
    return resolve_runtime(view=b.runtime(runtime), spec=parsed, job=JOB)


def resolved(runtime: dict[str, Any], spec: dict[str, Any] | None = None) -> ResolvedRuntime:
    outcome = resolve(runtime, spec)
    assert isinstance(outcome, ResolvedRuntime), outcome
    return outcome


def refused(runtime: dict[str, Any], spec: dict[str, Any] | None = None) -> tuple[str, str]:
    outcome = resolve(runtime, spec)
    assert isinstance(outcome, Refusal), outcome
    return outcome.reason.value, outcome.message


def test_the_snapshot_repeats_what_the_runtime_says() -> None:
    runtime = b.runtime_spec(
        imagePullSecrets=[{"name": "pull"}],
        prepare={"nodeSelector": {"pool": "cpu"}},
        train={"runtimeClassName": "nvidia"},
        sidecarInjection="Allowed",
        progress="Disabled",
        terminationGracePeriodSeconds=90,
    )
    snapshot = resolved(runtime)
    assert snapshot.to_wire() == {
        "name": "default",
        "generation": 3,
        "image": b.IMAGE,
        "imagePullSecrets": [{"name": "pull"}],
        "prepare": {
            "nodeSelector": {"pool": "cpu"},
            "tolerations": [],
            "resources": {"cpu": "1", "memory": "4Gi", "ephemeralStorage": "10Gi"},
        },
        "train": {
            "nodeSelector": {"gpu": "a100"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            "runtimeClassName": "nvidia",
            "resources": {"cpu": "2", "memory": "8Gi", "ephemeralStorage": "20Gi"},
        },
        "gpuResourceName": "nvidia.com/gpu",
        "simulatedGpus": False,
        "sidecarInjection": "Allowed",
        "progress": "Disabled",
        "terminationGracePeriodSeconds": 90,
        "storage": {
            "dataset": {
                "prefix": "s3://team-a-data/",
                "endpoint": "http://s3.example.com:9000",
                "addressingStyle": "Auto",
            }
        },
        "outputUri": "s3://team-a-models/support-intent/",
        "activeDeadlineSeconds": 86400,
        "pendingTimeoutSeconds": 600,
        "stallTimeoutSeconds": 3600,
    }


def test_the_longest_prefix_wins_whatever_the_order() -> None:
    wide, narrow = {"prefix": "s3://team-a-data", "region": "wide"}, {"prefix": "s3://team-a-data/eu/", "region": "eu"}
    spec = b.job_spec(dataset={"uri": "s3://team-a-data/eu/rows.jsonl"})
    for entries in ([wide, narrow], [narrow, wide]):
        storage = resolved(b.runtime_spec(storage=entries), spec).storage.dataset
        assert storage is not None
        assert storage.region == "eu"


def test_each_role_gets_the_entry_of_its_own_uri() -> None:
    entries = [
        {"prefix": "s3://models/", "region": "m"},
        {"prefix": "s3://team-a-data/", "region": "d"},
        {"prefix": "s3://team-a-models/", "region": "o"},
        {"prefix": "s3://unused/", "region": "u"},
    ]
    storage = resolved(b.runtime_spec(storage=entries)).storage
    assert [entry and entry.region for entry in (storage.model, storage.dataset, storage.output)] == ["m", "d", "o"]


def test_a_prefix_without_a_slash_does_not_cover_a_bucket_with_a_longer_name() -> None:
    entries = [{"prefix": "s3://team-a", "region": "x"}]
    assert resolved(b.runtime_spec(storage=entries)).storage.dataset is None


def test_files_in_two_stores_are_refused() -> None:
    files = {"train": "s3://team-a-data/train.jsonl", "test": "s3://elsewhere/test.jsonl"}
    spec = b.job_spec(dataset={"uri": None, "files": files, "split": {"trainPercent": 90, "validationPercent": 10}})
    reason, message = refused(b.runtime_spec(), spec)
    assert reason == "InvalidSpec"
    assert "dataset.files.test" in message


DIGEST = {"digest": "sha256:" + "a" * 64}
OF_ANY_SCHEME = [
    ("hf://datasets/org/rows/en@v1#train", "hf://datasets/org/rows", "hf://datasets/org/row"),
    ("hf://datasets/org/rows@v1", "hf://datasets/org/rows@v1", "hf://datasets/org/rows@v2"),
    ("pvc://rows/in/", "pvc://rows/", "pvc://row/"),
    ("configmap://few/rows.csv", "configmap://few", "configmap://fe"),
    ("https://host/a/rows.csv", "https://host/a/", "https://host/b/"),
    ("https://host.evil/a/rows.csv", "https://", "https://host"),
]


@pytest.mark.parametrize(("uri", "covers", "another"), OF_ANY_SCHEME)
def test_allowed_prefixes_hold_for_every_scheme(uri: str, covers: str, another: str) -> None:
    spec = b.job_spec(dataset={"uri": uri, **(DIGEST if uri.startswith("https") else {})})
    rest = ["s3://models/", "s3://team-a-models/"]
    assert resolved(b.runtime_spec(allowedUriPrefixes=[*rest, covers]), spec)
    reason, message = refused(b.runtime_spec(allowedUriPrefixes=[*rest, another]), spec)
    assert (reason, f"dataset.uri {uri}" in message) == ("NotPermitted", True)


def test_what_is_mounted_lies_in_no_store_and_may_stand_beside_one() -> None:
    files = {"train": "s3://team-a-data/train.jsonl", "test": "pvc://rows/test.jsonl"}
    dataset = {"uri": None, "files": files, "split": {"trainPercent": 90, "validationPercent": 10, "testPercent": 0}}
    storage = resolved(b.runtime_spec(), b.job_spec(dataset=dataset)).storage.dataset
    assert storage is not None
    assert storage.prefix == "s3://team-a-data/"
    assert resolved(b.runtime_spec(), b.job_spec(dataset={"uri": "pvc://rows/a.csv"})).storage.dataset is None


HUB = "hf://datasets/org/rows#train"
S3 = {"prefix": "s3://team-a-data/", "endpoint": "https://s3.example"}
MIRROR = {"prefix": "hf://", "endpoint": "https://hub.example"}


@pytest.mark.parametrize(
    ("storage", "prefix"),
    [([S3], "s3://team-a-data/"), ([MIRROR], "hf://"), ([], None)],
    ids=["own S3, public hub", "public S3, own hub", "both public"],
)
def test_sources_on_the_hub_and_in_s3_share_the_one_entry_that_is_not_public(
    storage: list[dict[str, str]], prefix: str | None
) -> None:
    dataset = {"uri": None, "sources": [{"uri": HUB}, {"uri": "s3://team-a-data/a.jsonl"}]}
    found = resolved(b.runtime_spec(storage=storage), b.job_spec(dataset=dataset)).storage.dataset
    assert (found.prefix if found else None) == prefix


def test_sources_in_two_stores_that_are_not_public_are_refused() -> None:
    dataset = {"uri": None, "sources": [{"uri": HUB}, {"uri": "s3://team-a-data/a.jsonl"}]}
    reason, message = refused(b.runtime_spec(storage=[S3, MIRROR]), b.job_spec(dataset=dataset))
    assert reason == "InvalidSpec"
    assert "dataset.sources[1].uri lies in another store than dataset.sources[0].uri" in message


def test_a_hub_of_the_platform_reaches_the_stage_for_rows_too() -> None:
    spec = b.job_spec(dataset={"uri": "hf://datasets/org/rows@v1"})
    assert resolved(b.runtime_spec(storage=[MIRROR]), spec).storage.dataset == Storage(**MIRROR)


def test_the_certificates_of_a_web_server_reach_the_stage() -> None:
    entry = {"prefix": "https://host/", "caBundle": "-----BEGIN CERTIFICATE-----"}
    spec = b.job_spec(dataset={"uri": "https://host/rows.csv", **DIGEST})
    storage = resolved(b.runtime_spec(storage=[entry]), spec).storage.dataset
    assert storage is not None
    assert storage.ca_bundle == entry["caBundle"]


def test_output_goes_where_the_job_says() -> None:
    assert resolved(b.runtime_spec()).output_uri == "s3://team-a-models/support-intent/"


@pytest.mark.parametrize("prefix", ["s3://results/tuned/", "s3://results/tuned"])
def test_output_without_a_uri_goes_below_the_runtimes_prefix(prefix: str) -> None:
    spec = b.job_spec(output={"uri": None})
    assert resolved(b.runtime_spec(outputPrefix=prefix), spec).output_uri == "s3://results/tuned/team-a/support-intent/"


@pytest.mark.parametrize("prefix", [None, "hf://team-a/results", "s3://results/" + "x" * 1000])
def test_output_without_a_uri_and_without_a_usable_prefix_is_refused(prefix: str | None) -> None:
    reason, message = refused(b.runtime_spec(outputPrefix=prefix), b.job_spec(output={"uri": None}))
    assert reason == "InvalidSpec"
    assert message.startswith("output.uri is needed")


@pytest.mark.parametrize(
    ("runtime", "spec", "words"),
    [
        ({"allowedNamespaces": ["team-b"]}, {}, "namespace team-a"),
        ({"allowedNamespaces": []}, {}, "namespace team-a"),
        ({}, {"serviceAccountName": "admin"}, "serviceAccountName admin"),
        ({"allowedServiceAccounts": ["trainer"]}, {"serviceAccountName": "admin"}, "serviceAccountName admin"),
        ({"limits": {"gpusPerNode": 0}}, {}, "resources.gpusPerNode is 1"),
        ({"limits": {"activeDeadlineSeconds": 600}}, {"activeDeadlineSeconds": 601}, "activeDeadlineSeconds is 601"),
        ({"allowedUriPrefixes": ["s3://team-a-data/", "s3://team-a-models/"]}, {}, "model.uri"),
        ({"allowedUriPrefixes": ["s3://models/", "s3://team-a-models/"]}, {}, "dataset.uri"),
        ({"allowedUriPrefixes": ["s3://models/", "s3://team-a-data/"]}, {}, "output.uri"),
        ({"allowedUriPrefixes": ["s3://models/", "s3://team-a", "s3://team-a-models/"]}, {}, "dataset.uri"),
        ({"allowedUriPrefixes": []}, {}, "model.uri"),
    ],
)
def test_what_the_runtime_does_not_allow_is_refused_by_field(
    runtime: dict[str, Any], spec: dict[str, Any], words: str
) -> None:
    reason, message = refused(b.runtime_spec(**runtime), b.job_spec(**spec))
    assert reason == "NotPermitted"
    assert words in message
    assert "default" in message


OTHERS = {"uri": None, "files": {"train": "s3://team-a-data/train.jsonl", "test": "s3://elsewhere/test.jsonl"}}


@pytest.mark.parametrize(
    ("runtime", "spec", "platform", "user"),
    [
        ({"allowedNamespaces": []}, {}, "namespace to allowedNamespaces", "with another runtimeRef.name"),
        ({}, {"serviceAccountName": "admin"}, "to add it", "without serviceAccountName"),
        ({"limits": {"gpusPerNode": 0}}, {}, "to raise limits.gpusPerNode", "with at most 0"),
        (
            {"limits": {"activeDeadlineSeconds": 600}},
            {"activeDeadlineSeconds": 601},
            "to raise limits.activeDeadlineSeconds",
            "with at most 600",
        ),
        ({"allowedUriPrefixes": []}, {}, "to add the prefix", "with a URI below one of them"),
        ({"outputPrefix": None}, {"output": {"uri": None}}, "", "with a folder such as s3://bucket/name/"),
        ({"outputPrefix": "hf://a/b"}, {"output": {"uri": None}}, "", "with a folder such as s3://bucket/name/"),
        ({}, {"dataset": {**OTHERS, "split": {"trainPercent": 90, "validationPercent": 10}}}, "", ""),
    ],
)
def test_no_mend_asks_for_an_edit_of_spec_which_the_api_server_refuses(
    runtime: dict[str, Any], spec: dict[str, Any], platform: str, user: str
) -> None:
    reason, message = refused(b.runtime_spec(**runtime), b.job_spec(**spec))
    assert f"delete the job and apply it anew {user}".strip() in message
    assert ("ask its owner" in message) is (reason == "NotPermitted")
    assert platform in message


def test_a_template_in_a_config_map_is_text_of_the_job_and_needs_no_prefix() -> None:
    template = {"name": None, "columns": None, "configMapRef": {"name": "templates", "key": "t.yaml"}}
    allowed = ["s3://models/", "s3://team-a-data/", "s3://team-a-models/"]
    runtime = resolved(b.runtime_spec(allowedUriPrefixes=allowed), b.job_spec(dataset={"template": template}))
    assert runtime.name == "default"


def test_the_file_of_a_template_is_checked_against_the_allowed_prefixes() -> None:
    template = {"name": None, "columns": None, "promptsource": {"uri": "s3://elsewhere/t.yaml", "name": "n"}}
    spec = b.job_spec(dataset={"template": template})
    allowed = ["s3://models/", "s3://team-a-data/", "s3://team-a-models/"]
    reason, message = refused(b.runtime_spec(allowedUriPrefixes=allowed), spec)
    assert reason == "NotPermitted"
    assert "dataset.template.promptsource.uri s3://elsewhere/t.yaml" in message


@pytest.mark.parametrize(
    ("part", "split"),
    [
        ("train", {}),
        ("validation", {"trainPercent": 90, "testPercent": 10}),
        ("test", {"trainPercent": 90, "validationPercent": 10}),
    ],
)
def test_every_file_of_the_dataset_is_checked_against_the_allowed_prefixes(part: str, split: dict[str, int]) -> None:
    files = {"train": "s3://team-a-data/train.jsonl", part: "s3://elsewhere/rows.jsonl"}
    spec = b.job_spec(dataset={"uri": None, "files": files, "split": split})
    allowed = ["s3://models/", "s3://team-a-data/", "s3://team-a-models/"]
    reason, message = refused(b.runtime_spec(allowedUriPrefixes=allowed), spec)
    assert reason == "NotPermitted"
    assert f"dataset.files.{part}" in message


@pytest.mark.parametrize(
    ("runtime", "spec"),
    [
        ({"allowedNamespaces": ["team-a"]}, {}),
        ({"allowedServiceAccounts": ["trainer"]}, {"serviceAccountName": "trainer"}),
        ({"limits": {"activeDeadlineSeconds": 600}}, {"activeDeadlineSeconds": 600}),
        ({"allowedUriPrefixes": ["s3://models/", "s3://team-a-data/intents.jsonl", "s3://team-a-models"]}, {}),
        ({"allowedUriPrefixes": ["s3://models/", "s3://team-a-data/"]}, {"output": {"uri": None}}),
    ],
)
def test_what_the_runtime_allows_is_resolved(runtime: dict[str, Any], spec: dict[str, Any]) -> None:
    resolved(b.runtime_spec(**runtime), b.job_spec(**spec))


def test_a_runtime_that_can_not_be_read_counts_as_not_there_and_names_its_fault() -> None:
    reason, message = refused(b.runtime_spec(image="trainer:latest"))
    assert reason == "RuntimeNotFound"
    assert "image must name a digest" in message


@pytest.mark.parametrize(
    ("old", "field"),
    [
        ({"nodeSelector": {"gpu": "a100"}}, "nodeSelector"),
        ({"tolerations": [{"key": "gpu", "operator": "Exists"}]}, "tolerations"),
        ({"runtimeClassName": "nvidia"}, "runtimeClassName"),
        ({"resources": {"train": {"cpu": "2", "memory": "16Gi"}}}, "resources"),
    ],
)
def test_a_runtime_of_an_earlier_version_is_waited_for_and_the_message_says_where_its_field_belongs(
    old: dict[str, Any], field: str
) -> None:
    reason, message = refused(b.runtime_spec(**old))
    assert reason == "RuntimeNotFound"
    assert message == (
        f"FineTuneRuntime default can't be used: {field} has moved; write train.{field} (and prepare.{field})"
    )


def test_a_runtime_of_an_earlier_version_that_said_nothing_in_those_fields_goes_on() -> None:
    """The API server had filled them in, and they are stored."""
    amounts = {
        "prepare": {"cpu": "1", "memory": "4Gi", "ephemeralStorage": "10Gi"},
        "train": {"cpu": "2", "memory": "8Gi", "ephemeralStorage": "20Gi"},
    }
    old = b.runtime_spec(nodeSelector={}, tolerations=[], resources=amounts)
    assert resolved(old) == resolved(b.runtime_spec())


def test_a_fault_of_one_stage_is_told_with_the_stage() -> None:
    _, message = refused(b.runtime_spec(prepare={"nodeSelector": {"no label": "x"}}))
    assert "prepare: nodeSelector has a key that is no label" in message


def test_a_snapshot_of_an_earlier_version_has_the_defaults_of_what_it_does_not_name() -> None:
    wire = resolved(b.runtime_spec()).to_wire()
    assert wire.pop("sidecarInjection") == "Declined"
    assert wire.pop("progress") == "Enabled"
    known = ResolvedRuntime.model_validate(wire)
    assert (known.sidecar_injection, known.progress) == ("Declined", "Enabled")


@pytest.mark.parametrize(("own", "runtimes", "expected"), [(None, 500, 500), (300, 500, 300), (900, 500, 500)])
def test_a_job_has_its_own_deadline_within_the_runtimes(own: int | None, runtimes: int, expected: int) -> None:
    spec = FineTuneJobSpec.model_validate(b.job_spec(activeDeadlineSeconds=own))
    runtime = resolved(b.runtime_spec()).model_copy(update={"active_deadline_seconds": runtimes})
    assert deadline_seconds(spec, runtime) == expected


URGENCY = {"name": "urgency", "document": "name: urgency"}
OTHER = {"name": "tone", "document": "name: tone"}
CONFIG_MAP = {"name": "templates", "key": "t.yaml"}


def named(template: str) -> dict[str, Any]:
    return b.job_spec(dataset={"template": {"name": template, "columns": None}})


def test_the_snapshot_keeps_the_one_template_that_the_job_names() -> None:
    runtime = b.runtime_spec(templates=[OTHER, URGENCY])
    assert resolved(runtime, named("urgency")).to_wire()["template"] == URGENCY
    for spec in (named("topic"), b.job_spec(dataset={"template": {"name": None, "configMapRef": CONFIG_MAP}})):
        assert "template" not in resolved(runtime, spec).to_wire()


def test_a_template_that_nobody_has_is_waited_for_and_the_runtimes_are_named() -> None:
    reason, message = refused(b.runtime_spec(templates=[OTHER, URGENCY]), named("urgent"))
    assert reason == "NotPermitted"
    assert message == (
        "dataset.template.name urgent is none of the library's templates (did you mean urgency?), and FineTuneRuntime "
        "default has only tone, urgency; ask its owner to add it to templates, or delete the job and apply it anew "
        "with a name that is there"
    )


def test_a_mistyped_name_of_the_library_is_told_with_the_right_one() -> None:
    _, message = refused(b.runtime_spec(), named("sentimnt"))
    assert "(did you mean sentiment?)" in message
    assert "has none of its own" in message


def test_the_longest_template_and_the_longest_choices_fit_into_a_pod_together() -> None:
    spec = named("urgency")
    spec["dataset"]["template"]["choices"] = [f"{i:03}{'c' * 125}" for i in range(256)]
    longest = URGENCY | {"document": "字" * 8192}
    runtime = b.runtime(b.runtime_spec(templates=[longest]))
    kept = runtime_for(FineTuneJobSpec.model_validate(spec), JOB, view=runtime, kept=None, begun=False)
    assert isinstance(kept, ResolvedRuntime)
    assert kept.to_wire()["template"] == longest


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("model.uri", {"model": {"uri": "pvc://models/finetune.dev/v1/models/x/", "credentialsRef": None}}),
        ("dataset.uri", {"dataset": {"uri": "pvc://models/rows.jsonl"}}),
        (
            "dataset.template.promptsource.uri",
            {
                "dataset": {
                    "template": {
                        "name": None,
                        "columns": None,
                        "promptsource": {"uri": "pvc://models/a.yaml", "name": "n"},
                    }
                }
            },
        ),
    ],
)
def test_nobody_reads_the_cached_models_of_others_by_a_uri(field: str, changes: dict[str, Any]) -> None:
    reason, message = refused(b.runtime_spec(modelCache={"claimName": "models"}), b.job_spec(**changes))
    assert reason == "NotPermitted"
    assert message.startswith(f"{field} pvc://models/")
    assert "lies on the volume of modelCache of FineTuneRuntime default" in message
    assert resolved(b.runtime_spec(modelCache={"claimName": "model"}), b.job_spec(**changes))


@pytest.mark.parametrize(("size", "count"), [("1M", 10**6), ("3Gi", 3 * 2**30), ("2T", 2 * 10**12), ("7Mi", 7 * 2**20)])
def test_the_size_of_the_cache_is_in_the_units_of_kubernetes(size: str, count: int) -> None:
    cache = resolved(b.runtime_spec(modelCache={"claimName": "m", "maxSize": size})).model_cache
    assert cache is not None
    assert cache.max_bytes == count


ADAPTER = {"adapter": {"uri": "s3://adapters/a/", "credentialsRef": {"name": "team-a-adapters"}}}


def test_the_adapter_is_checked_against_the_allowed_prefixes() -> None:
    allowed = ["s3://models/", "s3://team-a-data/", "s3://team-a-models/"]
    reason, message = refused(b.runtime_spec(allowedUriPrefixes=allowed), b.job_spec(model=ADAPTER))
    assert (reason, "model.adapter.uri s3://adapters/a/" in message) == ("NotPermitted", True)
    assert resolved(b.runtime_spec(allowedUriPrefixes=[*allowed, "s3://adapters/"]), b.job_spec(model=ADAPTER))


def test_the_adapter_gets_the_entry_of_its_own_uri() -> None:
    entries = [{"prefix": "s3://adapters/", "region": "a"}, {"prefix": "s3://models/", "region": "m"}]
    storage = resolved(b.runtime_spec(storage=entries), b.job_spec(model=ADAPTER)).storage
    assert [entry and entry.region for entry in (storage.model, storage.adapter)] == ["m", "a"]
    assert resolved(b.runtime_spec(storage=entries)).storage.adapter is None
