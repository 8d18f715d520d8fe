"""Names of a dataset's classes as its card on the hub has them; pure.

Below ``hubrows.py``. A label is often stored as a number, and what the number means stands in ``dataset_info`` of the
card's metadata alone (``datasets.Features`` in YAML). ``data/classes.py`` puts the names in place of the numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

__all__ = ["Classes", "classes_of"]

Classes = tuple[tuple[str, tuple[str, ...]], ...]
"""(column, names of its classes in the order of their numbers)."""

_DEFAULT: Final = "default"


def classes_of(card: Mapping[str, Any], config: str) -> Classes:
    """Return the classes of a configuration's columns.

    Parameters
    ----------
    card
        Metadata of the card.
    config
        Name of the configuration. Where the card tells of one alone and names no configurations, that one is meant.

    Returns
    -------
    Classes
        Empty where the card has none. What isn't numbered from 0 without a gap is left out: such a name might be
        another number's.
    """
    listed = card.get("dataset_info")
    infos = [one for one in (listed if isinstance(listed, list) else [listed]) if isinstance(one, dict)]
    fitting = [one for one in infos if one.get("config_name", _DEFAULT) == config]
    if not fitting and len(infos) == 1 and not card.get("configs"):
        fitting = infos
    features = fitting[0].get("features") if len(fitting) == 1 else None
    found = {
        one["name"]: names
        for one in (features if isinstance(features, list) else [])
        if isinstance(one, dict) and isinstance(one.get("name"), str) and (names := _names(one.get("dtype")))
    }
    return tuple(found.items())


def _names(dtype: Any) -> tuple[str, ...]:
    about = dtype.get("class_label") if isinstance(dtype, dict) else None
    names = about.get("names") if isinstance(about, dict) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict):
        return ()
    by_number = {str(number): str(name) for number, name in names.items()}
    ordered = tuple(by_number.get(str(number)) for number in range(len(by_number)))
    return tuple(name for name in ordered if name is not None) if None not in ordered else ()
