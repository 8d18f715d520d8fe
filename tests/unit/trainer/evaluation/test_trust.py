"""When the numbers are not to be trusted: each warning comes where it should, and not where it nearly should."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from finetune_api.status import DatasetSummary, FewShotScore, NearDuplicates, Results, Score, SecondaryScore
from finetune_api.trust import WARNING_TYPES, WarningType
from finetune_trainer.evaluation.stats import decimal, wilson
from finetune_trainer.evaluation.trust import Evidence, warnings_of
from finetune_trainer.prepare.prepared import TextRow

LABELS = ("sports", "arts", "science")


def score(correct: int, total: int, **more: Any) -> Score:
    low, high = wilson(correct, total)
    bounds = [decimal(low), decimal(high)]
    return Score(score=decimal(correct / total), correct=correct, total=total, ci95=bounds, **more)


def text(prompt: str) -> TextRow:
    return TextRow(row=1, prompt=prompt, completion="")


def evidence(**changes: Any) -> Evidence:
    """A result that nothing speaks against: 200 test rows, half right before and nine of ten after."""
    results = Results(
        metric=changes.pop("metric", "ChoiceAccuracy"),
        baseline=changes.pop("before", score(100, 200)),
        test=changes.pop("after", score(180, 200)),
        gain=changes.pop("gain", "+0.4000"),
        p_value=changes.pop("p", "1e-10"),
        paired_test="McNemarExact",
        few_shot=changes.pop("shown", None),
    )
    rows = changes.pop("rows", [text("a goal was shot"), text("a picture was painted"), text("a star was seen")])
    values: dict[str, Any] = {
        "data": DatasetSummary(rows=1000, train=700, validation=100, test=200),
        "choices": LABELS,
        "answers": np.arange(len(rows)) % 3,
        "overlapping": False,
        "alike": 0,
        "validation": (0.9, 100),
        "train": score(92, 100),
    }
    return Evidence(results=results, rows=rows, **{**values, **changes})


def kinds(**changes: Any) -> list[WarningType]:
    return [warning.type for warning in warnings_of(evidence(**changes))]


@pytest.mark.parametrize(("before", "after", "told"), [(0, 1, False), (2, 0, True), (0, 2, True)])
def test_answers_that_end_within_their_thought_are_told(before: int, after: int, told: bool) -> None:
    found = warnings_of(evidence(unclosed=(before, after)))
    assert [(w.type, w.message) for w in found] == [
        (
            "ThoughtUnfinished",
            f"{before} of 200 answers of the untouched model and {after} of the tuned one end within their thought: "
            "raise evaluation.maxNewTokens",
        )
    ] * told


def test_nothing_is_said_of_a_result_that_nothing_speaks_against() -> None:
    assert kinds() == []


@pytest.mark.parametrize(
    ("gain", "p", "warned"),
    [
        ("+0.0000", "1", True),
        ("-0.1000", "0.001", True),
        ("+0.0500", "0.0500", True),
        ("+0.0500", "0.0499", False),
        ("+0.0500", None, False),
        ("+0.3000", "1.3e-60", False),
    ],
)
def test_a_gain_that_may_be_chance_is_no_gain(gain: str, p: str | None, warned: bool) -> None:
    assert kinds(gain=gain, p=p) == (["NoGain"] if warned else [])


@pytest.mark.parametrize(("total", "warned"), [(99, True), (100, False)])
def test_fewer_than_a_hundred_test_rows_are_few(total: int, warned: bool) -> None:
    assert kinds(after=score(90, total), validation=None, train=None) == (["FewTestRows"] if warned else [])


@pytest.mark.parametrize(
    ("rows", "validations", "warned"), [(29, 2, True), (30, 2, False), (29, 1, False), (1, 12, True)]
)
def test_weights_that_are_the_best_on_a_few_validation_rows_may_be_so_by_chance(
    rows: int, validations: int, warned: bool
) -> None:
    found = warnings_of(evidence(validation=(0.9, rows), validations=validations))
    told = f"{rows} validation row{'s' if rows > 1 else ''}"
    words = f"the kept weights were the best of {validations} validations on {told}, fewer than 30"
    assert [(w.type, w.message) for w in found] == [("FewValidationRows", words)] * warned


def test_without_validation_rows_nothing_was_chosen_by_them() -> None:
    assert kinds(validation=None, validations=0) == []


MIXED = [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
PLAIN = "Text: something. Topic:"


def leaking(prompts: Sequence[str], answers: Sequence[int] = MIXED) -> bool:
    return kinds(rows=[text(prompt) for prompt in prompts], answers=np.array(answers)) == ["LabelInPrompt"]


def test_a_column_with_the_label_in_the_prompt_is_a_leak() -> None:
    assert leaking([f"Section {LABELS[i].upper()}: something. Topic:" for i in MIXED])


def test_a_list_of_all_choices_in_every_prompt_is_none() -> None:
    assert not leaking([f"One of sports, arts, science. {PLAIN}"] * 10)


def test_a_leak_shows_beside_a_list_of_all_choices() -> None:
    assert leaking([f"One of sports, arts, science. From the desk of {LABELS[i]}: something." for i in MIXED])


def test_a_label_that_some_texts_happen_to_name_is_no_leak() -> None:
    assert not leaking([f"All about {LABELS[i]}" if at < 8 else PLAIN for at, i in enumerate(MIXED)])


def test_a_prompt_that_names_wrong_labels_too_gives_nothing_away() -> None:
    assert not leaking([f"{LABELS[i]} or {LABELS[i - 1]}?" for i in MIXED])


def test_a_label_inside_another_word_does_not_count() -> None:
    assert not leaking([f"x{LABELS[i]}y" for i in MIXED])


def test_a_label_that_is_part_of_the_right_one_is_no_other() -> None:
    rows = [text(f"Tag: {('bug', 'bug report')[i % 2]}.") for i in range(10)]
    # "bug" stands in every prompt, so it tells nothing; "bug report" does, in half of them.
    assert kinds(rows=rows, choices=("bug", "bug report"), answers=np.arange(10) % 2) == []
    rows += [text(PLAIN)]
    assert kinds(rows=rows, choices=("bug", "bug report"), answers=np.append(np.arange(10) % 2, 0)) == ["LabelInPrompt"]


def test_rows_without_a_right_choice_leak_nothing() -> None:
    assert not leaking([f"{LABELS[i]}: something" for i in MIXED], [-1] * 10)


@pytest.mark.parametrize(("most", "warned"), [(91, True), (90, False)])
def test_one_label_of_more_than_nine_rows_in_ten_is_told(most: int, warned: bool) -> None:
    answers = np.array([1] * most + [0] * (100 - most))
    found = warnings_of(evidence(rows=[text("x")] * 100, answers=answers))
    assert [w.type for w in found] == (["OneLabel"] if warned else [])
    if warned:
        assert found[0].message == "91 of 100 test rows have one label, 'arts': to say always that is 0.9100"


def test_answers_that_are_open_have_no_label() -> None:
    assert kinds(choices=(), answers=np.array([], dtype=np.int64)) == []


@pytest.mark.parametrize(
    ("train", "warned"),
    [(score(100, 100), True), (score(85, 100), False), (score(3, 3), False), (None, False)],
)
def test_train_rows_far_above_the_test_rows_were_learned_by_heart(train: Score | None, warned: bool) -> None:
    assert kinds(train=train, after=score(160, 200), validation=None) == (["Overfitted"] if warned else [])


@pytest.mark.parametrize(
    ("validation", "warned"),
    [((0.5, 100), True), ((0.99, 1000), True), ((0.84, 100), False), ((0.75, 4), False), (None, False)],
)
def test_validation_that_differs_beyond_chance_is_told(validation: tuple[float, int] | None, warned: bool) -> None:
    assert kinds(validation=validation) == (["ValidationDisagrees"] if warned else [])


@pytest.mark.parametrize(("truncated", "warned"), [(50, True), (49, False)])
def test_prompts_that_were_shortened_are_told(truncated: int, warned: bool) -> None:
    data = DatasetSummary(rows=1000, train=700, validation=100, test=200, truncated=truncated)
    assert kinds(data=data) == (["TruncatedPrompts"] if warned else [])


def test_choices_of_which_one_begins_another_are_told() -> None:
    assert kinds(overlapping=True) == ["ChoicesOverlap"]


@pytest.mark.parametrize(
    ("choices", "alike", "word"),
    [
        (("very good", "very bad"), 1, "'very'"),
        (("label_1", "label_2"), 2, "'label'"),
        (("__a", "__b"), 1, None),
        (("very good", "very bad"), 0, None),
        (("good", "goodness me"), 1, None),
        (('"stop"', '"start"'), 1, None),
        (("10", "11"), 1, None),
    ],
    ids=["words", "numbered", "marks", "tokens differ", "no common word", "quotation marks", "digits"],
)
def test_a_word_that_all_choices_begin_with_is_told(choices: tuple[str, ...], alike: int, word: str | None) -> None:
    found = [
        (w.type, w.message) for w in warnings_of(evidence(choices=choices, alike=alike, answers=np.array([0, 1, 0])))
    ]
    says = "which tells no answer: loss and TokenAccuracy look too good"
    assert found == ([("ChoicesOverlap", f"all choices begin with {word}, {says}")] if word else [])


@pytest.mark.parametrize(
    ("near", "warned"),
    [
        (NearDuplicates(train=3, test=2), True),
        (NearDuplicates(train=3, test=1), False),
        (NearDuplicates(train=3, validation=40), False),
        (NearDuplicates(train=3, test=2, dropped=3), False),
        (None, False),
    ],
    ids=["one in a hundred", "fewer", "validation alone", "dropped", "none"],
)
def test_test_rows_that_train_nearly_repeats_are_told(near: NearDuplicates | None, warned: bool) -> None:
    data = DatasetSummary(rows=1000, train=700, validation=100, test=200, near_duplicates=near)
    found = [(w.type, w.message) for w in warnings_of(evidence(data=data))]
    words = "2 of 200 test rows are nearly repeated in train; dataset.nearDuplicates: Drop helps"
    assert found == ([("NearDuplicates", words)] if warned else [])


@pytest.mark.parametrize(
    ("metric", "exact", "choosing", "warned"),
    [
        ("ExactMatch", 0, "0.6000", True),
        ("ExactMatch", 0, "0.1999", False),
        ("ExactMatch", 30, "0.6000", False),
        ("ChoiceAccuracy", 0, "0.6000", False),
    ],
)
def test_an_untouched_model_that_lacks_the_format_only_is_told(
    metric: str, exact: int, choosing: str, warned: bool
) -> None:
    before = score(exact, 200, secondary=[SecondaryScore(name="ChoiceAccuracy", score=choosing)])
    assert kinds(metric=metric, before=before) == (["FormatOnly"] if warned else [])


def test_warnings_come_in_the_order_of_the_table_and_their_words_fit() -> None:
    found = warnings_of(
        evidence(
            after=score(20, 50),
            gain="-0.1000",
            overlapping=True,
            choices=("l" * 128, "m"),
            answers=np.zeros(3, dtype=np.int64),
            train=score(100, 100),
            validation=(1.0, 1000),
            data=DatasetSummary(rows=9, train=9, truncated=9),
        )
    )
    types = [warning.type for warning in found]
    assert types == sorted(types, key=WARNING_TYPES.index)
    assert len(types) == 7
    assert all(len(warning.message or "") <= 160 for warning in found)


def test_words_of_a_label_that_has_to_be_escaped_fit() -> None:
    choices = ("\u200b" * 60 + "a b", "\u200b" * 60 + "a c")
    found = warnings_of(evidence(choices=choices, alike=2, answers=np.zeros(3, dtype=np.int64)))
    assert [warning.type for warning in found] == ["OneLabel", "ChoicesOverlap"]
    assert all("\\u200b" in (warning.message or "") for warning in found)


def test_a_list_of_all_choices_that_one_prompt_has_lost_hides_no_leak() -> None:
    rows = [text(f"One of sports, arts, science. {LABELS[i]}: something.") for i in MIXED]
    short = TextRow(row=1, prompt="something long.", completion="", shortened=True)
    assert kinds(rows=[*rows, short], answers=np.array([*MIXED, 0])) == ["LabelInPrompt"]


def test_rows_of_labels_that_train_does_not_know_are_not_of_the_one_label() -> None:
    assert kinds(answers=np.array([1] * 60 + [-1] * 60)) == []
    assert kinds(answers=np.array([1] * 60 + [-1] * 5)) == ["OneLabel"]


def shown(gain: str, p: str) -> FewShotScore:
    return FewShotScore(score="0.8800", correct=176, total=200, examples=4, context_tokens=90, gain=gain, p_value=p)


@pytest.mark.parametrize(
    ("gain", "p", "warned"),
    [
        ("+0.0200", "0.0499", False),
        ("+0.0200", "0.0500", True),
        ("+0.0000", "1.0", True),
        ("-0.1000", "0.0001", True),
    ],
)
def test_a_model_that_does_not_beat_its_base_with_examples_is_told_so(gain: str, p: str, warned: bool) -> None:
    assert ("NotAboveFewShot" in kinds(shown=shown(gain, p))) is warned


def test_it_says_what_the_examples_reach() -> None:
    (warning,) = warnings_of(evidence(shown=shown("-0.0100", "0.3")))
    assert warning.message == (
        "the untouched model with 4 examples in its prompt reaches 0.8800, and the tuned model is not better: 0.9000"
    )


def test_why_there_is_no_few_shot_score_is_a_warning_of_its_own() -> None:
    (warning,) = warnings_of(evidence(few_shot="no example fits"))
    assert (warning.type, warning.message) == ("NoFewShot", "no example fits")
