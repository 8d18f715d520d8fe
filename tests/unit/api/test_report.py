"""The report fits into a termination message and keeps what counts."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_api.reasons import Reason
from finetune_api.report import MAX_REPORT_BYTES, ReportedFailure, StageReport, encode_report, parse_report
from finetune_api.status import (
    Artifact,
    Compute,
    DatasetSummary,
    DroppedRows,
    Resolved,
    Results,
    Score,
    SecondaryScore,
    TruncatedField,
    ValidationPoint,
)

DIGEST = "sha256:" + "a" * 64
BIG = 2**63 - 1
T = TypeVar("T")


def _text(size: int) -> st.SearchStrategy[str]:
    return st.text(max_size=size) | st.sampled_from(["", "\x00" * size, "😀" * size, '"' * size])


def _made(model: Callable[..., T], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[T]:
    # st.builds would go by the signature, whose names are those of the wire.
    return st.fixed_dictionaries(fields).map(lambda values: model(**values))


DECIMAL = st.from_regex(r"[-+]?[0-9]{1,9}\.[0-9]{1,9}([eE]-[0-9]{1,2})?", fullmatch=True) | st.just("1" * 24)
COUNT = st.integers(0, BIG) | st.just(BIG)
SECONDARY = st.lists(_made(SecondaryScore, name=st.just("ChoiceAccuracy"), score=DECIMAL), max_size=4)
SCORE = _made(
    Score,
    score=DECIMAL,
    correct=COUNT,
    total=COUNT,
    ci95=st.none() | st.lists(DECIMAL, min_size=2, max_size=2),
    loss=st.none() | DECIMAL,
    secondary=st.none() | SECONDARY,
)
RESULTS = _made(
    Results,
    metric=st.just("ChoiceAccuracy"),
    baseline=SCORE,
    test=SCORE,
    gain=DECIMAL,
    p_value=st.none() | DECIMAL,
    paired_test=st.none() | st.just("PairedBootstrap"),
)
ARTIFACT = _made(
    Artifact,
    name=st.from_regex(r"[a-z][a-z0-9-]{0,31}", fullmatch=True) | st.just("n" * 32),
    path=st.from_regex(r"[A-Za-z0-9._/-]{1,64}", fullmatch=True) | st.just("p" * 64),
    digest=st.just(DIGEST),
    bytes=COUNT,
)
DETAILS = ("dropped_by", "truncated_fields")
COUNTS = sorted(DatasetSummary.model_fields.keys() - {"fingerprint", *DETAILS})
SUMMARY = _made(
    DatasetSummary,
    **dict.fromkeys(COUNTS, COUNT),
    fingerprint=st.just(DIGEST),
    dropped_by=st.none() | _made(DroppedRows, **dict.fromkeys(DroppedRows.model_fields, COUNT)),
    truncated_fields=st.none() | st.lists(_made(TruncatedField, name=_text(64), rows=COUNT), max_size=4),
)
RESOLVED = _made(
    Resolved,
    image=st.none() | _text(512),
    model_revision=st.none() | _text(128),
    stop=st.none() | st.lists(_text(32), max_size=4),
)
COMPUTE = _made(Compute, parameters=COUNT, trained_parameters=COUNT, train_tokens=COUNT, flops=DECIMAL)
POINT = _made(ValidationPoint, epoch=COUNT, step=COUNT, loss=DECIMAL, score=DECIMAL)
FAILURE = _made(ReportedFailure, reason=st.sampled_from(Reason), message=_text(1024))
REPORT = _made(
    StageReport,
    stage=st.sampled_from(["prepare", "train"]),
    spec_digest=st.just(DIGEST),
    digest=st.none() | st.just(DIGEST),
    reused=st.sampled_from([None, True]),
    dataset=st.none() | SUMMARY,
    resolved=st.none() | RESOLVED,
    validation=st.none() | st.lists(POINT, max_size=10),
    results=st.none() | RESULTS,
    compute=st.none() | COMPUTE,
    artifacts=st.none() | st.lists(ARTIFACT, max_size=8),
    failure=st.none() | FAILURE,
)


def _largest() -> StageReport:
    score = Score(
        score="1" * 24,
        correct=BIG,
        total=BIG,
        ci95=["1" * 24, "1" * 24],
        loss="1" * 24,
        secondary=[SecondaryScore(name="ChoiceAccuracy", score="1" * 24)] * 4,
    )
    return StageReport(
        stage="prepare",
        spec_digest=DIGEST,
        digest=DIGEST,
        reused=True,
        dataset=DatasetSummary(
            **dict.fromkeys(COUNTS, BIG),
            fingerprint=DIGEST,
            dropped_by=DroppedRows(**dict.fromkeys(DroppedRows.model_fields, BIG)),
            truncated_fields=[TruncatedField(name="\x00" * 64, rows=BIG)] * 4,
        ),
        resolved=Resolved(image="😀" * 512, model_revision="😀" * 128, stop=["\x00" * 32] * 4),
        validation=[ValidationPoint(epoch=BIG, step=BIG, loss="1" * 24, score="1" * 24)] * 10,
        results=Results(
            metric="ChoiceAccuracy",
            baseline=score,
            test=score,
            gain="1" * 24,
            p_value="1" * 24,
            paired_test="PairedBootstrap",
        ),
        compute=Compute(parameters=BIG, flops="1" * 24),
        artifacts=[Artifact(name="n" * 32, path="p" * 64, digest=DIGEST, bytes=BIG)] * 8,
        failure=ReportedFailure(reason=Reason.ARTIFACT_UPLOAD_FAILED, message="\x00" * 1024),
    )


def _without_secondary(results: Results | None) -> Results | None:
    if results is None:
        return None
    bare = {name: getattr(results, name).model_copy(update={"secondary": None}) for name in ("baseline", "test")}
    return results.model_copy(update=bare)


def _without_details(summary: DatasetSummary | None) -> DatasetSummary | None:
    return summary.model_copy(update=dict.fromkeys(DETAILS)) if summary else None


def _keeps_what_counts(report: StageReport) -> None:
    data = encode_report(report)
    assert len(data) <= MAX_REPORT_BYTES
    assert b"\n" not in data
    read = parse_report(data.decode())
    assert read is not None
    identity = ("stage", "spec_digest", "digest", "reused")
    assert [getattr(read, name) for name in identity] == [getattr(report, name) for name in identity]
    assert _without_secondary(read.results) == _without_secondary(report.results)
    assert read.artifacts == report.artifacts
    assert _without_details(read.dataset) == _without_details(report.dataset)
    assert (read.failure and read.failure.reason) == (report.failure and report.failure.reason)


@settings(max_examples=150, deadline=None)
@given(REPORT)
def test_every_report_fits_and_keeps_scores_artifacts_and_reason(report: StageReport) -> None:
    _keeps_what_counts(report)


def test_the_largest_report_fits_and_keeps_scores_artifacts_and_reason() -> None:
    _keeps_what_counts(_largest())


@settings(max_examples=50, deadline=None)
@given(REPORT)
def test_a_report_that_fits_is_left_as_it_is(report: StageReport) -> None:
    whole = json.dumps(report.to_wire(), ensure_ascii=False, separators=(",", ":")).encode()
    if len(whole) <= MAX_REPORT_BYTES:
        assert encode_report(report) == whole


def _dropped(before: StageReport, after: StageReport) -> tuple[bool, ...]:
    """Whether validation points, secondary scores, compute, resolved and details of the data were dropped, in order."""

    def secondary(report: StageReport) -> bool:
        return report.results is not None and report.results.test.secondary is not None

    return (
        len(after.validation or []) < len(before.validation or []),
        secondary(before) and not secondary(after),
        before.compute is not None and after.compute is None,
        before.resolved is not None and after.resolved is None,
        _detailed(before) and not _detailed(after),
    )


def _detailed(report: StageReport) -> bool:
    return report.dataset is not None and any(getattr(report.dataset, name) is not None for name in DETAILS)


def test_parts_are_dropped_in_the_order_of_their_worth() -> None:
    seen = set()
    whole = _largest()
    data, failures = (whole.dataset, _without_details(whole.dataset)), (None, whole.failure)
    for count, size, failure, dataset in itertools.product(range(9), range(0, 513, 64), failures, data):
        report = whole.model_copy(
            update={
                "failure": failure,
                "dataset": dataset,
                "artifacts": (whole.artifacts or [])[:count],
                "resolved": Resolved(image="😀" * size),
            }
        )
        read = parse_report(encode_report(report).decode())
        assert read is not None
        seen.add(_dropped(report, read))
    # Where there are no details, nothing of them is dropped.
    assert seen == {(True,) * n + (False,) * (5 - n) for n in range(6)}


@settings(max_examples=150, deadline=None)
@given(REPORT)
def test_nothing_is_dropped_before_what_is_worth_less(report: StageReport) -> None:
    read = parse_report(encode_report(report).decode())
    assert read is not None
    dropped = _dropped(report, read)
    if any(dropped[1:]):
        assert not read.validation
    if any(dropped[2:]) and read.results:
        assert (read.results.baseline.secondary, read.results.test.secondary) == (None, None)
    if dropped[3]:
        assert read.compute is None
    if dropped[4]:
        assert read.resolved is None
    if read.failure and report.failure and read.failure.message != report.failure.message:
        assert not any((read.validation, read.compute, read.resolved))
        assert not _detailed(read)


def test_the_newest_validation_points_stay() -> None:
    points = [ValidationPoint(epoch=n, step=BIG, loss="1" * 24, score="1" * 24) for n in range(10)]
    cut = {"results": None, "artifacts": None, "validation": points, "failure": None, "resolved": None}
    read = parse_report(encode_report(_largest().model_copy(update=cut)).decode())
    assert read is not None
    assert read.validation
    assert len(read.validation) < 10
    assert read.validation == points[-len(read.validation) :]


@pytest.mark.parametrize(
    "text", ["", "Traceback (most recent call last):", "{}", '{"v":1,"stage":"train"', "[]", "null"]
)
def test_text_that_is_no_report_is_none(text: str) -> None:
    assert parse_report(text) is None


def test_a_report_of_another_version_is_none() -> None:
    report = StageReport(stage="train", spec_digest=DIGEST)
    assert parse_report(json.dumps(report.to_wire() | {"v": 2})) is None
    assert parse_report(json.dumps(report.to_wire() | {"new": True})) == report
