"""The page shows the numbers and lets nothing of the data run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from finetune_api.report import StageReport
from finetune_api.status import DatasetSummary, Resolved, TruncatedField, ValidationPoint
from finetune_trainer.evaluation.results import Evaluation, RowResult, results
from finetune_trainer.output.html_report import html_page
from finetune_trainer.prepare.prepared import TextRow
from tests.support.tiny_job import job_spec, make_stage_input

EVIL = "<script>alert(1)</script>"


def row(index: int, *, expected: str, predicted: str, loss: float = 1.0) -> RowResult:
    return RowResult(
        index=index,
        row=index + 1,
        chosen=0,
        right_choice=expected == predicted,
        exact_match=expected == predicted,
        exact_match_tokens=False,
        loss=loss,
        tokens=2,
        tokens_correct=1,
        predicted=predicted,
        generated=None,
        expected=expected,
        correct=expected == predicted,
    )


def evaluation(*answers: tuple[str, str, float]) -> Evaluation:
    rows = tuple(row(i, expected=e, predicted=p, loss=loss) for i, (e, p, loss) in enumerate(answers))
    return Evaluation(metric="ChoiceAccuracy", rows=rows, seconds=1.0)


def page(before: Evaluation, after: Evaluation, *, epochs: int = 2, texts: Sequence[TextRow] = ()) -> str:
    spec = job_spec(model="s3://abc/m/", rows="s3://abc/r.jsonl", output="s3://abc/o/")
    points = [ValidationPoint(epoch=n + 1, step=n, loss=f"{2 - n / 4}", score="0.5") for n in range(epochs)]
    report = StageReport(
        stage="train",
        spec_digest="sha256:" + "0" * 64,
        results=results(before, after),
        dataset=DatasetSummary(
            rows=9, truncated=1, truncated_fields=[TruncatedField(name=EVIL, rows=1)], test_unanswerable=2
        ),
        resolved=Resolved(method="LoRA", stop=[EVIL]),
        validation=points or None,
    )
    texts = texts or [TextRow(i + 1, f"question {i} {EVIL}", r.expected) for i, r in enumerate(after.rows)]
    return html_page(make_stage_input("train", spec), report, texts=texts, baseline=before, test=after)


BEFORE = evaluation(("a", "b", 1.0), ("a", "a", 1.0), ("b", EVIL, 1.0), ("b", "a", 1.0))
AFTER = evaluation(("a", "a", 1.0), ("a", "b", 3.0), ("b", "b", 1.0), ("b", EVIL, 9.0))


def test_the_page_shows_both_scores_and_the_gain() -> None:
    shown = page(BEFORE, AFTER)
    for text in ("0.2500 (1 of 4)", "0.5000 (2 of 4)", "+0.2500"):
        assert text in shown


def test_the_page_tells_of_the_rows_and_of_the_other_metric_by_name() -> None:
    shown = page(BEFORE, AFTER)
    assert "2 test rows can&#x27;t be answered" in shown
    assert '<td>ExactMatch</td><td class="n">0.2500</td><td class="n">0.5000</td>' in shown


def test_the_page_counts_right_rows_by_answer() -> None:
    cells = '<td>a</td><td class="n">2</td><td class="n">1</td><td class="n">1</td>'
    assert cells in page(BEFORE, AFTER)


def test_answers_that_are_all_different_get_no_table() -> None:
    open_answers = evaluation(("x", "x", 1.0), ("y", "y", 1.0))
    assert "By answer" not in page(open_answers, open_answers)


def test_the_errors_begin_with_the_least_likely_answer() -> None:
    shown = page(BEFORE, AFTER)
    assert shown.index("question 3") < shown.index("question 1")
    assert "question 0" not in shown
    assert "Errors (2 of 2)" in shown


def test_a_model_without_errors_says_so() -> None:
    assert "<p>None.</p>" in page(BEFORE, evaluation(*((r.expected, r.expected, 1.0) for r in BEFORE.rows)))


def test_nothing_of_the_data_becomes_markup() -> None:
    tags: list[str] = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.append(tag)

    Tags().feed(page(BEFORE, AFTER))
    assert not {"script", "img", "link", "iframe"} & set(tags)
    assert "default-src 'none'" in page(BEFORE, AFTER)


@pytest.mark.parametrize("epochs", [0, 1, 5])
def test_any_number_of_epochs_is_drawn(epochs: int) -> None:
    shown = page(BEFORE, AFTER, epochs=epochs)
    assert ("<polyline" in shown) is (epochs > 1)
    for part in shown.split("<svg")[1:]:
        ElementTree.fromstring("<svg" + part.split("</svg>")[0] + "</svg>")  # noqa: S314 - our own text


def test_a_row_that_no_answer_can_be_right_for_says_why() -> None:
    unasked = replace(row(0, expected="a", predicted="b"), loss=0.0, tokens=0)
    once = Evaluation(metric="ChoiceAccuracy", rows=(unasked, row(1, expected="a", predicted="a")), seconds=1.0)
    shown = page(once, once, texts=[TextRow(1, "question", "a", "too long <b>"), TextRow(2, "question", "a")])
    assert shown.count("too long &lt;b&gt;") == 1
