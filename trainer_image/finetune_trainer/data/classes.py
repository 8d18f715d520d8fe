"""Puts the names of classes in place of their numbers, as the ``datasets`` library keeps both.

Below ``columnar.py`` and ``readers.py``. Numbers alone would be shifted labels waiting to happen.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

__all__ = ["named", "usable"]

_NUMBER: Final = re.compile(r"-?[0-9]+")


def usable(classes: Mapping[str, Sequence[str]], choices: Sequence[str] | None) -> dict[str, Sequence[str]]:
    """Return the columns whose numbers become names.

    Where a job lists its own ``choices`` in other words, the numbers stay: they are those of the choices.
    """
    given = None if choices is None else {choice.casefold().strip() for choice in choices}
    return {
        column: names
        for column, names in classes.items()
        if given is None or given == {str(name).casefold().strip() for name in names}
    }


def named(values: dict[str, Any], classes: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Replace the numbers in a row's values; those without a name, as -1 of a label that is not known, by None.

    A text is a number where it looks like one and is no name itself, as that library reads it.
    """
    for column, names in classes.items():
        number = values.get(column)
        if isinstance(number, str) and number not in names and _NUMBER.fullmatch(number.strip()):
            number = int(number)
        if isinstance(number, int):
            values[column] = names[number] if 0 <= number < len(names) else None
    return values
