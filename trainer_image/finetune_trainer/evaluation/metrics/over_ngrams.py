"""Metrics over n-grams and common subsequences: ROUGE, BLEU and chrF. Pure.

BLEU is sacrebleu's, since its scores depend on its tokenizer; it is imported when it is asked for.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Final

import numpy as np

from finetune_trainer.evaluation.metrics.metric import Array, TextMetric, mean

if TYPE_CHECKING:
    from sacrebleu.metrics import bleu

__all__ = ["BLEU", "CHRF", "ROUGE1", "ROUGE2", "ROUGEL", "words"]

_NO_SPACES: Final = (
    "CJK UNIFIED", "CJK COMPATIBILITY", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN",
)  # fmt: skip
"""Scripts that put no space between words, by the beginnings of their characters' names."""
_CHRF_ORDER: Final = 6
_CHRF_BETA: Final = 2
_BLEU_ORDER: Final = 4


@cache
def _spaced(character: str) -> str:
    """A character as words are cut: itself within one, with spaces around as a word of its own, or a space."""
    if unicodedata.category(character)[0] not in "LMN":
        return " "
    return f" {character} " if unicodedata.name(character, "").startswith(_NO_SPACES) else character


def words(text: str) -> list[str]:
    """Cut a text into lower-case words of letters, marks and digits.

    On ASCII these are rouge-score's words. It takes any other character for a space, and so finds nothing in a text in
    another script; here letters of all scripts count, each by itself where a script has no spaces.
    """
    return "".join(map(_spaced, unicodedata.normalize("NFC", text.lower()))).split()


def _f1(common: int, said: int, expected: int) -> float:
    return 2 * common / (said + expected) if said and expected else 0.0


def _grams(items: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(items[i:] for i in range(order)), strict=False))


def _rouge_n(order: int, said: str, expected: str) -> tuple[float, ...]:
    one, other = _grams(words(said), order), _grams(words(expected), order)
    return (_f1((one & other).total(), one.total(), other.total()),)


def _rouge_l(said: str, expected: str) -> tuple[float, ...]:
    one, other = words(said), words(expected)
    return (_f1(_common_subsequence(one, other), len(one), len(other)),)


def _common_subsequence(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence, a row of the table in one long integer (Hyyrö 2004)."""
    places: dict[str, int] = {}
    for i, word in enumerate(one):
        places[word] = places.get(word, 0) | 1 << i
    everything = (1 << len(one)) - 1
    row = everything
    for word in other:
        match = row & places.get(word, 0)
        row = ((row + match) | (row - match)) & everything
    return len(one) - row.bit_count()


ROUGE1: Final = TextMetric(
    name="ROUGE1",
    meaning="the mean over rows of ROUGE-1: F1 of words",
    compare=partial(_rouge_n, 1),
    value=mean,
    beside=("ROUGE2", "ROUGEL", "ChrF", "ExactMatch"),
)
"""Mean over rows of F1 over words (Lin 2004), without stemming: ``rouge1`` of rouge-score, for :func:`words`."""

ROUGE2: Final = TextMetric(
    name="ROUGE2",
    meaning="the mean over rows of ROUGE-2: F1 of pairs of words",
    compare=partial(_rouge_n, 2),
    value=mean,
    beside=("ROUGE1", "ROUGEL", "ChrF", "ExactMatch"),
)
"""Mean over rows of F1 over pairs of neighbouring words (Lin 2004): ``rouge2`` of rouge-score."""

ROUGEL: Final = TextMetric(
    name="ROUGEL",
    meaning="the mean over rows of ROUGE-L: F1 of the longest common subsequence of words",
    compare=_rouge_l,
    value=mean,
    beside=("ROUGE1", "ROUGE2", "ChrF", "ExactMatch"),
)
"""Mean over rows of F1 over the longest common subsequence of words of the whole texts (Lin 2004): ``rougeL`` of
rouge-score, not its ``rougeLsum``, which goes by lines."""


@cache
def _sacrebleu() -> bleu.BLEU:
    from sacrebleu.metrics import bleu  # noqa: PLC0415 - only who asks for BLEU needs it

    return bleu.BLEU()


def _bleu_counts(said: str, expected: str) -> tuple[float, ...]:
    score = _sacrebleu().corpus_score([said], [[expected]])
    return (float(score.sys_len), float(score.ref_len), *map(float, score.counts), *map(float, score.totals))


def _bleu(kept: Array, weights: Array) -> Array:
    scores = []
    for sums in (weights @ kept).astype(np.int64).tolist():
        said, expected, counts = sums[0], sums[1], sums[2:]
        score = _sacrebleu().compute_bleu(
            counts[:_BLEU_ORDER], counts[_BLEU_ORDER:], said, expected, smooth_method="exp"
        )
        scores.append(min(1.0, score.score / 100))  # sacrebleu's 100 is 100.00000000000004
    return np.array(scores)


BLEU: Final = TextMetric(
    name="BLEU",
    meaning="sacrebleu's BLEU over all rows, divided by 100",
    compare=_bleu_counts,
    value=_bleu,
    beside=("ChrF", "ROUGEL", "ExactMatch"),
)
"""BLEU of the corpus (Papineni et al. 2002), not a mean over rows: sacrebleu (Post 2018), ``nrefs:1|case:mixed|eff:no|
tok:13a|smooth:exp``, divided by 100. Texts of fewer than four words hardly score; its tokenizer expects spaces."""


def _chrf_counts(said: str, expected: str) -> tuple[float, ...]:
    """(n-grams said, expected, in common) of each order; none count as said where none were expected (sacrebleu)."""
    one, other = ("".join(text.split()) for text in (said, expected))
    counts: list[float] = []
    for order in range(1, _CHRF_ORDER + 1):
        a, b = (Counter(text[i : i + order] for i in range(len(text) - order + 1)) for text in (one, other))
        counts += [a.total() if b else 0, b.total(), (a & b).total()]
    return tuple(counts)


def _chrf(kept: Array, weights: Array) -> Array:
    said, expected, common = (weights @ kept).reshape(len(weights), _CHRF_ORDER, 3).transpose(2, 0, 1)
    there = (said > 0) & (expected > 0)
    orders = np.maximum(1, there.sum(axis=1))
    precision = (np.where(there, common, 0) / np.maximum(1, said)).sum(axis=1) / orders
    recall = (np.where(there, common, 0) / np.maximum(1, expected)).sum(axis=1) / orders
    below = _CHRF_BETA**2 * precision + recall
    return np.asarray((1 + _CHRF_BETA**2) * precision * recall / np.where(below > 0, below, 1))


CHRF: Final = TextMetric(
    name="ChrF",
    meaning="chrF over all rows: F of character n-grams",
    compare=_chrf_counts,
    value=_chrf,
    beside=("BLEU", "ROUGEL", "ExactMatch"),
)
"""chrF2 of the corpus (Popović 2015): F with beta 2 of the mean precision and recall over character n-grams of 1 to 6
characters, white space left out; sacrebleu's ``nc:6|nw:0|space:no``, divided by 100. It needs no words, so it serves
every script."""
