"""Tools that a row offers and calls of them, out of the dialects of chat files into the one that chat templates take.

Beside ``conversation.py``, which reads the turns. Arguments become an object, whether a file has them as one or as JSON
text: chat templates take objects, and the one that wants text gets it where it is rendered. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from finetune_trainer.data.strict_json import parsed, why_not

__all__ = [
    "CALL_ROLES",
    "RESULT_ROLES",
    "called_in_text",
    "calls_of",
    "check_parallel",
    "offered_tools",
    "shown",
    "without_padding",
]

CALL_ROLES: Final = ("function_call", "tool_call")
"""Roles of turns whose text is a call, in files like ShareGPT's."""
RESULT_ROLES: Final = ("tool", "function", "tool_response", "observation", "ipython")
"""What files call the turn that brings a tool's result."""
_USUAL: Final = ("tools", "functions")
_CALLS: Final = ("tool_calls", "function_call")
_VALUES: Final = ("default", "const", "enum", "examples")
"""Keys of a definition that hold values, where null is one."""


def offered_tools(values: Mapping[str, Any], column: str | None) -> list[dict[str, Any]]:
    """Return the tools that a row offers.

    Parameters
    ----------
    values
        The row by columns.
    column
        That holds them; None for ``tools``, or ``functions`` as older files have it.

    Raises
    ------
    ValueError
        They are no list of functions; the message names the column.
    """
    found = [name for name in (_USUAL if column is None else (column,)) if not _is_nothing(values.get(name))]
    if len(found) > 1:
        raise ValueError(f"columns {' and '.join(map(repr, found))} both offer tools; keep one of them")
    if not found:
        return []
    value = values[found[0]]
    if isinstance(value, str):
        try:
            value = _parsed(value)
        except ValueError as e:
            raise ValueError(f"column {found[0]!r} is no JSON list of tools{why_not(e)}") from e
    if not isinstance(value, list) or not value:
        raise ValueError(f"column {found[0]!r} is no list of tools")
    return [_tool(n, entry, found[0]) for n, entry in enumerate(value, start=1)]


def _tool(n: int, entry: Any, column: str) -> dict[str, Any]:
    if isinstance(entry, Mapping) and "function" not in entry and "name" in entry:
        # OpenAI's later form has type and function in one object.
        entry = {"type": "function", "function": {k: v for k, v in entry.items() if (k, v) != ("type", "function")}}
    kind = entry.get("type", "function") if isinstance(entry, Mapping) else "function"
    if kind != "function":
        raise ValueError(f"tool {n} in column {column!r} has type {shown(str(kind))}; only functions can be learned")
    function = entry.get("function") if isinstance(entry, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"].strip():
        raise ValueError(f"tool {n} in column {column!r} has no name; a tool is a function with a name")
    return {"type": "function", **_filled(entry)}


def _filled(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a definition without keys that hold nothing: what ``datasets`` puts there of other tools.

    A default or a constant may be null.
    """
    return {
        key: value if key in _VALUES else _filled_in(value)
        for key, value in schema.items()
        if value is not None or key in _VALUES
    }


def _filled_in(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _filled(value)
    return [_filled_in(one) for one in value] if isinstance(value, list) else value


def without_padding(calls: Sequence[dict[str, Any]], tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return calls without arguments that are null and that the called tool does not have: those of other tools.

    Parameters
    ----------
    tools
        That the row offers; of one that is not among them, or that says nothing of its parameters, all stays.
    """
    known = {tool["function"]["name"]: tool["function"].get("parameters") for tool in tools}
    return [_without_padding(call, known.get(call["function"]["name"])) for call in calls]


def _without_padding(call: dict[str, Any], parameters: Any) -> dict[str, Any]:
    function = call["function"]
    if not isinstance(parameters, Mapping) or parameters.get("additionalProperties"):
        return call
    own = parameters.get("properties") or {}
    arguments = {key: value for key, value in function["arguments"].items() if value is not None or key in own}
    return {**call, "function": {**function, "arguments": arguments}}


def check_parallel(values: Mapping[str, Any], calls: Sequence[int]) -> None:
    """Refuse a row that calls several tools at once and says that it doesn't.

    Parameters
    ----------
    calls
        How many tools each turn calls.

    Raises
    ------
    ValueError
        It does.
    """
    if values.get("parallel_tool_calls") in (False, "false", 0) and max(calls, default=0) > 1:
        raise ValueError("parallel_tool_calls is false, and a message calls several tools; set it true, or split them")


def calls_of(n: int, message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the calls of message ``n``, in the form ``{"type": "function", "function": {"name", "arguments"}}``.

    Raises
    ------
    ValueError
        They are no calls of functions; the message says what is wrong.
    """
    found = [key for key in _CALLS if message.get(key)]
    if len(found) > 1:
        raise ValueError(f"message {n} has both tool_calls and function_call; keep one of them")
    if not found:
        return []
    value = message[found[0]]
    if found == ["function_call"]:
        value = [value]
    if not isinstance(value, list):
        raise ValueError(f"message {n} has tool_calls that are no list")  # noqa: TRY004  # a bad row
    return [_call(n, entry) for entry in value]


def called_in_text(n: int, text: str) -> list[dict[str, Any]]:
    """Return the calls of a turn whose text is one, or a list of them, as JSON.

    Raises
    ------
    ValueError
        It is none.
    """
    try:
        value = _parsed(text)
    except ValueError as e:
        raise ValueError(f"message {n} is a call of a tool, and its text is no JSON{why_not(e)}") from e
    return [_call(n, entry) for entry in (value if isinstance(value, list) else [value])]


def _call(n: int, entry: Any) -> dict[str, Any]:
    if not isinstance(entry, Mapping):
        raise ValueError(f"message {n} has a call that is no object")  # noqa: TRY004  # a bad row
    kind = entry.get("type") or "function"
    if kind != "function":
        raise ValueError(f"message {n} calls a tool of type {shown(str(kind))}; only functions can be learned")
    function = entry.get("function", entry)
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"message {n} has a call without the function's name")
    arguments = function.get("arguments")
    if arguments is None:
        arguments = function.get("parameters")
    called: dict[str, Any] = {"name": name, "arguments": _arguments(n, name, arguments)}
    number = entry.get("id")
    return {**({"id": str(number)} if number else {}), "type": "function", "function": called}


def _arguments(n: int, name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = _parsed(value) if value.strip() else {}
        except ValueError as e:
            raise ValueError(f"message {n}: the arguments of its call of {shown(name)} are no JSON: {e}") from e
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(f"message {n}: the arguments of its call of {shown(name)} are no JSON object")  # noqa: TRY004
    return dict(value)


def _parsed(text: str) -> Any:
    try:
        return parsed(text)
    except RecursionError as e:
        raise ValueError("it is nested too deeply") from e


def _is_nothing(value: Any) -> bool:
    return not value or (isinstance(value, str) and value.strip() in ("", "[]", "{}", "null"))


def shown(text: str) -> str:
    """A text for a message: quoted and not too long."""
    return repr(text if len(text) <= 60 else text[:57] + "...")
