"""A whole job of a model that thinks before it answers: with its thoughts and without, asked as it is served."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken
from transformers import AutoTokenizer

from finetune_api.reasons import Reason
from tests.support.chat_templates import THINKING_TEMPLATES
from tests.support.stage_run import run
from tests.support.tiny_job import job_spec, make_stage_input, topic_rows, write_rows
from tests.support.tiny_model import make_model


def rows(count: int = 120) -> list[dict[str, Any]]:
    """The thought names the answer's first letter; it stands under a key, or in the content."""
    made = []
    for i, row in enumerate(topic_rows(count)):
        thought = f"{row['label'][:1]} it is"
        answer = {"content": row["label"], "reasoning_content": thought}
        if i % 2:
            answer = {"content": f"<think>\n{thought}\n</think>\n\n{row['label']}"}
        made.append({"messages": [{"role": "user", "content": row["text"]}, {"role": "assistant", **answer}]})
    return made


def spec_for(folder: Path, kind: str, **blocks: Any) -> dict[str, Any]:
    make_model(folder / "model", vocab_size=520)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    if kind != "plain":
        tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in ("<think>", "</think>")])
    tokenizer.chat_template = THINKING_TEMPLATES[kind]
    tokenizer.save_pretrained(folder / "model")
    spec = job_spec(
        model=f"file://{folder}/model/",
        rows=f"file://{write_rows(folder / 'rows.jsonl', rows())}",
        output=f"file://{folder}/out/",
        epochs=5,
        maxLength=128,
    )
    spec["dataset"]["template"] = {"name": "messages", **blocks}
    del spec["dataset"]["split"]["stratifyBy"]
    return spec


def finished(folder: Path, spec: dict[str, Any]) -> tuple[Any, list[dict[str, Any]]]:
    report, _ = run(make_stage_input("train", spec, includes_prepare=True), folder / "work")
    assert report.failure is None, report.failure
    lines = [json.loads(line) for line in (folder / "out/predictions.jsonl").read_text().splitlines()]
    assert len(lines) == report.results.test.total
    return report, lines


def answers_of_the_card(folder: Path, asked: list[Any], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "out/README.md").read_text(), flags=re.DOTALL)
    monkeypatch.chdir(folder / "out")
    names: dict[str, Any] = {}
    exec(code.replace('print(answer("..."))', ""), names)  # noqa: S102  # the card's own
    return [names["answer"](messages) for messages in asked]


@pytest.mark.parametrize("kind", ["switched", "cut", "plain"])
def test_a_job_that_keeps_thoughts_learns_them_and_scores_the_answers(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, lines = finished(tmp_path, spec_for(tmp_path, kind))
    assert report.results.metric == "ExactMatch"
    assert {line["expected"] for line in lines} <= {row["label"] for row in topic_rows(120)}
    assert all(line["thought"] == f"{line['expected'][:1]} it is" for line in lines)
    closed = [line for line in lines if "tunedUnfinished" not in line]
    assert closed
    thoughts = {line["tunedThought"] for line in closed if "tunedThought" in line}
    if kind != "plain":  # marks that are several tokens take longer to learn
        assert thoughts & {f"{row['label'][:1]} it is" for row in topic_rows(120)}
    for told in ("README.md", "report/index.html"):
        text = (tmp_path / "out" / told).read_text()
        assert "is the expected one; scored is the answer alone, which follows the thought" in text
        assert "120 of the rows read have a thought before an answer, which is learned with it" in text
    assert all(line["tunedCorrect"] == (line["tuned"] == line["expected"]) for line in lines)
    assert all(line["tuned"] == "" and not line["tunedCorrect"] for line in lines if "tunedUnfinished" in line)
    assert not any("baselineExactMatchTokens" in line for line in lines)
    samples = [json.loads(line) for line in (tmp_path / "out/samples.jsonl").read_text().splitlines()]
    assert all(line["thought"] == f"{line['expected'][:1]} it is" for line in samples)
    assert any("completionThought" in line for line in samples)
    assert all(line["completion"] == "" for line in samples if "completionUnfinished" in line)
    warned = {warning.type for warning in report.results.warnings}
    assert "FewValidationRows" in warned  # of five epochs the best on a dozen rows
    unfinished = [line for line in lines if "baselineUnfinished" in line]
    if kind == "cut":  # the prompt opens a thought, which the untouched model never ends
        assert len(unfinished) == len(lines)
        assert "ThoughtUnfinished" in warned
    asked = [line["messages"] for line in lines[:6]]
    assert answers_of_the_card(tmp_path, asked, monkeypatch) == [line["tuned"] for line in lines[:6]]


def test_a_job_that_drops_thoughts_is_asked_with_an_empty_one_and_answers_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, lines = finished(tmp_path, spec_for(tmp_path, "switched", messages={"thinking": "Drop"}))
    assert not any(key.lower().endswith(("thought", "unfinished")) for line in lines for key in line)
    for told in ("README.md", "report/index.html"):
        text = (tmp_path / "out" / told).read_text()
        assert "Thoughts before answers were taken out of all rows that have any" in text
        assert "scored is the answer alone" not in text
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "out/model")
    text = tokenizer.apply_chat_template(lines[0]["messages"], tokenize=False, add_generation_prompt=True)
    assert text.endswith("assistant\n<think>\n\n</think>\n\n")
    asked = [line["messages"] for line in lines[:6]]
    assert answers_of_the_card(tmp_path, asked, monkeypatch) == [line["tuned"] for line in lines[:6]]


@pytest.mark.parametrize(
    ("block", "said"),
    [
        (
            {"template": {"choices": ["sports", "science"]}},
            "dataset.template.choices are weighed right after the prompt, and 120 rows have a thought there before the "
            "answer; remove choices, so that answers are generated and compared as text, or set "
            "dataset.template.messages.thinking to Drop",
        ),
        (
            {"evaluation": {"metric": "Perplexity"}},
            "evaluation.metric Perplexity would count the tokens of thoughts too, and scored is the answer alone; use "
            "a metric over text such as ExactMatch, or set dataset.template.messages.thinking to Drop",
        ),
    ],
    ids=["choices", "metric"],
)
def test_what_thoughts_make_impossible_ends_the_job_before_training(
    tmp_path: Path, block: dict[str, Any], said: str
) -> None:
    spec = spec_for(tmp_path, "switched", **block.get("template", {}))
    spec |= {name: value for name, value in block.items() if name != "template"}
    report, _ = run(make_stage_input("prepare", spec), tmp_path / "work")
    assert report.failure is not None
    assert (report.failure.reason, report.failure.message) == (Reason.INVALID_SPEC, f"{said}.")
