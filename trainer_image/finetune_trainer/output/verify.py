"""Whether two models are the same one, asked of a few rows; the links of the proof that ``export.py`` describes."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

import torch

from finetune_api.reasons import Reason
from finetune_trainer.counted import counted
from finetune_trainer.data.parts import Part
from finetune_trainer.errors import StageError
from finetune_trainer.evaluation.evaluate import evaluate
from finetune_trainer.evaluation.results import Evaluation
from finetune_trainer.model.device import Precision
from finetune_trainer.model.load import LoadedModel, convert, load_model
from finetune_trainer.prepare.prepared import EncodedPart, Prepared

__all__ = ["Sample", "compare", "load_with_adapter"]

COMPARED_ROWS: Final = 64

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The rows that models are compared on: validation rows where there are any, never those of the test."""

    prepared: Prepared
    part: Part

    @classmethod
    def of(cls, prepared: Prepared) -> Self:
        """Choose them."""
        part: Part = "validation" if len(prepared.parts["validation"]) else "train"
        # Losses prove it. What a metric over text would add costs whole answers to be written.
        return cls(prepared=replace(prepared, metric="ExactMatch"), part=part)

    @property
    def told(self) -> str:
        """How many of which rows, in words."""
        rows = counted(len(self._rows), f"{self.part} row")
        return rows if len(self._rows) <= COMPARED_ROWS else f"{COMPARED_ROWS} of {rows}"

    def ask(self, loaded: LoadedModel) -> Evaluation:
        """Score a model on them."""
        rows = self._rows
        return evaluate(loaded, rows, self.prepared, texts=(), generate=False, limit=COMPARED_ROWS)

    @property
    def _rows(self) -> EncodedPart:
        return self.prepared.parts[self.part]


def compare(reference: Evaluation, again: Evaluation, *, rows: str, merged: bool) -> None:
    """Check that two evaluations of the same rows are those of the same model.

    Parameters
    ----------
    rows
        Which ones, as :attr:`Sample.told` says.

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
    log.info("exported model verified on %s: loss %.4f", rows, again.loss)


def load_with_adapter(base: Path, adapter: Path, *, device: torch.device, precision: Precision) -> LoadedModel:
    """Load a base with the adapters of a folder on it."""
    from peft import PeftModel  # noqa: PLC0415 - seconds to import, and full fine-tunes don't need it

    loaded = load_model(base, device=device, precision=precision)
    carried = PeftModel.from_pretrained(loaded.model, adapter, autocast_adapter_dtype=False)
    convert(carried, loaded.model.dtype)
    loaded.model.eval()
    return replace(loaded, adapter=carried)
