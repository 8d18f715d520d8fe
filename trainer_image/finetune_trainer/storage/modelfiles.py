"""Decides from a listing which files of a model are needed, before anything large is downloaded.

Refuses what ``model/load.py`` would refuse at load, but gigabytes earlier: weights that are pickles, and folders that
hold no model at all. Of the contents only the small configuration files are looked at, for code that they ask for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final

from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError

__all__ = ["check_no_code", "json_object", "select_model_files"]

CONFIGURATIONS: Final = ("config.json", "tokenizer_config.json", "processor_config.json", "generation_config.json")

_TEXT: Final = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")
"""Configuration, tokenizer and chat template; small."""

_PICKLE: Final = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.joblib")
_OTHER: Final = ("*.gguf", "*.h5", "*.msgpack", "*.onnx", "*.npz")


def select_model_files(names: Iterable[str], *, place: str, weights: bool = True) -> tuple[str, ...]:
    """Pick the files of a model.

    Parameters
    ----------
    names
        All files, as paths below the model's folder; those in subfolders are other forms of the model and left out.
    place
        The model's URI, for messages.
    weights
        False leaves the weights out, for tokenising alone; they are still looked for.

    Returns
    -------
    tuple[str, ...]
        Sorted names.

    Raises
    ------
    StageError
        ModelNotFound: nothing there, or no model; UnsafeModel: weights as pickles only; ModelInvalid: weights in
        another format only.
    """
    top = sorted(name for name in names if "/" not in name)
    if not top:
        raise StageError(Reason.MODEL_NOT_FOUND, f"model.uri: there are no files at {place}")
    if "config.json" not in top:
        raise StageError(Reason.MODEL_NOT_FOUND, f"model.uri: {place} has no config.json; name the model's own folder")
    tensors = [name for name in top if name.endswith(".safetensors")]
    # A second copy in the vendor's own layout (consolidated.safetensors) is no part of the model.
    tensors = [name for name in tensors if fnmatch(name, "model*.safetensors")] or tensors
    if not tensors:
        raise _no_safetensors(top, place)
    text = [name for name in top if any(fnmatch(name, pattern) for pattern in _TEXT)]
    return tuple(sorted([*text, *tensors] if weights else text))


def _no_safetensors(names: list[str], place: str) -> StageError:
    for patterns, reason, kind in (
        (_PICKLE, Reason.UNSAFE_MODEL, "as pickles, which run code when they are loaded"),
        (_OTHER, Reason.MODEL_INVALID, "in a format that can't be tuned"),
    ):
        for name in names:
            if any(fnmatch(name, pattern) for pattern in patterns):
                return StageError(reason, f"model.uri: {place} has its weights {kind} ({name}), and no safetensors")
    return StageError(Reason.MODEL_NOT_FOUND, f"model.uri: {place} has no weights (*.safetensors)")


def check_no_code(folder: Path) -> None:
    """Refuse a folder whose configuration asks for code of its own, before any library opens it.

    Raises
    ------
    StageError
        UnsafeModel, naming the file.
    """
    for name in CONFIGURATIONS:
        path = folder / name
        if path.is_file() and "auto_map" in json_object(path):
            raise StageError(
                Reason.UNSAFE_MODEL, f"model.uri: {name} asks for code of its own (auto_map), which is never run"
            )


def json_object(path: Path) -> dict[str, Any]:
    """Read one of a model's JSON files.

    Raises
    ------
    StageError
        ModelInvalid, naming the file.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise StageError(Reason.MODEL_INVALID, f"model.uri: {path.name} can't be read: {error}") from error
    if not isinstance(value, dict):
        raise StageError(Reason.MODEL_INVALID, f"model.uri: {path.name} is not a JSON object")
    return value
