"""The split: the same input never stands in two parts, and the cut is the same whenever it is made."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from finetune_api.job import Split
from finetune_trainer.data.parts import PARTS, Part
from finetune_trainer.data.split import Keyed, exact_key, input_key, output_key
from tests.support.split_reference import Cut, plain_cut, real_cut


def cut(train: int = 80, validation: int = 10, test: int = 10, **more: Any) -> Split:
    return Split(train_percent=train, validation_percent=validation, test_percent=test, **more)


def keyed(text: str, output: str = "x", group: str | None = None, stratum: str | None = None) -> Keyed:
    return Keyed(input_key({"text": text}), output_key({"label": output}), exact_key([text, output]), group, stratum)


def side_of(result: Cut) -> dict[int, Part]:
    return {i: part for part, rows in result.parts.items() for i in rows}


MANY = [keyed(f"text {i}", f"label {i % 3}") for i in range(2000)]

texts = st.sampled_from([f"{t}{i}" for i in range(6) for t in ("t", "T", " t")])
random_rows = st.lists(
    st.builds(
        keyed,
        texts,
        st.sampled_from("xyz"),
        st.none() | st.sampled_from("abcdef"),
        st.none() | st.sampled_from("pq"),
    ),
    max_size=40,
)
random_splits = st.builds(
    lambda test, validation, seed, stratify: cut(
        100 - test - validation, validation, test, seed=seed, stratify_by="s" if stratify else None
    ),
    st.integers(1, 40),
    st.integers(0, 40),
    st.integers(0, 2**31 - 1),
    st.booleans(),
)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Great  Film", "great film"),
        ("\tgreat\nfilm ", "great film"),
        ("\uff27\uff32\uff25\uff21\uff34", "great"),  # full width
        ("stra\u00dfe", "STRASSE"),
        ("caf\u00e9", "cafe\u0301"),
        ("\ufb01lm", "film"),
    ],
)
def test_inputs_that_differ_in_case_width_or_white_space_have_one_key(one: str, other: str) -> None:
    assert input_key({"text": one}) == input_key({"text": other})
    assert input_key({"m": [{"content": one}]}) == input_key({"m": [{"content": other}]})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"text": "a"}, {"text": "b"}),
        ({"text": "ab"}, {"text": "a b"}),
        ({"a": "x", "b": "y"}, {"a": "y", "b": "x"}),
        ({"a": "x"}, {"b": "x"}),
        ({"a": ["x", "y"]}, {"a": ["xy"]}),
        ({"a": 1}, {"a": "1"}),
        ({"a": {"k": 1}}, {"a": {"K": 1}}),
    ],
)
def test_different_inputs_have_different_keys(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert input_key(one) != input_key(other)


def test_the_order_of_the_columns_does_not_change_the_key() -> None:
    assert input_key({"a": 1, "b": 2}) == input_key({"b": 2, "a": 1})


def test_case_matters_in_an_output_and_white_space_does_not() -> None:
    assert output_key({"label": "Yes"}) != output_key({"label": "yes"})
    assert output_key({"label": " yes\n"}) == output_key({"label": "yes"})


@pytest.mark.parametrize("other", ["A B", "a  b", "a b ", "\uff41 b"])
def test_an_exact_key_tells_every_spelling_apart(other: str) -> None:
    assert exact_key(["a b"]) != exact_key([other])
    assert exact_key(["a b"]) == exact_key(["a b"])


def test_a_row_with_exactly_the_same_input_and_output_is_counted_once() -> None:
    rows = [keyed("a b", "x"), keyed("c", "x"), keyed("a b", "x"), keyed("a b", "x")]
    result = real_cut(rows, cut())
    assert side_of(result).keys() == {0, 1}
    assert (result.duplicates, result.conflicts) == (2, 0)


def test_rows_that_are_nearly_equal_all_stay_in_one_part() -> None:
    rows = [k for i in range(200) for k in (keyed(f"{i} m"), keyed(f"{i} M"), keyed(f"{i}  m"), keyed(f"{i} m", " x"))]
    result = real_cut(rows, cut(50, 25, 25))
    side = side_of(result)
    assert all(len({side[4 * i + j] for j in range(4)}) == 1 for i in range(200))
    assert (result.duplicates, result.conflicts, result.leaked) == (0, 0, 0)


def test_a_row_of_a_given_test_file_is_never_left_out_for_being_nearly_another() -> None:
    rows = [keyed("5 M"), keyed("5 m"), keyed("5 M"), keyed("x\u00b2"), keyed("x2"), keyed("x2"), keyed("y")]
    result = real_cut(rows, cut(99, 0, 1), given=["train", *["test"] * 5, "train"])
    assert result.parts["test"] == [1, 2, 3, 4]
    assert (result.duplicates, result.leaked) == (1, 1)


def test_the_same_input_with_different_outputs_stays_together_and_is_counted() -> None:
    rows = [k for i in range(200) for k in (keyed(f"t{i}", "x"), keyed(f"T{i}", "y"))]
    result = real_cut([*rows, keyed("alone")], cut(50, 25, 25))
    side = side_of(result)
    assert all(side[2 * i] == side[2 * i + 1] for i in range(200))
    assert (result.duplicates, result.conflicts) == (0, 400)
    assert len(set(side.values())) == 3


def test_rows_of_a_group_stay_together_even_through_shared_inputs() -> None:
    rows = []
    for i in range(300):
        rows += [keyed(f"a{i}", group=f"g{i}"), keyed(f"b{i}", group=f"g{i}")]
        rows += [keyed(f"b{i}", "other", group=f"h{i}"), keyed(f"c{i}", group=f"h{i}")]
    side = side_of(real_cut(rows, cut(40, 30, 30)))
    for i in range(300):
        assert len({side[4 * i + j] for j in range(4)}) == 1
    assert len(set(side.values())) == 3


def test_rows_without_a_group_are_not_one_group() -> None:
    side = side_of(real_cut([keyed(f"t{i}") for i in range(200)], cut(50, 25, 25)))
    assert len(set(side.values())) == 3


def test_a_group_named_like_a_key_is_another_thing() -> None:
    rows = [keyed("a", group="b"), keyed("b")]
    sides = {tuple(side_of(real_cut(rows, cut(50, 25, 25, seed=s))).values()) for s in range(50)}
    assert any(a != b for a, b in sides)


@pytest.mark.parametrize("percents", [(80, 10, 10), (50, 25, 25), (90, 0, 10), (1, 1, 98)])
def test_the_ratios_are_met_within_chance(percents: tuple[int, int, int]) -> None:
    result = real_cut(MANY, cut(*percents))
    for part, percent in zip(PARTS, percents, strict=True):
        share = percent / 100
        # Five standard deviations of a binomial share; the seed is fixed, so this never flickers.
        assert abs(len(result.parts[part]) / len(MANY) - share) <= 5 * (share * (1 - share) / len(MANY)) ** 0.5


def test_another_seed_gives_another_split() -> None:
    one, other = (side_of(real_cut(MANY, cut(seed=s))) for s in (1, 2))
    moved = sum(one[i] != other[i] for i in one)
    # Two independent cuts at 80/10/10 agree on 66 % of the rows.
    assert 0.28 < moved / len(MANY) < 0.40


def test_the_test_rows_stay_when_the_share_of_validation_changes() -> None:
    assert real_cut(MANY, cut(80, 10, 10)).parts["test"] == real_cut(MANY, cut(60, 30, 10)).parts["test"]


def test_the_split_never_changes_between_versions() -> None:
    """A changed hash would move sealed rows into train without anybody noticing."""
    result = real_cut([keyed(f"text {i}") for i in range(40)], cut(50, 25, 25, seed=42))
    assert result.parts["test"] == GOLDEN_TEST
    assert result.parts["validation"] == GOLDEN_VALIDATION


GOLDEN_TEST = [3, 9, 14, 23, 26, 29, 34, 35, 39]
GOLDEN_VALIDATION = [0, 7, 8, 10, 11, 15, 17, 24, 25, 27, 31, 32, 33, 36, 38]


@settings(deadline=None)
@given(rows=random_rows, split=random_splits)
def test_no_input_and_no_group_stands_in_two_parts_and_every_row_in_at_most_one(
    rows: list[Keyed], split: Split
) -> None:
    result = real_cut(rows, split)
    where: dict[object, set[Part]] = defaultdict(set)
    for i, part in side_of(result).items():
        where[rows[i].key].add(part)
        if rows[i].group is not None:
            where[rows[i].group].add(part)
    assert all(len(parts) == 1 for parts in where.values())
    placed = [i for part in PARTS for i in result.parts[part]]
    assert len(placed) == len(set(placed)) == len({r.exact for r in rows})
    assert result.duplicates == len(rows) - len(placed)
    assert all(result.parts[p] == sorted(result.parts[p]) for p in PARTS)


@settings(deadline=None)
@given(rows=random_rows, split=random_splits, more=random_rows)
def test_a_row_stays_in_its_part_when_rows_are_added(rows: list[Keyed], split: Split, more: list[Keyed]) -> None:
    # A row added may join two groups through one input, and then one of them has to move: leave such rows out.
    plain = [Keyed(r.key, r.output, r.exact) for r in rows]
    added = [Keyed(r.key, r.output, r.exact) for r in more]
    split = split.model_copy(update={"stratify_by": None})
    before, after = side_of(real_cut(plain, split)), side_of(real_cut([*plain, *added], split))
    assert all(after[i] == part for i, part in before.items())


def test_a_group_stays_in_its_part_when_rows_join_it() -> None:
    rows = [keyed(f"t{i}", group=f"g{i % 50}") for i in range(200)]
    more = [keyed(f"new {i}", group=f"g{i % 60}") for i in range(300)]
    before, after = side_of(real_cut(rows, cut(50, 25, 25))), side_of(real_cut([*rows, *more], cut(50, 25, 25)))
    assert all(after[i] == part for i, part in before.items())


@settings(deadline=None)
@given(rows=random_rows, split=random_splits, order=st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_move_an_input(rows: list[Keyed], split: Split, order: Any) -> None:
    shuffled = list(rows)
    order.shuffle(shuffled)
    split = split.model_copy(update={"stratify_by": None})
    one = {rows[i].key: p for i, p in side_of(real_cut(rows, split)).items()}
    other = {shuffled[i].key: p for i, p in side_of(real_cut(shuffled, split)).items()}
    assert one == other


@settings(deadline=None, max_examples=300)
@example(sizes=[1, 1, 21, 1, 10], validation=28, test=28, seed=0)
@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=8),
    validation=st.integers(0, 40),
    test=st.integers(1, 40),
    seed=st.integers(0, 1000),
)
def test_strata_are_cut_exactly_to_one_row_each_and_to_less_than_two_altogether(
    sizes: list[int], validation: int, test: int, seed: int
) -> None:
    rows = [keyed(f"{s} {i}", stratum=str(s)) for s, size in enumerate(sizes) for i in range(size)]
    split = cut(100 - validation - test, validation, test, seed=seed, stratify_by="s")
    result = real_cut(rows, split)
    percents: dict[Part, int] = {"validation": validation, "test": test}
    for part, percent in percents.items():
        counts = Counter(rows[i].stratum for i in result.parts[part])
        for s, size in enumerate(sizes):
            assert abs(counts[str(s)] - size * percent / 100) <= 1
        # A row that validation and test both come due for goes to test; a last small stratum may not make up for it.
        assert abs(len(result.parts[part]) - len(rows) * percent / 100) < 2


def test_many_small_strata_still_give_test_rows() -> None:
    rows = [keyed(f"{s} {i}", stratum=str(s)) for s in range(100) for i in range(3)]
    result = real_cut(rows, cut(stratify_by="s"))
    assert [len(result.parts[p]) for p in PARTS] == [240, 30, 30]


def test_groups_in_strata_are_cut_exactly_to_one_group() -> None:
    rows = [keyed(f"{s} {g} {i}", group=f"{s}{g}", stratum=s) for s in "pq" for g in range(40) for i in range(5)]
    result = real_cut(rows, cut(60, 20, 20, stratify_by="s"))
    shares: dict[Part, float] = {"validation": 0.2, "test": 0.2, "train": 0.6}
    for part, share in shares.items():
        counts = Counter(rows[i].stratum for i in result.parts[part])
        assert all(abs(counts[s] - 200 * share) <= 5 for s in "pq")
        groups = {rows[i].group for i in result.parts[part]}
        assert sum(r.group in groups for r in rows) == len(result.parts[part])


def test_a_missing_stratum_is_a_stratum_of_its_own() -> None:
    rows = [keyed(f"{n} {i}", stratum=s) for n, s in enumerate((None, "None", "-")) for i in range(50)]
    result = real_cut(rows, cut(60, 20, 20, stratify_by="s"))
    assert Counter(rows[i].stratum for i in result.parts["test"]) == {None: 10, "None": 10, "-": 10}


def test_another_seed_changes_a_stratified_split_too() -> None:
    rows = [keyed(f"t{i}", stratum="s") for i in range(100)]
    one, other = (real_cut(rows, cut(stratify_by="s", seed=s)).parts["test"] for s in (1, 2))
    assert one != other


def test_given_parts_keep_their_rows_and_the_rest_is_cut_from_train() -> None:
    rows = [*MANY[:1000], *MANY[1000:1100]]
    given = list[Part](["train"] * 1000) + list[Part](["test"] * 100)
    result = real_cut(rows, cut(80, 20, 0), given=given)
    assert result.parts["test"] == list(range(1000, 1100))
    assert 150 < len(result.parts["validation"]) < 250
    assert len(result.parts["train"]) + len(result.parts["validation"]) == 1000
    assert result.leaked == 0


def test_all_three_given_parts_are_taken_as_they_are() -> None:
    given: list[Part] = ["train", "validation", "test"] * 10
    result = real_cut(MANY[:30], cut(80, 0, 20).model_copy(update={"test_percent": 0}), given=given)
    assert result.parts == {"train": [*range(0, 30, 3)], "validation": [*range(1, 30, 3)], "test": [*range(2, 30, 3)]}


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (["train", "test"], {"train": [], "validation": [], "test": [1]}),
        (["train", "validation"], {"train": [], "validation": [1], "test": []}),
        (["validation", "test"], {"train": [], "validation": [], "test": [1]}),
        (["test", "train"], {"train": [], "validation": [], "test": [0]}),
    ],
)
@pytest.mark.parametrize("output", ["x", "y"])
def test_an_input_in_two_given_parts_stays_in_the_more_sealed_one_only(
    given: list[Part], kept: dict[Part, list[int]], output: str
) -> None:
    result = real_cut([keyed("A"), keyed("a", output)], cut(100 - 1, 0, 1), given=given)
    assert result.parts == kept
    assert (result.leaked, result.duplicates, result.conflicts) == (1, 0, 0)


def test_a_group_in_two_given_parts_stays_in_the_more_sealed_one_only() -> None:
    rows = [keyed("a", group="g"), keyed("b", group="h"), keyed("c", group="g")]
    result = real_cut(rows, cut(99, 0, 1), given=["train", "train", "test"])
    assert (result.parts["test"], result.leaked) == ([2], 1)
    assert 0 not in side_of(result)


@settings(deadline=None)
@given(rows=random_rows, split=random_splits, data=st.data())
def test_no_input_stands_in_two_parts_with_given_files(rows: list[Keyed], split: Split, data: st.DataObject) -> None:
    given = data.draw(st.lists(st.sampled_from(PARTS), min_size=len(rows), max_size=len(rows)))
    result = real_cut(rows, split, given=given)
    side = side_of(result)
    where: dict[object, set[Part]] = defaultdict(set)
    for i, part in side.items():
        where[rows[i].key].add(part)
        assert part == given[i] or given[i] == "train"
    assert all(len(parts) == 1 for parts in where.values())
    assert len(side) + result.duplicates + result.leaked == len(rows)


@settings(deadline=None, max_examples=300)
@given(rows=random_rows, split=random_splits, data=st.data())
def test_the_split_is_the_one_that_its_rules_give_row_by_row(
    rows: list[Keyed], split: Split, data: st.DataObject
) -> None:
    parts = st.sampled_from(PARTS) if data.draw(st.booleans()) else st.just(PARTS[0])
    given = data.draw(st.lists(parts, min_size=len(rows), max_size=len(rows)))
    assert real_cut(rows, split, given=given) == plain_cut(rows, split, given=given)


def test_long_chains_of_groups_become_one_component() -> None:
    rows = [k for i in range(400) for k in (keyed(f"t{i}", group=f"g{i}"), keyed(f"t{i}", "y", group=f"g{i + 1}"))]
    side = side_of(real_cut(rows, cut(50, 25, 25)))
    assert len(side) == 800
    assert len(set(side.values())) == 1
