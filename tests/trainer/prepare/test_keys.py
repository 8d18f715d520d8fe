"""The split's keys: rows whose prompts are the same to the model are the same to the split."""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.data.bad_rows import BadRowLog
from finetune_trainer.data.split import folded
from finetune_trainer.data.table import read_table
from finetune_trainer.prepare.keys import KeyedTable, key_rows
from finetune_trainer.prepare.prepared import Prepared
from finetune_trainer.prepare.rendering import context_of
from finetune_trainer.text.template.catalog import resolve_template
from finetune_trainer.text.template.render import Rendered, Renderer
from finetune_trainer.text.template.survey import AnswerSurvey
from tests.support.prepare_kit import Dataset, row_ids, spec_of, write

ODD: list[Any] = ["a b", "A  b", "a\n\nb", "b", "", " ", "a", "\uff41 b", 1, 1.0, "1", True, "true", None]
ID_IN_ROW = "{% for k, v in row | items if k not in ('id', 'label') %}{{ k }}: {{ v }}. {% endfor %}"
WORDS = ["river", "plot", "film", "tower", "music", "card", "good"]


def inline(prompt: str, completion: str = "{{ label }}") -> dict[str, Any]:
    return {"inline": {"prompt": prompt, "completion": completion}}


def keyed_prompts(template: dict[str, Any], rows: Sequence[dict[str, Any]], folder: Path) -> list[tuple[str, bytes]]:
    """Prompt, as encoding renders it, and key of each row that can be used."""
    dataset = spec_of(template, dataset={"badRows": {"maxPercent": 100}}).dataset
    resolved, bad = resolve_template(dataset.template), BadRowLog(dataset)
    survey = AnswerSurvey(resolved)
    table = read_table({"all": write(folder / "rows.jsonl", rows)}, dataset, bad, observe=survey.add)
    with Renderer.of(resolved) as renderer:
        keyed = key_rows(table, resolved, dataset, renderer, bad, survey=survey)
        contexts = [
            ("row", context_of(resolved, row, (row.projected.choices if row.projected else None) or ()))
            for row in keyed.rows()
        ]
        prompts = [result.prompt for result in renderer.render(contexts) if isinstance(result, Rendered)]
    return list(zip(prompts, keys_of(keyed), strict=True))


def keys_of(keyed: KeyedTable) -> list[bytes]:
    return [bytes(keyed.keys.keys[at : at + 16]) for at in range(0, len(keyed.keys.keys), 16)]


def trained_and_tested(prepared: Prepared) -> int:
    """Test rows whose prompt, token for token, is that of a train row too."""
    prompts = {
        name: [tuple(row_ids(part, i)[: int(part.prompt_lengths[i])]) for i in range(len(part))]
        for name, part in prepared.parts.items()
    }
    assert prompts["test"]
    return sum(prompt in set(prompts["train"]) for prompt in prompts["test"])


@pytest.mark.parametrize(
    ("template", "columns"),
    [
        ({"name": "instruction"}, ("instruction", "input", "output")),
        ({"name": "qa"}, ("context", "question", "answer")),
        ({"name": "nli"}, ("premise", "hypothesis", "label")),
        ({"name": "topic"}, ("text", "label")),
        ({"name": "raw"}, ("prompt", "completion")),
        ({"name": "summarization", "columns": {"summary": "label"}}, ("text", "label")),
        (inline("{{ a or '' }}{{ b }}"), ("a", "b", "label")),
        (inline("{{ row | tojson }} {{ a is none }}"), ("a", "b", "label")),
        (inline("{{ a | string | upper }}{{ row['b'] | default('', true) }}"), ("a", "b", "label")),
        (inline("{% for k, v in row | items if k != 'label' %}{{ v or '' }}\n{% endfor %}x"), ("a", "b", "label")),
    ],
)
def test_rows_have_one_key_if_and_only_if_their_prompts_are_the_same_but_for_spelling(
    template: dict[str, Any], columns: tuple[str, ...], tmp_path: Path
) -> None:
    inputs = itertools.product(*[ODD for _ in columns[:-1]])
    seams = [("a\nQuestion: b", "c"), ("a", "b\nQuestion: c"), ("a\n\nb", ""), ("a", "b")]
    rows = [dict(zip(columns, (*values[: len(columns) - 1], "x"), strict=True)) for values in (*inputs, *seams)]
    keys_of_prompt, prompts_of_key = defaultdict(set), defaultdict(set)
    for prompt, key in keyed_prompts(template, rows, tmp_path):
        keys_of_prompt[folded(prompt)].add(key)
        prompts_of_key[key].add(folded(prompt))
    assert len(keys_of_prompt) > 3
    assert {len(keys) for keys in keys_of_prompt.values()} == {1}
    assert {len(prompts) for prompts in prompts_of_key.values()} == {1}


