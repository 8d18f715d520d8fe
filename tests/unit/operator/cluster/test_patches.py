"""Merge patches: the smallest one, and what it does when it is applied."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_operator.cluster.patches import merge_patch, merged

SCALARS = st.one_of(st.booleans(), st.integers(-3, 3), st.text(max_size=3))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("abcd"), inner, max_size=3)),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.sampled_from("abcd"), VALUES, max_size=4)


def exactly(value: Any) -> Any:
    """Tell true from 1, which Python's equality does not."""
    if isinstance(value, dict):
        return {key: exactly(item) for key, item in value.items()}
    if isinstance(value, list):
        return [exactly(item) for item in value]
    return type(value), value


@settings(deadline=None)
@given(OBJECTS, OBJECTS)
def test_a_patch_turns_the_stored_object_into_the_wanted_one(stored: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert exactly(merged(stored, merge_patch(stored, wanted))) == exactly(wanted)


@settings(deadline=None)
@given(OBJECTS)
def test_equal_objects_need_no_patch(stored: dict[str, Any]) -> None:
    assert merge_patch(stored, stored) == {}


@settings(deadline=None)
@given(OBJECTS, OBJECTS)
def test_a_patch_is_empty_only_for_equal_objects(stored: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert (merge_patch(stored, wanted) == {}) == (exactly(stored) == exactly(wanted))


@pytest.mark.parametrize(
    ("stored", "wanted", "patch"),
    [
        ({"a": 1, "b": 2}, {"a": 1}, {"b": None}),
        ({"a": {"x": 1, "y": 2}}, {"a": {"x": 1}}, {"a": {"y": None}}),
        ({"a": [1, 2]}, {"a": [1]}, {"a": [1]}),
        ({"a": [{"x": 1, "y": 2}]}, {"a": [{"x": 1}]}, {"a": [{"x": 1}]}),
        ({"a": {"x": 1}}, {"a": 3}, {"a": 3}),
        ({"a": 3}, {"a": {"x": 1}}, {"a": {"x": 1}}),
        ({"a": 1}, {"a": True}, {"a": True}),
        ({"a": [1]}, {"a": [True]}, {"a": [True]}),
        ({"observedGeneration": -1}, {"observedGeneration": 1, "b": {}}, {"observedGeneration": 1, "b": {}}),
    ],
)
def test_a_patch_says_no_more_than_it_must(
    stored: dict[str, Any], wanted: dict[str, Any], patch: dict[str, Any]
) -> None:
    assert exactly(merge_patch(stored, wanted)) == exactly(patch)


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_applying_does_what_appendix_a_of_rfc_7386_says(target: Any, patch: Any, result: Any) -> None:
    assert merged(target, patch) == result
