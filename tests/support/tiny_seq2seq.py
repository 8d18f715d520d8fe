"""Encoder-decoder models of two layers with random weights, in the forms of T5 and BART, with their tokenizers.

As in ``tiny_model.py`` weights are larger than usual, so that a wrong mask or position changes answers.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, Final, Literal

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForSeq2SeqLM,
    BartConfig,
    BartTokenizer,
    MT5Config,
    PegasusConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    T5Config,
    T5Tokenizer,
    UMT5Config,
)

from tests.support.tiny_model import learnable_rows

__all__ = ["KINDS", "Kind", "make_encoder_decoder", "make_seq2seq_tokenizer"]

Kind = Literal["t5", "t5-untied", "mt5", "umt5", "bart", "pegasus"]
KINDS: Final[tuple[Kind, ...]] = ("t5", "t5-untied", "mt5", "umt5", "bart", "pegasus")
"""T5 as it was first (tied, its output scaled) and as FLAN-T5 (untied, gated), and its two many-language successors;
learned positions and a beginning of two tokens (BART), computed positions that end (Pegasus)."""
_TEXTS: Final = (
    *(f"{prompt} {answer}" for prompt, answer in learnable_rows(40)),
    "What is the sentiment of this text? Possible answers: positive, negative, neutral, arts, billing, bug, sports.",
    "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789 .,:;!?'\"-()[]</>",
)


def make_seq2seq_tokenizer(folder: Path, kind: Kind) -> PreTrainedTokenizerBase:
    """Train, save to ``folder`` and return a tokenizer: T5's pieces with an end token, or BART's bytes between two."""
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "bart":
        tokenizer: PreTrainedTokenizerBase = _bytes()
    else:
        pieces = _pieces()
        pieces += [(f"<extra_id_{i}>", 0.0) for i in range(3, -1, -1)]
        tokenizer = T5Tokenizer(vocab=pieces, extra_ids=4, model_max_length=512)
    tokenizer.save_pretrained(folder)
    return tokenizer


def _pieces() -> list[tuple[str, float]]:
    """Frequent words, some endings and single characters; not trained, since that breaks ties another way each time."""
    words = Counter(word for text in _TEXTS for word in text.replace(",", " ,").replace(":", " :").split())
    ranked = sorted(words.items(), key=lambda item: (-item[1], item[0]))
    whole = [f"\u2581{word}" for word, count in ranked if count > 1 and word not in ("sports", "world", "crash")]
    found = dict.fromkeys(
        [*whole, "\u2581", "or", "ts", "ld", "sh", *sorted({c for text in _TEXTS for c in text} - {" "})]
    )
    return [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((p, -4.0 - i / 50) for i, p in enumerate(found))]


def _bytes() -> PreTrainedTokenizerBase:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    bpe.train_from_iterator(
        _TEXTS,
        trainers.BpeTrainer(vocab_size=420, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    stored = json.loads(bpe.to_str())["model"]
    merges: Any = [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in stored["merges"]]
    return BartTokenizer(vocab=stored["vocab"], merges=merges, model_max_length=256)


def _config(kind: Kind, vocab_size: int) -> PreTrainedConfig:
    t5: dict[str, Any] = {
        "vocab_size": vocab_size,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 2,
        "num_heads": 4,
        "initializer_factor": 3.0,
        "dropout_rate": 0.0,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 1,
    }
    bart: dict[str, Any] = {
        "vocab_size": vocab_size,
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 1,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 48,
        "max_position_embeddings": 256,
        "init_std": 0.25,
        "dropout": 0.0,
    }
    match kind:
        case "t5":
            return T5Config(**t5, num_decoder_layers=1)
        case "t5-untied":
            return T5Config(**t5 | {"tie_word_embeddings": False, "feed_forward_proj": "gated-gelu"})
        case "mt5":
            return MT5Config(**t5, feed_forward_proj="gated-gelu")
        case "umt5":
            return UMT5Config(**t5)
        case "bart":
            return BartConfig(**bart | {"forced_bos_token_id": 0, "num_beams": 4, "no_repeat_ngram_size": 3})
        case "pegasus":
            return PegasusConfig(**bart, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0)


def make_encoder_decoder(
    folder: Path,
    kind: Kind = "t5",
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    dropout: float = 0.0,
    calm: bool = False,
) -> None:
    """Write a model folder with tokenizer that ``from_pretrained`` loads; the same bytes for the same arguments.

    A ``calm`` one has weights of the usual size, and learns faster.
    """
    tokenizer = make_seq2seq_tokenizer(folder, kind)
    config: Any = _config(kind, len(tokenizer) + 4)
    setattr(config, "dropout_rate" if "t5" in kind else "dropout", dropout)
    if calm and "t5" in kind:
        config.initializer_factor = 1.0
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    model = AutoModelForSeq2SeqLM.from_config(config, dtype=torch.float32)
    torch.random.set_rng_state(state)
    model.save_pretrained(folder)
