"""The examples of the few-shot baseline: rows of train alone, seeded, balanced, whole, and like no sealed row."""

from __future__ import annotations

from collections import Counter
from typing import Any

from transformers import PreTrainedTokenizerFast

from finetune_api.job import FineTuneJobSpec
from finetune_trainer.data.parts import Part
from finetune_trainer.prepare.prepare import load_prepared
from finetune_trainer.prepare.prepared import Prepared
from tests.support.prepare_kit import LABELS, Dataset, intents, spec_of, texts_of
from tests.trainer.prepare.test_near_duplicates import rows as rows_with_near_ones
from tests.trainer.prepare.test_near_duplicates import split as by_part

SPLIT = {"trainPercent": 60, "validationPercent": 20, "testPercent": 20}
INLINE = {"inline": {"prompt": "Text: {{ text }}\nLabel:", "completion": "{{ label }}"}, "choices": list(LABELS)}


def asking(count: int, template: dict[str, Any] | None = None, *, split: Any = None, **blocks: Any) -> FineTuneJobSpec:
    return spec_of(template, dataset={"split": split or SPLIT}, evaluation={"fewShot": count}, **blocks)


def prompts(prepared: Prepared) -> list[str]:
    return [shot.prompt for shot in prepared.few_shot]


def rendered(prepared: Prepared, tokenizer: PreTrainedTokenizerFast, part: Part) -> set[tuple[str, str]]:
    """Prompt and answer of a part's rows without the frame of the chat template."""
    pairs = texts_of(prepared, tokenizer, part)
    return {(p.split("user\n", 1)[1].split("<|im_end|>")[0], c.split("<|im_end|>")[0]) for p, c in pairs}


def test_examples_are_train_rows_and_never_sealed_ones(dataset: Dataset, chat: PreTrainedTokenizerFast) -> None:
    prepared = dataset.prepare(intents(120), asking(9))
    shots = {(shot.prompt, shot.completion) for shot in prepared.few_shot}
    assert len(shots) == 9
    assert shots <= rendered(prepared, chat, "train")
    sealed = rendered(prepared, chat, "validation") | rendered(prepared, chat, "test")
    assert not {prompt for prompt, _ in shots} & {prompt for prompt, _ in sealed}


def test_labels_take_turns_so_that_the_first_examples_are_balanced_too(dataset: Dataset) -> None:
    rows = [row for row in intents(150) if row["label"] != "bug"] + intents(150)[1:30:3]  # few of one label
    for template in (None, INLINE):
        shots = dataset.prepare(rows, asking(9, template)).few_shot
        for turn in (3, 6, 9):
            counts = Counter(shot.completion for shot in shots[:turn])
            assert counts == dict.fromkeys(LABELS, turn // 3)
        orders = {tuple(shot.completion for shot in shots[at : at + 3]) for at in (0, 3, 6)}
        assert len(orders) > 1  # no label always comes last, beside the row that is asked


def test_the_seed_of_the_split_chooses_and_the_order_of_the_file_does_not(dataset: Dataset) -> None:
    rows = intents(120)
    first = dataset.prepare(rows, asking(6))
    turned = dataset.prepare(rows[::-1], asking(6, training={"seed": 99}))
    assert prompts(turned) == prompts(first)
    other = dataset.prepare(rows, asking(6, split={**SPLIT, "seed": 43}))
    assert set(prompts(other)) != set(prompts(first))


def test_a_train_row_that_nearly_repeats_a_sealed_one_is_no_example(dataset: Dataset) -> None:
    spec = spec_of(dataset=by_part(), evaluation={"fewShot": 64})
    shots = dataset.prepare(rows_with_near_ones(), spec).few_shot
    assert len(shots) == 64
    assert not [shot for shot in shots if "thanks" in shot.prompt]


def test_where_every_train_row_nearly_repeats_a_sealed_one_there_are_none(dataset: Dataset) -> None:
    spec = spec_of(dataset=by_part(), evaluation={"fewShot": 4})
    assert dataset.prepare(rows_with_near_ones()[90:], spec).few_shot == ()


def test_a_row_that_was_shortened_is_no_example(dataset: Dataset) -> None:
    rows = [row | {"text": row["text"] + " and so on" * 80} if i % 5 else row for i, row in enumerate(intents(120))]
    prepared = dataset.prepare(rows, asking(6, training={"maxLength": 256}))
    assert prepared.summary.truncated > 80
    assert len(prepared.few_shot) == 6
    assert not [shot for shot in prepared.few_shot if "so on" in shot.prompt]


def test_examples_have_the_wording_of_the_sealed_rows(dataset: Dataset) -> None:
    plain = dataset.prepare(intents(120), asking(12))
    worded = dataset.prepare(intents(120), asking(12, {"name": "intent", "paraphrases": "All"}))
    assert prompts(worded) == prompts(plain)


def test_one_input_gives_one_example_however_often_it_stands(dataset: Dataset) -> None:
    rows = [row for n in range(40) for row in ({**r, "text": r["text"].upper()} if n % 2 else r for r in intents(3))]
    files = {"train": "s3://data/a.jsonl", "test": "s3://data/b.jsonl"}
    split = {"trainPercent": 100, "validationPercent": 0}
    spec = spec_of(dataset={"files": files, "split": split}, evaluation={"fewShot": 12})
    prepared = dataset.prepare({"train": rows, "test": intents(9, start=50)}, spec)
    assert len(prepared.few_shot) == 3


def test_the_examples_are_there_when_the_folder_is_read_back(dataset: Dataset) -> None:
    prepared = dataset.prepare(intents(120), asking(4))
    assert load_prepared(dataset.out).few_shot == prepared.few_shot
    assert all(shot.where.startswith("rows.jsonl line ") for shot in prepared.few_shot)


def test_a_job_that_asks_for_none_has_none(dataset: Dataset) -> None:
    prepared = dataset.prepare(intents(120), spec_of(dataset={"split": SPLIT}))
    assert prepared.few_shot == ()


def test_each_rows_own_choices_are_no_labels_to_balance(dataset: Dataset) -> None:
    rows = [{"question": f"number {n}?", "choices": [f"{n}", f"{n + 1}"], "answer": 0} for n in range(60)]
    shots = dataset.prepare(rows, asking(5, {"name": "multiple-choice"})).few_shot
    assert len({shot.prompt for shot in shots}) == 5
