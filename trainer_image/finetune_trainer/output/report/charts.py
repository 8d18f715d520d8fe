"""The page's pictures as inline SVG, drawn by matplotlib; the one module that loads it.

Text stays text (it can be read aloud, searched and scaled). Colours are those of the page's style sheet, so that a
picture follows the dark mode: matplotlib draws in stand-in colours, and each becomes a CSS variable.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from finetune_api.status import Score
from finetune_trainer.evaluation.metrics.over_choices import ConfidenceBin
from finetune_trainer.output.report.content import Curves
from finetune_trainer.output.report.data_card import DataCard

__all__ = ["length_chart", "loss_chart", "reliability_chart", "score_chart", "validation_chart"]

INK: Final = "#010101"
GRID: Final = "#020202"
BEFORE: Final = "#030303"
AFTER: Final = "#040404"
_VARIABLES: Final = {INK: "var(--ink)", GRID: "var(--line)", BEFORE: "var(--before)", AFTER: "var(--after)"}

_STYLE: Final[Any] = {  # typed there as a Literal of all its keys
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "legend.frameon": False,
}
WIDTH: Final = 5.0
"""Inches of 72 units: as wide as a telephone, so that text is not too small there."""
Points = Sequence[tuple[float, float]]


def score_chart(scores: Sequence[tuple[str, Score]], metric: str) -> str:
    """Draw each score as a dot with its 95 % interval, the first on top."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH, 0.7 + 0.4 * len(scores)), layout="constrained")
        axes = figure.add_subplot()
        for place, (_, score) in enumerate(scores):
            value = float(score.score)
            low, high = (float(bound) for bound in score.ci95 or [score.score, score.score])
            colour = AFTER if place == len(scores) - 1 else BEFORE
            axes.plot([low, high], [place, place], color=colour, linewidth=3, solid_capstyle="round", alpha=0.5)
            axes.plot([value], [place], "o", color=colour, markersize=9)
        axes.set_yticks(range(len(scores)), [name for name, _ in scores])
        axes.set_ylim(len(scores) - 0.5, -0.5)
        if all(float(bound) <= 1 for _, score in scores for bound in (score.score, *(score.ci95 or ()))):
            axes.set_xlim(0, 1)
        axes.grid(axis="x", linewidth=0.6)
        axes.set_xlabel(f"{metric} with its 95 % interval")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        return _svg(figure, "scores")


def loss_chart(curves: Curves) -> str:
    """Draw the losses of training and validation over the optimizer steps; empty without points to join."""
    lines: list[tuple[str, Points, str, str]] = [
        ("training", curves.train_loss, BEFORE, "-"),
        ("validation", curves.validation_loss, AFTER, "o-"),
    ]
    return _lines(lines, "loss (nats a token)", "loss")


def validation_chart(curves: Curves, metric: str) -> str:
    """Draw the validation score over the optimizer steps; empty without points to join."""
    points = curves.validation_score
    share = all(0 <= value <= 1 for _, value in points)
    return _lines([("validation", points, AFTER, "o-")], metric, "validation", share=share)


def reliability_chart(before: Sequence[ConfidenceBin], after: Sequence[ConfidenceBin]) -> str:
    """Draw how often a model was right against how sure it was, with dots by their rows; empty without any.

    The dashed line is a model whose confidence is just its share of right answers (Guo et al. 2017, figure 1).
    """
    if not (before or after):
        return ""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], "--", color=INK, linewidth=1, label="as sure as right")
        most = max(one.rows for one in (*before, *after))
        for name, bins, colour, style in (("before", before, BEFORE, ":"), ("after", after, AFTER, "-")):
            sure, right = [one.confidence for one in bins], [one.right for one in bins]
            sizes = [12 + 150 * one.rows / most for one in bins]
            axes.plot(sure, right, style, color=colour, linewidth=1.2)
            axes.scatter(sure, right, s=sizes, color=colour, alpha=0.75, linewidths=0, label=name, clip_on=False)
        axes.set_xlabel("confidence in the most likely choice")
        axes.set_ylabel("share of rows that are right")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.grid(linewidth=0.6)
        # Above the axes: inside them it would lie on somebody's dots.
        legend = axes.legend(loc="lower left", bbox_to_anchor=(0, 1.01), ncols=3, borderaxespad=0)
        for handle in legend.legend_handles[1:]:
            handle.set_sizes([40])  # type: ignore[union-attr]
        return _svg(figure, "reliability")


def length_chart(card: DataCard) -> str:
    """Draw how long the rows of each part are, as shares of the part's rows; empty where all are of one length."""
    if not card.lengths or not any(sum(rows > 0 for rows in one.histogram) > 1 for one in card.lengths):
        return ""
    looks = {"train": (INK, "-"), "validation": (BEFORE, ":"), "test": (AFTER, "--")}
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
        axes = figure.add_subplot()
        for one in card.lengths:
            colour, style = looks[one.part]
            edges = [card.longest * at / len(one.histogram) for at in range(len(one.histogram) + 1)]
            shares = [rows / one.rows for rows in one.histogram]
            axes.stairs(shares, edges, color=colour, linestyle=style, linewidth=1.4, label=one.part)
        axes.set_xlabel("tokens of a row, prompt and completion")
        axes.set_ylabel("share of the part's rows")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.grid(axis="y", linewidth=0.6)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.01), ncols=3, borderaxespad=0)
        return _svg(figure, "lengths")


def _lines(lines: Sequence[tuple[str, Points, str, str]], unit: str, salt: str, *, share: bool = False) -> str:
    if all(len(points) < 2 for _, points, _, _ in lines):
        return ""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
        axes = figure.add_subplot()
        for name, points, colour, style in lines:
            if points:
                steps, values = zip(*points, strict=True)
                axes.plot(steps, values, style, color=colour, linewidth=1.6, markersize=4, label=name)
        axes.set_xlabel("optimizer step")
        axes.set_ylabel(unit)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0, top=1 if share else None)
        axes.grid(axis="y", linewidth=0.6)
        if len(lines) > 1:
            axes.legend()
        return _svg(figure, salt)


def _svg(figure: Figure, salt: str) -> str:
    """Write the figure as an element for a page: the same bytes for the same picture, ids of its own, no fixed size."""
    out = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": salt}):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)  # a rule for every element of the page
    text = re.sub(r"font-family: [^;\"]*", "font-family: inherit", text)
    text = re.sub(r'id="([^"]+)"', rf'id="{salt}-\1"', text)
    text = re.sub(r'(url\(#|href="#)', rf"\1{salt}-", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    return re.sub(
        r'<svg ([^>]*?)width="[^"]*" height="[^"]*"|<svg height="[^"]*" width="[^"]*"', r"<svg \1", text, count=1
    )
