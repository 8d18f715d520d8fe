"""YAML as Kubernetes' clients read it, and written so that they read it back.

kubectl and whatever else goes by sigs.k8s.io/yaml make numbers and booleans of more plain words than PyYAML does:
``3e-3`` and ``y`` are text to PyYAML alone, ``1:30`` and ``2026-01-01`` to them alone. What a local run took for text
the API server would refuse; so both halves read a job through here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

__all__ = ["RepeatedKeyError", "dump_yaml", "load_yaml"]

_TAG: Final = "tag:yaml.org,2002:"
_TRUE: Final = frozenset(("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"))
_FALSE: Final = frozenset(("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"))
_NULL: Final = frozenset(("", "~", "null", "Null", "NULL"))
_NO_JSON: Final = {
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
}
_INT: Final = re.compile(r"[-+]?(0[xX][0-9a-fA-F]+|0[bB][01]+|0[oO]?[0-7]+|0|[1-9][0-9]*)")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_OLD_OCTAL: Final = re.compile(r"([-+]?0)([0-7]+)")
_JSON_WHOLE: Final = 1e21
"""From here on Go writes a float64 with an exponent."""


class RepeatedKeyError(ValueError):
    """A key that stands more than once in a mapping; the message names it and its lines."""


def load_yaml(text: str) -> list[Any]:
    """Read documents.

    Raises
    ------
    RepeatedKeyError
        A mapping has a key twice, of which a reader takes one and says nothing.
    yaml.YAMLError
        It is no YAML.
    """
    loader = _Loader(text)
    documents, repeated = [], []
    try:
        while loader.check_node() and (node := loader.get_node()) is not None:
            repeated += list(_repeated(node, (), set()))
            documents.append(None if repeated else loader.construct_document(node))
    finally:
        loader.dispose()
    if repeated:
        raise RepeatedKeyError("; ".join(repeated))
    return documents


def dump_yaml(value: Any) -> str:
    """Write a value of JSON's kinds; text that any reader would take for something else is put in quotes."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _repeated(node: Node, path: tuple[str, ...], seen: set[int]) -> Iterator[str]:
    """Say where a key stands again; an anchor is looked at once."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, SequenceNode):
        for number, one in enumerate(node.value):
            yield from _repeated(one, (*path[:-1], f"{path[-1] if path else ''}[{number}]"), seen)
    if not isinstance(node, MappingNode):
        return
    lines: dict[str, list[int]] = {}
    for key, value in node.value:
        name = str(key.value) if isinstance(key, ScalarNode) else ""
        if name:
            lines.setdefault(name, []).append(key.start_mark.line + 1)
        yield from _repeated(value, (*path, name), seen)
    for name, found in lines.items():
        if len(found) > 1:
            yield f"{'.'.join((*path, name))} stands {_times(found)}; keep one"


def _times(lines: Sequence[int]) -> str:
    times = "twice" if len(lines) == 2 else f"{len(lines)} times"
    *most, last = map(str, dict.fromkeys(lines))
    return f"{times}, on lines {', '.join(most)} and {last}" if most else f"{times}, on line {last}"


def _plain(text: str) -> Any:
    """Return what a plain word is to go-yaml (go.yaml.in/yaml/v2, resolve.go), as it becomes JSON."""
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if text in _NULL:
        return None
    if text in _NO_JSON:
        return _NO_JSON[text]
    # Underscores part digits, but for those of a number that begins with its point.
    digits = text.replace("_", "") if text[0] in "+-0123456789" else text
    if _INT.fullmatch(digits):
        return int(_OLD_OCTAL.sub(r"\1o\2", digits) if _OLD_OCTAL.fullmatch(digits) else digits, 0)
    if not _FLOAT.fullmatch(digits) or math.isinf(number := float(digits)):
        return text
    return int(number) if number.is_integer() and abs(number) < _JSON_WHOLE else number


def _tag_of(text: str) -> str:
    if text == "<<":
        return f"{_TAG}merge"
    value = _plain(text)
    if value is None:
        return f"{_TAG}null"
    # JSON knows no difference between 1e5 and 100000; PyYAML does when it writes.
    whole = type(value) is int and _INT.fullmatch(text.replace("_", ""))
    kinds = {bool: "bool", int: "int" if whole else "float", float: "float", str: "str"}
    return _TAG + kinds[type(value)]


class _Loader(yaml.SafeLoader):
    def resolve(self, kind: type[Node], value: Any, implicit: Any) -> Any:
        if kind is ScalarNode and implicit[0]:
            return _tag_of(value)
        return super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]  # stubs lack it


def _value(loader: _Loader, node: ScalarNode) -> Any:
    return _plain(str(loader.construct_scalar(node)))


for _kind in ("bool", "int", "float"):
    _Loader.add_constructor(_TAG + _kind, _value)
_Loader.add_constructor(f"{_TAG}merge", lambda _, node: str(node.value))


class _Dumper(yaml.SafeDumper):
    def resolve(self, kind: type[Node], value: Any, implicit: Any) -> Any:
        if kind is ScalarNode and implicit[0]:
            tag = _tag_of(value)
            # What is text to Kubernetes may be a date or a time to another reader.
            return tag if tag != f"{_TAG}str" else self._elsewhere(value)
        return super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]  # stubs lack it

    def _elsewhere(self, value: str) -> Any:
        return super().resolve(ScalarNode, value, (True, False))  # type: ignore[no-untyped-call]  # stubs lack it
