"""``report/index.html``: one static page with scores, curve, results by answer and the worst rows; no script.

Everything that comes from a data set is escaped, and the page's own policy forbids whatever could still run.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Sequence
from html import escape
from typing import Final

from finetune_api.report import StageReport
from finetune_api.stage import StageInput
from finetune_api.status import Results, Score, ValidationPoint
from finetune_trainer.evaluation.results import Evaluation, RowResult
from finetune_trainer.output.card import METRICS
from finetune_trainer.output.facts import data_facts, scored_rows
from finetune_trainer.prepare.prepared import TextRow

__all__ = ["html_page"]

MOST_ERRORS: Final = 25
MOST_ANSWERS: Final = 50

_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24 }
table { border-collapse: collapse; margin: .5rem 0 1.5rem } td, th { padding: .25rem .75rem; text-align: left;
border-bottom: 1px solid #d8dee4; vertical-align: top } td.n, th.n { text-align: right } pre { white-space: pre-wrap;
margin: 0; font-size: 13px } .bad { color: #b42318 } .small { color: #57606a } svg text { font: 12px system-ui }
"""


def html_page(
    stage_input: StageInput, report: StageReport, *, texts: Sequence[TextRow], baseline: Evaluation, test: Evaluation
) -> str:
    """Return the page.

    Parameters
    ----------
    texts
        The test rows as text.
    baseline, test
        What the untouched and the tuned model answered to them.
    """
    results, resolved = report.results, report.resolved
    if results is None or resolved is None:
        raise ValueError("the page needs results and resolved")
    facts = data_facts(report.dataset, resolved) if report.dataset is not None else []
    name = escape(stage_input.job.name)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{name}</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>{_STYLE}</style></head><body>
