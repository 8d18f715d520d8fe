"""Near duplicates: the estimate against exact Jaccard, found across sides alone, whatever all rows share."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest

from finetune_trainer.data.near import NEAR, NearRows, estimate, shingles, signature, text_of

VOCABULARY = [f"word{n}" for n in range(3000)]


def sentence(seed: int, words: int = 60) -> list[str]:
    return random.Random(seed).choices(VOCABULARY, k=words)  # noqa: S311 - made text


def exact(one: str, other: str) -> float:
    """Jaccard of the sets of word 5-grams, by the book."""
    sets = []
    for text in (one, other):
        words = re.findall(r"\w+", text.lower())
        sets.append({tuple(words[i : i + 5]) for i in range(max(1, len(words) - 4))})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def changed(words: list[str], places: int, seed: int) -> list[str]:
    other = list(words)
    for place in random.Random(seed).sample(range(len(words)), places):  # noqa: S311
        other[place] = f"other{seed}x{place}"
    return other


@pytest.mark.parametrize("places", [0, 1, 2, 4, 8, 16, 30])
def test_the_estimate_is_the_exact_share_on_average(places: int) -> None:
    errors = []
    for seed in range(40):
        one = sentence(seed, 80)
        other = changed(one, places, seed + 1000)
        guess = estimate(signature(shingles(" ".join(one))), signature(shingles(" ".join(other))))
        errors.append(guess - exact(" ".join(one), " ".join(other)))
    assert abs(float(np.mean(errors))) < 0.02  # five standard errors of 126 hashes over 40 texts
    assert max(map(abs, errors)) < 0.2


def test_the_signature_is_the_same_on_every_machine() -> None:
    assert signature(shingles("the quick brown fox jumps over the lazy dog"))[:3].tolist() == PINNED


PINNED = [856583689, 70938527, 292802212]


def near(folder: Path, rows: list[tuple[str, int]]) -> tuple[list[int], list[int]]:
    """Numbers of the train rows and of the sealed rows that were found."""
    with NearRows(folder / "near") as index:
        for text, _ in rows:
            index.add(text)
        found = index.near(np.array([side for _, side in rows], dtype=np.int8))
    assert not (folder / "near").exists()
    return np.flatnonzero(found.train).tolist(), np.flatnonzero(found.sealed).tolist()


def test_pairs_across_the_split_are_found_and_no_others(tmp_path: Path) -> None:
    rows = [(" ".join(sentence(n)), n % 3) for n in range(300)]  # sides 0, 1, 2 in turn
    twins = {0: 4, 3: 5, 6: 9, 7: 8}  # 0 and 3 of train near sealed rows; 6 and 9 both train; 7 and 8 both sealed
    for one, other in twins.items():
        rows[other] = (" ".join(changed(sentence(one), 1, other)), rows[other][1])
    assert all(exact(rows[one][0], rows[other][0]) >= NEAR for one, other in twins.items())
    assert near(tmp_path, rows) == ([0, 3], [4, 5])


def test_nearly_all_pairs_above_the_bound_are_found(tmp_path: Path) -> None:
    rows = []
    for n in range(200):
        one = sentence(n, 100)
        rows += [(" ".join(one), 0), (" ".join(changed(one, 1, n)), 2)]  # 0.9 in common
    train, sealed = near(tmp_path, rows)
    assert len(train) >= 198
    assert len(sealed) >= 198


def test_rows_with_half_in_common_are_not_near(tmp_path: Path) -> None:
    rows = []
    for n in range(200):
        one = sentence(n, 100)
        rows += [(" ".join(one), 0), (" ".join(one[:67] + sentence(n + 5000, 33)), 2)]
    assert near(tmp_path, rows) == ([], [])


def test_an_instruction_that_stands_in_every_row_makes_none_alike(tmp_path: Path) -> None:
    instruction = " ".join(sentence(77, 200))
    rows = [(f"{instruction} {' '.join(sentence(n, 12))}", 0 if n % 2 else 2) for n in range(200)]
    assert near(tmp_path, rows) == ([], [])


def test_rows_that_say_nothing_but_the_instruction_are_alike(tmp_path: Path) -> None:
    instruction = " ".join(sentence(77, 200))
    rows = [(f"{instruction} {' '.join(sentence(n, 12))}", 0 if n % 2 else 2) for n in range(200)]
    rows += [(instruction, 0), (instruction, 2)]
    assert near(tmp_path, rows) == ([200], [201])


@pytest.mark.parametrize("text", ["", " ... !?", "\n"])
def test_rows_without_words_are_like_none(text: str, tmp_path: Path) -> None:
    assert near(tmp_path, [(text, 0), (text, 2)]) == ([], [])


def test_short_texts_are_alike_in_all_words_or_not_at_all(tmp_path: Path) -> None:
    assert near(tmp_path, [("Where is my card?", 0), ("where is MY card", 2)]) == ([0], [1])
    assert near(tmp_path, [("where is my card", 0), ("where is your card", 2)]) == ([], [])


def test_a_script_without_blanks_goes_by_the_character(tmp_path: Path) -> None:
    one = "".join(chr(0x4E00 + (7 * n) % 2000) for n in range(80))
    other = one[:40] + chr(0x9000) + one[41:]
    assert near(tmp_path, [(one, 0), (other, 2), (one[::-1], 2)]) == ([0], [1])


@pytest.mark.parametrize("sides", [[0, 0], [2, 2], [-1, 2]])
def test_without_two_sides_nothing_is_found(sides: list[int], tmp_path: Path) -> None:
    text = " ".join(sentence(1))
    assert near(tmp_path, [(text, side) for side in sides]) == ([], [])


def test_thousands_of_rows_that_are_alike_take_bounded_pairs(tmp_path: Path) -> None:
    text = " ".join(sentence(1, 30))
    rows = [(" ".join(sentence(n + 10, 30)), 0) for n in range(1000)]  # the sample, in which it is not common
    rows += [(text, 0)] * 1500 + [(text, 2)] * 1500
    train, sealed = near(tmp_path, rows)
    assert len(train) == 1500
    assert sealed  # some of them stand for all


def test_text_of_a_value_is_all_that_is_said_in_it() -> None:
    value = {"a": "x", "b": [1, "y", {"c": "z"}, 2.5], "d": None, "e": True}
    assert list(text_of(value)) == ["x", "1", "y", "z", "2.5", "True"]
