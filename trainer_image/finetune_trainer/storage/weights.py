"""Looks at the head of each safetensors file in a store, so that a file that isn't whole is found before a GPU waits.

The format (https://huggingface.co/docs/safetensors) begins with the length of its header, 8 bytes, little-endian; the
header is JSON and says where each tensor's bytes end, counted from the header's end. So two small reads tell how long
the file has to be. Hubs check what they are given by digest; a bucket or a disk takes what it gets.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError
from finetune_trainer.storage.store import FILES_AT_ONCE, Store, StoredFile

__all__ = ["check_weights"]

_LARGEST_HEADER: Final = 100_000_000
"""Bytes; the library refuses longer ones too."""
_POINTER: Final = b"version "
"""What the pointer of Git's large file storage begins with, in place of a length."""


def check_weights(store: Store, files: Iterable[StoredFile]) -> dict[str, tuple[int, ...]]:
    """Make sure that each file of weights is as long as its header says; return the shapes of the tensors in them.

    Raises
    ------
    StageError
        ModelInvalid, naming the first file that isn't; what the store raises.
    """
    with ThreadPoolExecutor(max_workers=FILES_AT_ONCE, thread_name_prefix="heads") as pool:
        found = pool.map(lambda file: _tensors(store, file), files)
        return {name: shape for shapes in found for name, shape in shapes.items()}


def _tensors(store: Store, file: StoredFile) -> dict[str, tuple[int, ...]]:
    place = f"{store.uri}{file.key}"
    start = store.get_range(file.key, 0, 8)
    if start == _POINTER:
        raise _invalid(
            f"{place} is a pointer of Git LFS and not the weights; run `git lfs pull` and copy the file again"
        )
    length = int.from_bytes(start, "little")
    if len(start) < 8 or not 2 <= length <= _LARGEST_HEADER:
        raise _no_safetensors(place, f"it begins with {start!r}")
    header = store.get_range(file.key, 8, length)
    if len(header) < length:
        raise _cut(place, file, at_least=8 + length)
    try:
        tensors: dict[str, Any] = json.loads(header)
        tensors.pop("__metadata__", None)
        shapes = {name: tuple(map(int, tensor["shape"])) for name, tensor in tensors.items()}
        whole = 8 + length + max((int(tensor["data_offsets"][1]) for tensor in tensors.values()), default=0)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError):
        raise _no_safetensors(place, "its header can't be read") from None
    if file.size < whole:
        raise _cut(place, file, at_least=whole)
    return shapes


def _invalid(what: str) -> StageError:
    return StageError(Reason.MODEL_INVALID, f"model.uri: {what}")


def _no_safetensors(place: str, why: str) -> StageError:
    return _invalid(f"{place} is no safetensors file: {why}; copy it again from where the model came from")


def _cut(place: str, file: StoredFile, *, at_least: int) -> StageError:
    return _invalid(
        f"{place} was cut short: it has {file.size} bytes, and its header tells of {at_least}; copy it again"
    )
