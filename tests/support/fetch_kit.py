"""The files of a model as a storage or a hub holds them, and one call to fetch it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save as safetensors_bytes

from finetune_api.job import Model
from finetune_trainer.errors import StageError
from finetune_trainer.process.console import no_progress
from finetune_trainer.storage.access import Access
from finetune_trainer.storage.fetch import FetchedModel, fetch_model

__all__ = ["FILES", "TEXT", "WANTED", "failure", "get", "names", "safetensors"]


def safetensors(numbers: int) -> bytes:
    """A file of one tensor, of so many 32-bit zeros."""
    return safetensors_bytes({"layer": np.zeros(numbers, dtype=np.float32)})


FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "model-00001-of-00002.safetensors": safetensors(250),
    "model-00002-of-00002.safetensors": safetensors(125),
    "model.safetensors.index.json": json.dumps(
        {"weight_map": {f"layer.{i}": f"model-0000{i}-of-00002.safetensors" for i in (1, 2)}}
    ).encode(),
    "pytorch_model.bin": b"pickle",
    "README.md": b"# card",
    "onnx/model.onnx": b"onnx",
    "original/consolidated.safetensors": b"copy",
}
WANTED = {name for name in FILES if "/" not in name and not name.endswith((".bin", ".md"))}
TEXT = {name for name in WANTED if not name.endswith(".safetensors")}


def failure(call: Callable[[], object]) -> StageError:
    with pytest.raises(StageError) as caught:
        call()
    return caught.value


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


def get(access: Access, uri: str, folder: Path, *, revision: str | None = None, **options: object) -> FetchedModel:
    return fetch_model(
        Model.model_validate({"uri": uri, "revision": revision}, context={"local": True}),
        access=access,
        folder=folder,
        progress=no_progress,
        **options,  # type: ignore[arg-type]  # weights and pinned_revision as each test needs them
    )
