"""What speaks against trusting a result: the closed list of warnings, and how a job can refuse a result for them.

``status.results.warnings`` tells them, ``evaluation.failOn`` names those that end the job as NotAccepted.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

from pydantic import Field

from finetune_api.base import ApiModel

__all__ = ["WARNING_TYPES", "ResultWarning", "WarningType"]

WarningType = Literal[
    "NoGain",
    "FewTestRows",
    "FewValidationRows",
    "LabelInPrompt",
    "OneLabel",
    "NearDuplicates",
    "Overfitted",
    "ValidationDisagrees",
    "TruncatedPrompts",
    "ChoicesOverlap",
    "FormatOnly",
    "NotAboveFewShot",
    "NoFewShot",
    "ThoughtUnfinished",
]
WARNING_TYPES: Final[tuple[WarningType, ...]] = get_args(WarningType)


class ResultWarning(ApiModel):
    """One reason not to trust the numbers as they stand."""

    type: WarningType = Field(description="Kind of the warning; evaluation.failOn takes the same words.")
    message: str | None = Field(
        None, max_length=160, description="With its numbers; absent where the report had no room, see results.json."
    )
