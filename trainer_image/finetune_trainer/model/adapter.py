"""An adapter that a job was given, on its base: trained on, or merged into it before anything else.

Above ``load.py`` and beside ``lora.py``, which starts adapters anew. peft passes over a tensor that no layer takes and
leaves a layer as it began that no tensor is for; so what was attached is compared with the file, number by number.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from finetune_api.job import LoRA
from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError
from finetune_trainer.model.continued import PREFIX
from finetune_trainer.model.load import LoadedModel, convert
from finetune_trainer.model.shape import matrices
from finetune_trainer.storage.adapterfiles import TENSORS, FetchedAdapter

__all__ = ["attach", "merge_into"]

_ATTACHING: Final = (
    AttributeError,
    IndexError,
    KeyError,
    OSError,
    RuntimeError,
    SafetensorError,
    TypeError,
    ValueError,
)
"""What peft raises at an adapter that doesn't fit; it has no exception of its own."""


def attach(loaded: LoadedModel, adapter: FetchedAdapter, lora: LoRA | None = None) -> LoadedModel:
    """Put the adapter on the model; its answers are those of the adapter from now on.

    Parameters
    ----------
    lora
        Settings of the training that goes on with it; None: it is not trained.

    Returns
    -------
    LoadedModel
        The model with it. Its network is the one that was passed in, so the old value is of no use any more.

    Raises
    ------
    StageError
        ModelInvalid: it is for another base; InvalidSpec for dropout where experts are.
    """
    from peft import PeftConfig, PeftModel  # noqa: PLC0415 - seconds to import

    experts = [matrix.name for matrix in matrices(loaded.model) if matrix.fused]
    if experts and lora is not None and float(lora.dropout):
        raise StageError(
            Reason.INVALID_SPEC,
            f"training.lora.dropout {lora.dropout} is not possible with {loaded.model.config.model_type}, whose "
            "experts carry adapters without dropout; set training.lora.dropout to 0",
            tells_mend=True,
        )
    place = f"model.adapter.uri: {adapter.uri}"
    try:
        config: Any = PeftConfig.from_pretrained(str(adapter.folder))
        config.lora_dropout = float(lora.dropout) if lora is not None else 0.0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is missing or too much, which is looked at below
            carried: Any = PeftModel.from_pretrained(
                loaded.model, adapter.folder, config=config, is_trainable=lora is not None, autocast_adapter_dtype=False
            )
    except _ATTACHING as error:
        raise StageError(
            Reason.MODEL_INVALID,
            f"{place} does not fit the model at model.uri: {' '.join(str(error).split())[:400]}; name the base that "
            "the adapter was trained on",
            tells_mend=True,
        ) from error
    convert(carried, loaded.model.dtype)
    _check_attached(carried, load_file(adapter.folder / TENSORS), place)
    loaded.model.eval()
    return dataclasses.replace(loaded, adapter=carried)


def _check_attached(carried: Any, stored: Mapping[str, Tensor], place: str) -> None:
    """Make sure that every tensor of the file is on the network, and no layer carries one that isn't in the file."""
    from peft import get_peft_model_state_dict  # noqa: PLC0415

    found: dict[str, Tensor] = get_peft_model_state_dict(carried, save_embedding_layers=False)
    differing = sorted(found.keys() ^ stored.keys())
    if differing:
        first = differing[0]
        what = "no layer of the model takes" if first in stored else "the adapter lacks"
        raise StageError(
            Reason.MODEL_INVALID,
            f"{place} does not fit the model at model.uri: {what} {first.removeprefix(PREFIX)[:200]} "
            f"({len(differing)} such tensors); name the base that the adapter was trained on",
            tells_mend=True,
        )
    for name, tensor in stored.items():
        if not bool(torch.isfinite(tensor).all()):
            raise StageError(
                Reason.MODEL_INVALID,
                f"{place} holds numbers that are none (NaN or infinity) in {name.removeprefix(PREFIX)[:200]}; take an "
                "adapter of a training that did not diverge",
                tells_mend=True,
            )
        if not torch.equal(found[name].cpu(), tensor.to(found[name].dtype)):
            raise StageError(Reason.MODEL_INVALID, f"{place} was not loaded as it is stored: {name[:200]} differs")


def merge_into(loaded: LoadedModel, adapter: FetchedAdapter) -> LoadedModel:
    """Make the adapter a part of the weights of a model that was loaded in 32 bits, and round them as they were stored.

    Raises
    ------
    StageError
        As :func:`attach`; ModelInvalid where the sum is no number.
    """
    carried = attach(loaded, adapter)
    try:
        network = carried.adapter.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise StageError(
            Reason.MODEL_INVALID,
            f"model.adapter.uri: {adapter.uri} can't be merged: {' '.join(str(error).split())[:300]}",
        ) from error
    convert(network, loaded.stored_dtype)
    return dataclasses.replace(carried, model=network, adapter=None)
