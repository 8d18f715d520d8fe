"""Adapters become part of the base's weights: in 32 bits, proven, and rounded once to the type of the base."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from finetune_trainer.evaluation.results import Evaluation
from finetune_trainer.model.device import Precision, dtype_of
from finetune_trainer.model.load import LoadedModel, convert
from finetune_trainer.output.verify import Sample, compare, load_with_adapter

__all__ = ["Merged", "ask_rounded", "check_adapter", "merge", "round_to"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, kw_only=True)
class Merged:
    """A base with the adapters in its weights, and what it answered while they were still beside them."""

    model: LoadedModel
    unmerged: Evaluation


def check_adapter(trained: LoadedModel, adapter: Path, sample: Sample, reference: Evaluation) -> None:
    """Check that the adapters that were written load to the trained model.

    Raises
    ------
    StageError
        VerificationFailed.
    """
    compare(reference, sample.ask(_load(trained, adapter, trained.precision)), rows=sample.told, merged=False)


def merge(trained: LoadedModel, adapter: Path, sample: Sample) -> Merged:
    """Merge adapters that were written into the base as it was stored, in 32 bits.

    Raises
    ------
    StageError
        VerificationFailed: the merge answers differently.
    """
    exact = _load(trained, adapter, "Float32")
    unmerged = sample.ask(exact)
    network = exact.adapter.merge_and_unload(safe_merge=True)
    exact = replace(exact, model=network, adapter=None)
    compare(unmerged, sample.ask(exact), rows=sample.told, merged=True)
    return Merged(model=exact, unmerged=unmerged)


def round_to(merged: Merged, dtype: torch.dtype) -> None:
    """Round the weights, in place, to the type that they are stored in."""
    convert(merged.model.model, dtype)


def ask_rounded(merged: Merged, *, stored: torch.dtype, precision: Precision, sample: Sample) -> Evaluation:
    """Return what the rounded weights answer; what rounding to ``stored`` costs is no error, but told."""
    convert(merged.model.model, dtype_of(precision))
    rounded = sample.ask(replace(merged.model, precision=precision))
    if abs(rounded.loss - merged.unmerged.loss) > 0.01 * merged.unmerged.loss:
        log.warning(
            "rounding the merged weights to %s changes the loss from %.4f to %.4f; output.export Adapter or Both keeps "
            "the adapters as they were trained",
            str(stored).removeprefix("torch."),
            merged.unmerged.loss,
            rounded.loss,
        )
    return rounded


def _load(trained: LoadedModel, adapter: Path, precision: Precision) -> LoadedModel:
    loaded = load_with_adapter(trained.folder, adapter, device=trained.device, precision=precision)
    return replace(loaded, abilities=trained.abilities)
