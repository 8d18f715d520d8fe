"""The page shows the numbers, draws any number of points, and lets nothing of the data run."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Sequence
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest

from finetune_api.report import StageReport
from finetune_api.status import Compute, DatasetSummary, Resolved, TruncatedField, ValidationPoint
from finetune_trainer.evaluation.results import Evaluation, results
from finetune_trainer.output.report.page import html_page
from finetune_trainer.prepare.prepared import TextRow
from tests.support.evaluations import answered, answered_row
from tests.support.tiny_job import job_spec, make_stage_input

EVIL = "<script>alert(1)</script>"
BEFORE = answered(("a", "b"), ("a", "a"), ("b", EVIL), ("b", "a"))
AFTER = answered(("a", "a"), ("a", "b", 3.0), ("b", "b"), ("b", EVIL, 9.0))


def page(
    before: Evaluation,
    after: Evaluation,
    *,
    epochs: int = 2,
    texts: Sequence[TextRow] = (),
    samples: Sequence[dict[str, Any]] = (),
    namespace: str = "team-a",
) -> str:
    spec = job_spec(model="s3://abc/m/", rows="s3://abc/r.jsonl", output="s3://abc/o/")
    points = [ValidationPoint(epoch=n + 1, step=n + 1, loss=f"{2 - n / 4}", score="0.5") for n in range(epochs)]
    report = StageReport(
        stage="train",
        spec_digest="sha256:" + "0" * 64,
        results=results(before, after),
        dataset=DatasetSummary(
            rows=9, truncated=1, truncated_fields=[TruncatedField(name=EVIL, rows=1)], test_unanswerable=2
        ),
        resolved=Resolved(method="LoRA", learning_rate="2e-4", stop=[EVIL]),
        validation=points or None,
        compute=Compute(train_tokens=1000, compute_optimal_tokens=100000),
    )
    lines = [
        {"step": p.step, "epoch": p.epoch, "valid_loss": float(p.loss), "valid_accuracy": float(p.score)}
        for p in points
    ]
    texts = texts or [TextRow(i + 1, f"question {i} {EVIL}", r.expected) for i, r in enumerate(after.rows)]
    stage_input = make_stage_input("train", spec)
    return html_page(
        stage_input.model_copy(update={"job": stage_input.job.model_copy(update={"namespace": namespace})}),
        report,
        texts=texts,
        baseline=before,
        test=after,
        metrics=lines,
        samples=samples,
    )


class Seen(HTMLParser):
    """Elements of a page, its text, and what could load or run something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_the_page_shows_both_scores_with_intervals_and_the_gain() -> None:
    text = Seen(page(BEFORE, AFTER)).text
    for part in ("before 0.2500 0.0456 to 0.6994 1 of 4", "after 0.5000 0.1500 to 0.8500 2 of 4", "Gain +0.2500"):
        assert part in text


def test_the_page_tells_of_the_rows_and_of_the_other_metric_by_name() -> None:
    text = Seen(page(BEFORE, AFTER)).text
    assert "2 test rows can't be answered" in text
    assert "ExactMatch 0.2500 0.5000" in text


def test_the_page_counts_right_rows_by_answer() -> None:
    assert "expected rows right before right after a 2 1 1 b 2 0 1" in Seen(page(BEFORE, AFTER)).text


def test_the_page_shows_gained_and_lost_rows_and_errors() -> None:
    text = Seen(page(BEFORE, AFTER)).text
    assert "2 rows that the untouched model got wrong are right after tuning; 1 that it got right is wrong" in text
    assert "Errors (2 of 2)" in text


def test_a_model_without_errors_says_so() -> None:
    right = answered(*((r.expected, r.expected) for r in BEFORE.rows))
    assert "Errors None." in Seen(page(BEFORE, right)).text


def test_the_page_shows_what_was_chosen_and_the_comparison_of_the_compute() -> None:
    text = Seen(page(BEFORE, AFTER)).text
    assert "learningRate 2e-4" in text
    assert "1,000 tokens, 1 % of the 100,000" in text


def test_the_spec_can_be_copied_and_applied() -> None:
    assert "learningRate: '1e-2'" in html.unescape(page(BEFORE, AFTER))


def test_a_job_without_a_namespace_is_said_to_have_run_without_kubernetes() -> None:
    assert "Fine-tune job of namespace team-a<" in page(BEFORE, AFTER)
    assert "Fine-tune job that ran without Kubernetes<" in page(BEFORE, AFTER, namespace="")


def test_nothing_of_the_data_becomes_markup() -> None:
    seen = Seen(page(BEFORE, AFTER))
    assert not {"script", "img", "iframe", "object", "b"} & set(seen.tags)
    assert EVIL in seen.text


