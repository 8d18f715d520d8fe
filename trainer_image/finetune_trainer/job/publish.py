"""From the tuned model to a complete result: written, stored, read back, proven, and told of; the manifest comes last.

The doors have failures of their own: a store that takes nothing, bytes that come back changed, files that answer
otherwise than the model did.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from finetune_api.digest import sha256_digest
from finetune_api.report import StageReport
from finetune_api.stage import StageInput
from finetune_trainer.evaluation.results import Evaluation
from finetune_trainer.evaluation.words import definitions
from finetune_trainer.job.base_model import Inputs
from finetune_trainer.job.context import Work
from finetune_trainer.job.gate import acceptance
from finetune_trainer.job.tune import Tuned
from finetune_trainer.model.load import LoadedModel
from finetune_trainer.output.card import model_card
from finetune_trainer.output.export import Exported, reload_and_compare
from finetune_trainer.output.folder import artifact_of
from finetune_trainer.output.manifest import build_manifest
from finetune_trainer.output.ownership import check_owner, publish_manifest
from finetune_trainer.output.predictions import write_predictions, write_results
from finetune_trainer.output.report.content import confidences
from finetune_trainer.output.report.data_card import data_card
from finetune_trainer.output.report.page import html_page
from finetune_trainer.output.samples import SAMPLES
from finetune_trainer.output.serving import check_served
from finetune_trainer.prepare.prepared import Prepared
from finetune_trainer.process.console import Console
from finetune_trainer.storage.files import FileEntry, files_of, publish, read_back

__all__ = ["METRICS", "StoredModel", "publish_result", "store_model", "verify"]

METRICS: Final = "metrics.jsonl"


@dataclass(frozen=True, kw_only=True)
class StoredModel:
    """The files that were stored, and the folder that they were read back into."""

    entries: tuple[FileEntry, ...]
    folder: Path


def store_model(work: Work, folder: Path) -> StoredModel:
    """Store what was exported to ``folder``, and read every byte of it back.

    Raises
    ------
    StageError
        OutputExists: the folder is no longer ours; VerificationFailed; what the store says.
    """
    back = work.folder / "back"
    entries = _store(work, "model", "store the model", files_of(folder), back)
    return StoredModel(entries=entries, folder=back)


def verify(stored: StoredModel, exported: Exported, prepared: Prepared, console: Console) -> LoadedModel:
    """Load what was stored, and prove that it answers as the tuned model did, however it is asked.

    Raises
    ------
    StageError
        VerificationFailed, ModelInvalid.
    """
    with console.step("verify_model", "load the stored model and compare its answers"):
        loaded = reload_and_compare(exported, folder=stored.folder)
        for written in {entry.path.split("/")[0] for entry in stored.entries}:
            check_served(stored.folder / written, prepared)
    return loaded


def publish_result(
    work: Work,
    inputs: Inputs,
    report: StageReport,
    *,
    tuned: Tuned,
    stored: StoredModel,
    after: Evaluation,
    machine: Mapping[str, Any],
) -> StageReport:
    """Store the files beside the model, then the manifest that makes the result complete.

    Parameters
    ----------
    machine
        What the bits of the arithmetic depend on besides the program.

    Returns
    -------
    StageReport
        With the artifacts and the manifest's digest.
    """
    artifacts = [
        artifact_of(name, f"{name}/", stored.entries)
        for name in ("model", "adapter")
        if any(entry.path.startswith(f"{name}/") for entry in stored.entries)
    ]
    report = report.model_copy(update={"artifacts": [*artifacts, inputs.stored.artifact]})
    folder, metrics, samples = work.folder / "beside", work.folder / METRICS, work.folder / SAMPLES
    _write_beside(
        folder, work.stage_input, inputs.prepared, report, tuned=tuned, after=after, metrics=metrics, samples=samples
    )
    files = {**files_of(folder), METRICS: metrics, **({SAMPLES: samples} if samples.exists() else {})}
    entries = (*stored.entries, *_store(work, "report", "store the report", files, work.folder / "beside_back"))
    told = [
        artifact_of("predictions", "predictions.jsonl", entries),
        artifact_of("results", "results.json", entries),
        artifact_of("report", "report/", entries),
    ]
    report = report.model_copy(update={"artifacts": [*(report.artifacts or []), *told]})
    manifest = build_manifest(
        stage_input=work.stage_input,
        prepared=inputs.prepared,
        report=report,
        files=sorted([*entries, *inputs.stored.entries], key=lambda entry: entry.path),
        machine=machine,
    )
    with work.console.step("manifest", "write the manifest"):
        publish_manifest(work.output, work.stage_input.job, manifest)
    return report.model_copy(update={"digest": sha256_digest(manifest)})


def _write_beside(
    folder: Path,
    asked: StageInput,
    prepared: Prepared,
    report: StageReport,
    *,
    tuned: Tuned,
    after: Evaluation,
    metrics: Path,
    samples: Path,
) -> None:
    page = folder / "report/index.html"
    page.parent.mkdir(parents=True)
    shown = tuned.few_shot
    write_predictions(
        folder / "predictions.jsonl",
        prepared,
        tuned.before,
        after,
        few_shot=shown.evaluation if shown else None,
        examples=shown.examples if shown else (),
    )
    sure = {name: bins for name, of in (("baseline", tuned.before), ("test", after)) if (bins := confidences(of))}
    accepted = acceptance(report.results, asked.spec.evaluation) if report.results is not None else None
    objections = (accepted or {}).get("objections", ())
    told = (
        {}
        if report.results is None
        else definitions(report.results, thoughts=prepared.thoughts is not None, calls=prepared.scores_calls)
    )
    write_results(
        folder / "results.json",
        report,
        tuned.layers,
        wordings=prepared.wordings,
        calibration=sure,
        acceptance=accepted,
        definitions=told,
    )
    answers = _lines_of(samples) if samples.exists() else []
    sampled = len({line["row"] for line in answers if line["step"] == answers[0]["step"]})
    card = model_card(
        asked,
        report,
        serving=tuned.exported.serving,
        prepared=prepared,
        lora=tuned.lora,
        sampled=sampled,
        objections=objections,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
    lines = _lines_of(metrics)
    texts = prepared.texts["test"]
    html = html_page(
        asked,
        report,
        texts=texts,
        baseline=tuned.before,
        test=after,
        metrics=lines,
        samples=answers,
        card=data_card(prepared),
        thought_rows=prepared.thought_rows,
        calls=prepared.scores_calls,
        objections=objections,
    )
    page.write_text(html, encoding="utf-8")


def _lines_of(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:  # not splitlines: texts may hold other ends of lines than the file's
        return [json.loads(line) for line in file]


def _store(work: Work, name: str, text: str, files: Mapping[str, Path], back: Path) -> tuple[FileEntry, ...]:
    """Upload files and read every byte back into ``back``."""
    check_owner(work.output, work.stage_input.job)
    with work.console.step(f"upload_{name}", text) as progress:
        entries = publish(work.output, files, progress)
    with work.console.step(f"read_back_{name}", "read it back and compare digests") as progress:
        read_back(work.output, entries, back, progress)
    return tuple(entries)
