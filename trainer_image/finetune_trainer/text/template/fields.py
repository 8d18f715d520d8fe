"""From a row's values to what a template needs of it: texts, choices, turns of a conversation; pure.

A :class:`ValueError` from here makes the row a bad one, with its message as the reason.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from finetune_trainer.data.strict_json import parsed, why_not
from finetune_trainer.text.template.catalog import MESSAGES, Field, PromptTemplate
from finetune_trainer.text.template.conversation import Message, as_text_of_turn, to_messages
from finetune_trainer.text.template.labels import Answers, as_text

__all__ = ["Projected", "field_value", "project", "row_choices"]

_BLANK_LINES: Final = re.compile(r"\A(?:[ \t]*\n)+")


@dataclass(frozen=True, slots=True)
class Projected:
    """What a named template takes of a row.

    Attributes
    ----------
    inputs
        Field to value for everything the prompt shows; the split's key is made of it.
    answer
        The expected output as text: one of the choices where there are any, else what the row says (an unknown answer).
    messages
        The turns before the answer; only for the ``messages`` template.
    turn
        The answer as a turn, where it is more than its text.
    choices
        The row's own choices; only where the template takes them from the row.
    folded
        Whether the row spells its answer in another way than the choice does.
    """

    inputs: dict[str, Any]
    answer: str
    messages: tuple[Message, ...] = ()
    turn: Message | None = None
    choices: tuple[str, ...] | None = None
    folded: bool = False

    @property
    def thoughts(self) -> tuple[str, ...]:
        """What is thought before the answers of a conversation, the last one's last; empty without any."""
        found = tuple(m.thought for m in (*self.messages, *([self.turn] if self.turn else [])) if m.role == "assistant")
        return found if any(found) else ()


def project(template: PromptTemplate, values: Mapping[str, Any], answers: Answers) -> Projected:
    """Take the fields of a named template from a row.

    Parameters
    ----------
    template, values
        The template, and the row by columns.
    answers
        How the answer column is read, from :class:`~.survey.AnswerSurvey`.

    Raises
    ------
    ValueError
        A column is missing, empty, or not what the field needs; the message names the column.
    """
    inputs: dict[str, Any] = {}
    answer: Any = None
    choices: tuple[str, ...] | None = None
    names: tuple[str, ...] = ()
    for field in template.fields:
        value = field_value(field, values)
        if template.name == MESSAGES:
            *before, last = to_messages(
                value, field.column, beside=values, tools=template.tools_column, thoughts=template.thoughts
            )
            return Projected(
                # Whatever was thought before, it is the same question.
                {"messages": [m.thinking("").keys for m in before]},
                as_text_of_turn(last),
                messages=tuple(before),
                turn=last if last.more else None,
            )
        if field.name == "choices" and template.choice_source == "row":
            choices, names = row_choices(value, field.column)
            inputs[field.name] = list(choices)
        elif field.name == template.answer:
            text = _text(value, field)
            answer = value if field.holds == "text" else text
        else:
            inputs[field.name] = _text(value, field, verbatim=template.verbatim)
    read = answers(answer, choices or (), names)
    return Projected(inputs, _as_written(template, answer, read.text), choices=choices, folded=read.folded)


def _as_written(template: PromptTemplate, answer: Any, read: str) -> str:
    """The answer with the outer white space that it has in the spec's choices, or in a cell that is ready as it is."""
    if template.choices is not None:
        return next((c for c in template.choices if c.strip() == read), read)
    return answer if template.verbatim and isinstance(answer, str) else read


def field_value(field: Field, values: Mapping[str, Any]) -> Any:
    """The value of a field's column.

    Raises
    ------
    ValueError
        The column is missing or empty, and the field is needed.
    """
    if field.column not in values:
        if field.optional:
            return ""
        raise ValueError(f"column {field.column!r} is missing")
    value = values[field.column]
    if value is None:
        value = ""
    if field.holds == "json" and value in ([], {}):
        return value  # nothing found is an answer
    if not field.optional and (value in ("", [], {}) or (isinstance(value, str) and not value.strip())):
        raise ValueError(f"column {field.column!r} is empty")
    return value


def _text(value: Any, field: Field, *, verbatim: bool = False) -> str:
    if field.holds == "json" and value != "":
        return _json_text(value, field.column)
    if field.holds == "either" and isinstance(value, list | dict):
        return _json_text(value, field.column) if value else ""
    if isinstance(value, list | dict):
        raise ValueError(  # noqa: TRY004  # the caller tells a bad row by ValueError
            f"column {field.column!r} holds a {'list' if isinstance(value, list) else 'JSON object'}, not a text"
        )
    if field.holds == "code" and isinstance(value, str):
        return _BLANK_LINES.sub("", value.replace("\r\n", "\n")).rstrip()
    return value if verbatim and isinstance(value, str) else as_text(value)


def _json_text(value: Any, column: str) -> str:
    """One form of JSON for every row, however its file spells it."""
    if isinstance(value, str):
        try:
            value = parsed(value)
        except (ValueError, RecursionError) as e:
            raise ValueError(f"column {column!r} is no JSON{why_not(e)}") from e
    if not isinstance(value, list | dict):
        raise ValueError(f"column {column!r} holds no JSON object and no list")  # noqa: TRY004  # tells a bad row
    return json.dumps(value, ensure_ascii=False)


def row_choices(value: Any, column: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the texts of a row's own choices, and their names if the data gives them.

    Parameters
    ----------
    value
        A list of texts or numbers; an object that holds such a list as ``text`` and their names as ``label``, as many
        published data sets do; or either as JSON text, which is how a CSV file can hold it.
    column
        For messages.

    Raises
    ------
    ValueError
        It is neither, has fewer than two choices, or the same twice.
    """
    if isinstance(value, str):
        try:
            value = parsed(value)
        except (ValueError, RecursionError) as e:
            why = why_not(e)
            raise ValueError(f'column {column!r} is no JSON list of choices such as ["one", "two"]{why}') from e
    names: Any = []
    if isinstance(value, Mapping):
        value, names = value.get("text"), value.get("label", [])
    if not isinstance(value, list) or any(isinstance(v, list | dict) or v is None for v in value):
        raise ValueError(f"column {column!r} is no list of texts")
    choices = tuple(as_text(v) for v in value)
    if "" in choices:
        raise ValueError(f"column {column!r} has an empty choice")
    if len(choices) < 2:
        raise ValueError(f"column {column!r} has fewer than two choices")
    if len({unicodedata.normalize("NFC", c) for c in choices}) < len(choices):
        raise ValueError(f"column {column!r} has the same choice twice")
    if not isinstance(names, list) or len(names) not in (0, len(choices)):
        raise ValueError(f"column {column!r} has not one label for each choice")
    return choices, tuple(as_text(n) for n in names)
