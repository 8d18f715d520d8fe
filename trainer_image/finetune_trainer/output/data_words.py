"""How the rows were cut and what was left out, in words; the card and the page say it alike."""

from __future__ import annotations

from finetune_api.status import DatasetSummary, Resolved
from finetune_trainer.counted import counted

__all__ = ["left_out", "shares"]


def shares(data: DatasetSummary, resolved: Resolved) -> str:
    """What was asked of the split: the parts that were given, and the percents by which the others were cut.

    A part that has rows though none were to be cut for it was given.
    """
    split = resolved.split
    if split is None:
        return ""
    parts = (
        ("train", split.train_percent, data.train),
        ("validation", split.validation_percent, data.validation),
        ("test", split.test_percent, data.test),
    )
    given = [name for name, percent, rows in parts if rows and not percent]
    told = [f"{' and '.join(given)} given"] if given else []
    asked = [str(percent) for name, percent, _ in parts if name not in given]
    if len(asked) > 1 and asked != ["100", "0"]:
        told.append(f"{'the rest ' if told else ''}asked: {'/'.join(asked)} percent")
    return f"({', '.join(told)})" if told else ""


def left_out(data: DatasetSummary) -> str:
    """Which rows don't count, by part, and how many sealed ones count as wrong whatever the model says."""
    text = f"Left out: {counted(data.dropped, 'bad row')}"
    if (by := data.dropped_by) is not None:
        text += f" (train {by.train}, validation {by.validation}, test {by.test}, before the split {by.unsplit})"
    if data.skipped:
        text += f", {data.skipped} that the template renders to nothing for"
    text += f", {counted(data.duplicates, 'duplicate')}, {data.leaked} that a given validation or test file holds too."
    for number, one in enumerate(data.sources or ()):
        text += (
            f" Of dataset.sources[{number}]: {counted(one.rows, 'row')} read, {one.train} to learn from, "
            f"{one.validation} for validation, {one.test} sealed."
        )
    if (near := data.near_duplicates) is not None:
        one_row = near.train == 1
        repeated = counted(near.train, "train row nearly repeats", "train rows nearly repeat")
        left = f"{'was' if one_row else 'were'} left out of train"
        kept = f"{'is' if one_row else 'are'} in train all the same"
        text += (
            f" {repeated} one of {near.test} test or {counted(near.validation, 'validation row')} (word 5-grams) and "
            f"{left if near.dropped else kept}."
        )
    if data.test_unanswerable:
        text += (
            f" {counted(data.test_unanswerable, 'test row')} can't be answered (a label that train never had or that "
            "is no choice, or an answer longer than there is room for); that counts as wrong before and after."
        )
    return text
