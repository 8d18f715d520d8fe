"""The trained model as files, and the proof that the files are the model.

What is written keeps the form in which the base came: type of the weights, names of the tensors, config and tokenizer
files byte for byte, so whatever serves the base serves the result. Chat template and generation settings are those of
the scores (``serving.py``). Adapters are merged in 32 bits into the base as it was stored, and rounded once.

The proof has a link for each step, and only the merge has a tolerance: the adapters load to the trained model (equal
to the bit), the merge in 32 bits is that model, and what is fetched from storage is the rounded merge (equal to the
bit). Rounding to bfloat16 is no error but costs something, since small updates vanish; it is measured and logged, and
the test score is that of the rounded weights.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import torch
from transformers import PreTrainedModel

from finetune_api.reasons import Reason
from finetune_trainer.data.parts import Part
from finetune_trainer.errors import StageError
from finetune_trainer.evaluation.evaluate import evaluate
from finetune_trainer.evaluation.results import Evaluation
from finetune_trainer.model.device import Precision, dtype_of
from finetune_trainer.model.load import Abilities, LoadedModel, convert, load_model
from finetune_trainer.output.serving import Serving, serving_of, write_serving
from finetune_trainer.prepare.prepared import Prepared

__all__ = ["ExportKind", "Exported", "compare", "export", "load_exported", "reload_and_compare"]

ExportKind = Literal["Adapter", "Model", "Both"]
COMPARED_ROWS: Final = 64
KEPT_FILES: Final = (
    "config.json",
    "tokenizer*.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.tiktoken",
    "spiece.model",
    "sentencepiece*.model",
    "chat_template.*",
    "LICENSE*",
    "NOTICE*",
)
"""Files of the base that an exported model takes over."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written, and what the trained model answered before.

    Attributes
    ----------
    kind
        Which of ``adapter/`` and ``model/`` there are below ``folder``.
    part, reference
        The part that was scored before the files were written, by the weights that are in them, and the outcome.
    abilities
        What the model used in that: scored another way, bits differ.
    serving
        How what was written is asked.
    """

    folder: Path
    kind: ExportKind
    base: Path
    device: torch.device
    precision: Precision
    part: Part
    reference: Evaluation
    abilities: Abilities | None
    serving: Serving


def export(
    loaded: LoadedModel,
    weights: Mapping[str, torch.Tensor],
    prepared: Prepared,
    folder: Path,
    *,
    kind: ExportKind,
    base_name: str,
    base_revision: str | None = None,
) -> Exported:
    """Write ``folder/adapter`` (peft's format) and/or ``folder/model`` (safetensors, config, tokenizer).

    A full fine-tune's model is used up: it is in the stored type afterwards.

    Parameters
    ----------
    loaded, weights
        A trained model, and its trained parameters as exact as they will be stored.
    base_name, base_revision
        What the adapter names as its base: a Hub id with its commit, or a folder.
    """
    part: Part = "validation" if len(prepared.parts["validation"]) else "train"
    reference = _score(loaded, part, prepared)
    if loaded.adapter is None:
        _write_full(loaded, weights, folder / "model")
    else:
        adapter = folder / ("adapter" if kind != "Model" else ".adapter")
        for config in loaded.adapter.peft_config.values():
            config.revision = base_revision
        _write_adapter(loaded, weights, adapter, base_name)
        if kind != "Adapter":
            reference = _merge(loaded, adapter, folder / "model", prepared=prepared, part=part, reference=reference)
        if kind == "Model":
            shutil.rmtree(adapter)
    serving = serving_of(loaded.folder, loaded.tokenizer, prepared, loaded.eos_ids)
    for written in folder.iterdir():
        write_serving(written, loaded.folder, loaded.tokenizer, prepared, serving)
    return Exported(
        folder=folder,
        kind=kind,
        base=loaded.folder,
        device=loaded.device,
        precision=loaded.precision,
        part=part,
        reference=reference,
        abilities=loaded.abilities,
        serving=serving,
    )


def _keep_files(base: Path, folder: Path, *, config: bool = True) -> None:
    for pattern in KEPT_FILES:
        for source in base.glob(pattern):
            if source.is_file() and (config or not source.name.endswith("config.json") or "tokenizer" in source.name):
                shutil.copyfile(source, folder / source.name)


def _save(model: PreTrainedModel, loaded: LoadedModel, folder: Path) -> None:
    model.save_pretrained(folder)
    _keep_files(loaded.folder, folder)


def _write_full(loaded: LoadedModel, weights: Mapping[str, torch.Tensor], folder: Path) -> None:
    convert(loaded.model, loaded.stored_dtype)
    _assign(loaded.model, weights)
    _save(loaded.model, loaded, folder)


@torch.no_grad()
def _assign(model: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    for name, parameter in model.named_parameters():
        if name in weights:
            parameter.copy_(weights[name])


def _write_adapter(loaded: LoadedModel, weights: Mapping[str, torch.Tensor], folder: Path, base_name: str) -> None:
    adapter: Any = loaded.adapter
    for module in adapter.modules():
        for name, child in module.named_children():
            if name.startswith("lora_"):
                child.float()
    _assign(loaded.model, weights)
    for config in adapter.peft_config.values():
        config.base_model_name_or_path = base_name
        config.inference_mode = True
    # Without embeddings: they are never trained, and looking for them would ask a hub about the base.
    adapter.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # an empty form; the job writes its own
    _keep_files(loaded.folder, folder, config=False)


def _merge(
    trained: LoadedModel, adapter: Path, folder: Path, *, prepared: Prepared, part: Part, reference: Evaluation
) -> Evaluation:
    """Merge the adapters in ``adapter`` into the base, prove each step, and return what the written weights answer.

    Raises
    ------
    StageError
        VerificationFailed: the adapters are not the trained model, or the merge is not the adapters.
    """

    def load(precision: Precision) -> LoadedModel:
        loaded = _with_adapter(trained.folder, adapter, device=trained.device, precision=precision)
        return replace(loaded, abilities=trained.abilities)

    compare(reference, _score(load(trained.precision), part, prepared), merged=False)
    exact = load("Float32")
    unmerged = _score(exact, part, prepared)
    merged = exact.adapter.merge_and_unload(safe_merge=True)  # in place: exact.model is the merged model now
    exact = replace(exact, adapter=None)
    compare(unmerged, _score(exact, part, prepared), merged=True)
    convert(merged, trained.stored_dtype)
    _save(merged, trained, folder)
    convert(merged, dtype_of(trained.precision))
    rounded = _score(replace(exact, precision=trained.precision), part, prepared)
    if abs(rounded.loss - unmerged.loss) > 0.01 * unmerged.loss:
        log.warning(
            "rounding the merged weights to %s changes the loss from %.4f to %.4f; output.export Adapter or Both keeps "
            "the adapters as they were trained",
            str(trained.stored_dtype).removeprefix("torch."),
            unmerged.loss,
            rounded.loss,
        )
    return rounded


def _score(loaded: LoadedModel, part: Part, prepared: Prepared) -> Evaluation:
    return evaluate(loaded, prepared.parts[part], prepared, texts=(), generate=False, limit=COMPARED_ROWS)


def _with_adapter(base: Path, adapter: Path, *, device: torch.device, precision: Precision) -> LoadedModel:
    from peft import PeftModel  # noqa: PLC0415 - seconds to import, and full fine-tunes don't need it

    loaded = load_model(base, device=device, precision=precision)
    carried = PeftModel.from_pretrained(loaded.model, adapter, autocast_adapter_dtype=False)
    convert(carried, loaded.model.dtype)
    loaded.model.eval()
    return replace(loaded, adapter=carried)


def load_exported(exported: Exported, folder: Path | None = None) -> LoadedModel:
    """Load what was exported, from ``folder`` if it was stored and fetched again; the model if there is one."""
    folder = folder or exported.folder
    if exported.kind == "Adapter":
        loaded = _with_adapter(exported.base, folder / "adapter", device=exported.device, precision=exported.precision)
    else:
        loaded = load_model(folder / "model", device=exported.device, precision=exported.precision)
    return replace(loaded, abilities=exported.abilities)


def compare(reference: Evaluation, again: Evaluation, *, merged: bool) -> None:
    """Check that two evaluations of the same rows are those of the same model.

    Raises
    ------
    StageError
        VerificationFailed when losses are not equal to the bit, or, with merged adapters, differ by more than 1 % or
        in more than one row's outcome.
    """
    differ = sum(a.correct != b.correct for a, b in zip(reference.rows, again.rows, strict=True))
    if merged:
        same = abs(again.loss - reference.loss) <= 0.01 * reference.loss and differ <= 1
    else:
        same = all(a.loss == b.loss for a, b in zip(reference.rows, again.rows, strict=True))
    if not same:
        raise StageError(
            Reason.VERIFICATION_FAILED,
            f"the exported model answers differently from the trained one: {differ} of {reference.total} rows, loss "
            f"{again.loss:.6g} instead of {reference.loss:.6g}",
        )
    log.info("exported model verified on %d rows, loss %.4f", reference.total, again.loss)


def reload_and_compare(exported: Exported, prepared: Prepared, *, folder: Path | None = None) -> LoadedModel:
    """Load what was exported and prove that it is the trained model.

    Parameters
    ----------
    folder
        Where the files lie by now, after they were stored and fetched again.

    Returns
    -------
    LoadedModel
        The exported weights, to be scored on the test rows.

    Raises
    ------
    StageError
        VerificationFailed; ModelInvalid when the files can't be loaded at all.
    """
    loaded = load_exported(exported, folder)
    compare(exported.reference, _score(loaded, exported.part, prepared), merged=False)
    return loaded
