"""A trained model's files: weights as they will be stored, and what of the base's folder goes with them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from transformers import PreTrainedModel

from finetune_trainer.model.load import LoadedModel, convert
from finetune_trainer.storage.modelfiles import json_object

__all__ = ["save_model", "write_adapter", "write_full"]

KEPT_FILES: Final = (
    "config.json",
    "tokenizer*.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.tiktoken",
    "spiece.model",
    "sentencepiece*.model",
    "chat_template.*",
    "LICENSE*",
    "NOTICE*",
)
"""Files of the base that an exported model takes over."""

_CODE: Final = "auto_map"
"""Names code beside the base, which is neither run nor exported: whatever loads the export would look for it."""


def write_full(loaded: LoadedModel, weights: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Write all weights; the model is in the stored type afterwards."""
    convert(loaded.model, loaded.stored_dtype)
    _assign(loaded.model, weights)
    save_model(loaded.model, loaded.folder, folder)


def write_adapter(
    loaded: LoadedModel,
    weights: Mapping[str, torch.Tensor],
    folder: Path,
    *,
    base_name: str,
    base_revision: str | None,
) -> None:
    """Write adapters in 32 bits, and the name of the base that they are for."""
    adapter: Any = loaded.adapter
    for module in adapter.modules():
        for name, child in module.named_children():
            if name.startswith("lora_"):
                child.float()
    _assign(loaded.model, weights)
    for config in adapter.peft_config.values():
        config.base_model_name_or_path = base_name
        config.revision = base_revision
        config.inference_mode = True
    # Without embeddings: they are never trained, and looking for them would ask a hub about the base.
    adapter.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # an empty form; the job writes its own
    _keep_files(loaded.folder, folder, config=False)


def save_model(network: PreTrainedModel, base: Path, folder: Path) -> None:
    """Write a network as it is, with the files of its base."""
    network.save_pretrained(folder)
    _keep_files(base, folder)


@torch.no_grad()
def _assign(model: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    for name, parameter in model.named_parameters():
        if name in weights:
            parameter.copy_(weights[name])


def _keep_files(base: Path, folder: Path, *, config: bool = True) -> None:
    for pattern in KEPT_FILES:
        for source in base.glob(pattern):
            if source.is_file() and (config or not source.name.endswith("config.json") or "tokenizer" in source.name):
                shutil.copyfile(source, folder / source.name)
    for name in ("config.json", "tokenizer_config.json"):
        if (folder / name).exists():
            _drop_code(folder / name)


def _drop_code(path: Path) -> None:
    """Leave out where code of the base would be; a file that names none stays as it is, byte for byte."""
    settings = json_object(path)
    if _CODE in settings:
        del settings[_CODE]
        path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
