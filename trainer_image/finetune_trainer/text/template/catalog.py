"""Templates, ready for rows: what each is called, needs and says; names and fields are API.

``resolve_template`` turns ``dataset.template`` of a spec, named or inline, into one :class:`PromptTemplate`; what a
named one says comes from ``document.py``.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from finetune_api.digest import digest_of
from finetune_api.job import PromptSource, Template
from finetune_api.metrics import MetricName
from finetune_api.reasons import Reason
from finetune_api.templates import LIBRARY
from finetune_trainer.errors import StageError
from finetune_trainer.text.template.document import (
    MESSAGES,
    Choices,
    Holds,
    Side,
    TemplateDocument,
    library_document,
    read_document,
)
from finetune_trainer.text.template.promptsource import JoinedPrompt, read_prompt

__all__ = ["MESSAGES", "ChoiceSource", "Field", "PromptTemplate", "Side", "resolve_template", "template_of"]

ChoiceSource = Choices

RAW: Final = "raw"


@dataclass(frozen=True, slots=True)
class Field:
    """A variable of a named template and the column that fills it; ``mapped``: the job names another than usual."""

    name: str
    column: str
    description: str
    optional: bool = False
    mapped: bool = False
    holds: Holds = "text"


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """A template, ready for rows.

    Attributes
    ----------
    name
        In the library, or of a document; None for an inline template.
    prompt, completion
        Jinja texts; empty for ``messages``.
    fields
        Variables of a named template; empty for an inline one, which sees the columns themselves.
    answer
        The field that holds the expected output; None for an inline template.
    choice_source
        Where choices come from when the spec gives none: the label set of the train rows, the row itself, nowhere.
    choices
        Choices that the spec gives, or the template itself, outer white space stripped; of ``raw`` as they are written.
    own_choices
        Whether it is the template that gives them.
    separator
        Between prompt and completion for a model without chat template, on the completion's side.
    verbatim
        Whether outer white space of prompt and completion is kept.
    truncate
        Fields that are shortened where a prompt is too long, and at which end; never an instruction or choices.
    metric
        What suits the task; None for an inline template.
    answer_tokens
        No answer of the task should be longer; None where there is no such bound.
    tools_column
        Of ``messages``: the column with the tools that a row offers, where the job names one.
    thoughts
        Of ``messages``: whether what is thought before answers is kept.
    promptsource
        A prompt of PromptSource, which renders prompt and answer in one; the two texts are empty then.
    wordings
        Prompts that train rows have instead of ``prompt``, by name, where the job asks for all paraphrases.
    """

    name: str | None
    prompt: str
    completion: str
    fields: tuple[Field, ...]
    answer: str | None
    choice_source: ChoiceSource
    choices: tuple[str, ...] | None
    separator: str = " "
    verbatim: bool = False
    truncate: tuple[tuple[str, Side], ...] = ()
    own_choices: bool = False
    metric: MetricName | None = None
    answer_tokens: int | None = None
    wordings: tuple[tuple[str, str], ...] = ()
    promptsource: JoinedPrompt | None = None
    tools_column: str | None = None
    thoughts: bool = True

    @property
    def field_of_text(self) -> str:
        """The field of the spec that its texts come from."""
        if self.promptsource is not None:
            return "dataset.template.promptsource"
        return "dataset.template.inline" if self.name is None else f"dataset.template {self.name}"

    @property
    def digest(self) -> str:
        """Digest of everything that decides how a row is rendered."""
        content: dict[str, Any] = {
            "prompt": self.prompt,
            "completion": self.completion,
            "columns": {f.name: f.column for f in self.fields},
            "choices": list(self.choices) if self.choices is not None else self.choice_source,
            "separator": self.separator,
            "verbatim": self.verbatim,
            "truncate": dict(self.truncate),
        }
        # What came later stands there only where it says something: digests of before stay what they were.
        if holds := {f.name: f.holds for f in self.fields if f.holds != "text"}:
            content["holds"] = holds
        if self.wordings:
            content["wordings"] = dict(self.wordings)
        if self.tools_column is not None:
            content["tools"] = self.tools_column
        if not self.thoughts:
            content["thinking"] = "Drop"
        if self.promptsource is not None:
            content["promptsource"] = [self.promptsource.jinja, self.promptsource.answer_choices]
        return digest_of(content)


def resolve_template(spec: Template, source: str | None = None) -> PromptTemplate:
    """Look the template up and map its fields to columns.

    Parameters
    ----------
    spec
        ``dataset.template``.
    source
        Text of the file that it names, or of the runtime's template, if it names one.

    Raises
    ------
    StageError
        TemplateInvalid: the file has no such template, ``columns`` maps a field that the template doesn't have, or
        choices are the same but for white space or the Unicode form.
    """
    choices = _checked_choices(spec.choices, verbatim=spec.name == RAW)
    if spec.inline is not None:
        prompt, completion = spec.inline.prompt, spec.inline.completion
        # A blank of one's own takes the place of the one between; Jinja drops one line end at the end of a text.
        own = prompt.removesuffix("\n")[-1:].isspace() or (choices is None and completion[:1].isspace())
        return PromptTemplate(
            None, prompt, completion, (), None, "none", choices, separator="" if own else " ", verbatim=True
        )
    if spec.promptsource is not None:
        return _of_promptsource(spec.promptsource, source or "", choices)
    document = library_document(spec.name) if spec.name in LIBRARY else _own_document(source or "", spec.name)
    template = template_of(document, columns=dict(spec.columns or {}), choices=choices)
    if spec.messages is not None:
        drops = spec.messages.thinking == "Drop"
        template = replace(template, tools_column=spec.messages.tools, thoughts=not drops)
    return template if spec.paraphrases == "Default" else replace(template, wordings=_wordings(document))


def template_of(
    document: TemplateDocument, *, columns: dict[str, str], choices: tuple[str, ...] | None
) -> PromptTemplate:
    """Map a document's fields to columns.

    Raises
    ------
    StageError
        TemplateInvalid: ``columns`` maps a field that the template doesn't have.
    """
    unknown = sorted(columns.keys() - document.fields.keys())
    if unknown:
        raise StageError(
            Reason.TEMPLATE_INVALID,
            f"dataset.template.columns maps {unknown[0]!r}, which is no field of template {document.name}; "
            f"its fields are {', '.join(document.fields)}",
        )
    fields = tuple(_field(document, name, columns.get(name)) for name in document.fields)
    if document.choices == "row" and choices is not None:
        fields = tuple(f for f in fields if f.name != "choices")
    own = isinstance(document.choices, list) and choices is None
    return PromptTemplate(
        name=document.name,
        prompt=document.prompt or "",
        completion=document.completion or "",
        fields=fields,
        answer=document.answer,
        choice_source="labels" if isinstance(document.choices, list) else document.choices,
        choices=_stripped(document.choices) if own else choices,
        own_choices=own,
        separator=document.separator,
        verbatim=document.verbatim,
        truncate=tuple(document.truncate.items()),
        metric=document.metric,
        answer_tokens=document.answer_tokens,
    )


def _of_promptsource(asked: PromptSource, source: str, choices: tuple[str, ...] | None) -> PromptTemplate:
    try:
        prompt = read_prompt(source, asked.name)
    except ValueError as e:
        raise StageError(Reason.TEMPLATE_INVALID, f"dataset.template.promptsource: the file {e}") from e
    if choices is not None and prompt.answer_choices is not None:
        raise StageError(
            Reason.TEMPLATE_INVALID,
            f"dataset.template.choices stands beside the answer_choices of prompt {prompt.name!r}; remove it",
        )
    fixed = prompt.fixed_choices
    return PromptTemplate(
        None,
        "",
        "",
        (),
        None,
        "row" if prompt.answer_choices is not None and fixed is None else "none",
        choices if fixed is None else fixed,
        own_choices=fixed is not None,
        metric=prompt.metric,
        promptsource=prompt,
    )


def _own_document(source: str, runtime_name: str | None) -> TemplateDocument:
    """Read a document of the job's own, or the one that its runtime has under ``runtime_name``."""
    if runtime_name is None:
        place, mend = "dataset.template.configMapRef: the document", None
    else:
        place = f"dataset.template.name: the document of {runtime_name} in templates of the FineTuneRuntime"
        mend = " The platform team corrects it there."
    try:
        document = read_document(source)
    except ValueError as e:
        raise StageError(
            Reason.TEMPLATE_INVALID, f"{place}: {e}.{mend}" if mend else f"{place}: {e}", tells_mend=bool(mend)
        ) from e
    if runtime_name is not None and document.name != runtime_name:
        raise StageError(
            Reason.TEMPLATE_INVALID,
            f"{place} says name: {document.name}; both names have to be the same.{mend}",
            tells_mend=True,
        )
    if document.name in LIBRARY:
        raise StageError(
            Reason.TEMPLATE_INVALID, f"{place}'s name {document.name} is one of the library; give it another"
        )
    return document


