"""How the rows were cut and what was left out, in words; the card and the page say it alike."""

from __future__ import annotations

from finetune_api.status import DatasetSummary, Resolved

__all__ = ["left_out", "shares"]


def shares(resolved: Resolved) -> str:
    """The shares that were asked for; those of given files are 0."""
    split = resolved.split
    if split is None:
        return ""
    return f"(cut {split.train_percent}/{split.validation_percent}/{split.test_percent} percent)"


def left_out(data: DatasetSummary) -> str:
    """Which rows don't count, by part, and how many sealed ones count as wrong whatever the model says."""
    text = f"Left out: {data.dropped} bad rows"
    if (by := data.dropped_by) is not None:
        text += f" (train {by.train}, validation {by.validation}, test {by.test}, before the split {by.unsplit})"
    text += f", {data.duplicates} duplicates, {data.leaked} that a given validation or test file holds too."
    if data.test_unanswerable:
        text += (
            f" {data.test_unanswerable} test rows can't be answered (a label that train never had or that is no "
            "choice, or an answer longer than there is room for); they count as wrong before and after."
        )
    return text
