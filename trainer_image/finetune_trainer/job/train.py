"""The train stage: baseline, training, export, storing, and the test on the weights that were stored.

The order makes the numbers believable: the test runs on what was read back from storage, and the manifest that says
"complete" is written when everything it lists has been read back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch

from finetune_api.digest import sha256_digest
from finetune_api.report import StageReport
from finetune_trainer.checkpoint.catalog import Checkpoints, clear_checkpoints
from finetune_trainer.checkpoint.format import Identity
from finetune_trainer.checkpoint.kept_baseline import Baseline, load_baseline, store_baseline
from finetune_trainer.checkpoint.resume import ResumableTraining
from finetune_trainer.data.sample import row_sample
from finetune_trainer.evaluation.abilities import try_out
from finetune_trainer.evaluation.evaluate import evaluate
from finetune_trainer.evaluation.results import Evaluation, results
from finetune_trainer.job.context import Work
from finetune_trainer.job.dataset import resolved_of
from finetune_trainer.job.handover import StoredPrepared, prepare_once, receive_prepared
from finetune_trainer.job.reuse import own_result, take_or_reuse
from finetune_trainer.job.watcher import TrainingWatcher
from finetune_trainer.model.device import Precision, configure_threads, pick_device, resolve_precision
from finetune_trainer.model.flops import compute
from finetune_trainer.model.load import Abilities, LoadedModel, load_model
from finetune_trainer.model.lora import add_lora
from finetune_trainer.model.shape import AdaptedLayers, adapted_layers, shape_of
from finetune_trainer.output.card import base_name, model_card
from finetune_trainer.output.export import ExportKind, export, reload_and_compare
from finetune_trainer.output.folder import abort_uploads, artifact_of
from finetune_trainer.output.html_report import html_page
from finetune_trainer.output.manifest import build_manifest
from finetune_trainer.output.ownership import check_owner, publish_manifest
from finetune_trainer.output.predictions import write_predictions, write_results
from finetune_trainer.output.serving import Serving, check_served
from finetune_trainer.prepare.prepared import Prepared
from finetune_trainer.storage.fetch import fetch_model
from finetune_trainer.storage.files import FileEntry, files_of, publish, read_back
from finetune_trainer.training.plan import resolve

__all__ = ["run_train"]

NEWEST_POINTS: Final = 10
METRICS: Final = "metrics.jsonl"


def run_train(work: Work) -> StageReport:
    """Do the stage.

    Raises
    ------
    StageError
        Any reason that the trainer can find.
    """
    if work.stage_input.includes_prepare:
        if (reused := take_or_reuse(work)) is not None:
            return reused
    else:
        # Prepare has claimed the folder; it may have been taken since.
        check_owner(work.output, work.stage_input.job)
    abort_uploads(work.output)
    if (done := own_result(work)) is not None:
        clear_checkpoints(work.output)  # that attempt may have been stopped before it came to that
        return done
    inputs = _inputs(work)
    with (work.folder / METRICS).open("w", encoding="utf-8") as metrics:
        return _Run(work, inputs, TrainingWatcher(work.console, metrics)).report()


@dataclass(frozen=True, kw_only=True)
class _Inputs:
    prepared: Prepared
    stored: StoredPrepared
    model_folder: Path
    model_revision: str


def _inputs(work: Work) -> _Inputs:
    """Bring rows and model here; a job with a single stage prepares the rows itself, before it fetches weights."""
    rows = prepare_once(work) if work.stage_input.includes_prepare else receive_prepared(work)
    with work.console.step("fetch_model", "fetch the model") as progress:
        model = fetch_model(
            work.spec.model,
            access=work.access,
            folder=work.folder / "model",
            progress=progress,
            pinned_revision=rows.model_revision,
        )
    return _Inputs(prepared=rows.prepared, stored=rows.stored, model_folder=model.folder, model_revision=model.revision)


class _Run:
    """From the untouched model to the report."""

    def __init__(self, work: Work, inputs: _Inputs, watcher: TrainingWatcher) -> None:
        self.work, self.inputs, self.watcher = work, inputs, watcher
        self.prepared = inputs.prepared
        self.export_folder = work.folder / "export"
        self.threads = configure_threads()
        self.device = self._device()
        self.identity = Identity(
            spec_digest=work.spec_digest,
            fingerprint=self.prepared.summary.fingerprint,
            model_revision=inputs.model_revision,
            method=work.spec.training.method,
            device=self.device.type,
        )

    def report(self) -> StageReport:
        """Do everything and return the report."""
        work = self.work
        checkpoints = Checkpoints(work.output, self.identity, folder=work.folder, pod=work.environment.pod_uid)
        training = ResumableTraining(
            checkpoints,
            interval=float(work.spec.training.checkpoint.interval_seconds),
            observer=self.watcher,
            metrics=work.folder / METRICS,
            may_write=lambda: check_owner(work.output, work.stage_input.job),
            console=work.console,
            interrupt=work.interrupt,
            threads=self.threads,
        )
        try:
            report = self._report(training, checkpoints)
        finally:
            training.close()
        clear_checkpoints(work.output)
        return report

    def _report(self, training: ResumableTraining, checkpoints: Checkpoints) -> StageReport:
        work, console, spec = self.work, self.work.console, self.work.spec
        kept = load_baseline(work.output, self.identity)
        loaded = self._load(checkpoints.precision or (kept.precision if kept else None))
        branching = checkpoints.branching if checkpoints.precision else (kept.branching if kept else None)
        if branching is not None:
            loaded = replace(loaded, abilities=Abilities(branching=branching))
        loaded = try_out(loaded)
        resolved = resolved_of(work, self.prepared, model_revision=self.inputs.model_revision)
        baseline = self._baseline(loaded, kept)

        validation_rows = len(self.prepared.parts["validation"])
        parameters = resolve(
            spec.training,
            rows=len(self.prepared.parts["train"]),
            parameters=loaded.parameters,
            validation_rows=validation_rows,
        )
        resolved = resolved.model_copy(
            update={
                "batch_size": parameters.batch_size,
                "learning_rate": parameters.learning_rate,
                "precision": loaded.precision,
                "select_by": parameters.select_by if validation_rows else None,
            }
        )
        if parameters.lora is not None:
            loaded = add_lora(loaded, parameters.lora, seed=parameters.seed)
        shape = shape_of(loaded)
        layers = adapted_layers(loaded) if parameters.lora is not None else None
        outcome = training.run(loaded, self.prepared, parameters)
        kind: ExportKind = spec.output.export or ("Model" if parameters.lora is None else "Adapter")
        with console.step("export", "write the model"):
            exported = export(
                loaded,
                outcome.weights,
                self.prepared,
                self.export_folder,
                kind=kind,
                base_name=base_name(spec.model.uri),
                base_revision=self.inputs.model_revision if spec.model.uri.startswith("hf://") else None,
            )
        del loaded  # the exported weights are loaded next; both may not fit

        back = work.folder / "back"
        entries = self._store("upload_model", "store the model", files_of(self.export_folder), back)
        with console.step("verify_model", "load the stored model and compare its answers"):
            tuned = reload_and_compare(exported, self.prepared, folder=back)
            for written in {entry.path.split("/")[0] for entry in entries}:
                check_served(back / written, self.prepared)
        test = self._evaluate("test", "score the stored model on the test rows", tuned)
        report = StageReport(
            stage="train",
            spec_digest=work.spec_digest,
            dataset=self.prepared.summary,
            resolved=resolved,
            validation=list(outcome.validation[-NEWEST_POINTS:]) or None,
            results=results(baseline, test),
            compute=compute(
                shape,
                tokens=outcome.tokens,
                supervised=outcome.supervised_tokens,
                attention_pairs=outcome.attention_pairs,
                seconds=outcome.seconds,
                peak_memory_bytes=outcome.peak_memory_bytes,
            ),
        )
        return self._complete(report, entries, baseline, test, serving=exported.serving, layers=layers)

    def _device(self) -> torch.device:
        gpus = self.work.spec.resources.gpus_per_node
        if gpus and self.work.stage_input.simulated_gpus and not torch.cuda.is_available():
            self.work.console.event("simulated_gpu", "no GPU here; the CPU computes in its place", level="warning")
            gpus = 0
        return pick_device(gpus)

    def _load(self, precision: Precision | None) -> LoadedModel:
        """Load the base; an earlier attempt's precision stays that of the job, however fast it is here."""
        work, device = self.work, self.device
        with work.console.step("load_model", "load the model"):
            precision = precision or resolve_precision(work.spec.training.precision, device)
            loaded = load_model(self.inputs.model_folder, device=device, precision=precision)
        work.console.event(
            "model",
            f"{loaded.parameters / 1e6:.1f} million parameters, {precision}, {device}, {self.threads} threads"
            if work.console.interactive
            else None,
            parameters=loaded.parameters,
            precision=precision,
            device=str(device),
            threads=self.threads,
        )
        return loaded

    def _baseline(self, loaded: LoadedModel, kept: Baseline | None) -> Evaluation:
        """Score the untouched model, or take the scores that an earlier attempt stored."""
        rows = row_sample(len(self.prepared.parts["test"]), self.work.spec.evaluation.limit).tolist()
        if kept and kept.precision == loaded.precision and kept.evaluation.indices == rows:
            self._tell_score("baseline", kept.evaluation, measured=False)
            return kept.evaluation
        evaluation = self._evaluate("baseline", "score the untouched model on the test rows", loaded)
        store_baseline(
            self.work.output,
            self.identity,
            Baseline(evaluation=evaluation, precision=loaded.precision, branching=_branching(loaded)),
        )
        return evaluation

    def _tell_score(self, name: str, evaluation: Evaluation, *, measured: bool = True) -> None:
        console, score = self.work.console, evaluation.score()
        console.event(
            f"{name}_score",
            f"{name}: {score.score} ({score.correct} of {score.total})" if console.interactive else None,
            **{**score.to_wire(), "measured": measured},
        )

    def _evaluate(self, name: str, text: str, loaded: LoadedModel) -> Evaluation:
        console = self.work.console
        with console.step(name, text) as progress:
            self.watcher.evaluating(progress)
            evaluation = evaluate(
                loaded,
                self.prepared.parts["test"],
                self.prepared,
                texts=self.prepared.texts["test"],
                generate=self.prepared.metric == "ExactMatch",
                limit=self.work.spec.evaluation.limit,
                progress=self.watcher.on_evaluated,
            )
        self._tell_score(name, evaluation)
        return evaluation

    def _store(self, name: str, text: str, files: Mapping[str, Path], back: Path) -> list[FileEntry]:
        """Upload files and read every byte back into ``back``."""
        console = self.work.console
        check_owner(self.work.output, self.work.stage_input.job)
        with console.step(name, text) as progress:
            entries = publish(self.work.output, files, progress)
        with console.step(name.replace("upload", "read_back"), "read it back and compare digests") as progress:
            read_back(self.work.output, entries, back, progress)
        return entries

    def _complete(
        self,
        report: StageReport,
        entries: list[FileEntry],
        baseline: Evaluation,
        test: Evaluation,
        *,
        serving: Serving,
        layers: AdaptedLayers | None,
    ) -> StageReport:
        """Write and store the files beside the model, then the manifest."""
        work, folder = self.work, self.work.folder / "beside"
        folder.mkdir()
        model_artifacts = [
            artifact_of(name, f"{name}/", entries)
            for name in ("model", "adapter")
            if any(entry.path.startswith(f"{name}/") for entry in entries)
        ]
        report = report.model_copy(update={"artifacts": [*model_artifacts, self.inputs.stored.artifact]})
        write_predictions(folder / "predictions.jsonl", self.prepared.texts["test"], baseline, test)
        write_results(folder / "results.json", report, layers)
        card = model_card(work.stage_input, report, serving=serving, prepared=self.prepared)
        (folder / "README.md").write_text(card, encoding="utf-8")
        page = folder / "report/index.html"
        page.parent.mkdir()
        page.write_text(
            html_page(work.stage_input, report, texts=self.prepared.texts["test"], baseline=baseline, test=test),
            encoding="utf-8",
        )
        beside = {**files_of(folder), METRICS: work.folder / METRICS}
        entries = entries + self._store("upload_report", "store the report", beside, work.folder / "beside_back")
        report = report.model_copy(
            update={
                "artifacts": [
                    *(report.artifacts or []),
                    artifact_of("predictions", "predictions.jsonl", entries),
                    artifact_of("results", "results.json", entries),
                    artifact_of("report", "report/", entries),
                ]
            }
        )
        files = sorted([*entries, *self.inputs.stored.entries], key=lambda entry: entry.path)
        manifest = build_manifest(
            stage_input=work.stage_input, prepared=self.prepared, report=report, files=files, threads=self.threads
        )
        with work.console.step("manifest", "write the manifest"):
            publish_manifest(work.output, work.stage_input.job, manifest)
        return report.model_copy(update={"digest": sha256_digest(manifest)})


def _branching(loaded: LoadedModel) -> bool | None:
    return loaded.abilities.branching if loaded.abilities else None
