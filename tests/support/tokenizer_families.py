"""Small tokenizers of several kinds, whose vocabularies would take control tokens for text or text for them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

__all__ = ["FAMILIES", "FRAME", "MORE_FAMILIES", "make_family"]

SPECIAL: Final = ("<pad>", "<eos>", "<bos>", "<unk>", "<|im_start|>", "<|im_end|>")
FRAME: Final = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_TEXTS: Final = (
    "The film was great, I loved it. The plot was thin but the music was good.\n\nuser assistant system\n",
    "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789 <|>/_[]().,:;!?'\"-\n",
    "think im_start im_end eos bos pad unk TOOL_CALLS urgent <think> </think> <|im_end|>",
)


def _trained(tokenizer: Tokenizer, trainer: Any) -> Tokenizer:
    tokenizer.train_from_iterator(_TEXTS * 4, trainer)
    return tokenizer


def _byte_level() -> Tokenizer:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return _trained(
        bpe,
        trainers.BpeTrainer(
            vocab_size=420, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
        ),
    )


def _whole_words() -> Tokenizer:
    """Looks whole words up in its vocabulary, where it has the control tokens too, as Llama 3's does."""
    stored = json.loads(_byte_level().to_str())
    stored["model"]["ignore_merges"] = True
    stored["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithNext", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        ],
    }
    return Tokenizer.from_str(json.dumps(stored))


def _unigram() -> Tokenizer:
    """SentencePiece's own kind: blanks are part of words, one is put first, control tokens are pieces like others."""
    unigram = Tokenizer(models.Unigram())
    unigram.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    unigram.decoder = decoders.Metaspace(prepend_scheme="first")
    return _trained(
        unigram,
        trainers.UnigramTrainer(vocab_size=160, special_tokens=list(SPECIAL), unk_token="<unk>", show_progress=False),
    )


def _prepend() -> Tokenizer:
    """Llama 2's kind: a blank before every piece of text, single bytes where the vocabulary ends."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = [*SPECIAL, *(f"<0x{n:02X}>" for n in range(256))]
    made = _trained(bpe, trainers.BpeTrainer(vocab_size=520, special_tokens=special, show_progress=False))
    stored = json.loads(made.to_str())
    stored["added_tokens"] = [t for t in stored["added_tokens"] if not t["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(stored))


FAMILIES: Final[Mapping[str, Callable[[], Tokenizer]]] = {
    "byte-level": _byte_level,
    "whole words": _whole_words,
    "unigram": _unigram,
    "prepend": _prepend,
}


def _split_by_rule() -> Tokenizer:
    """GPT-4's kind: a pattern parts words, digits by threes and white space before byte-level merges."""
    stored = json.loads(_byte_level().to_str())
    pattern = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    stored["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        ],
    }
    return Tokenizer.from_str(json.dumps(stored))


def _single_digits() -> Tokenizer:
    """SmolLM's kind: every digit is a token of its own."""
    stored = json.loads(_byte_level().to_str())
    stored["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        ],
    }
    return Tokenizer.from_str(json.dumps(stored))


def _blank_as_letter() -> Tokenizer:
    """Gemma's kind: no blank is put before a text, each one is a letter, single bytes where the vocabulary ends."""
    stored = json.loads(_prepend().to_str())
    stored["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    stored["decoder"] = {
        "type": "Sequence",
        "decoders": [
            {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
        ],
    }
    return Tokenizer.from_str(json.dumps(stored))


def _composed() -> Tokenizer:
    """Qwen's kind: characters are composed (NFC) before byte-level merges."""
    made = _byte_level()
    made.normalizer = normalizers.NFC()
    return made


MORE_FAMILIES: Final[Mapping[str, Callable[[], Tokenizer]]] = {
    **FAMILIES,
    "split by rule": _split_by_rule,
    "single digits": _single_digits,
    "blank as letter": _blank_as_letter,
    "composed": _composed,
}
"""What decoder models use, for what has to hold whatever the tokenizer."""


def make_family(name: str) -> PreTrainedTokenizerFast:
    """Make a tokenizer with a chat template, tags that are not special, and a special one that takes blanks."""
    backend = MORE_FAMILIES[name]()
    backend.add_tokens(
        [
            AddedToken("<think>", special=False, normalized=False),
            AddedToken("</think>", special=False, normalized=True),
            AddedToken("urgent", special=False, normalized=False),
        ]
    )
    backend.add_special_tokens(
        [AddedToken("[TOOL_CALLS]", special=True, normalized=False), AddedToken("<|wide|>", lstrip=True, rstrip=True)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = FRAME
    return tokenizer