<h1>{name}</h1>
<p>{escape(stage_input.spec.model.uri)}, {escape(resolved.method or "")}, {escape(results.metric)} on
{scored_rows(results, report.dataset)}. Gain <b>{escape(results.gain)}</b>, two-sided p-value
{escape(results.p_value or "")} (exact McNemar test).</p>
{_scores(results.baseline, results.test)}
{_other_metrics(results)}
{_facts(facts)}
{_curve(report.validation or [])}
{_by_answer(baseline.rows, test.rows)}
{_errors(texts, baseline.rows, test.rows)}
<p class="small">All settings, versions and digests: manifest.json. Both answers to every row: predictions.jsonl.</p>
</body></html>
"""


def _scores(before: Score, after: Score) -> str:
    """Both scores as numbers and as bars with their 95 % intervals."""
    bars = []
    for place, (label, score, colour) in enumerate((("before", before, "#8c959f"), ("after", after, "#1a7f37"))):
        y, (low, high) = 12 + 34 * place, (float(bound) for bound in score.ci95 or [score.score, score.score])
        bars.append(
            f'<text x="0" y="{y + 14}">{label}</text>'
            f'<rect x="60" y="{y}" width="{480 * float(score.score):.1f}" height="20" fill="{colour}"/>'
            f'<line x1="{60 + 480 * low:.1f}" x2="{60 + 480 * high:.1f}" y1="{y + 10}" y2="{y + 10}" '
            'stroke="#1b1f24" stroke-width="2"/>'
            f'<text x="550" y="{y + 14}">{score.score} ({score.correct} of {score.total})</text>'
        )
    return f'<svg width="720" height="80" role="img" aria-label="scores with 95 % intervals">{"".join(bars)}</svg>'


def _other_metrics(results: Results) -> str:
    """The other metrics on the same rows, each by its own name."""
    before = {other.name: other.score for other in results.baseline.secondary or []}
    rows = "".join(
        f'<tr><td>{escape(other.name)}</td><td class="n">{before.get(other.name, "")}</td>'
        f'<td class="n">{other.score}</td><td>{escape(METRICS[other.name])}</td></tr>'
        for other in results.test.secondary or []
    )
    head = '<tr><th>also</th><th class="n">before</th><th class="n">after</th><th>a row counts as right when</th></tr>'
    return f"<table>{head}{rows}</table>" if rows else ""


def _facts(facts: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(fact)}</li>" for fact in facts)
    return f"<h2>Data</h2><ul>{items}</ul>" if items else ""


def _curve(points: Sequence[ValidationPoint]) -> str:
    if not points:
        return ""
    rows = "".join(
        f'<tr><td class="n">{point.epoch}</td><td class="n">{point.step}</td><td class="n">{point.loss}</td>'
        f'<td class="n">{point.score}</td></tr>'
        for point in points
    )
    picture = ""
    if len(points) > 1:
        highest = max(float(point.loss) for point in points) or 1.0
        steps = [600 * index / (len(points) - 1) for index in range(len(points))]
        loss = " ".join(
            f"{x + 5:.1f},{115 - 110 * float(p.loss) / highest:.1f}" for x, p in zip(steps, points, strict=True)
        )
        score = " ".join(f"{x + 5:.1f},{115 - 110 * float(p.score):.1f}" for x, p in zip(steps, points, strict=True))
        picture = (
            '<svg width="720" height="120" role="img" aria-label="validation loss and score">'
            f'<polyline points="{loss}" fill="none" stroke="#b42318" stroke-width="2"/>'
            f'<polyline points="{score}" fill="none" stroke="#1a7f37" stroke-width="2"/>'
            '<text x="620" y="50" fill="#1a7f37">score</text><text x="620" y="70" fill="#b42318">loss</text></svg>'
        )
    head = '<tr><th class="n">epoch</th><th class="n">step</th><th class="n">loss</th><th class="n">score</th></tr>'
    return f"<h2>Validation</h2>{picture}<table>{head}{rows}</table>"


def _by_answer(before: Sequence[RowResult], after: Sequence[RowResult]) -> str:
    """Rows right by expected answer, where there are few of them: what was learnt and what was not."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for one, other in zip(before, after, strict=True):
        count = counts[one.expected]
        count[0] += 1
        count[1] += one.correct
        count[2] += other.correct
    if not 1 < len(counts) <= MOST_ANSWERS or len(counts) == len(after):
        return ""
    rows = "".join(
        f'<tr><td>{escape(answer)}</td><td class="n">{total}</td><td class="n">{was}</td><td class="n">{now}</td></tr>'
        for answer, (total, was, now) in sorted(counts.items())
    )
    head = (
        '<tr><th>expected</th><th class="n">rows</th><th class="n">right before</th><th class="n">right after</th></tr>'
    )
    return f"<h2>By answer</h2><table>{head}{rows}</table>"


def _errors(texts: Sequence[TextRow], before: Sequence[RowResult], after: Sequence[RowResult]) -> str:
    """The rows that the tuned model got wrong, those first whose expected answer it found least likely."""
    total = sum(not row.correct for row in after)
    wrong = heapq.nsmallest(  # of a table of rows, which are made when they are read
        MOST_ERRORS,
        (pair for pair in zip(before, after, strict=True) if not pair[1].correct),
        key=lambda pair: -pair[1].loss / max(1, pair[1].tokens),  # last those that don't fit, which have no loss
    )
    if not total:
        return "<h2>Errors</h2><p>None.</p>"
    rows = "".join(
        f'<tr><td class="n">{now.row}</td><td><pre>{escape(texts[now.index].prompt[-600:])}</pre></td>'
        f"<td>{escape(now.expected)}{_why(texts[now.index])}</td><td>{escape(was.predicted or '')}</td>"
        f'<td class="bad">{escape(now.predicted or "")}</td></tr>'
        for was, now in wrong
    )
    head = '<tr><th class="n">row</th><th>prompt</th><th>expected</th><th>before</th><th>after</th></tr>'
    shown = f"{len(wrong)} of {total}"
    return f"<h2>Errors ({shown}), least likely answers first</h2><table>{head}{rows}</table>"


def _why(text: TextRow) -> str:
    """A note on a row that no answer can be right for."""
    return f'<div class="small">{escape(text.unanswerable)}</div>' if text.unanswerable else ""
