"""Answers as a tree of tokens."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.evaluation.answer_tree import ROOT, build_tree

answers = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), min_size=1, max_size=8)


@given(answers)
def test_every_answer_is_spelt_by_its_predictions(made: list[list[int]]) -> None:
    tree = build_tree(made)
    assert [[token for _, token in sequence] for sequence in tree.sequences] == made


@given(answers)
def test_each_token_is_predicted_by_exactly_what_comes_before_it(made: list[list[int]]) -> None:
    tree = build_tree(made)
    for answer, sequence in zip(made, tree.sequences, strict=True):
        for position, (node, _) in enumerate(sequence):
            assert [tree.tokens[n] for n in tree.path(node)] == answer[:position]


@given(answers)
def test_a_beginning_is_fed_once_however_many_answers_share_it(made: list[list[int]]) -> None:
    tree = build_tree(made)
    assert len(tree.tokens) == len({tuple(a[:i]) for a in made for i in range(1, len(a))})


@given(answers)
def test_depths_count_from_the_prompt(made: list[list[int]]) -> None:
    tree = build_tree(made)
    assert list(tree.depths) == [len(tree.path(node)) for node in range(len(tree.tokens))]


@given(answers)
def test_ancestors_are_the_nodes_on_the_path(made: list[list[int]]) -> None:
    tree = build_tree(made)
    for node, seen in enumerate(tree.ancestors):
        assert seen.nonzero()[0].tolist() == tree.path(node)


def test_answers_of_one_token_feed_nothing() -> None:
    tree = build_tree([[1], [2], [3]])
    assert tree.tokens == ()
    assert tree.sequences == (((ROOT, 1),), ((ROOT, 2),), ((ROOT, 3),))


def test_a_single_answer_is_a_chain_and_two_that_part_late_are_one_while_only_one_is_fed_on() -> None:
    assert build_tree([[1, 2, 3]]).is_chain
    assert build_tree([[1, 2, 3], [1, 5]]).is_chain
    assert not build_tree([[1, 2, 3], [4, 5]]).is_chain
    assert not build_tree([[1, 2, 3], [1, 5, 6]]).is_chain