def test_the_page_loads_nothing() -> None:
    seen = Seen(page(BEFORE, AFTER))
    loading = [v for n, v in seen.attributes if n in {"src", "href", "xlink:href", "action"} and not v.startswith("#")]
    assert loading == ["data:,"]
    assert any("default-src 'none'" in value for _, value in seen.attributes)


@pytest.mark.parametrize("epochs", [0, 1, 5])
def test_any_number_of_epochs_is_drawn(epochs: int) -> None:
    shown = page(BEFORE, AFTER, epochs=epochs)
    assert ("Loss of training and validation" in shown) is (epochs > 1)
    for part in shown.split("<svg")[1:]:
        ElementTree.fromstring("<svg" + part.split("</svg>")[0] + "</svg>")  # noqa: S314 - our own text


def test_the_same_result_gives_the_same_bytes() -> None:
    assert page(BEFORE, AFTER) == page(BEFORE, AFTER)


def test_no_id_stands_on_the_page_twice() -> None:
    ids = [value for name, value in Seen(page(BEFORE, AFTER)).attributes if name == "id"]
    assert len(ids) == len(set(ids)) > 10


def sure(confidence: float, right: int) -> Evaluation:
    """Four rows that a model was so sure of."""
    rows = [answered_row(i, expected="a", predicted="a" if i < right else "b", confidence=confidence) for i in range(4)]
    return Evaluation(metric="ChoiceAccuracy", rows=rows, seconds=1.0)


def test_the_page_shows_how_the_answers_to_a_row_changed() -> None:
    row = {"row": 7, "prompt": f"question {EVIL}", "expected": "a", "completion": EVIL, "choice": "b"}
    lines = [{**row, "epoch": 0, "correct": False}, {**row, "epoch": 1, "choice": "a", "correct": True}]
    seen = Seen(page(BEFORE, AFTER, samples=lines))
    assert f"Row 7 question {EVIL} Expected a Before b (wrong) writes: {EVIL} Epoch 1 a (right)" in seen.text
    assert "script" not in seen.tags


def test_thoughts_stand_before_answers_and_are_text() -> None:
    row = answered_row(0, expected="a", predicted="a")
    before = dataclasses.replace(row, predicted="", correct=False, thought=f"so {EVIL}", unclosed=True)
    after = dataclasses.replace(row, thought=f"aha {EVIL}", unclosed=False)
    asked = [Evaluation(metric="ExactMatch", rows=(one,), seconds=1.0) for one in (before, after)]
    seen = Seen(page(*asked, texts=[TextRow(1, "question", "a", thought=f"hm {EVIL}")]))
    assert (
        f"Expected thought: hm {EVIL} a Before thought, not to its end: so {EVIL} no answer (wrong) "
        f"After thought: aha {EVIL} a (right)"
    ) in seen.text
    assert "script" not in seen.tags


def test_the_page_shows_thoughts_where_it_shows_how_answers_changed() -> None:
    row = {"row": 7, "prompt": "question", "expected": "a", "thought": f"hm {EVIL}", "completion": ""}
    lines = [
        {**row, "epoch": 0, "cut": True, "completionThought": f"so {EVIL}", "completionUnfinished": True},
        {**row, "epoch": 1, "completion": "a", "completionThought": "aha", "correct": True},
    ]
    seen = Seen(page(BEFORE, AFTER, samples=lines))
    assert (
        f"Expected thought: hm {EVIL} a Before thought, not to its end: so {EVIL}… no answer (cut, not judged) "
        "Epoch 1 thought: aha a (right)"
    ) in seen.text
    assert "script" not in seen.tags


def test_a_page_without_samples_does_not_speak_of_them() -> None:
    assert "samples" not in page(BEFORE, AFTER)


def test_the_page_draws_how_sure_the_models_were_and_says_that_less_error_is_better() -> None:
    text = Seen(page(sure(0.9, 1), sure(0.8, 3))).text
    assert "(ECE): 0.6500 before, 0.0500 after; lower is better" in text
    assert "ECE 0.6500 0.0500" in text
    for part in ("confidence in the most likely choice", "share of rows that are right", "as sure as right"):
        assert part in text


def test_the_page_of_open_answers_has_no_reliability_diagram() -> None:
    assert "calibration" not in page(BEFORE, AFTER)


def test_a_row_that_no_answer_can_be_right_for_says_why() -> None:
    rows = (
        answered_row(0, expected="a", predicted="b", loss=0.0, tokens=0),
        answered_row(1, expected="a", predicted="a"),
    )
    once = Evaluation(metric="ChoiceAccuracy", rows=rows, seconds=1.0)
    texts = [TextRow(1, "question", "a", "too long <b>"), TextRow(2, "question", "a")]
    assert page(once, once, texts=texts).count("too long &lt;b&gt;") == 1
