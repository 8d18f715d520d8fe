"""Names of the library's templates: an API, so they stand in the contract; what they say is the trainer's.

A test holds them against the trainer's data. Split from :mod:`finetune_api.dataset` for size.
"""

from __future__ import annotations

from typing import Final, Literal

__all__ = ["OPEN_TEMPLATES", "WORDLESS_TEMPLATES", "TemplateName"]

TemplateName = Literal[
    "sentiment",
    "star-rating",
    "topic",
    "intent",
    "spam",
    "toxicity",
    "emotion",
    "stance",
    "classification",
    "nli",
    "paraphrase",
    "duplicate-question",
    "boolean-qa",
    "multiple-choice",
    "commonsense-ending",
    "qa",
    "extractive-qa",
    "closed-qa",
    "entities",
    "key-values",
    "slot-filling",
    "summarization",
    "headline",
    "dialogue-summary",
    "translation",
    "correction",
    "simplification",
    "data-to-text",
    "question-generation",
    "review-generation",
    "text-to-sql",
    "final-answer",
    "code-explanation",
    "instruction",
    "messages",
    "raw",
]
"""In the order in which the page lists them: sorting, judging, questions, extraction, texts, code, assistants."""

OPEN_TEMPLATES: Final[tuple[TemplateName, ...]] = (
    "qa",
    "extractive-qa",
    "closed-qa",
    "entities",
    "key-values",
    "slot-filling",
    "summarization",
    "headline",
    "dialogue-summary",
    "translation",
    "correction",
    "simplification",
    "data-to-text",
    "question-generation",
    "review-generation",
    "text-to-sql",
    "final-answer",
    "code-explanation",
    "instruction",
    "messages",
    "raw",
)
"""Those whose answers are no choices, unless the job gives some."""

WORDLESS_TEMPLATES: Final[tuple[TemplateName, ...]] = ("messages", "raw")
"""Those whose prompts are the rows' own."""
