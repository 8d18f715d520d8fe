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

__all__ = ["WEIGHTS", "check_no_code", "check_shards", "json_object", "select_model_files"]

CONFIGURATIONS: Final = ("config.json", "tokenizer_config.json")
"""Those that can name code which loading a model or a tokenizer would run."""

WEIGHTS: Final = "model.safetensors"
INDEX: Final = WEIGHTS + ".index.json"

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
    if WEIGHTS in tensors:
        tensors = [WEIGHTS]  # as transformers does; shards beside it are of an earlier time
    if "adapter_config.json" in top:
        raise StageError(
            Reason.MODEL_INVALID, f"model.uri: {place} holds an adapter; merge it into its base model first"
        )
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
    """Refuse a folder whose configuration needs code of its own, before any library opens it.

    Code that is named beside a kind that transformers has itself is fine: it is neither fetched nor run.

    Raises
    ------
    StageError
        UnsafeModel, naming the file.
    """
    config, tokenizer = (_json_or_nothing(folder / name) for name in CONFIGURATIONS)
    kind = config.get("model_type")
    if "auto_map" in config and not _knows_model(kind):
        raise _unsafe(CONFIGURATIONS[0], f"model_type {kind!r}")
    named = tokenizer.get("auto_map")
    if named and (not isinstance(named, dict) or "AutoTokenizer" in named):
        cls = tokenizer.get("tokenizer_class") or config.get("tokenizer_class")
        if not _knows_tokenizer(cls, kind):
            raise _unsafe(CONFIGURATIONS[1], f"tokenizer_class {cls!r}")


def _unsafe(name: str, what: str) -> StageError:
    return StageError(
        Reason.UNSAFE_MODEL,
        f"model.uri: {name} asks for code of its own (auto_map), which is never run, and transformers has no {what}",
    )


def _knows_model(kind: object) -> bool:
    # Seconds to import; only the few models that name code ask.
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES  # noqa: PLC0415

    return kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


def _knows_tokenizer(cls: object, kind: object) -> bool:
    from transformers.models.auto import tokenization_auto as auto  # noqa: PLC0415

    if not isinstance(cls, str):
        return kind in auto.TOKENIZER_MAPPING_NAMES
    names = (cls, cls.removesuffix("Fast"), cls + "Fast")
    return any(auto.tokenizer_class_from_name(name) is not None for name in names)


def check_shards(folder: Path, names: Iterable[str], *, place: str) -> frozenset[str]:
    """Make sure that the weights are all there, by name, before any of them is downloaded.

    Returns
    -------
    frozenset[str]
        Names of the tensors that the index knows; empty where all weights are one file.

    Parameters
    ----------
    folder
        Holds the small files, the index among them.
    names
        All files at ``place``.

    Raises
    ------
    StageError
        ModelInvalid, naming the first file that is missing.
    """
    top = {name for name in names if "/" not in name}
    if WEIGHTS in top:  # goes before shards and their index, which are then of an earlier time
        return frozenset()
    if INDEX not in top:
        one = min(name for name in top if name.endswith(".safetensors"))
        raise StageError(
            Reason.MODEL_INVALID,
            f"model.uri: {place} has weights in {one}, but neither {WEIGHTS} nor {INDEX}, by which they are found; "
            "copy the whole folder that save_pretrained wrote",
        )
    shards = json_object(folder / INDEX).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise StageError(Reason.MODEL_INVALID, f"model.uri: {INDEX} of {place} has no weight_map")
    wanted = {str(shard) for shard in shards.values()}
    missing = sorted(wanted - top)
    if missing:
        raise StageError(
            Reason.MODEL_INVALID,
            f"model.uri: {place} lacks {len(missing)} of {len(wanted)} files of the weights, among them {missing[0]} "
            f"(named in {INDEX}); copy the missing files there",
        )
    return frozenset(shards)


def _json_or_nothing(path: Path) -> dict[str, Any]:
    return json_object(path) if path.is_file() else {}


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
