"""Metrics over words, numbers and whole texts: exact match, token F1, the final number. Pure."""

from __future__ import annotations

import re
import string
from collections import Counter
from fractions import Fraction
from typing import Final

import numpy as np

from finetune_trainer.evaluation.metrics.metric import Array, Metric, TextMetric, mean
from finetune_trainer.evaluation.rows import Rows

__all__ = ["EXACT_MATCH", "EXACT_MATCH_TOKENS", "NUMERIC_MATCH", "TOKEN_F1", "final_number"]

MARKER: Final = "####"
"""After it stands the final answer, as in GSM8K."""
_ARTICLES: Final = frozenset({"a", "an", "the"})
_NO_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)
_GROUP: Final = "\u00a0\u202f'’"
"""What may stand between groups of three digits, besides points and commas."""
_NUMBER: Final = re.compile(
    r"(?<![\w.])[-+−]?[$€£¥]?(?:"
    r"\d+ \d+/\d+"  # a whole and a fraction
    rf"|(?:\d{{1,3}}(?: \d{{3}}(?![\d.,]*\d/|\d))+|\d+)(?:[.,]\d+|[{_GROUP}]\d{{3}}(?!\d))*"
    r"|\.\d+)(?:[eE][-+]?\d+)?(?:/\d+)?",
    re.ASCII,
)
_LONGEST: Final = 200
_MOST_EXPONENT: Final = 3
"""Characters of a number and digits of its exponent; arithmetic on larger ones would take its time."""


def _verdicts(rows: Rows, column: str) -> Array:
    return rows.column(column).astype(np.float64)[:, None]


def _same_tokens(rows: Rows) -> Array | None:
    """Nothing where models think first: their tokens are those of the thought too, and the answer alone is scored."""
    return None if (rows.column("unclosed") >= 0).any() else _verdicts(rows, "exact_match_tokens")


EXACT_MATCH: Final = Metric(
    name="ExactMatch",
    kind="predict",
    meaning="the generated text is the expected one",
    keeps=lambda rows: _verdicts(rows, "exact_match"),
    value=mean,
    counted=True,
    verdict="exact_match",
    beside=("ChoiceAccuracy", "TokenF1", "ExactMatchTokens"),
)
"""Share of rows whose generated text is the expected one, both as the stop rule leaves them; case and punctuation
count (``exact_match`` of lm-evaluation-harness without its switches)."""

EXACT_MATCH_TOKENS: Final = Metric(
    name="ExactMatchTokens",
    kind="score",
    meaning="the generated tokens are the expected ones, end tokens included",
    keeps=_same_tokens,
    value=mean,
    counted=True,
    verdict="exact_match_tokens",
)
"""Share of rows in which every expected token, end tokens included, is the most likely one."""


def _words(text: str) -> list[str]:
    return [word for word in text.lower().translate(_NO_PUNCTUATION).split() if word not in _ARTICLES]


def _token_f1(said: str, expected: str) -> tuple[float, ...]:
    one, other = _words(said), _words(expected)
    if not one or not other:
        return (float(one == other),)
    common = (Counter(one) & Counter(other)).total()
    return (2 * common / (len(one) + len(other)),)


TOKEN_F1: Final = TextMetric(
    name="TokenF1",
    meaning="the mean over rows of the F1 of words, case, punctuation and English articles left out",
    compare=_token_f1,
    unanswered=lambda _: (0.0,),
    value=mean,
    beside=("ExactMatch", "ROUGEL", "ChrF"),
)
"""Mean over rows of F1 between the bags of words of both texts, after lower case, without ASCII punctuation and without
a, an, the (SQuAD: Rajpurkar et al. 2016, arXiv:1606.05250; of two texts without words, 1 if both have none, as in SQuAD
2.0). Words end at white space, so it says little of Chinese, Japanese or Thai: ChrF does."""


def final_number(text: str) -> Fraction | None:
    """Return the first number after the last ``####``, or without such a mark the last number; None without one.

    Thousands may be grouped (1,234 or 1.234.567 or 1'234 or 1 234, in India 1,23,456), decimals may follow a comma
    (3,14), and fractions (3/4, 1 1/2), exponents and currency signs are understood. A number that goes on from a letter
    (H2O) is none.
    """
    _, mark, after = text.rpartition(MARKER)
    found = [match.group() for match in _NUMBER.finditer(after if mark else text)]
    return _parsed(found[0 if mark else -1]) if found else None


def _parsed(number: str) -> Fraction | None:
    if len(number) > _LONGEST or re.search(rf"[eE][-+]?\d{{{_MOST_EXPONENT + 1}}}", number):
        return None
    number = re.sub(rf"[$€£¥+{_GROUP}]", "", number.replace("e+", "e").replace("E+", "e")).replace("−", "-")
    if mixed := re.fullmatch(r"(-?)(\d+) (\d+)/(\d+)", number):
        sign, units, above, beneath = mixed.groups()
        if int(above) < int(beneath) and len(above) <= len(beneath):
            return (-1 if sign else 1) * (int(units) + Fraction(int(above), int(beneath)))
        if len(above) != 3:  # no thousands: two numbers
            number = f"{above}/{beneath}"
    whole, _, below = number.replace(" ", "").partition("/")
    if whole.lstrip("-").startswith("."):
        whole = whole.replace(".", "0.")
    separators = re.sub(r"[^.,]", "", whole)
    if len(set(separators)) == 2:  # the last one stands before the decimals
        last = separators[-1]
        if separators.count(last) > 1:
            return None
        whole = whole.replace("," if last == "." else ".", "").replace(",", ".")
    elif len(separators) > 1 or separators == ",":
        mark = separators[0]
        groups = re.sub(r"[eE].*|-", "", whole).split(mark)
        if _are_thousands(groups) or (mark == "," and _are_lakhs(groups)):
            whole = whole.replace(mark, "")
        elif len(separators) == 1:
            whole = whole.replace(",", ".")
        else:
            return None  # a list or a version, no number
    try:
        return Fraction(whole) / (Fraction(below) if below else 1)
    except (ValueError, ZeroDivisionError):
        return None


def _are_thousands(groups: list[str]) -> bool:
    """Tell 1,234 from 0,125: no thousands begin with a zero."""
    return len(groups[0]) <= 3 and not groups[0].startswith("0") and all(len(group) == 3 for group in groups[1:])


def _are_lakhs(groups: list[str]) -> bool:
    """Tell 1,23,456, the Indian way, by groups of two before the last one."""
    first, *between, last = groups
    return bool(between) and 0 < len(first) <= 2 and len(last) == 3 and all(len(group) == 2 for group in between)


def _numeric(said: str, expected: str) -> tuple[float, ...]:
    number = final_number(expected)
    return (float(number is not None and final_number(said) == number),)


NUMERIC_MATCH: Final = TextMetric(
    name="NumericMatch",
    meaning="the final number of the generated text is that of the expected one",
    compare=_numeric,
    scorable=lambda expected: "" if final_number(expected) is not None else "has no final number",
    value=mean,
    counted=True,
    verdict="measure",
    beside=("ExactMatch", "TokenF1"),
)
"""Share of rows whose final number (:func:`final_number`) equals the expected one as a number: 72, 72.0 and $72 are
equal, 3/4 is 0.75; units and percent signs are not compared (GSM8K: Cobbe et al. 2021, arXiv:2110.14168)."""
