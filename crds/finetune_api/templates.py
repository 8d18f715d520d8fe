"""Names of the library's templates and of their fields: an API, so they stand in the contract.

What the templates say is the trainer's; a test holds these names against its data. Split from
:mod:`finetune_api.dataset` for size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

__all__ = ["OPEN_TEMPLATES", "TEMPLATE_FIELDS", "WORDLESS_TEMPLATES", "TemplateName"]

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

TEMPLATE_FIELDS: Final[Mapping[TemplateName, tuple[str, ...]]] = {
    "sentiment": ("text", "label"),
    "star-rating": ("text", "label"),
    "topic": ("text", "label"),
    "intent": ("text", "label"),
    "spam": ("text", "label"),
    "toxicity": ("text", "label"),
    "emotion": ("text", "label"),
    "stance": ("text", "target", "label"),
    "classification": ("text", "label"),
    "nli": ("premise", "hypothesis", "label"),
    "paraphrase": ("sentence1", "sentence2", "label"),
    "duplicate-question": ("question1", "question2", "label"),
    "boolean-qa": ("passage", "question", "answer"),
    "multiple-choice": ("question", "choices", "answer"),
    "commonsense-ending": ("context", "choices", "answer"),
    "qa": ("context", "question", "answer"),
    "extractive-qa": ("context", "question", "answer"),
    "closed-qa": ("question", "answer"),
    "entities": ("text", "entities"),
    "key-values": ("text", "keys", "values"),
    "slot-filling": ("text", "slots"),
    "summarization": ("text", "summary"),
    "headline": ("text", "headline"),
    "dialogue-summary": ("dialogue", "summary"),
    "translation": ("source", "target", "source_language", "target_language"),
    "correction": ("text", "corrected"),
    "simplification": ("text", "simple"),
    "data-to-text": ("data", "text"),
    "question-generation": ("context", "answer", "question"),
    "review-generation": ("product", "rating", "review"),
    "text-to-sql": ("schema", "question", "query"),
    "final-answer": ("question", "answer"),
    "code-explanation": ("code", "language", "explanation"),
    "instruction": ("instruction", "input", "output"),
    "messages": ("messages",),
    "raw": ("prompt", "completion"),
}
"""What ``columns`` may map, by template."""
