"""From the untouched model to the files of the tuned one; in between it is scored and trained.

The model goes with the last name of it here: what was stored is loaded next, and both may not fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from finetune_api.job import FineTuneJobSpec, LoRA
from finetune_api.status import Compute, Resolved, ValidationPoint
from finetune_trainer.checkpoint.checkpoints import Checkpoints
from finetune_trainer.evaluation.results import Evaluation
from finetune_trainer.job.adapter import merged_first
from finetune_trainer.job.base_model import Host, Inputs, load
from finetune_trainer.job.context import Work
from finetune_trainer.job.dataset import resolved_of
from finetune_trainer.job.resumable import train_resumably
from finetune_trainer.job.score import FewShot, score_before, score_few_shot
from finetune_trainer.job.watcher import TrainingWatcher
from finetune_trainer.model.adapter import attach
from finetune_trainer.model.continued import continued
from finetune_trainer.model.flops import Shape, compute
from finetune_trainer.model.load import LoadedModel
from finetune_trainer.model.lora import add_lora, check_adapters
from finetune_trainer.model.shape import AdaptedLayers, adapted_layers, shape_of
from finetune_trainer.output.card import base_name
from finetune_trainer.output.export import Exported, export
from finetune_trainer.prepare.prepared import Prepared
from finetune_trainer.training.outcome import TrainOutcome
from finetune_trainer.training.plan import Hyperparameters, adapters_of, resolve

__all__ = ["Tuned", "tune"]


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What is left of a training once its model is gone.

    Attributes
    ----------
    before
        The untouched model on the test rows.
    few_shot
        The same with examples in its prompt; None where that wasn't asked for.
    kept
        The validation whose weights were exported; None without validation rows.
    layers
        Those with and without adapters; None for a full fine-tune.
    lora
        The settings of the adapters, the given one's where there is one; None like ``layers``.
    """

    exported: Exported
    before: Evaluation
    few_shot: FewShot | None
    resolved: Resolved
    validation: tuple[ValidationPoint, ...]
    kept: ValidationPoint | None
    cost: Compute
    layers: AdaptedLayers | None
    lora: LoRA | None


def tune(work: Work, inputs: Inputs, host: Host, checkpoints: Checkpoints, watcher: TrainingWatcher) -> Tuned:
    """Load, score, train and write."""
    spec, console, prepared = work.spec, work.console, inputs.prepared
    wish, limit = spec.training.precision, spec.evaluation.limit
    given = inputs.adapter
    training = continued(spec.training, given) if given else spec.training
    if training.method == "Full":
        inputs = merged_first(inputs, work.folder / "merged", console)
    elif given is None and (lora := adapters_of(training)) is not None:
        check_adapters(inputs.model_folder, lora)  # before hours of scoring
    model = load(inputs.model_folder, host, wish=wish, settled=checkpoints.settled, console=console)
    if given is not None and training.lora is not None:
        model = attach(model, given, training.lora)
    before = score_before(model, prepared, limit=limit, checkpoints=checkpoints, watcher=watcher, console=console)
    few_shot = None
    if spec.evaluation.few_shot is not None:
        few_shot = score_few_shot(
            model,
            prepared,
            limit=limit,
            max_length=spec.training.max_length,
            folder=work.folder,
            checkpoints=checkpoints,
            watcher=watcher,
            console=console,
        )
    plan = resolve(
        training,
        rows=len(prepared.parts["train"]),
        parameters=model.parameters,
        validation_rows=len(prepared.parts["validation"]),
    )
    if plan.lora is not None and given is None:
        model = add_lora(model, plan.lora, seed=plan.seed)
    shape = shape_of(model)
    layers = adapted_layers(model) if plan.lora is not None else None
    outcome = train_resumably(
        model,
        prepared,
        plan,
        threads=host.threads,
        checkpoints=checkpoints,
        watcher=watcher,
        console=console,
        interrupt=work.interrupt,
    )
    with console.step("export", "write the model"):
        exported = _write(model, outcome, inputs, spec, work.folder / "export")
    resolved = resolved_of(
        work,
        prepared,
        model_revision=inputs.model_revision,
        adapter_revision=given.revision if given else None,
    )
    return Tuned(
        exported=exported,
        before=before,
        few_shot=few_shot,
        resolved=_echoed(resolved, plan, exported, inputs.prepared, layers),
        validation=outcome.validation,
        kept=outcome.kept,
        cost=_cost(shape, outcome),
        layers=layers,
        lora=adapters_of(training),
    )


def _write(model: LoadedModel, outcome: TrainOutcome, inputs: Inputs, spec: FineTuneJobSpec, folder: Path) -> Exported:
    return export(
        model,
        outcome.weights,
        inputs.prepared,
        folder,
        kind=spec.output.export or ("Model" if model.adapter is None else "Adapter"),
        base_name=base_name(spec.model.uri),
        base_revision=inputs.model_revision if spec.model.uri.startswith("hf://") else None,
    )


def _echoed(
    resolved: Resolved, plan: Hyperparameters, exported: Exported, prepared: Prepared, layers: AdaptedLayers | None
) -> Resolved:
    """Add what was chosen for the training to what prepare chose."""
    rows, validated = len(prepared.parts["train"]), len(prepared.parts["validation"]) > 0
    return resolved.model_copy(
        update={
            "batch_size": plan.batch_size,
            "learning_rate": plan.learning_rate,
            "target_modules": sorted({name.rpartition(".")[2][:64] for name in layers[0]})[:16] if layers else None,
            "optimizer": plan.optimizer,
            "scheduler": plan.scheduler,
            "total_steps": plan.total_steps(rows),
            "warmup_steps": plan.schedule(rows).warmup,
            "precision": exported.precision,
            "select_by": plan.select_by if validated else None,
        }
    )


def _cost(shape: Shape, outcome: TrainOutcome) -> Compute:
    return compute(
        shape,
        tokens=outcome.tokens,
        supervised=outcome.supervised_tokens,
        attention_pairs=outcome.attention_pairs,
        prompt_pairs=outcome.prompt_pairs,
        seconds=outcome.seconds,
        peak_memory_bytes=outcome.peak_memory_bytes,
    )
