"""Documents that carry their own digest: what was changed is not believed."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.checkpoint.sealed import seal, unseal

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(max_examples=50)
@given(st.dictionaries(st.text(), json_values))
def test_a_sealed_document_keeps_every_bit(content: dict[str, Any]) -> None:
    assert unseal(seal(content)) == content


@given(st.binary(max_size=200), st.integers(0, 10**6))
def test_a_document_that_was_changed_is_not_believed(noise: bytes, at: int) -> None:
    data = bytearray(seal({"loss": 0.12345678901234568, "steps": [1, 2, 3], "text": "abc"}))
    changed = bytes(data[: at % len(data)]) + noise + bytes(data[at % len(data) + len(noise) :])
    try:
        assert unseal(changed) == unseal(bytes(data))
    except ValueError:
        return
