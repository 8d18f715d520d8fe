"""Adapters on a loaded model: which layers carry them, and how they start.

Above ``load.py``, which knows models without; training, export and scoring see no difference. Every matrix of the
blocks carries one, experts included; what doesn't (the routers of a mixture of experts) is told in results.json.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from finetune_api.job import LoRA
from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError
from finetune_trainer.model.kinds import network_class
from finetune_trainer.model.limits import read_config
from finetune_trainer.model.load import LoadedModel
from finetune_trainer.model.shape import matrices
from finetune_trainer.storage.adapterfiles import TASKS

if TYPE_CHECKING:
    from peft import PeftModel

__all__ = ["add_lora", "check_adapters"]

_MISREAD: Final = frozenset({"gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"})
"""Names that peft 0.21 takes for those of experts as they were before transformers 5."""


def add_lora(loaded: LoadedModel, lora: LoRA, *, seed: int) -> LoadedModel:
    """Put adapters on the linear layers of the blocks and on experts; never on embeddings or head (they may be tied).

    The adapters start as a zero update, so the model's answers are still those of the base. They have the type of the
    base weights; the optimizer keeps 32-bit masters.

    Returns
    -------
    LoadedModel
        The model with adapters. Its network is the one that was passed in, so the old value is of no use any more.

    Raises
    ------
    StageError
        ModelInvalid for an architecture whose layers can't carry adapters; InvalidSpec for dropout or
        DoRA where experts are, and for targetModules that the model doesn't have.
    """
    loaded_with = dataclasses.replace(loaded, adapter=_attach(loaded.model, lora, seed=seed))
    loaded.model.eval()
    _check_carried(loaded.model, chosen=lora.target_modules is not None)
    return loaded_with


def check_adapters(folder: Path, lora: LoRA) -> None:
    """Try on a network without numbers whether its layers can carry adapters: a second, where loading takes minutes.

    Raises
    ------
    StageError
        As :func:`add_lora`, and ModelInvalid for a folder that :func:`~finetune_trainer.model.limits.read_config`
        refuses.
    """
    config = read_config(folder)
    with torch.device("meta"):
        model: PreTrainedModel = network_class(config).from_config(config, trust_remote_code=False)
        _attach(model, lora, seed=0)
    _check_carried(model, chosen=lora.target_modules is not None)


def _attach(model: PreTrainedModel, lora: LoRA, *, seed: int) -> PeftModel:
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415 - seconds to import, and full fine-tunes don't need it

    experts = [matrix.name for matrix in matrices(model) if matrix.fused]
    if experts and float(lora.dropout):
        raise StageError(
            Reason.INVALID_SPEC,
            f"training.lora.dropout {lora.dropout} is not possible with {model.config.model_type}, whose experts "
            f"({_pattern(experts[0])}) carry adapters without dropout; set it to 0",
        )
    if experts and lora.use_dora:
        raise StageError(
            Reason.INVALID_SPEC,
            f"training.lora.useDora is not possible with {model.config.model_type}, whose experts "
            f"({_pattern(experts[0])}) carry plain adapters only; set it to false",
            tells_mend=True,
        )
    layers, parameters = _targets(model, experts)
    if lora.target_modules is not None:
        layers, parameters = _chosen(model, lora.target_modules, layers, parameters)
    torch.manual_seed(seed)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=float(lora.dropout),
        target_modules=layers,
        target_parameters=parameters or None,
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
        init_lora_weights="gaussian" if lora.init_lora_weights == "Gaussian" else True,
        fan_in_fan_out=any(isinstance(m, Conv1D) for m in model.modules()),
        task_type=TASKS[bool(model.config.is_encoder_decoder)],
    )
    try:
        adapter: PeftModel = get_peft_model(model, config, autocast_adapter_dtype=False)
    except ValueError as error:
        raise _impossible(model, str(error)) from error
    return adapter


def _targets(model: PreTrainedModel, experts: list[str]) -> tuple[list[str] | str, list[str]]:
    """Name what carries adapters: layers, and parameters.

    Where experts are, peft takes a layer's name such as ``down_proj`` for the experts' and passes over the layer, so
    such layers are named by their parameters. Routers with a forward of their own don't return what an adapter could
    add to.
    """
    if not experts:
        return "all-linear", []
    head = model.get_output_embeddings()
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward and module is not head
    ]
    misread = [name for name in linear if name.rpartition(".")[2] in _MISREAD]
    named = {name for name, _ in model.named_parameters()}
    full = [name if name in named else f"{name}.weight" for name in experts]
    parameters = sorted({re.sub(r"^.*\.\d+\.", "", name) for name in full})  # the ends that they share in all layers
    return sorted(set(linear) - set(misread)), parameters + [f"{name}.weight" for name in misread]


def _chosen(
    model: PreTrainedModel, wanted: Sequence[str], layers: list[str] | str, parameters: list[str]
) -> tuple[list[str], list[str]]:
    """Take of what can carry adapters what was asked for, layers by the shortest names that mean no other.

    Raises
    ------
    StageError
        InvalidSpec, naming what is there.
    """
    modules = dict(model.named_modules())
    if isinstance(layers, str):
        head = model.get_output_embeddings()
        layers = [n for n, m in modules.items() if isinstance(m, (nn.Linear, Conv1D)) and m is not head]
    plain = {name: name.removesuffix(".weight") for name in parameters}
    for pattern in wanted:
        if not any(_is_called(name, pattern) for name in (*layers, *plain.values())):
            there = sorted({name.rpartition(".")[2] for name in (*layers, *plain.values())})
            raise StageError(
                Reason.INVALID_SPEC,
                f"training.lora.targetModules: no layer of {model.config.model_type} that can carry adapters is called "
                f"{pattern!r}; take of {', '.join(there[:24])}, or leave targetModules out for all",
                tells_mend=True,
            )
    taken = {name for name in layers if any(_is_called(name, pattern) for pattern in wanted)}
    by_end: dict[str, set[str]] = {}
    for name in modules:
        by_end.setdefault(name.rpartition(".")[2], set()).add(name)
    short = {end for name in taken if by_end[end := name.rpartition(".")[2]] <= taken}
    named = sorted(short | {name for name in taken if name.rpartition(".")[2] not in short})
    return named, [name for name in parameters if any(_is_called(plain[name], pattern) for pattern in wanted)]


def _is_called(name: str, pattern: str) -> bool:
    """Whether a layer has a name; a pattern with a dot stands for the end of the whole name."""
    if "." not in pattern:
        return fnmatchcase(name.rpartition(".")[2], pattern)
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}")


def _check_carried(model: PreTrainedModel, *, chosen: bool) -> None:
    found = list(matrices(model))
    bare = [matrix.name for matrix in found if matrix.experts and not matrix.adapters]
    if bare and not chosen:
        raise _impossible(model, f"its experts ({_pattern(bare[0])}) can't carry adapters")
    if not any(matrix.adapters for matrix in found):
        raise _impossible(model, "no layer carries an adapter")


def _pattern(name: str) -> str:
    return re.sub(r"\.\d+(?=\.)", ".*", name)


def _impossible(model: Any, why: str) -> StageError:
    return StageError(
        Reason.MODEL_INVALID,
        f"model.uri: training.method LoRA is not possible with {model.config.model_type}, but Full is: {why}",
    )
