"""specDigest: the same for the same question, another one for another question, blind to the rest."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_api.digest import canonical_json, sha256_digest, spec_digest
from finetune_api.job import FineTuneJobSpec
from tests.support.casekit import MINIMAL, edited

JOB = MINIMAL["FineTuneJob"]
GOLDEN = "sha256:e6f8c853e55a5b9cca67998b2b7fc885141135ab6e753946d0abaa62801d001e"
FILES = {"dataset.files.train": "s3://bucket/t.csv", "dataset.uri": None}


def _digest(**edits: Any) -> str:
    return spec_digest(FineTuneJobSpec.model_validate(edited(JOB, edits)))


def test_the_digest_is_stable_over_releases() -> None:
    """A changed digest makes every stored result look foreign: bump it on purpose only."""
    assert _digest() == GOLDEN


def test_defaults_written_out_change_nothing() -> None:
    whole = FineTuneJobSpec.model_validate(JOB).to_wire()
    assert spec_digest(FineTuneJobSpec.model_validate(whole)) == _digest()


def test_the_order_of_keys_changes_nothing() -> None:
    columns = {"dataset.template.columns": {"text": "a", "label": "b"}}
    turned = {"dataset.template.columns": {"label": "b", "text": "a"}}
    assert _digest(**columns) == _digest(**turned)
    backwards = json.loads(json.dumps(JOB, sort_keys=True))
    assert spec_digest(FineTuneJobSpec.model_validate(dict(reversed(backwards.items())))) == _digest()


@pytest.mark.parametrize(
    "edits",
    [
        {"dataset.template.paraphrases": "Default"},
        {"training.lora": {}},
        {"training.lora": {"rank": 16, "alpha": 32}},
        {"training.lora": {"useDora": False, "useRslora": False, "initLoraWeights": "Kaiming"}},
        {"output.export": "Adapter"},
        {"training.scheduler": "Cosine", "training.warmupPercent": "5.0", "training.validation": {}},
        {"training.optimizer": "AdamW", "training.weightDecay": "0.0", "training.maxGradNorm": "1e0"},
    ],
    ids=str,
)
def test_what_would_be_chosen_anyway_changes_nothing(edits: dict[str, Any]) -> None:
    assert _digest(**edits) == _digest()


def test_to_keep_thoughts_is_what_a_block_of_messages_said_before() -> None:
    block = {"learn": "Last"}
    before, kept = (
        _digest(**{"dataset.template": {"name": "messages", "messages": messages}})
        for messages in (block, {**block, "thinking": "Keep"})
    )
    assert before == kept == "sha256:dbc10b52b41b72669877ff9ac8567d0a1d6aef78d2d4cab572508cbae1569f33"


def test_the_export_of_a_full_tuning_is_the_model() -> None:
    full = {"training.method": "Full"}
    assert _digest(**full) == _digest(**full, **{"output.export": "Model"})


COVERED: list[dict[str, Any]] = [
    {"model.uri": "hf://org/other"},
    {"model.revision": "main"},
    {"dataset.uri": "s3://bucket/other.jsonl"},
    FILES,
    FILES | {"dataset.files.validation": "s3://bucket/v.csv"},
    FILES | {"dataset.files.test": "s3://bucket/e.csv"},
    {"dataset.uri": "s3://bucket/rows/"},
    *({"dataset.uri": f"hf://datasets/org/name{more}"} for more in ("", "/en", "@v1", "#train")),
    {"dataset.digest": "sha256:" + "a" * 64},
    {"dataset.format": "Csv"},
    {"dataset.template.name": "topic"},
    {"dataset.template": {"inline": {"prompt": "p", "completion": "c"}}},
    {"dataset.template": {"inline": {"prompt": "p2", "completion": "c"}}},
    {"dataset.template": {"inline": {"prompt": "p", "completion": "c2"}}},
    {"dataset.template": {"promptsource": {"uri": "s3://bucket/t.yaml", "name": "a"}}},
    {"dataset.template": {"promptsource": {"uri": "s3://bucket/t.yaml", "name": "b"}}},
    {"dataset.template": {"promptsource": {"uri": "s3://bucket/u.yaml", "name": "a"}}},
    {"dataset.template": {"configMapRef": {"name": "t", "key": "a"}}},
    {"dataset.template": {"configMapRef": {"name": "t", "key": "b"}}},
    {"dataset.template": {"promptsource": {"configMapRef": {"name": "t", "key": "a"}, "name": "a"}}},
    {"dataset.template.columns": {"text": "x"}},
    {"dataset.template": {"name": "messages"}},
    {"dataset.template": {"name": "messages", "messages": {"learn": "Last"}}},
    {"dataset.template": {"name": "messages", "messages": {"tools": "offered"}}},
    {"dataset.template": {"name": "messages", "messages": {"thinking": "Drop"}}},
    {"dataset.template.choices": ["a", "b"]},
    {"dataset.template.choices": ["b", "a"]},
    {"dataset.template.paraphrases": "All"},
    {"dataset.split": {"trainPercent": 70, "validationPercent": 20, "testPercent": 10}},
    {"dataset.split": {"trainPercent": 70, "validationPercent": 10, "testPercent": 20}},
    {"dataset.split.seed": 43},
    {"dataset.split.stratifyBy": "x"},
    {"dataset.split.groupBy": "x"},
    {"dataset.split.by": "x"},
    {"dataset.split.orderBy": "x"},
    {"dataset.nearDuplicates": "Drop"},
    *(
        {"dataset": {"sources": [{"uri": "s3://bucket/a", **more}], "template": {"name": "intent"}}}
        for more in ({}, {"weight": "0.5"}, {"columns": {"text": "body"}}, {"format": "Csv"})
    ),
    {"dataset.badRows.policy": "Fail"},
    {"dataset.badRows.maxPercent": 6},
    {"model.adapter.uri": "s3://bucket/adapter/"},
    {"model.adapter": {"uri": "hf://org/adapter", "revision": "v1"}},
    {"training.method": "Full"},
    {"training.selectBy": "Loss"},
    {"evaluation.stop": ["###"]},
    {"training.lora.rank": 8},
    {"training.lora.targetModules": ["q_proj"]},
    {"training.lora.useRslora": True},
    {"training.lora.useDora": True},
    {"training.lora.initLoraWeights": "Gaussian"},
    {"training.lora.alpha": 8},
    {"training.lora.dropout": "0.1"},
    {"training.epochs": 4},
    {"training.learningRate": "1e-4"},
    {"training.batchSize": 4},
    {"training.maxLength": 512},
    {"training.precision": "Float32"},
    {"training.seed": 8},
    {"training.earlyStopping.patience": 2},
    {"training.maxSteps": 100},
    {"training.scheduler": "Linear"},
    {"training.warmupPercent": "6"},
    {"training.optimizer": "Adafactor"},
    {"training.optimizer": "AdamW8bit"},
    {"training.weightDecay": "0.1"},
    {"training.maxGradNorm": "0"},
    {"training.validation.everySteps": 50},
    {"training.validation.limit": 50},
    {"evaluation.metric": "ExactMatch"},
    {"evaluation.maxNewTokens": 4},
    {"evaluation.limit": 100},
    {"evaluation.fewShot": 4},
    {"evaluation.fewShot": 5},
    {"output.export": "Both"},
]
NOT_COVERED: list[dict[str, Any]] = [
    {"runtimeRef.name": "gpu"},
    {"model.credentialsRef.name": "s"},
    {"dataset.credentialsRef.name": "s"},
    {"output.credentialsRef.name": "s"},
    {"output.uri": "s3://bucket/out/"},
    {"output.ifExists": "Fail"},
    {"training.checkpoint.intervalSeconds": 60},
    {"evaluation.minScore": "0.9"},
    {"evaluation.minGain": "0.1"},
    {"evaluation.failOn": ["NoGain"]},
    {"suspend": True},
    {"queueName": "team-a"},
    {"queueName": "team-a", "workloadPriorityClassName": "high"},
    {"resources.gpusPerNode": 0},
    {"backoffLimit": 5},
    {"activeDeadlineSeconds": 600},
    {"ttlSecondsAfterFinished": 5},
    {"serviceAccountName": "sa"},
]


def test_every_field_that_changes_the_result_changes_the_digest() -> None:
    digests = [_digest(), *(_digest(**edits) for edits in COVERED)]
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize("edits", NOT_COVERED, ids=str)
def test_a_field_that_does_not_change_the_result_does_not_change_the_digest(edits: dict[str, Any]) -> None:
    assert _digest(**edits) == _digest()


def test_every_block_of_the_spec_is_in_one_of_the_tables() -> None:
    named = {path.partition(".")[0] for edits in COVERED + NOT_COVERED for path in edits}
    assert {field.alias for field in FineTuneJobSpec.model_fields.values()} == named


def test_canonical_json_sorts_and_keeps_unicode() -> None:
    assert canonical_json({"b": [1, "ä"], "a": None}) == '{"a":null,"b":[1,"ä"]}'.encode()


def test_a_digest_has_the_oci_form() -> None:
    assert sha256_digest(b"") == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_the_text_of_a_runtimes_template_is_asked_for_and_its_absence_changes_nothing() -> None:
    spec = FineTuneJobSpec.model_validate(edited(JOB, {"dataset.template.name": "urgency"}))
    digests = {spec_digest(spec, template=text) for text in (None, "name: urgency", "name: urgency # edited")}
    assert len(digests) == 3
    assert spec_digest(FineTuneJobSpec.model_validate(JOB), template=None) == GOLDEN


def test_the_credentials_of_an_adapter_do_not_change_the_digest() -> None:
    adapter = {"uri": "s3://bucket/adapter/"}
    assert _digest(**{"model.adapter": {**adapter, "credentialsRef": {"name": "s"}}}) == _digest(
        **{"model.adapter": adapter}
    )
