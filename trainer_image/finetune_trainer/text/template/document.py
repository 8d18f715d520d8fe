"""A template as data: one YAML document of the library, or of whoever brings templates along.

What a document may say stands here once, and every mistake in one is told by its key. ``catalog.py`` makes a
:class:`~finetune_trainer.text.template.catalog.PromptTemplate` of it, ``page.py`` the page that lists the library.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, Final, Literal, Self, get_args

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from finetune_api.metrics import CHOICE_METRICS, MetricName
from finetune_api.templates import TemplateName

__all__ = [
    "DEFAULT",
    "MESSAGES",
    "Choices",
    "Example",
    "FieldEntry",
    "Holds",
    "Side",
    "TemplateDocument",
    "library",
    "library_document",
    "read_document",
]

Side = Literal["start", "end", "middle"]
"""Where a text loses characters when it is too long."""
Holds = Literal["text", "json", "either", "code"]
"""What a field's column holds: a text; JSON, as such or spelt in a text; either of them; code, whose first line keeps
its indentation."""
Choices = Literal["none", "labels", "row"]

DEFAULT: Final = "default"
"""Name of the text that is used where no other paraphrase is asked for."""
MESSAGES: Final = "messages"
"""The one template that the model's chat template renders instead of Jinja text."""

_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_PARAPHRASE: Final = re.compile(r"[a-z]([-a-z0-9]{0,30}[a-z0-9])?")
_TAKEN: Final = frozenset({"row", "loop", "self", "true", "false", "none", "True", "False", "None", "and", "or", "not",
                           "in", "is", "if", "else"})  # fmt: skip


def _variable(name: str) -> str:
    if not _VARIABLE.fullmatch(name) or name in _TAKEN:
        raise ValueError("a field's name is a variable of the prompt: letters, digits and _, no word of Jinja")
    return name


def _paraphrase(name: str) -> str:
    if not _PARAPHRASE.fullmatch(name) or name == DEFAULT:
        raise ValueError(f"a paraphrase's name is one of lower-case letters, digits and -, and not {DEFAULT}")
    return name


_Text = Annotated[str, Field(min_length=1, max_length=8192)]
_Said = Annotated[str, Field(min_length=1, max_length=512)]
_Name = Annotated[str, AfterValidator(_variable)]


class _Part(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        frozen=True,
        extra="forbid",
        strict=True,
        hide_input_in_errors=True,
    )


class FieldEntry(_Part):
    """A variable of the template and the column that fills it; ``column`` absent: the one of the field's name."""

    description: _Said
    column: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    optional: bool = False
    holds: Holds = "text"


class Example(_Part):
    """A row to show the template with; ``choices`` are the labels that the train rows of its dataset would have."""

    row: dict[str, Any]
    choices: list[str] | None = None


