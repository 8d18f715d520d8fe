"""`paraphrases: All`: train rows are worded in all ways of the template, what is measured in one."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from finetune_api.job import FineTuneJobSpec
from finetune_api.report import StageReport
from finetune_trainer.data.parts import Part
from finetune_trainer.output.facts import wording_facts
from finetune_trainer.output.predictions import write_results
from finetune_trainer.prepare.prepare import load_prepared
from finetune_trainer.prepare.prepared import Prepared
from tests.support.prepare_kit import Dataset, intents, spec_of, texts_of

ALL = {"name": "intent", "paraphrases": "All"}
BEGINNINGS = {"default": "What does the writer", "desk": "A help desk", "message-first": '"message'}


def wordings(prepared: Prepared, tokenizer: PreTrainedTokenizerFast, part: Part) -> Counter[str]:
    """Rows of a part by how their prompts begin."""
    prompts = [prompt for prompt, _ in texts_of(prepared, tokenizer, part)]
    found = Counter(next(name for name, text in BEGINNINGS.items() if text in prompt[:60]) for prompt in prompts)
    assert found.total() == len(prompts)
    return found


def spec(**split: Any) -> FineTuneJobSpec:
    return spec_of(ALL, dataset={"split": {"trainPercent": 60, "validationPercent": 20, "testPercent": 20, **split}})


def test_train_rows_have_every_wording_and_all_others_the_default(
    dataset: Dataset, chat: PreTrainedTokenizerFast
) -> None:
    prepared = dataset.prepare(intents(120), spec())
    assert set(wordings(prepared, chat, "train")) == set(BEGINNINGS)
    for part in ("validation", "test"):
        assert set(wordings(prepared, chat, part)) == {"default"}


def test_the_rows_of_each_wording_are_counted(dataset: Dataset, chat: PreTrainedTokenizerFast) -> None:
    prepared = dataset.prepare(intents(120), spec())
    assert dict(prepared.wordings) == dict(wordings(prepared, chat, "train"))
    assert load_prepared(dataset.out).wordings == prepared.wordings


def test_a_row_keeps_its_wording_whatever_rows_are_beside_it(dataset: Dataset, chat: PreTrainedTokenizerFast) -> None:
    few = set(texts_of(dataset.prepare(intents(60), spec()), chat, "train"))
    many = set(texts_of(dataset.prepare([*intents(90, 30)[::-1], *intents(30)], spec()), chat, "train"))
    assert few <= many


def test_answers_and_parts_are_those_of_the_default_wording(dataset: Dataset, chat: PreTrainedTokenizerFast) -> None:
    split = {"trainPercent": 60, "validationPercent": 20, "testPercent": 20}
    one = dataset.prepare(intents(120), spec_of({"name": "intent"}, dataset={"split": split}))
    all_of = dataset.prepare(intents(120), spec())
    for part in ("train", "validation", "test"):
        assert one.parts[part].rows.tolist() == all_of.parts[part].rows.tolist()
        assert one.parts[part].answer.tolist() == all_of.parts[part].answer.tolist()
    assert texts_of(one, chat, "test") == texts_of(all_of, chat, "test")
    assert one.template_digest != all_of.template_digest


def test_one_wording_for_all_is_not_counted(dataset: Dataset) -> None:
    assert dataset.prepare(intents(60), spec_of()).wordings == {}


def test_results_and_card_tell_the_counts(tmp_path: Path) -> None:
    report = StageReport.model_validate({"stage": "train", "specDigest": "sha256:" + "1" * 64})
    write_results(tmp_path / "results.json", report, wordings={"default": 3, "desk": 4})
    assert json.loads((tmp_path / "results.json").read_text())["trainRowsByWording"] == {"default": 3, "desk": 4}
    assert "calibration" not in json.loads((tmp_path / "results.json").read_text())
    assert wording_facts({"default": 3, "desk": 4}) == [
        "Train rows by wording of the prompt: default 3, desk 4. Validation and test rows all have the wording default."
    ]
    assert wording_facts({}) == []