@pytest.mark.parametrize(
    ("template", "row"),
    [
        (inline("{{ ex.text }} =>", "{{ ex.label }}"), lambda i, t: {"ex": {"id": i, "text": t, "label": "x"}}),
        (inline(ID_IN_ROW), lambda i, t: {"id": i, "text": t, "label": "x"}),
        (inline("{{ title or '' }}{{ text }}"), lambda i, t: {"title": (None, "", " ")[i % 3], "text": t, "label": i}),
        (inline("{{ text }} {{ n }}"), lambda i, t: {"text": t, "n": (1, "1", " 1")[i % 3], "label": i}),
        (inline("{{ text | truncate(14) }}"), lambda i, t: {"text": f"{t} and then the number {i}", "label": i}),
        ({"name": "instruction"}, lambda i, t: {"instruction": t, "input": (None, "", " ")[i % 3], "output": i}),
        ({"name": "instruction"}, lambda i, t: _seam("instruction", "input", t, i)),
    ],
)
def test_no_prompt_is_trained_and_tested(dataset: Dataset, template: dict[str, Any], row: Any) -> None:
    prompts = [f"{a} {b}" for a, b in itertools.permutations(WORDS, 2)]
    rows = [row(i, text) for i, text in enumerate(prompts * 4)]
    random.Random(1).shuffle(rows)  # noqa: S311  # an order, no secret
    split = {"trainPercent": 40, "validationPercent": 20, "testPercent": 40}
    assert trained_and_tested(dataset.prepare(rows, spec_of(template, dataset={"split": split}))) == 0


def _seam(first: str, second: str, text: str, i: int) -> dict[str, Any]:
    """The same words, now in one column, now in two."""
    one, two = text.split()
    texts = {first: one, second: two} if i % 2 else {first: f"{one}\n\n{two}", second: ""}
    return {**texts, "output": i}


@pytest.mark.parametrize("as_numbers", [False, True])
def test_shuffled_choices_are_no_other_question_and_their_answer_is_its_text(
    dataset: Dataset, as_numbers: bool
) -> None:
    rows = []
    for i, (a, b) in enumerate(itertools.permutations(WORDS, 2)):
        for order in itertools.islice(itertools.permutations([f"{a} {i}", f"{b} {i}", "none", "All"]), 0, 24, 5):
            answer = order.index(f"{a} {i}") if as_numbers else f"{a} {i}"
            rows.append({"question": f"which of {i}?", "choices": list(order), "answer": answer})
    split = {"trainPercent": 40, "validationPercent": 20, "testPercent": 40}
    prepared = dataset.prepare(rows, spec_of({"name": "multiple-choice"}, dataset={"split": split}))
    questions = {name: {rows[int(line) - 1]["question"] for line in part.rows} for name, part in prepared.parts.items()}
    assert questions["test"]
    assert not questions["train"] & questions["test"]
    assert (prepared.summary.conflicts, prepared.summary.duplicates) == (0, 0)


def test_shuffled_choices_with_another_answer_are_a_conflict(dataset: Dataset) -> None:
    rows = [{"question": f"which {i}?", "choices": ["x", "y"], "answer": "x"} for i in range(60)]
    rows += [{"question": f"Which {i}?", "choices": ["y", "x"], "answer": "y" if i < 5 else "x"} for i in range(60)]
    summary = dataset.prepare(rows, spec_of({"name": "multiple-choice"})).summary
    assert (summary.conflicts, summary.duplicates) == (10, 0)


def test_completions_that_spell_one_choice_are_no_conflict(dataset: Dataset) -> None:
    template = {**inline("{{ text }}"), "choices": ["Yes", "No"]}
    rows = [{"text": f"{text} {i}", "label": label} for i in range(60) for text, label in (("t", "yes"), ("T", "YES"))]
    rows += [{"text": "t 1", "label": "No"}]
    assert dataset.prepare(rows, spec_of(template)).summary.conflicts == 3


def test_a_test_file_keeps_rows_that_are_nearly_equal(dataset: Dataset) -> None:
    test = [f"Unit of {t}? " for i in range(20) for t in (f"5 m at {i}", f"5 M at {i}", f"x\u00b2 {i}", f"x2 {i}")]
    rows = {
        "train": [{"prompt": f"p {i}", "completion": " a"} for i in range(40)],
        "test": [{"prompt": prompt, "completion": " a"} for prompt in [*test, test[0]]],
    }
    files = {"train": "s3://data/train.jsonl", "test": "s3://data/test.jsonl"}
    summary = dataset.prepare(rows, spec_of({"name": "raw"}, dataset={"files": files})).summary
    assert (summary.test, summary.duplicates, summary.leaked) == (80, 1, 0)


def test_a_row_that_cannot_be_rendered_is_one_bad_row_and_has_no_part(dataset: Dataset) -> None:
    rows = [{"text": f"t {i}", "label": "x" if i else None} for i in range(100)]
    prepared = dataset.prepare(rows, spec_of(inline("{{ text }}")))
    assert prepared.summary.dropped == 1
    assert prepared.summary.dropped_by is not None
    assert prepared.summary.dropped_by.unsplit == 1
    assert prepared.summary.rows == 100


def test_many_batches_keep_rows_and_keys_together(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"text": f"t {i}" if i % 7 else None, "label": "x"} for i in range(1000)]
    rows[500]["text"] = "long " * 200_000
    keyed = keyed_prompts(inline("{{ text }}"), rows, tmp_path)
    assert [prompt for prompt, _ in keyed] == [str(r["text"]) for r in rows if r["text"] is not None]
    assert len({key for _, key in keyed}) == len(keyed)
