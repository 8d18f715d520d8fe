"""Merge patches (RFC 7386): the smallest one that turns a stored status into the wanted one.

Pure; used by ``apply.py``. Lists are replaced whole and a key that goes needs an explicit null, so a patch is always
sent together with the resourceVersion of the object that it was computed from.
"""

from __future__ import annotations

from typing import Any

__all__ = ["merge_patch", "merged"]


def merge_patch(stored: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """Return the merge patch from ``stored`` to ``wanted``; empty if they are equal.

    Neither may hold None as a value of a dict: in a merge patch null means removal.
    """
    patch: dict[str, Any] = {key: None for key in stored if key not in wanted}
    for key, value in wanted.items():
        if key not in stored:
            patch[key] = value
            continue
        before = stored[key]
        if isinstance(before, dict) and isinstance(value, dict):
            if inner := merge_patch(before, value):
                patch[key] = inner
        elif not _same(before, value):
            patch[key] = value
    return patch


def merged(target: Any, patch: Any) -> Any:
    """Apply a merge patch as RFC 7386 section 2 says; neither argument is changed."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def _same(one: Any, other: Any) -> bool:
    """Equality of JSON values: unlike Python's, true is not 1."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)
