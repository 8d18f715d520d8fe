"""A whole FineTuneJob that a two-layer model learns in seconds: rows on disk or in S3, and the stage input for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from finetune_api.job import FineTuneJobSpec
from finetune_api.names import StageName
from finetune_api.runtime import ResolvedStorage
from finetune_api.stage import JobIdentity, StageInput
from finetune_trainer.process.environment import Environment
from tests.support.tiny_model import WORDS, learnable_rows

__all__ = ["environment", "job_document", "make_stage_input", "topic_rows", "write_rows"]


def topic_rows(count: int = 240) -> list[dict[str, str]]:
    """Rows for the template topic; one word of the text tells the label."""
    rows = learnable_rows(count, seed=3)
    texts = [prompt.split("Text: ")[1].removesuffix(" Intent:") for prompt, _ in rows]
    return [{"text": text, "label": label} for text, (_, label) in zip(texts, rows, strict=True)]


def write_rows(path: Path, rows: list[dict[str, Any]] | None = None) -> Path:
    lines = [json.dumps(row) for row in (topic_rows() if rows is None else rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def job_spec(*, model: str, rows: str, output: str, **training: Any) -> dict[str, Any]:
    """A spec that ends with a clear gain; ``training`` overrides its block."""
    return {
        "model": {"uri": model},
        "dataset": {
            "uri": rows,
            "template": {"name": "topic", "choices": sorted(WORDS.values())},
            "split": {"trainPercent": 60, "validationPercent": 10, "testPercent": 30, "stratifyBy": "label"},
        },
        "training": {
            "method": "Full",
            "epochs": 10,
            "learningRate": "1e-2",
            "batchSize": 16,
            "precision": "Float32",
            **training,
        },
        "output": {"uri": output},
        "resources": {"gpusPerNode": 0},
    }


def job_document(**places: Any) -> dict[str, Any]:
    """The FineTuneJob as a user writes it."""
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": "tiny"},
        "spec": job_spec(**places),
    }


def make_stage_input(
    stage: StageName,
    spec: dict[str, Any],
    *,
    storage: ResolvedStorage | None = None,
    uid: str = "uid-1",
    includes_prepare: bool = False,
    prepared_digest: str | None = None,
) -> StageInput:
    """What the operator would tell the pod; ``spec`` may hold file:// URIs."""
    return StageInput(
        stage=stage,
        includes_prepare=includes_prepare,
        job=JobIdentity(namespace="team-a", name="tiny", uid=uid),
        spec=FineTuneJobSpec.model_validate(spec, extra="forbid", context={"local": True}),
        output_uri=spec["output"]["uri"],
        storage=storage or ResolvedStorage(),
        prepared_digest=prepared_digest,
        image="registry.example/trainer@sha256:" + "1" * 64,
    )


def environment(folder: Path, credentials: Path | None = None) -> Environment:
    """Places below ``folder``, ``model-cache`` among them where there is one."""
    work = folder / "work"
    work.mkdir(parents=True, exist_ok=True)
    return Environment(
        credentials_dir=credentials or folder / "no-credentials",
        work_dir=work,
        termination_log=folder / "termination-log",
        model_cache_dir=folder / "model-cache",
    )
