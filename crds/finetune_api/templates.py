"""Names of the library's templates and of their fields: an API, so they stand in the contract.

What the templates say is the trainer's; a test holds these names against its data. Split from
:mod:`finetune_api.dataset` for size. A runtime's own templates are data of the runtime, text and all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Final, Literal, get_args

from pydantic import Field

from finetune_api.base import Rule, SpecModel

__all__ = [
    "LIBRARY",
    "OPEN_TEMPLATES",
    "TEMPLATE_FIELDS",
    "WORDLESS_TEMPLATES",
    "RuntimeTemplate",
    "TemplateKey",
    "TemplateName",
]

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

LIBRARY: Final[tuple[TemplateName, ...]] = get_args(TemplateName)

TemplateKey = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$")]
"""Name of a template, of the library or of a runtime."""

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


class RuntimeTemplate(SpecModel):
    """A template that the platform team gives to every job on a runtime."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=f"!(self.name in {list(LIBRARY)})",
            message="templates[].name is one of the library's, which means the same everywhere; choose another name",
            check=lambda t: t.name not in LIBRARY,
            field="name",
        ),
    )

    name: TemplateKey = Field(description="What jobs write into dataset.template.name; none of the library's names.")
    document: str = Field(
        min_length=1, max_length=8192, description="A template document, YAML in the form of the library's."
    )
