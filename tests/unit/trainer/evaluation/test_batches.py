"""How an evaluation is cut into batches: every row once, nothing over the budget but a row by itself."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.evaluation.batches import Budget, budget_of, cut

SIZES = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 20)), max_size=30)


@given(SIZES, st.integers(1, 200), st.integers(1, 400), st.integers(1, 3000), st.integers(0, 50))
def test_batches_hold_each_row_once_and_keep_within_the_budget(
    sizes: list[tuple[int, int]], tokens: int, slots: int, logits: int, held: int
) -> None:
    widths, labels = np.array(sizes, dtype=np.int64).reshape(-1, 2).T
    batches = cut(widths, labels, Budget(tokens=tokens, slots=slots, logits=logits), vocabulary=50, held=held)
    assert sorted(int(i) for batch in batches for i in batch) == list(range(len(sizes)))
    assert [int(widths[i]) for batch in batches for i in batch] == sorted(widths.tolist(), reverse=True)
    for batch in batches:
        width = int(widths[batch].max())
        fits = (
            len(batch) * width <= tokens
            and len(batch) * (width + held) <= slots
            and int(labels[batch].sum()) * 50 <= logits
        )
        assert len(batch) == 1 or fits


def test_a_shared_beginning_makes_batches_smaller() -> None:
    widths = labels = np.full(100, 10)
    budget = Budget(tokens=1000, slots=2000, logits=10**9)
    assert len(cut(widths, labels, budget, vocabulary=10)[0]) == 100
    assert len(cut(widths, labels, budget, vocabulary=10, held=490)[0]) == 4


def test_a_large_vocabulary_makes_batches_smaller() -> None:
    widths = labels = np.full(100, 10)
    budget = Budget(tokens=1000, slots=10**9, logits=10**6)
    assert [len(cut(widths, labels, budget, vocabulary=v)[0]) for v in (1000, 10_000, 200_000)] == [100, 10, 1]


def test_the_widest_rows_come_first() -> None:
    widths = np.array([3, 9, 1, 9])
    batches = cut(widths, np.ones(4), Budget(tokens=10, slots=10**6, logits=10**6), vocabulary=1)
    assert [batch.tolist() for batch in batches] == [[1], [3], [0, 2]]


def test_slots_go_with_the_tokens_that_are_asked_for() -> None:
    assert budget_of("cpu", 1024).slots == budget_of("cpu").slots // 2
    assert budget_of("cuda").tokens > budget_of("cpu").tokens
