"""What of a model is multiplied for a token, and which of its layers carry adapters: read from the network itself.

In a mixture of experts a token passes through few of them, so their matrices count by that share. transformers keeps
the experts of a layer as one parameter of three dimensions, which is no ``Linear`` and is easily overlooked.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn
from transformers import PreTrainedModel

from finetune_trainer.model.flops import EncoderShape, Shape
from finetune_trainer.model.load import LoadedModel

__all__ = ["AdaptedLayers", "Matrix", "adapted_layers", "matrices", "shape_of"]

_PER_TOKEN: Final = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "experts_per_token",
    "moe_topk",
    "moe_top_k",
    "moe_k",
    "top_k_experts",
)
"""Names that configs give to the number of experts that a token passes through."""
AdaptedLayers = tuple[dict[str, int], dict[str, int]]
"""Number of layers by the pattern of their names: with adapters, and without."""
_ONE_OF_A_LIST: Final = re.compile(r"(?:^|\.)experts\.\d+\.")
_OF_PROMPTS: Final = re.compile(r"(?:^|\.)encoder\.|(?:EncDecAttention|encoder_attn)\.[kv](?:_proj)?$")
"""Matrices of an encoder-decoder model that prompt tokens are multiplied with, those of the decoder included."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Matrix:
    """A parameter of the blocks that hidden states are multiplied with.

    Attributes
    ----------
    name
        Of the layer, as in the model without adapters; of fused experts, that of the parameter.
    numel
        Parameters in it.
    experts
        How many experts are in it, or beside it in a list; 0 where every token passes through.
    fused
        Whether it is a parameter of three dimensions with all experts of a layer.
    adapters
        Parameters of the adapters that it carries.
    """

    name: str
    numel: int
    experts: int
    fused: bool
    adapters: int


def matrices(model: PreTrainedModel) -> Iterator[Matrix]:
    """Return the matrices of the blocks, without embeddings and head."""
    modules = dict(model.named_modules())
    head = model.get_output_embeddings()
    lists = Counter(name.rsplit(".", 1)[0] for name in modules if re.search(r"(?:^|\.)experts\.\d+$", name))
    carried = _adapters(modules)
    for name, parameter in model.named_parameters():
        place, _, own = name.rpartition(".")
        module = modules[place]
        if "lora_" in name or module is head or isinstance(module, (nn.Embedding, nn.modules.conv._ConvNd)):
            continue
        if parameter.ndim == 3:
            layer, experts = _plain(name if own != "weight" else place), parameter.shape[0]
        elif parameter.ndim == 2 and own == "weight":
            found = _ONE_OF_A_LIST.search(name)
            layer, experts = _plain(place), lists[name[: found.end() - 1].rpartition(".")[0]] if found else 0
        else:
            continue
        yield Matrix(layer, parameter.numel(), experts, parameter.ndim == 3, carried.get(_plain(name), 0))


def _plain(name: str) -> str:
    """Take out what peft puts into the name of a layer that carries adapters."""
    return name.replace(".base_layer", "")


def _adapters(modules: Mapping[str, nn.Module]) -> dict[str, int]:
    """Count adapter parameters by the plain name of the parameter that they are for."""
    counts: dict[str, int] = {}
    for place, module in modules.items():
        added: Any = getattr(module, "lora_A", None)
        if not isinstance(added, nn.ModuleDict):
            continue
        for_parameter = f"{_plain(place)}.{getattr(module, 'parameter_name', 'weight')}"
        parts = [*added.parameters(), *getattr(module, "lora_B").parameters()]  # noqa: B009 - peft's, untyped
        lengths: Any = getattr(module, "lora_magnitude_vector", None)
        parts += lengths.parameters() if isinstance(lengths, nn.ModuleDict) else []
        counts[for_parameter] = sum(part.numel() for part in parts)
    return counts


def adapted_layers(loaded: LoadedModel) -> AdaptedLayers:
    """Name the layers of the blocks with adapters, and those without, with ``*`` for a layer's number, and count them.

    Returns
    -------
    carrying, bare
        Number of layers by pattern, such as ``{"model.layers.*.self_attn.q_proj": 24}``.
    """
    carrying: Counter[str] = Counter()
    bare: Counter[str] = Counter()
    for matrix in matrices(loaded.model):
        (carrying if matrix.adapters else bare)[re.sub(r"\.\d+(?=\.)", ".*", matrix.name)] += 1
    return dict(sorted(carrying.items())), dict(sorted(bare.items()))


def shape_of(loaded: LoadedModel) -> Shape:
    """Count what the compute estimate needs; adapters and trained parameters as they stand now."""
    config = loaded.model.config.get_text_config()
    found = list(matrices(loaded.model))
    encoder = None
    if loaded.encoder_decoder:
        of_prompts = [matrix for matrix in found if _OF_PROMPTS.search(matrix.name)]
        found = [matrix for matrix in found if matrix not in of_prompts]
        encoder = EncoderShape(
            body=sum(matrix.numel for matrix in of_prompts),
            attention_width=_attention_width(config, "encoder"),
            adapters=sum(matrix.adapters for matrix in of_prompts),
        )
    per_token = _experts_per_token(config) if any(matrix.experts for matrix in found) else None
    body = adapters = 0
    for matrix in found:
        of, share = matrix.experts or 1, min(per_token or matrix.experts, matrix.experts) or 1
        body += matrix.numel * share // of
        adapters += matrix.adapters * share // of
    head = loaded.model.get_output_embeddings()
    return Shape(
        parameters=loaded.parameters,
        trained=loaded.trained_parameters,
        body=body,
        head=head.weight.numel() if isinstance(head, torch.nn.Linear) else 0,
        attention_width=_attention_width(config, "decoder"),
        adapters=adapters,
        encoder=encoder,
    )


def _attention_width(config: Any, side: str) -> int:
    """Return layers x heads x head width; the two sides of an encoder-decoder model may differ."""
    names = (f"{side}_layers", f"num_{side}_layers", "num_hidden_layers")
    layers = next(value for name in names if (value := getattr(config, name, None)))
    # Recurrent models have no heads.
    heads = getattr(config, f"{side}_attention_heads", None) or getattr(config, "num_attention_heads", 0)
    width = getattr(config, "head_dim", None) or getattr(config, "d_kv", None)
    return int(layers * heads * (width or (config.hidden_size // heads if heads else 0)))


def _experts_per_token(config: Any) -> int | None:
    for name in _PER_TOKEN:
        value = getattr(config, name, None)
        values: list[Any] = value if isinstance(value, list) else [value]
        if values and all(isinstance(one, int) and one > 0 for one in values):
            return int(max(values))
    log.warning("config.json doesn't say how many experts a token passes through; FLOPs count all of them")
    return None
