"""The template library: what each named template is called, needs and says; names and fields are API.

``resolve_template`` turns ``dataset.template`` of a spec, named or inline, into one :class:`PromptTemplate`.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final, Literal

import yaml

from finetune_api.digest import digest_of
from finetune_api.job import Template
from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError

__all__ = ["MESSAGES", "ChoiceSource", "Field", "PromptTemplate", "Side", "library_template", "resolve_template"]

ChoiceSource = Literal["none", "labels", "row"]
Side = Literal["start", "end", "middle"]
"""Where a text loses characters when it is too long."""

RAW: Final = "raw"
MESSAGES: Final = "messages"
"""The one template that the model's chat template renders instead of Jinja text."""


@dataclass(frozen=True, slots=True)
class Field:
    """A variable of a named template and the column that fills it."""

    name: str
    column: str
    description: str
    optional: bool = False


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """A template, ready for rows.

    Attributes
    ----------
    name
        In the library; None for an inline template.
    prompt, completion
        Jinja texts; empty for ``messages``.
    fields
        Variables of a named template; empty for an inline one, which sees the columns themselves.
    answer
        The field that holds the expected output; None for an inline template.
    choice_source
        Where choices come from when the spec gives none: the label set of the train rows, the row itself, nowhere.
    choices
        Choices that the spec gives, outer white space stripped; of ``raw`` as they are written.
    separator
        Between prompt and completion for a model without chat template, on the completion's side.
    verbatim
        Whether outer white space of prompt and completion is kept.
    truncate
        Fields that are shortened where a prompt is too long, and at which end; never an instruction or choices.
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

    @property
    def digest(self) -> str:
        """Digest of everything that decides how a row is rendered."""
        return digest_of(
            {
                "prompt": self.prompt,
                "completion": self.completion,
                "columns": {f.name: f.column for f in self.fields},
                "choices": list(self.choices) if self.choices is not None else self.choice_source,
                "separator": self.separator,
                "verbatim": self.verbatim,
                "truncate": dict(self.truncate),
            }
        )


def resolve_template(spec: Template) -> PromptTemplate:
    """Look the template up and map its fields to columns.

    Raises
    ------
    StageError
        TemplateInvalid: ``columns`` maps a field that the template doesn't have, or choices are the same but for white
        space or the Unicode form.
    """
    choices = _checked_choices(spec.choices, verbatim=spec.name == RAW)
    if spec.inline is not None:
        prompt, completion = spec.inline.prompt, spec.inline.completion
        # A blank of one's own takes the place of the one between; Jinja drops one line end at the end of a text.
        own = prompt.removesuffix("\n")[-1:].isspace() or (choices is None and completion[:1].isspace())
        return PromptTemplate(
            None, prompt, completion, (), None, "none", choices, separator="" if own else " ", verbatim=True
        )
    assert spec.name is not None  # noqa: S101  # a rule of the API: exactly one of the two
    entry = library_template(spec.name)
    columns = dict(spec.columns or {})
    fields = tuple(
        Field(name, columns.pop(name, name), f["description"], f.get("optional", False))
        for name, f in entry["fields"].items()
    )
    if columns:
        raise StageError(
            Reason.TEMPLATE_INVALID,
            f"dataset.template.columns maps {min(columns)!r}, which is no field of template {spec.name}; "
            f"its fields are {', '.join(f.name for f in fields)}",
        )
    if entry["choices"] == "row" and choices is not None:
        fields = tuple(f for f in fields if f.name != "choices")
    return PromptTemplate(
        name=spec.name,
        prompt=entry.get("prompt", ""),
        completion=entry.get("completion", ""),
        fields=fields,
        answer=entry["answer"],
        choice_source=entry["choices"],
        choices=choices,
        separator=entry.get("separator", " "),
        verbatim=entry.get("verbatim", False),
        truncate=tuple(entry.get("truncate", {}).items()),
    )


@cache
def library_template(name: str) -> dict[str, Any]:
    """Return a library file's content: description, fields, answer, choices and, but for messages, the Jinja texts."""
    text = files("finetune_trainer.text.template").joinpath("library", f"{name}.yaml").read_text(encoding="utf-8")
    content: dict[str, Any] = yaml.safe_load(text)
    return content


def _checked_choices(given: list[str] | None, *, verbatim: bool) -> tuple[str, ...] | None:
    if given is None:
        return None
    choices = tuple(c.strip() for c in given)
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