class TemplateDocument(_Part):
    """One template.

    Attributes
    ----------
    name, description
        What the page calls it and says of it.
    fields
        The variables of its texts, in the order in which they are shown.
    answer
        The field that holds the expected output.
    choices
        A fixed list; or where they come from: the labels of the train rows, each row's field ``choices``, nowhere.
    metric
        What suits the task.
    answer_tokens
        No answer of the task should be longer: one that is hints at a column that was mixed up, and is warned of.
    truncate
        Fields that are shortened where a prompt is too long, and at which end.
    separator
        Between prompt and completion for a model without chat template.
    verbatim
        Whether cells are taken with their outer white space.
    prompt, completion
        Jinja texts; absent only in ``messages``.
    paraphrases
        The prompt in other words, by name.
    example
        A row to show it with.
    """

    name: Annotated[str, Field(min_length=1, max_length=64)]
    description: _Said
    fields: dict[_Name, FieldEntry] = Field(min_length=1, max_length=16)
    answer: str
    choices: Choices | Annotated[list[Annotated[str, Field(min_length=1, max_length=128)]], Field(max_length=256)] = (
        "none"
    )
    metric: MetricName | None = None
    answer_tokens: int | None = Field(None, ge=1, le=65536)
    truncate: dict[str, Side] = Field({}, max_length=16)
    separator: str = Field(" ", max_length=16)
    verbatim: bool = False
    prompt: _Text | None = None
    completion: _Text | None = None
    paraphrases: dict[Annotated[str, AfterValidator(_paraphrase)], _Text] = Field({}, max_length=7)
    example: Example | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.answer not in self.fields:
            raise ValueError(f"answer names {self.answer!r}, which is none of its fields: {', '.join(self.fields)}")
        if self.fields[self.answer].optional:
            raise ValueError(f"fields.{self.answer} is the answer and can't be optional")
        for name in self.truncate:
            if name not in self.fields or name == self.answer:
                raise ValueError(f"truncate names {name!r}, which is no field of its prompt")
        if (self.choices == "row") != ("choices" in self.fields):
            raise ValueError("choices: row goes with a field of the name choices, and only with it")
        if isinstance(self.choices, list) and len({c.strip() for c in self.choices} - {""}) < max(2, len(self.choices)):
            raise ValueError("choices needs two choices or more, none of them empty or there twice")
        if self.metric in CHOICE_METRICS and self.choices == "none":
            raise ValueError(f"metric {self.metric} needs choices: labels, row or a list")
        if self.choices != "none" and not re.fullmatch(
            rf"\s*{{{{-?\s*{self.answer}\s*-?}}}}\s*", self.completion or ""
        ):
            raise ValueError(f'completion must be "{{{{ {self.answer} }}}}" alone, since the answers are choices')
        textless = self.name == MESSAGES and not (self.prompt or self.completion or self.paraphrases)
        if not textless and (self.prompt is None or self.completion is None):
            raise ValueError("prompt and completion are needed")
        return self

    @property
    def prompts(self) -> dict[str, str]:
        """The default and its paraphrases by name; empty for ``messages``."""
        return {} if self.prompt is None else {DEFAULT: self.prompt, **self.paraphrases}


class _Loader(yaml.SafeLoader):
    """The safe loader; a key that stands twice is refused, where it would take the last one in silence."""


def _mapping(loader: yaml.SafeLoader, node: yaml.Node) -> dict[Any, Any]:
    if not isinstance(node, yaml.MappingNode):
        raise yaml.constructor.ConstructorError(None, None, f"{node.tag} is no mapping", node.start_mark)
    keys = [loader.construct_object(key) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
    for key in keys:
        if keys.count(key) > 1:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands there twice", node.start_mark)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_document(text: str) -> TemplateDocument:
    """Read a document.

    Raises
    ------
    ValueError
        It is none; the message says at which key, and what is wrong.
    """
    try:
        content = yaml.load(text, Loader=_Loader)  # noqa: S506  # a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as e:
        raise ValueError(f"is no YAML: {' '.join(str(e).split())[:200]}") from e
    if not isinstance(content, dict):
        known = "name, description, fields, answer, prompt and completion"
        raise ValueError(f"is no YAML document of a template; one has {known}")  # noqa: TRY004  # as all its mistakes
    try:
        return TemplateDocument.model_validate(content)
    except ValidationError as e:
        raise ValueError("; ".join(_told(error) for error in e.errors()[:3])) from e


def _told(error: Any) -> str:
    at = ".".join(str(part) for part in error["loc"] if part != "[key]")
    said = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        known = ", ".join(field.alias or name for name, field in TemplateDocument.model_fields.items())
        said = f"is no key of a template; the keys are {known}" if len(error["loc"]) == 1 else "is not known here"
    elif error["type"] == "missing":
        said = "is missing"
    return f"{at}: {said}" if at else said


@cache
def library_document(name: str) -> TemplateDocument:
    """Return a template of the library."""
    path = files("finetune_trainer.text.template").joinpath("library", f"{name}.yaml")
    return read_document(path.read_text(encoding="utf-8"))


def library() -> tuple[TemplateDocument, ...]:
    """All templates of the library, in the order of their names in the API."""
    return tuple(library_document(name) for name in get_args(TemplateName))
