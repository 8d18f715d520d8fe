"""An adapter that training goes on from, held against the spec and the base: before a GPU is asked for, without torch.

What can be told of names, shapes and settings is told here; ``adapter.py`` has the last word, on the network itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from pydantic import ValidationError
from transformers import PreTrainedConfig

from finetune_api.job import LoRA, Training
from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError
from finetune_trainer.storage.adapterfiles import TASKS, FetchedAdapter

__all__ = ["PREFIX", "base_warning", "check_base", "continued"]

PREFIX: Final = "base_model.model."
"""What peft puts before the name that a layer has in the base."""
_MATRIX: Final = re.compile(r"(?P<layer>.+)\.lora_(?P<side>[AB])\.weight")
_PART: Final = re.compile(r".+\.lora_(?:[AB]\.weight|magnitude_vector)")
_OUTSIDE: Final = re.compile(r"(?:^|\.)(?:lm_head|embed_tokens|embed_out|wte|wpe|word_embeddings)(?:\.|$)")


def continued(training: Training, adapter: FetchedAdapter) -> Training:
    """Return the training with the adapter's own settings; with method Full there are none.

    Raises
    ------
    StageError
        InvalidSpec: ``training.lora`` says otherwise than the adapter; names both.
    """
    if training.method == "Full":
        return training
    own = _settings(adapter, training.lora)
    if (asked := training.lora) is not None:
        for name, wish, has in (
            ("rank", asked.rank, own.rank),
            ("alpha", asked.alpha, own.alpha),
            ("useRslora", asked.use_rslora, own.use_rslora),
            ("useDora", asked.use_dora, own.use_dora),
        ):
            if wish != has:
                raise _contradiction(
                    f"training.lora.{name} is {_told(wish)}, and the adapter at {adapter.uri} has {_told(has)}; write "
                    f"{name}: {_told(has)}, or leave training.lora out, which takes all of the adapter's settings"
                )
        if asked.target_modules is not None and set(asked.target_modules) != (there := _layers(adapter)):
            raise _contradiction(
                f"training.lora.targetModules is {', '.join(asked.target_modules[:8])}, and the adapter at "
                f"{adapter.uri} lies on {', '.join(sorted(there)[:8])}; leave targetModules out: an adapter keeps its "
                "layers"
            )
        if asked.init_lora_weights != "Kaiming":
            raise _contradiction(
                f"training.lora.initLoraWeights is {asked.init_lora_weights}, and the weights are those of the adapter "
                f"at {adapter.uri}; leave it out"
            )
    return training.model_copy(update={"lora": own})


def _settings(adapter: FetchedAdapter, asked: LoRA | None) -> LoRA:
    config = adapter.config
    try:
        return LoRA(
            rank=int(config["r"]),
            alpha=int(config["lora_alpha"]),
            dropout=asked.dropout if asked else str(float(config.get("lora_dropout") or 0)),
            use_rslora=bool(config.get("use_rslora")),
            use_dora=bool(config.get("use_dora")),
        )
    except (ValidationError, ValueError, TypeError) as error:
        told = error.errors()[0] if isinstance(error, ValidationError) else None
        what = f"{'.'.join(map(str, told['loc']))}: {told['msg']}" if told else str(error)[:200]
        raise StageError(
            Reason.MODEL_INVALID,
            f"model.adapter.uri: adapter_config.json of {adapter.uri} has a setting that no job takes: {what}",
        ) from None


def _layers(adapter: FetchedAdapter) -> set[str]:
    found = (_MATRIX.fullmatch(name) for name in adapter.shapes)
    return {one["layer"].rpartition(".")[2] for one in found if one}


def _told(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def check_base(
    adapter: FetchedAdapter, config: PreTrainedConfig, shapes: Mapping[str, tuple[int, ...]], *, base: str
) -> None:
    """Hold the adapter's tensors against the base, as far as its config and the heads of its files tell.

    Parameters
    ----------
    shapes
        Of the base's tensors, by name; empty where they can't be told without downloading them.
    base
        What the user calls the base.

    Raises
    ------
    StageError
        ModelInvalid: it is for another base, or no adapter that can be continued; names the first that differs.
    """
    where = f"model.adapter.uri: {adapter.uri}"
    task, own = adapter.config.get("task_type"), TASKS[bool(config.is_encoder_decoder)]
    if task not in (None, own):
        raise _invalid(
            f"{where} is for another model than {base} (model.uri): it has task_type {task}, and that model is for "
            f"{own}; name the base that the adapter was trained on"
        )
    for name in sorted(adapter.shapes):
        if _OUTSIDE.search(name) or "lora_embedding" in name:
            raise _invalid(
                f"{where} changes {name.removeprefix(PREFIX)[:120]}, embeddings or the head of the model, which may be "
                "one and the same; merge it into its base and name the merged model as model.uri"
            )
        if not name.startswith(PREFIX) or not _PART.fullmatch(name):
            raise _invalid(
                f"{where} holds {name[:120]}, which is no matrix of a LoRA adapter; merge it into its base and name "
                "the merged model as model.uri"
            )
    if not adapter.shapes:
        raise _invalid(f"{where} holds no tensor; copy the adapter's folder again")
    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    number, name = max((_number(name), name) for name in adapter.shapes)
    if isinstance(layers, int) and number >= layers:
        raise _invalid(
            f"{where} is for another model than {base} (model.uri): it changes layer {number} "
            f"({name.removeprefix(PREFIX)[:120]}), and that model has {layers} layers; name the base that the adapter "
            "was trained on"
        )
    for name, shape in adapter.shapes.items():
        _check_shape(adapter, name, shape, shapes, f"{where} is for another model than {base} (model.uri)")


def _number(name: str) -> int:
    found = re.search(r"\.(\d+)\.", name)
    return int(found[1]) if found else -1


def _check_shape(
    adapter: FetchedAdapter, name: str, shape: tuple[int, ...], base: Mapping[str, tuple[int, ...]], where: str
) -> None:
    found = _MATRIX.fullmatch(name.removeprefix(PREFIX))
    if found is None or len(shape) != 2:
        return
    weight = _weight(found["layer"], base)
    if weight is None or len(weight) != 2:  # experts in one parameter, or a layer by another name: loading tells
        return
    turned = bool(adapter.config.get("fan_in_fan_out"))
    rows, columns = weight[::-1] if turned else weight
    has, needs = (shape[1], columns) if found["side"] == "A" else (shape[0], rows)
    if has != needs:
        raise _invalid(
            f"{where}: {name.removeprefix(PREFIX)[:160]} is {shape[0]} by {shape[1]}, and the layer is {weight[0]} by "
            f"{weight[1]}; name the base that the adapter was trained on"
        )


def _weight(layer: str, base: Mapping[str, tuple[int, ...]]) -> tuple[int, ...] | None:
    """Find a layer's weight; some models are stored without the first part of their names."""
    parts = layer.split(".")
    for start in range(len(parts) - 1):
        if (shape := base.get(".".join([*parts[start:], "weight"]))) is not None:
            return shape
    return None


def base_warning(adapter: FetchedAdapter, name: str, uri: str) -> str | None:
    """Say that the adapter names another base than the job does; copies of a model have many names."""
    told = adapter.config.get("base_model_name_or_path")
    if not isinstance(told, str) or not told or told.rstrip("/") in (name.rstrip("/"), uri.rstrip("/")):
        return None
    return f"the adapter at {adapter.uri} was trained on {told[:200]}, and model.uri is {uri}; they should be the same"


def _contradiction(what: str) -> StageError:
    return StageError(Reason.INVALID_SPEC, what, tells_mend=True)


def _invalid(what: str) -> StageError:
    return StageError(Reason.MODEL_INVALID, what, tells_mend=True)
