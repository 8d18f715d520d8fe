"""Text and times that the operator did not write itself, made safe for status, events and logs.

Pure. Tenant text (termination messages, scheduler and kubelet messages, URIs) reaches people through here only.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any, Final

from pydantic import ValidationError

__all__ = ["MAX_MESSAGE", "bare", "clean", "explain", "last_line", "parse_time", "rfc3339", "sanitise"]

MAX_MESSAGE: Final = 1024
"""Characters of a message in status (Failure.message)."""

# ECMA-48 control sequences (colours, cursor) and operating system commands (titles, links).
_ANSI: Final = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[@-Z\\-_]")
_MAX_ERRORS: Final = 5
_MAX_FOREIGN: Final = 600


def sanitise(text: str, limit: int = MAX_MESSAGE) -> str:
    """Return ``text`` on one line, printable characters only, at most ``limit`` characters long."""
    text = _ANSI.sub("", text[: 8 * limit])
    words = "".join(char if char.isprintable() else " " for char in text).split()
    line = " ".join(words)
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def bare(text: str | None) -> str:
    """Sanitise foreign text that a sentence of ours goes on after."""
    return sanitise(text or "", _MAX_FOREIGN).rstrip(". ")


def last_line(text: str, limit: int = 300) -> str:
    """Return the last line that says something, sanitised; the end of a traceback names the error."""
    lines = [line for raw in text[-8192:].splitlines() if (line := sanitise(raw, limit))]
    return lines[-1] if lines else ""


def clean(value: Any, *, verbatim: Collection[str] = ()) -> Any:
    """Sanitise every string inside a JSON-able value; lengths are bounded by the types already.

    Parameters
    ----------
    verbatim
        Keys whose values stay as they are, since programs are given them: a line end is a line end.
    """
    if isinstance(value, str):
        return sanitise(value)
    if isinstance(value, list):
        return [clean(item, verbatim=verbatim) for item in value]
    if isinstance(value, dict):
        return {key: item if key in verbatim else clean(item, verbatim=verbatim) for key, item in value.items()}
    return value


def explain(error: ValidationError) -> str:
    """Name the fields that are wrong and why, never their values."""
    problems = []
    for item in error.errors(include_url=False, include_context=False, include_input=False)[:_MAX_ERRORS]:
        path = ".".join(str(part) for part in item["loc"])
        if item["type"] == "value_error":  # one of our rules, whose message names the field itself, or its last part
            message = item["msg"].removeprefix("Value error, ")
            whole = not path or message.startswith(path.partition(".")[0])
            problems.append(message if whole else f"{path}: {message}")
        else:
            problems.append(f"{path}: {item['msg']}" if path else item["msg"])
    more = error.error_count() - len(problems)
    return "; ".join(problems) + (f"; and {more} more" if more > 0 else "")


def rfc3339(moment: datetime) -> str:
    """Print a time as metav1.Time does: UTC, whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: object) -> datetime | None:
    """Parse a metav1.Time or MicroTime (RFC 3339) into an aware datetime in UTC; None if it is absent or no time."""
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
