"""What must hold of the parts before and after the rows are encoded; ``prepare.py`` asks."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from finetune_api.dataset import Percents
from finetune_api.job import FineTuneJobSpec
from finetune_api.reasons import Reason
from finetune_trainer.counted import counted
from finetune_trainer.data.bad_rows import BadRowLog
from finetune_trainer.data.given_parts import giver
from finetune_trainer.data.parts import PARTS, Part
from finetune_trainer.errors import StageError
from finetune_trainer.prepare.folder_writer import PreparedWriter

__all__ = ["check_answerable", "check_parts", "check_thoughts"]


def check_parts(
    counts: Mapping[Part, int],
    spec: FineTuneJobSpec,
    percents: Percents,
    given: Collection[Part],
    bad: BadRowLog,
    *,
    largest: int,
) -> None:
    """Make sure that no part is empty that must not be.

    Raises
    ------
    StageError
        DatasetInvalid: says which part, and what to change.
    """
    split, wanted = spec.dataset.split, percents._asdict()
    for part in PARTS:
        if counts[part]:
            continue
        if part == "validation" and part not in given and wanted["validation"] == 0:
            _check_unwatched(spec)
            continue
        dropped = f" ({counted(bad.count, 'bad row')}: {bad.examples()})" if bad.count else ""
        if part in given and part != "train":
            message = f"{_given_by(part, spec)} has no row that can be used{dropped}"
            if not bad.count:
                message += "; give it rows that no file of another part has"
            raise StageError(Reason.DATASET_INVALID, message, tells_mend=not bad.count)
        if 2 * largest > sum(counts.values()):
            dropped += f"; {largest} rows share an input, a group or the beginning of a conversation and stay together"
        if split.order_by is not None:
            raise StageError(
                Reason.DATASET_INVALID,
                f"no row fell into {part} (train {counts['train']}, validation {counts['validation']}, test "
                f"{counts['test']}){dropped}; rows with the same value in {split.order_by!r} (dataset.split.orderBy), "
                "the same input or group stay together: give rows with more different values",
                tells_mend=True,
            )
        rest = "" if split.stratify_by else ", set split.stratifyBy for exact shares"
        raise StageError(
            Reason.DATASET_INVALID,
            f"no row fell into {part} (train {counts['train']}, validation {counts['validation']}, test "
            f"{counts['test']}){dropped}; give more rows with different inputs, raise split.{part}Percent above "
            f"{wanted[part]}{rest}, or choose another split.seed",
            tells_mend=True,
        )


def _given_by(part: Part, spec: FineTuneJobSpec) -> str:
    dataset = spec.dataset
    return f"dataset.files.{part}" if dataset.files is not None else f"{part}, of {giver(dataset)[0]},"


def _check_unwatched(spec: FineTuneJobSpec) -> None:
    """Make sure that nothing needs the validation rows that a column or the hub might have given and has not.

    Raises
    ------
    StageError
        InvalidSpec.
    """
    training = spec.training
    needs = {"earlyStopping": training.early_stopping is not None, "selectBy": training.select_by != "Auto"}
    for field, needed in needs.items():
        if needed:
            raise StageError(
                Reason.INVALID_SPEC,
                f"training.{field} needs validation rows, and {giver(spec.dataset)[0]} gives none; raise "
                "dataset.split.validationPercent",
                tells_mend=True,
            )


def check_thoughts(spec: FineTuneJobSpec, *, rows: int) -> None:
    """Make sure that nothing is asked of answers that thoughts stand before which can't be had.

    Parameters
    ----------
    rows
        Rows with a thought.

    Raises
    ------
    StageError
        InvalidSpec: choices, of which each is weighed right after the prompt.
    """
    if spec.dataset.template.choices is not None:
        have = counted(rows, "row has", "rows have")
        raise StageError(
            Reason.INVALID_SPEC,
            f"dataset.template.choices are weighed right after the prompt, and {have} a thought there before "
            "the answer; remove choices, so that answers are generated and compared as text, or set "
            "dataset.template.messages.thinking to Drop",
            tells_mend=True,
        )


def check_answerable(written: PreparedWriter, hard: Mapping[Part, str]) -> None:
    """Make sure that in each part there is something to measure.

    Raises
    ------
    StageError
        DatasetInvalid: no model could answer a single row of a part; names one.
    """
    for part, why in hard.items():
        if written.unanswerable[part] == written.counts[part]:
            raise StageError(
                Reason.DATASET_INVALID,
                f"none of the {written.counts[part]} {part} rows can be answered, so nothing would be measured: {why}; "
                "correct the answers, or raise training.maxLength where they don't fit",
                tells_mend=True,
            )