def _wordings(document: TemplateDocument) -> tuple[tuple[str, str], ...]:
    """Every wording of a template, the default among them."""
    if not document.paraphrases:
        raise StageError(
            Reason.TEMPLATE_INVALID,
            f"dataset.template.paraphrases is All, and template {document.name} has no paraphrases; give it some, or "
            "remove the field",
        )
    return tuple(document.prompts.items())


def _field(document: TemplateDocument, name: str, column: str | None) -> Field:
    entry = document.fields[name]
    usual = entry.column or name
    return Field(
        name,
        column or usual,
        entry.description,
        entry.optional,
        mapped=column is not None and column != usual,
        holds=entry.holds,
    )


def _stripped(choices: Sequence[str]) -> tuple[str, ...]:
    return tuple(choice.strip() for choice in choices)


def _checked_choices(given: list[str] | None, *, verbatim: bool) -> tuple[str, ...] | None:
    if given is None:
        return None
    choices = _stripped(given)
    if "" in choices:
        raise StageError(Reason.TEMPLATE_INVALID, "dataset.template.choices has an empty choice")
    forms = [" ".join(unicodedata.normalize("NFC", c).split()) for c in choices]
    twice = sorted({c for c in forms if forms.count(c) > 1})
    if twice:
        raise StageError(
            Reason.TEMPLATE_INVALID,
            f"dataset.template.choices has {twice[0]!r} twice but for white space or the Unicode form",
        )
    return tuple(given) if verbatim else choices
