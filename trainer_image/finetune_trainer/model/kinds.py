"""The kinds of network that are tuned here: decoders, and encoder-decoder models (T5, BART).

A decoder reads a prompt and goes on with the answer. In an encoder-decoder model the prompt goes to the encoder, and
the decoder writes the answer after a beginning of its own: what the model starts every text with, then what its
tokenizer puts before one. That beginning is given and never learned, as a prompt is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError
from finetune_trainer.storage.modelfiles import json_object
from finetune_trainer.text.added import added_ids

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

__all__ = ["ENCODER_DECODERS", "check_encoder_decoder", "decoder_start", "network_class", "pad_prompts"]

Ints = NDArray[np.integer[Any]]

ENCODER_DECODERS: Final = ("bart", "mt5", "pegasus", "t5", "umt5")
"""Encoder-decoder models that were tried. Others need a language code before each text (mBART, NLLB), two vocabularies
(Marian), or attend in ways that were not (LED, LongT5)."""


def check_encoder_decoder(config: PreTrainedConfig) -> None:
    """Refuse encoder-decoder models of kinds that were never tried, or that the library can't write with.

    Raises
    ------
    StageError
        ModelInvalid.
    """
    if config.model_type not in ENCODER_DECODERS:
        raise StageError(
            Reason.MODEL_INVALID,
            f"model.uri: {config.model_type} is an encoder-decoder model that can't be tuned here; of these, "
            f"{', '.join(ENCODER_DECODERS)} can",
        )
    settings: Any = config
    name = "decoder_layers" if hasattr(config, "decoder_layers") else "num_decoder_layers"
    deep, layers = getattr(settings, name), settings.num_hidden_layers
    if deep > layers:
        # transformers makes its cache for as many layers as the encoder has.
        raise StageError(
            Reason.MODEL_INVALID,
            f"model.uri: config.json gives the decoder {deep} layers ({name}), more than the {layers} of the encoder; "
            "transformers can't generate with such a model",
        )


def network_class(config: PreTrainedConfig) -> Any:
    """Return the library's class that makes a network of a config."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM  # noqa: PLC0415 - prepare needs no torch

    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


def decoder_start(folder: Path, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return the tokens that the decoder is given before an answer; none for a model without encoder.

    Raises
    ------
    StageError
        ModelInvalid: the folder doesn't say what the decoder starts with, or has a chat template.
    """
    if not config.is_encoder_decoder:
        return ()
    if tokenizer.chat_template:
        raise StageError(
            Reason.MODEL_INVALID,
            "model.uri: the tokenizer of this encoder-decoder model has a chat template, and such models are asked "
            "with plain prompts here; remove chat_template from its files",
        )
    path = folder / "generation_config.json"
    settings = json_object(path) if path.exists() else {}
    first = settings.get("decoder_start_token_id", getattr(config, "decoder_start_token_id", None))
    if not isinstance(first, int):
        raise StageError(
            Reason.MODEL_INVALID,
            "model.uri: neither generation_config.json nor config.json has decoder_start_token_id, the token that the "
            "decoder of an encoder-decoder model starts with; add it (T5: the pad token, BART: the end token)",
        )
    return (first, *added_ids(tokenizer)[0])


def pad_prompts(prompts: Sequence[Sequence[int] | Ints], *, pad_id: int) -> tuple[Ints, Ints]:
    """Return prompts for an encoder, int64 (prompts, longest), and which of their tokens are real.

    Padding stands on the right, since learned positions count from the left, and is masked, since encoders look both
    ways.
    """
    ids = np.full((len(prompts), max(map(len, prompts))), pad_id, dtype=np.int64)
    mask = np.zeros_like(ids)
    for i, prompt in enumerate(prompts):
        ids[i, : len(prompt)] = prompt
        mask[i, : len(prompt)] = 1
    return ids, mask
