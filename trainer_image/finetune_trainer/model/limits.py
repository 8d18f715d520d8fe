"""What a model can take, read from its config.json alone: token ids, positions, the kind of model.

Rows are held against it in the prepare stage, so that a job that can't work ends before a GPU is asked for. No torch
here, and no weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from finetune_api.job import LoRA
from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError
from finetune_trainer.model.kinds import check_encoder_decoder
from finetune_trainer.prepare.prepared import EncodedPart, Prepared

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "Limits",
    "check_dropout",
    "check_layers",
    "check_length",
    "check_tokens",
    "length_warning",
    "limits_of",
    "read_config",
    "tokenizer_warning",
]

_TOKENS_AT_ONCE: Final = 2**22
_READING_ERRORS: Final = (
    AttributeError,
    ImportError,
    KeyError,
    OSError,
    RuntimeError,
    StrictDataclassError,
    TypeError,
    ValueError,
)
_ROTARY: Final = ("rope_parameters", "rope_scaling", "rope_theta")
"""A config that has one of these turns positions into angles, of which there are any number."""
_EXPERTS: Final = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
"""Names that configs give to the number of experts of a layer."""
_COMPUTED: Final = frozenset({"rwkv", "xglm"})
"""Recurrent layers, and sinusoids whose table grows with the row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a model can take.

    Attributes
    ----------
    vocabulary
        Rows of its embeddings: ids are below.
    positions
        Positions that it was made for; None where it has no such number (recurrent layers, ALiBi).
    bounded
        Whether it fails beyond them, as with a table of learned positions; else it only answers worse and worse.
    """

    vocabulary: int
    positions: int | None
    bounded: bool

    @property
    def most_positions(self) -> int | None:
        """Positions that no row may go beyond; None where a row may have any length."""
        return self.positions if self.bounded else None


def read_config(folder: Path) -> PreTrainedConfig:
    """Read the config.json of a language model; code that it names is neither fetched nor run.

    Raises
    ------
    StageError
        ModelInvalid: the file can't be read, or describes a model that can't be tuned here.
    """
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except _READING_ERRORS as error:
        raise StageError(
            Reason.MODEL_INVALID,
            f"model.uri: transformers can't load the folder, config.json: {' '.join(str(error).split())[:300]}",
        ) from error
    if getattr(config, "quantization_config", None) is not None:
        raise StageError(Reason.MODEL_INVALID, "model.uri: the weights are quantised; use the original ones")
    if config.is_encoder_decoder:
        check_encoder_decoder(config)
    elif config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise StageError(Reason.MODEL_INVALID, f"model.uri: {config.model_type} is no causal language model")
    return config


def limits_of(config: PreTrainedConfig) -> Limits:
    """Return what a model with this config can take; of one that also sees or hears, its text part."""
    text: Any = config.get_text_config()
    vocabulary = getattr(text, "vocab_size", None)
    if not isinstance(vocabulary, int) or vocabulary < 1:
        raise StageError(
            Reason.MODEL_INVALID, f"model.uri: config.json gives no vocab_size, but {str(vocabulary)[:50]!r}"
        )
    positions, bounded = _positions(text)
    return Limits(vocabulary=vocabulary, positions=positions, bounded=bounded)


def _positions(text: Any) -> tuple[int | None, bool]:
    attention = getattr(text, "attn_config", None)
    if getattr(attention, "alibi", False):  # MPT: biases from a table of this length
        return _number(text, "max_seq_len"), True
    if getattr(text, "alibi", False):
        return None, False
    positions = _number(text, "max_position_embeddings")
    computed = text.model_type in _COMPUTED or any(getattr(text, name, None) for name in _ROTARY)
    return positions, positions is not None and not computed


def _number(text: Any, name: str) -> int | None:
    value = getattr(text, name, None)
    return value if isinstance(value, int) and value > 0 else None


def check_length(limits: Limits, max_length: int) -> None:
    """Hold training.maxLength against the positions.

    Raises
    ------
    StageError
        InvalidSpec: rows could become longer than the model has positions.
    """
    most = limits.most_positions
    if most is not None and max_length > most:
        raise StageError(
            Reason.INVALID_SPEC,
            f"training.maxLength {max_length} is more than the {most} positions that the model at model.uri has; set "
            f"training.maxLength to {most} or less, or use a model that takes longer rows",
        )


def check_layers(config: PreTrainedConfig, tensors: frozenset[str]) -> None:
    """Hold the layers that the weights have against those of the config; what else is missing, loading tells.

    Parameters
    ----------
    tensors
        Names of what is in the weights; empty: unknown.

    Raises
    ------
    StageError
        ModelInvalid: there are fewer.
    """
    told = _number(config.get_text_config(), "num_hidden_layers")
    numbers = [int(found[1]) for name in tensors if (found := re.search(r"\.(\d+)\.", name))]
    found_layers = max(numbers, default=-1) + 1
    if told is not None and found_layers and found_layers < told:
        raise StageError(
            Reason.MODEL_INVALID,
            f"model.uri: config.json tells of {told} layers (num_hidden_layers), and the weights hold {found_layers}; "
            "copy the whole folder that save_pretrained wrote",
        )


def check_dropout(config: PreTrainedConfig, lora: LoRA | None) -> None:
    """Refuse dropout of adapters where experts carry them, which can't drop anything.

    Raises
    ------
    StageError
        InvalidSpec.
    """
    experts = max((_number(config.get_text_config(), name) or 0 for name in _EXPERTS), default=0)
    if lora is not None and experts > 1 and float(lora.dropout):
        raise StageError(
            Reason.INVALID_SPEC,
            f"training.lora.dropout {lora.dropout} is not possible with {config.model_type}, whose {experts} experts "
            "carry adapters without dropout; set it to 0",
        )


def check_tokens(limits: Limits, prepared: Prepared, tokenizer: PreTrainedTokenizerBase) -> None:
    """Hold every id of the encoded rows, the choices and the end tokens against the embeddings.

    Raises
    ------
    StageError
        ModelInvalid, naming the highest id and its token.
    """
    highest = max(
        *(_highest(part) for part in prepared.parts.values()),
        *(max(ids, default=0) for choices in prepared.choice_sets for ids in choices.ids),
        *prepared.end_ids,
        0,
    )
    if highest >= limits.vocabulary:
        token = str(tokenizer.convert_ids_to_tokens(highest))[:50]
        raise StageError(
            Reason.MODEL_INVALID,
            f"model.uri: the rows need token {highest} ({token!r}), but the model's embeddings have "
            f"{limits.vocabulary} rows (vocab_size in config.json), ids 0 to {limits.vocabulary - 1}: the tokenizer, "
            f"with {len(tokenizer)} tokens, is larger than the model. Store the model again after "
            "resize_token_embeddings, or with the tokenizer that belongs to it",
        )


def _highest(part: EncodedPart) -> int:
    chunks: Iterable[int] = range(0, len(part.tokens), _TOKENS_AT_ONCE)
    return max((int(np.max(part.tokens[at : at + _TOKENS_AT_ONCE])) for at in chunks), default=0)


def tokenizer_warning(limits: Limits, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Say that the tokenizer knows tokens which the model doesn't; common for ones that no text ever has."""
    if len(tokenizer) <= limits.vocabulary:
        return None
    return (
        f"the tokenizer has {len(tokenizer)} tokens and the model embeddings for {limits.vocabulary}; no row needs one "
        "of those beyond"
    )


def length_warning(limits: Limits, prepared: Prepared) -> str | None:
    """Say that rows are longer than what the model was made for, where it takes them all the same."""
    longest = max((int(part.lengths.max()) for part in prepared.parts.values() if len(part)), default=0)
    if limits.positions is None or limits.bounded or longest <= limits.positions:
        return None
    return (
        f"the longest row has {longest} tokens and the model was made for {limits.positions} positions "
        f"(max_position_embeddings); answers get worse beyond: training.maxLength {limits.positions} would shorten them"
    )
