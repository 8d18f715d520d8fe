"""Documents that carry their own digest: what was changed is not believed."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.checkpoint.sealed import seal, unseal

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4),
    max_leaves=8,
)
"""Small, so that making them is quick on a busy machine too."""


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(max_size=20), json_values, max_size=4))
def test_a_sealed_document_keeps_every_bit(content: dict[str, Any]) -> None:
    assert unseal(seal(content)) == content


@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(0, 10**6))
def test_a_document_that_was_changed_is_not_believed(noise: bytes, at: int) -> None:
    data = bytearray(seal({"loss": 0.12345678901234568, "steps": [1, 2, 3], "text": "abc"}))
    changed = bytes(data[: at % len(data)]) + noise + bytes(data[at % len(data) + len(noise) :])
    try:
        assert unseal(changed) == unseal(bytes(data))
    except ValueError:
        return
