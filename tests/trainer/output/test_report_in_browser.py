"""The page in a real browser: no errors, nothing cut off, readable in light and dark, on a wide screen and a narrow."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from finetune_api.report import StageReport
from finetune_api.status import Artifact, Compute, DatasetSummary, DroppedRows, Resolved, ValidationPoint
from finetune_trainer.evaluation.results import Evaluation, results
from finetune_trainer.output.report.data_card import Balance, DataCard, Lengths, Spread
from finetune_trainer.output.report.page import html_page
from finetune_trainer.prepare.prepared import TextRow
from tests.support.browser import browser, emulate
from tests.support.evaluations import answered
from tests.support.tiny_job import job_spec, make_stage_input

WIDTHS = (1280, 390)
LONG = "Donaudampfschifffahrtsgesellschaftskapitänswitwenrentenauszahlungsstelle" * 3

CONTRAST = """
const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
function rgba(text) {
  canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255];
}
function over(top, below) { return [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3])).concat([1]); }
function background(element) {
  const layers = [];
  for (let e = element; e; e = e.parentElement) layers.push(rgba(getComputedStyle(e).backgroundColor));
  return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255, 1]);
}
function light([r, g, b]) {
  const [x, y, z] = [r, g, b].map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
}
const found = [];
for (const element of document.querySelectorAll('body *')) {
  const own = [...element.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
  if (!own || !element.getClientRects().length) continue;
  const style = getComputedStyle(element), below = background(element);
  const colour = over(rgba(element instanceof SVGElement ? style.fill : style.color), below);
  const [a, b] = [light(colour), light(below)].sort((x, y) => y - x);
  found.push([(a + 0.05) / (b + 0.05), element.tagName + ' ' + element.textContent.trim().slice(0, 40)]);
}
return found;
"""
CUT_OFF = """
const out = [];
for (const svg of document.querySelectorAll('svg')) {
  const frame = svg.getBoundingClientRect();
  for (const text of svg.querySelectorAll('text')) {
    const box = text.getBoundingClientRect();
    if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1 ||
        box.bottom > frame.bottom + 1) out.push(text.textContent);
  }
}
return out;
"""


def sure(scored: Evaluation, chance: random.Random) -> Evaluation:
    rows = [dataclasses.replace(row, confidence=chance.uniform(0.25, 1)) for row in scored.rows]
    return dataclasses.replace(scored, rows=rows)


def card_of(labels: list[str]) -> DataCard:
    lengths = [
        Lengths(
            part=part,
            rows=rows,
            prompt=Spread(least=12, median=87, most_of=310, most=498),
            completion=Spread(least=2, median=3, most_of=9, most=41),
            histogram=tuple(rows // 40 * n // 2 for n in (*range(10), *range(10, 0, -1))),
        )
        for part, rows in (("train", 700), ("validation", 80), ("test", 120))
    ]
    balance = [Balance(label=label, train=300, validation=30, test=40) for label in labels]
    return DataCard(lengths=tuple(lengths), longest=539, balance=tuple(balance), other_labels=3)


def samples_of(texts: list[TextRow], labels: list[str], chance: random.Random) -> list[dict[str, Any]]:
    """As ``samples.jsonl`` has them: ever more of the rows are right."""
    lines = []
    for epoch in range(5):
        for row in texts[:10]:
            choice = row.completion if chance.random() < epoch / 4 else chance.choice(labels)
            line = {
                "epoch": epoch,
                "step": 40 * epoch,
                "row": row.row,
                "prompt": row.prompt,
                "expected": row.completion,
            }
            written = choice if epoch > 1 else f"Sure! I would say it is {LONG}"
            lines.append({**line, "completion": written, "choice": choice, "correct": choice == row.completion})
    return lines


def write_page(path: Path) -> Path:
    """A page with everything that it can show, and words that are hard to lay out."""
    chance = random.Random(0)  # noqa: S311 - made-up rows
    labels = ["billing", "bug report", "<b>access</b>", LONG]
    expected = [chance.choice(labels) for _ in range(120)]
    before = sure(answered(*((e, chance.choice(labels)) for e in expected)), chance)
    after = answered(*((e, e if chance.random() < 0.85 else chance.choice([*labels, "?"])) for e in expected))
    after = sure(after, chance)
    points = [ValidationPoint(epoch=n, step=40 * n, loss=f"{2 - n / 4}", score=f"{n / 5}") for n in range(1, 5)]
    report = StageReport(
        stage="train",
        spec_digest="sha256:" + "0" * 64,
        results=results(before, after),
        dataset=DatasetSummary(
            rows=931,
            train=700,
            validation=80,
            test=120,
            dropped=21,
            dropped_by=DroppedRows(train=20, test=1),
            duplicates=10,
            fingerprint="sha256:" + "1" * 64,
        ),
        resolved=Resolved(method="LoRA", learning_rate="2e-4", batch_size=16, stop=["\n"]),
        validation=points,
        compute=Compute(parameters=134_515_008, train_tokens=3_690_000, compute_optimal_tokens=2_690_300_160),
        artifacts=[Artifact(name="adapter", path="adapter/", bytes=19_000_000, digest="sha256:" + "2" * 64)],
    )
    lines: list[dict[str, Any]] = [{"step": step, "train_loss": 2.5 * 0.98**step} for step in range(5, 165, 5)]
    lines += [{"step": p.step, "valid_loss": float(p.loss), "valid_accuracy": float(p.score)} for p in points]
    texts = [
        TextRow(row.row, f"Text: {LONG} {'very ' * (i % 40)}late\nTopic:", row.expected)
        for i, row in enumerate(after.rows)
    ]
    spec = job_spec(model="s3://abc/m/", rows="s3://abc/r.jsonl", output="s3://abc/o/")
    html = html_page(
        make_stage_input("train", spec),
        report,
        texts=texts,
        baseline=before,
        test=after,
        metrics=lines,
        samples=samples_of(texts, labels, chance),
        card=card_of(labels),
    )
    path.write_text(html, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    folder = tmp_path_factory.mktemp("browser")
    page = write_page(folder / "index.html")
    with browser(folder / "profile") as started:
        emulate(started, width=1280)
        started.get(page.as_uri())
        yield started


def test_the_browser_has_nothing_to_complain_about(chrome: Chrome) -> None:
    chrome.refresh()
    assert chrome.get_log("browser") == []  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_is_never_wider_than_the_screen(chrome: Chrome, width: int) -> None:
    emulate(chrome, width=width)
    assert chrome.execute_script("return [innerWidth, document.documentElement.scrollWidth]") == [width, width]


@pytest.mark.parametrize("width", WIDTHS)
def test_no_text_of_a_chart_is_cut_off(chrome: Chrome, width: int) -> None:
    emulate(chrome, width=width)
    assert chrome.execute_script("return document.querySelectorAll('svg text').length") > 20
    assert chrome.execute_script(CUT_OFF) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_from_what_is_behind_it(chrome: Chrome, scheme: str) -> None:
    emulate(chrome, width=1280, scheme=scheme)
    contrasts = chrome.execute_script(CONTRAST)
    assert len(contrasts) > 100
    # WCAG 2.2, level AA, text of any size.
    assert [told for told in contrasts if told[0] < 4.5] == []


def test_dark_mode_is_dark(chrome: Chrome) -> None:
    colours = []
    for scheme in ("light", "dark"):
        emulate(chrome, width=1280, scheme=scheme)
        colours.append(chrome.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert colours == ["rgb(255, 255, 255)", "rgb(13, 17, 23)"]


def test_links_tables_and_the_spec_are_reached_by_the_keyboard(chrome: Chrome) -> None:
    emulate(chrome, width=390)
    chrome.refresh()
    reached = set()
    for _ in range(60):
        chrome.switch_to.active_element.send_keys(Keys.TAB)
        active = chrome.switch_to.active_element
        if active.tag_name == "body":
            break
        reached.add(active.tag_name)
    assert reached == {"a", "div", "summary"}


def test_the_spec_unfolds_without_a_script(chrome: Chrome) -> None:
    summary = chrome.find_element(By.TAG_NAME, "summary")
    spec = chrome.find_element(By.CSS_SELECTOR, "details pre")
    assert not spec.is_displayed()
    summary.send_keys(Keys.ENTER)
    assert spec.is_displayed()
    assert "learningRate" in spec.text


def test_every_chart_has_words_for_those_who_don_t_see_it(chrome: Chrome) -> None:
    labels = [figure.get_attribute("aria-label") or "" for figure in chrome.find_elements(By.TAG_NAME, "figure")]
    assert len(labels) == 5
    assert labels[0].startswith("ChoiceAccuracy: before 0.")


def test_print_leaves_the_links_out_and_the_scores_in(chrome: Chrome) -> None:
    emulate(chrome, width=794, media="print")
    assert not chrome.find_element(By.TAG_NAME, "nav").is_displayed()
    assert chrome.find_element(By.CSS_SELECTOR, "#scores table").is_displayed()
    emulate(chrome, width=1280)
