"""Chat templates whose text fixes what their callers and the calendar would decide.

Pure text to text. A row must have the tokens that a server will send later, so nothing may be left open: thinking is
switched on or off in the template itself (what only the trainer sets is something else at a server), and the date is a
fixed one, since a template that prints today's gives the same row other tokens tomorrow. Only ``set``, ``macro`` and
``replace`` are used, which the Jinja dialects of servers know as well as Jinja itself.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any, Final

from jinja2 import Environment, TemplateError, meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser

__all__ = ["FIXED_DATE", "fix_template", "with_generation_text"]

FIXED_DATE: Final = datetime(2025, 1, 1, tzinfo=UTC)
"""What every template takes for today."""

_SWITCHES: Final = ("enable_thinking", "thinking", "enable_reasoning", "reasoning")
"""Variables that templates read as: leave room for reasoning before the answer."""
_CODE: Final = re.compile(r"%[-_0^#]?[A-Za-z]")


class _Generation(Extension):
    """The tag around an assistant's turn, by which trainers find it; nothing but its content counts here."""

    tags = {"generation"}  # noqa: RUF012  # as the base class declares it

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        """Read the tag as its content."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def fix_template(source: str, *, switches: bool | None) -> str:
    """Return a template that renders without any argument what ``source`` renders with its switches set.

    Parameters
    ----------
    source
        A chat template; returned as it is where it has nothing to fix, or can't be read.
    switches
        On or off; None leaves them as the template has them by itself.
    """
    try:
        environment = Environment(extensions=[_Generation, loopcontrols])  # noqa: S701  # only parses
        free = meta.find_undeclared_variables(environment.parse(source))
        strings = [text for _, kind, text in environment.lex(source) if kind == "string"]
    except TemplateError:
        return source  # the renderer tells its error
    parts = [f"set {name} = {str(switches).lower()}" for name in _SWITCHES if switches is not None and name in free]
    lines: list[str] = [f"{{% {part} %}}" for part in parts]
    if "strftime_now" in free:
        lines.append(f"{{% macro strftime_now(format) %}}{{{{ format{_replaced(strings)} }}}}{{% endmacro %}}")
    # A line end after a block is no output. It also leaves the source's first line what it was: a line's beginning.
    return "".join(f"{line}\n" for line in lines) + source


def with_generation_text(template: str, text: str) -> str:
    """Return a template whose generation prompt goes on with ``text``."""
    # Jinja drops one line end at a template's end, which must not come back now that more follows.
    template = template.removesuffix("\n")
    return f"{template}{{{{ {json.dumps(text, ensure_ascii=False)} if add_generation_prompt else '' }}}}"


def _replaced(strings: list[Any]) -> str:
    """The calls that put the fixed date into a format: one for each code that the template's texts hold."""
    codes = dict.fromkeys(code for text in strings for code in _CODE.findall(str(text)))
    known = {code: FIXED_DATE.strftime(code) for code in codes}
    return "".join(f".replace('{code}', '{value}')" for code, value in known.items() if value != code)
