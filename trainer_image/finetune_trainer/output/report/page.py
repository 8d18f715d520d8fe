"""``report/index.html``: the page itself, rendered from what ``content``, ``words`` and ``charts`` say.

One file without script, without network and with a policy that forbids both. Jinja escapes every text; the charts, our
own markup, are the one exception.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template
from markupsafe import Markup

from finetune_api.kube_yaml import dump_yaml
from finetune_api.report import StageReport
from finetune_api.stage import StageInput
from finetune_api.status import Compute, Results
from finetune_trainer.counted import counted
from finetune_trainer.evaluation.metrics.over_choices import BINS
from finetune_trainer.evaluation.results import Evaluation
from finetune_trainer.evaluation.words import (
    TESTS,
    few_shot_facts,
    gain_of,
    meaning_of,
    reference_facts,
    rows_of,
    scores_of,
    validation_name,
)
from finetune_trainer.output.facts import (
    data_facts,
    refusal,
    scored_rows,
    thought_facts,
    warning_facts,
    watched_rows,
)
from finetune_trainer.output.manifest import versions
from finetune_trainer.output.report.content import by_answer, changed, confidences, confusion, curves, worst
from finetune_trainer.output.report.data_card import DataCard, left_out_rows
from finetune_trainer.output.report.learned import learned
from finetune_trainer.output.report.words import chinchilla, headline, interval
from finetune_trainer.prepare.prepared import TextRow

__all__ = ["html_page"]


@cache
def _template() -> Template:
    folder = files("finetune_trainer.output.report")
    environment = Environment(
        loader=FunctionLoader(lambda name: folder.joinpath(name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["counted"] = counted
    return environment.get_template("page.html.jinja")


def html_page(
    stage_input: StageInput,
    report: StageReport,
    *,
    texts: Sequence[TextRow],
    baseline: Evaluation,
    test: Evaluation,
    metrics: Iterable[Mapping[str, Any]],
    samples: Iterable[Mapping[str, Any]] = (),
    card: DataCard | None = None,
    objections: Sequence[str] = (),
    thought_rows: int = 0,
    calls: bool = False,
) -> str:
    """Return the page.

    Parameters
    ----------
    texts
        The test rows as text.
    baseline, test
        What the untouched and the tuned model answered to them.
    metrics
        The lines of ``metrics.jsonl``.
    samples
        The lines of ``samples.jsonl``.
    card
        What is counted on the encoded rows.
    objections
        Why the job doesn't accept its result.
    thought_rows
        Rows that have a thought before an answer.
    calls
        Whether rows expect calls of tools that are compared as JSON.

    Raises
    ------
    ValueError
        The report lacks results or resolved.
    """
    from finetune_trainer.output.report import charts  # noqa: PLC0415 - matplotlib, which nothing before the end needs

    results, resolved = report.results, report.resolved
    if results is None or resolved is None:
        raise ValueError("the page needs results and resolved")
    curve = curves(metrics, score=validation_name(results.metric))
    scores = scores_of(results)
    calibration = charts.reliability_chart(confidences(baseline), confidences(test))
    return _template().render(
        name=stage_input.job.name,
        namespace=stage_input.job.namespace,
        headline=headline(_model(stage_input), results, report.dataset, resolved),
        refusal=refusal(stage_input.job.name, objections),
        warnings=warning_facts(results),
        results=results,
        scores=[(label, score, interval(score)) for label, score in scores],
        secondary=_secondary(results, calls=calls),
        meaning=meaning_of(results.metric, thoughts=thought_rows > 0, calls=calls),
        graded=test.measure.verdict is None,
        gain=gain_of(results),
        rows_of=rows_of,
        few_shot=few_shot_facts(results),
        references=reference_facts(results),
        paired_test=TESTS[results.paired_test or "McNemarExact"],
        on=scored_rows(results, report.dataset),
        score_chart=Markup(charts.score_chart(scores, results.metric)),  # noqa: S704 - our own drawing
        loss_chart=Markup(charts.loss_chart(curve)),  # noqa: S704
        validation_chart=Markup(charts.validation_chart(curve, results.metric)),  # noqa: S704
        reliability_chart=Markup(calibration),  # noqa: S704
        calibration=[
            (name, error)
            for name, scored in (("before", baseline), ("after", test))
            if (error := scored.value_of("ECE")) is not None
        ],
        bins=BINS,
        validation=report.validation or [],
        watched=watched_rows(report.dataset, stage_input.spec.training) or "the validation rows",
        learned=learned(samples),
        answers=by_answer(baseline, test),
        confusion=confusion(test),
        gained=changed(texts, baseline, test, gained=True),
        lost=changed(texts, baseline, test, gained=False),
        wrong=worst(texts, baseline, test),
        facts=[
            *(data_facts(report.dataset, resolved) if report.dataset is not None else []),
            *thought_facts(thought_rows, stage_input.spec.dataset.template),
        ],
        card=card,
        length_chart=Markup(charts.length_chart(card) if card is not None else ""),  # noqa: S704
        left_out=left_out_rows(report.dataset) if report.dataset is not None else (),
        dataset_revision=report.dataset.revision if report.dataset is not None else None,
        fingerprint=report.dataset.fingerprint if report.dataset is not None else None,
        resolved=_plain(resolved.to_wire()),
        spec=dump_yaml(stage_input.spec.to_wire()),
        compute=_compute(report.compute),
        chinchilla=chinchilla(report.compute) if report.compute is not None else "",
        artifacts=report.artifacts or [],
        output_uri=stage_input.output_uri,
        image=stage_input.image,
        spec_digest=report.spec_digest,
        versions=versions(),
    )


def _secondary(results: Results, *, calls: bool) -> list[tuple[str, str, str, str]]:
    """The other metrics on the same rows: name, before, after, meaning."""
    before = {other.name: other.score for other in results.baseline.secondary or []}
    after = results.test.secondary or []
    return [(o.name, before.get(o.name, ""), o.score, meaning_of(o.name, calls=calls)) for o in after]


def _compute(compute: Compute | None) -> list[tuple[str, str]]:
    if compute is None:
        return []
    memory = compute.peak_memory_bytes
    told = [
        ("Parameters", compute.parameters and f"{compute.parameters:,}"),
        ("Parameters that were trained", compute.trained_parameters and f"{compute.trained_parameters:,}"),
        ("Tokens in training", compute.train_tokens and f"{compute.train_tokens:,}"),
        ("Tokens a second", compute.tokens_per_second and f"{compute.tokens_per_second:,}"),
        ("Seconds in the training loop", compute.train_seconds and f"{compute.train_seconds:,}"),
        ("Floating point operations (estimated)", compute.flops),
        ("Peak memory", memory and f"{memory / 2**30:.2f} GiB"),
    ]
    return [(name, str(value)) for name, value in told if value]


def _plain(wire: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return names and values for a table; what is no text is shown as JSON."""
    return [
        (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for name, value in wire.items()
    ]


def _model(stage_input: StageInput) -> str:
    """What the scores before are of."""
    model = stage_input.spec.model
    return f"{model.uri} with the adapter {model.adapter.uri}" if model.adapter else model.uri
