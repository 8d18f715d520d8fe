"""The trained model as files, and the proof that the files are the model.

What is written keeps the form in which the base came: type of the weights, names of the tensors, config and tokenizer
files byte for byte, so whatever serves the base serves the result. Chat template and generation settings are those of
the scores (``serving.py``). Adapters are merged in 32 bits into the base as it was stored, and rounded once.

The proof has a link for each step, and only the merge has a tolerance: the adapters load to the trained model (equal
to the bit), the merge in 32 bits is that model, and what is fetched from storage is the rounded merge (equal to the
bit). Rounding to bfloat16 is no error but costs something, since small updates vanish; it is measured and logged, and
the test score is that of the rounded weights.

The door to ``write.py``, ``merge.py`` and ``verify.py``.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from finetune_trainer.evaluation.results import Evaluation
from finetune_trainer.model.device import Precision
from finetune_trainer.model.load import Abilities, LoadedModel, load_model
from finetune_trainer.output.merge import ask_rounded, check_adapter, merge, round_to
from finetune_trainer.output.serving import Serving, serving_of, write_serving
from finetune_trainer.output.verify import Sample, compare, load_with_adapter
from finetune_trainer.output.write import save_model, write_adapter, write_full
from finetune_trainer.prepare.prepared import Prepared

__all__ = ["ExportKind", "Exported", "export", "load_exported", "reload_and_compare"]

ExportKind = Literal["Adapter", "Model", "Both"]


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written, and what the trained model answered before.

    Attributes
    ----------
    kind
        Which of ``adapter/`` and ``model/`` there are below ``folder``.
    sample, reference
        The rows that were scored before the files were written, by the weights that are in them, and the outcome.
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
    sample: Sample
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

    Raises
    ------
    StageError
        VerificationFailed: the adapters that were written are not the trained model, or the merge is not the adapters.
    """
    sample = Sample.of(prepared)
    reference = sample.ask(loaded)
    if loaded.adapter is None:
        write_full(loaded, weights, folder / "model")
    else:
        adapter = folder / ("adapter" if kind != "Model" else ".adapter")
        write_adapter(loaded, weights, adapter, base_name=base_name, base_revision=base_revision)
        if kind != "Adapter":
            check_adapter(loaded, adapter, sample, reference)
            reference = _write_merged(loaded, adapter, folder / "model", sample)
        if kind == "Model":
            shutil.rmtree(adapter)
    serving = serving_of(
        loaded.folder,
        loaded.tokenizer,
        prepared,
        loaded.eos_ids,
        loaded.most_positions,
        decoder_start=loaded.decoder_start,
    )
    for written in folder.iterdir():
        write_serving(written, loaded.folder, loaded.tokenizer, prepared, serving)
    return Exported(
        folder=folder,
        kind=kind,
        base=loaded.folder,
        device=loaded.device,
        precision=loaded.precision,
        sample=sample,
        reference=reference,
        abilities=loaded.abilities,
        serving=serving,
    )


def _write_merged(trained: LoadedModel, adapter: Path, folder: Path, sample: Sample) -> Evaluation:
    """Merge, round, write, and return what the written weights answer."""
    merged = merge(trained, adapter, sample)
    round_to(merged, trained.stored_dtype)
    save_model(merged.model.model, trained.folder, folder)
    return ask_rounded(merged, stored=trained.stored_dtype, precision=trained.precision, sample=sample)


def load_exported(exported: Exported, folder: Path | None = None) -> LoadedModel:
    """Load what was exported, from ``folder`` if it was stored and fetched again; the model if there is one."""
    folder, device, precision = folder or exported.folder, exported.device, exported.precision
    if exported.kind == "Adapter":
        loaded = load_with_adapter(exported.base, folder / "adapter", device=device, precision=precision)
    else:
        loaded = load_model(folder / "model", device=device, precision=precision)
    return replace(loaded, abilities=exported.abilities)


def reload_and_compare(exported: Exported, *, folder: Path | None = None) -> LoadedModel:
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
    compare(exported.reference, exported.sample.ask(loaded), rows=exported.sample.told, merged=False)
    return loaded
