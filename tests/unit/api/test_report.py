"""The report fits into a termination message and keeps what counts."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_api.reasons import Reason
from finetune_api.report import (
    MAX_REPORT_BYTES,
    SHORT_REPORT_BYTES,
    ReportedFailure,
    StageReport,
    encode_report,
    parse_report,
)
from finetune_api.status import (
    Artifact,
    Compute,
    DatasetSummary,
    DroppedRows,
    FewShotScore,
    NearDuplicates,
    ReferenceScore,
    Resolved,
    ResolvedSplit,
    Results,
    Score,
    SecondaryScore,
    SourceRows,
    TruncatedField,
    ValidationPoint,
)
from finetune_api.trust import WARNING_TYPES, ResultWarning

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
SECONDARY = st.lists(_made(SecondaryScore, name=st.just("ChoiceAccuracyNorm"), score=DECIMAL), max_size=4)
SCORE = _made(
    Score,
    score=DECIMAL,
    correct=st.none() | COUNT,
    total=COUNT,
    ci95=st.none() | st.lists(DECIMAL, min_size=2, max_size=2),
    loss=st.none() | DECIMAL,
    secondary=st.none() | SECONDARY,
)
FEW_SHOT = _made(
    FewShotScore,
    score=DECIMAL,
    correct=st.none() | COUNT,
    total=COUNT,
    ci95=st.none() | st.lists(DECIMAL, min_size=2, max_size=2),
    loss=st.none() | DECIMAL,
    secondary=st.none() | SECONDARY,
    examples=st.integers(1, 64),
    fewer=COUNT,
    context_tokens=COUNT,
    gain=DECIMAL,
    p_value=st.none() | DECIMAL,
)
WARNING = _made(ResultWarning, type=st.sampled_from(WARNING_TYPES), message=st.none() | _text(160))
RESULTS = _made(
    Results,
    metric=st.just("ChoiceAccuracyNorm"),
    baseline=SCORE,
    few_shot=st.none() | FEW_SHOT,
    test=SCORE,
    gain=DECIMAL,
    p_value=st.none() | DECIMAL,
    paired_test=st.none() | st.just("PairedBootstrap"),
    warnings=st.none() | st.lists(WARNING, max_size=len(WARNING_TYPES)),
)
ARTIFACT = _made(
    Artifact,
    name=st.from_regex(r"[a-z][a-z0-9-]{0,31}", fullmatch=True) | st.just("n" * 32),
    path=st.from_regex(r"[A-Za-z0-9._/-]{1,64}", fullmatch=True) | st.just("p" * 64),
    digest=st.just(DIGEST),
    bytes=COUNT,
)
DETAILS = ("dropped_by", "truncated_fields", "near_duplicates", "sources")
COUNTS = sorted(DatasetSummary.model_fields.keys() - {"fingerprint", "revision", *DETAILS})
OF_SOURCE = sorted(SourceRows.model_fields.keys() - {"revision"})
COMMIT = st.none() | st.just("c" * 40)
SUMMARY = _made(
    DatasetSummary,
    **dict.fromkeys(COUNTS, COUNT),
    fingerprint=st.just(DIGEST),
    revision=COMMIT | st.just(DIGEST),
    dropped_by=st.none() | _made(DroppedRows, **dict.fromkeys(DroppedRows.model_fields, COUNT)),
    sources=st.none() | st.lists(_made(SourceRows, revision=COMMIT, **dict.fromkeys(OF_SOURCE, COUNT)), max_size=16),
    near_duplicates=st.none() | _made(NearDuplicates, **dict.fromkeys(NearDuplicates.model_fields, COUNT)),
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
        secondary=[SecondaryScore(name="ChoiceAccuracyNorm", score="1" * 24)] * 4,
    )
    return StageReport(
        stage="prepare",
        spec_digest=DIGEST,
        digest=DIGEST,
        reused=True,
        dataset=DatasetSummary(
            **dict.fromkeys(COUNTS, BIG),
            fingerprint=DIGEST,
            revision=DIGEST,
            dropped_by=DroppedRows(**dict.fromkeys(DroppedRows.model_fields, BIG)),
            truncated_fields=[TruncatedField(name="\x00" * 64, rows=BIG)] * 4,
            sources=[SourceRows(revision="c" * 40, **dict.fromkeys(OF_SOURCE, BIG))] * 16,
            near_duplicates=NearDuplicates(**dict.fromkeys(NearDuplicates.model_fields, BIG)),
        ),
        resolved=Resolved(image="😀" * 512, model_revision="😀" * 128, stop=["\x00" * 32] * 4),
        validation=[ValidationPoint(epoch=BIG, step=BIG, loss="1" * 24, score="1" * 24)] * 10,
        results=Results(
            metric="ChoiceAccuracyNorm",
            baseline=score,
            few_shot=FewShotScore(
                **{name: getattr(score, name) for name in Score.model_fields},
                examples=64,
                fewer=BIG,
                context_tokens=BIG,
                gain="1" * 24,
                p_value="1" * 24,
            ),
            test=score,
            gain="1" * 24,
            p_value="1" * 24,
            paired_test="PairedBootstrap",
            references=[ReferenceScore(name="MajorityClass", score="1" * 24)] * 2,
            warnings=[ResultWarning(type=kind, message="\x00" * 160) for kind in WARNING_TYPES],
        ),
        compute=Compute(parameters=BIG, flops="1" * 24),
        artifacts=[Artifact(name="n" * 32, path="p" * 64, digest=DIGEST, bytes=BIG)] * 8,
        failure=ReportedFailure(reason=Reason.ARTIFACT_UPLOAD_FAILED, message="\x00" * 1024),
    )


def _counts(results: Results | None) -> list[object] | None:
    """What no report may lose: the scores, and what they count."""
    if results is None:
        return None
    scores = [(score.score, score.correct, score.total) for score in (results.baseline, results.test)]
    return [results.metric, *scores, results.gain, results.p_value, results.paired_test]


def _keeps_what_counts(report: StageReport, limit: int) -> None:
    data = encode_report(report, limit)
    assert len(data) <= limit
    assert b"\n" not in data
    read = parse_report(data.decode())
    assert read is not None
    identity = ("stage", "spec_digest", "digest", "reused")
    assert [getattr(read, name) for name in identity] == [getattr(report, name) for name in identity]
    assert _counts(read.results) == _counts(report.results)
    assert (read.failure and read.failure.reason) == (report.failure and report.failure.reason)


@pytest.mark.parametrize("limit", [MAX_REPORT_BYTES, SHORT_REPORT_BYTES])
@settings(max_examples=150, deadline=None)
@given(report=REPORT)
def test_every_report_fits_and_keeps_scores_and_reason(report: StageReport, limit: int) -> None:
    _keeps_what_counts(report, limit)


@pytest.mark.parametrize("limit", [MAX_REPORT_BYTES, SHORT_REPORT_BYTES])
def test_the_largest_report_fits_and_keeps_scores_and_reason(limit: int) -> None:
    _keeps_what_counts(_largest(), limit)


def test_an_ordinary_report_loses_only_what_is_told_elsewhere() -> None:
    """As the demo's train stage has it; the operator knows the image."""
    score = Score(
        score="0.8778",
        correct=79,
        total=90,
        ci95=["0.7945", "0.9303"],
        loss="0.4231",
        secondary=[
            SecondaryScore(name="ExactMatch", score="0.8778"),
            SecondaryScore(name="ChoiceAccuracyNorm", score="0.8667"),
            SecondaryScore(name="MacroF1", score="0.8612"),
            SecondaryScore(name="ExactMatchTokens", score="0.8000"),
        ],
    )
    report = StageReport(
        stage="train",
        spec_digest=DIGEST,
        digest=DIGEST,
        dataset=DatasetSummary(rows=900, train=720, validation=90, test=90, tokens=31000, fingerprint=DIGEST),
        resolved=Resolved(
            method="Full",
            batch_size=16,
            learning_rate="5e-5",
            precision="Float32",
            metric="ChoiceAccuracy",
            select_by="Loss",
            stop=["\n"],
            split=ResolvedSplit(train_percent=80, validation_percent=10, test_percent=10),
            choices=9,
            template_digest=DIGEST,
            image="registry.example.com/finetune-trainer@" + DIGEST,
            model_revision=DIGEST,
        ),
        validation=[ValidationPoint(epoch=n, step=45 * n, loss="0.6100", score="0.8102") for n in range(1, 4)],
        results=Results(
            metric="ChoiceAccuracy",
            baseline=score,
            test=score,
            gain="+0.7334",
            p_value="1e-18",
            paired_test="McNemarExact",
        ),
        compute=Compute(
            parameters=134515008,
            trained_parameters=134515008,
            train_tokens=93000,
            flops="7.5e13",
            train_seconds=365,
            tokens_per_second=255,
            peak_memory_bytes=3000000000,
        ),
        artifacts=[
            Artifact(name=name, path=f"{name}/", digest=DIGEST, bytes=268000000) for name in ("model", "report")
        ],
    )
    read = parse_report(encode_report(report).decode())
    assert read is not None
    assert report.resolved is not None
    resolved = report.resolved.model_copy(update={"image": None})
    artifacts = [artifact.model_copy(update={"digest": None}) for artifact in report.artifacts or []]
    assert read == report.model_copy(update={"resolved": resolved, "artifacts": artifacts})


@pytest.mark.parametrize("limit", [MAX_REPORT_BYTES, SHORT_REPORT_BYTES])
def test_a_few_shot_score_of_ordinary_numbers_stays_in_the_short_form_too(limit: int) -> None:
    results = _largest().results
    assert results is not None
    score = Score(score="0.8778", correct=790_000, total=900_000, ci95=["0.7945", "0.9303"], loss="0.4231")
    shown = FewShotScore(
        **{name: getattr(score, name) for name in Score.model_fields},
        examples=64,
        fewer=90_000,
        context_tokens=9_000,
        gain="+0.1111",
        p_value="1e-18",
    )
    told = results.model_copy(
        update={"baseline": score, "few_shot": shown, "test": score, "gain": "+0.7334", "p_value": "1e-18"}
    )
    read = parse_report(encode_report(_largest().model_copy(update={"results": told}), limit).decode())
    assert read is not None
    assert read.results is not None
    kept = read.results.few_shot
    assert kept is not None
    wanted = ("score", "correct", "total", "examples", "fewer", "context_tokens", "gain", "p_value")
    assert [getattr(kept, name) for name in wanted] == [getattr(shown, name) for name in wanted]


@settings(max_examples=50, deadline=None)
@given(REPORT)
def test_a_report_that_fits_is_left_as_it_is(report: StageReport) -> None:
    whole = json.dumps(report.to_wire(), ensure_ascii=False, separators=(",", ":")).encode()
    if len(whole) <= MAX_REPORT_BYTES:
        assert parse_report(encode_report(report).decode()) == report


def _dropped(before: StageReport, after: StageReport) -> tuple[bool, ...]:
    """Whether each part was dropped, the least important first."""

    def lost(of: Callable[[StageReport], object]) -> bool:
        return of(before) is not None and of(after) is None

    return (
        lost(lambda r: r.resolved and r.resolved.image),
        lost(lambda r: r.artifacts and r.artifacts[0].digest),
        len(after.results.test.secondary or []) < 4 if after.results else False,
        lost(lambda r: r.results and r.results.references),
        len(after.validation or []) < len(before.validation or []),
        lost(lambda r: r.results and r.results.test.secondary),
        lost(lambda r: r.compute),
        lost(lambda r: r.dataset and r.dataset.dropped_by),
        lost(lambda r: r.resolved),
        lost(lambda r: r.artifacts),
        lost(lambda r: r.results and r.results.test.ci95),
        lost(lambda r: r.dataset),
    )


def test_parts_are_dropped_in_the_order_of_their_worth() -> None:
    whole = len(_largest().model_dump_json(by_alias=True).encode())
    seen = {
        _dropped(_largest(), read)
        for limit in range(SHORT_REPORT_BYTES, 2 * whole, 10)
        if (read := parse_report(encode_report(_largest(), limit).decode()))
    }
    assert seen == {(True,) * n + (False,) * (12 - n) for n in range(13)}


@settings(max_examples=150, deadline=None)
@given(REPORT, st.integers(SHORT_REPORT_BYTES, MAX_REPORT_BYTES))
def test_nothing_is_dropped_before_what_is_worth_less(report: StageReport, limit: int) -> None:
    read = parse_report(encode_report(report, limit).decode())
    assert read is not None
    dropped = _dropped(report, read)
    if any(dropped[5:]):
        assert not read.validation
    if any(dropped[6:]) and read.results:
        assert (read.results.baseline.secondary, read.results.test.secondary) == (None, None)
    if any(dropped[7:]):
        assert read.compute is None
    if any(dropped[9:]):
        assert read.resolved is None
    if any(dropped[10:]):
        assert read.artifacts is None
    if read.failure and report.failure and read.failure.message != report.failure.message:
        assert not any((read.validation, read.compute, read.resolved, read.artifacts, read.dataset))


def test_the_newest_validation_points_stay() -> None:
    points = [ValidationPoint(epoch=n, step=BIG, loss="1" * 24, score="1" * 24) for n in range(10)]
    cut = {"results": None, "artifacts": None, "validation": points, "failure": None, "resolved": None, "dataset": None}
    read = parse_report(encode_report(_largest().model_copy(update=cut), 1000).decode())
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


def test_warnings_lose_their_words_before_points_go_and_keep_their_names() -> None:
    words = [ResultWarning(type=kind, message="w" * 160) for kind in WARNING_TYPES]
    score = Score(score="0.5", correct=1, total=2, secondary=[SecondaryScore(name="ExactMatch", score="0.5")])
    results = Results(metric="ExactMatch", baseline=score, test=score, gain="+0.0000", warnings=words)
    points = [ValidationPoint(epoch=i, step=i, loss="1.0000", score="0.5000") for i in range(10)]
    report = StageReport(stage="train", spec_digest=DIGEST, results=results, validation=points)
    read = parse_report(encode_report(report).decode())
    assert read is not None
    assert read.results is not None
    assert [(w.type, w.message) for w in read.results.warnings or []] == [(kind, None) for kind in WARNING_TYPES]
    assert read.results.test == score
    assert read.validation == points


def test_a_result_that_is_not_accepted_is_a_failure_with_results() -> None:
    score = Score(score="0.5", correct=1, total=2)
    results = Results(metric="ExactMatch", baseline=score, test=score, gain="+0.0000")
    failure = ReportedFailure(reason=Reason.NOT_ACCEPTED, message="too low")
    report = StageReport(stage="train", spec_digest=DIGEST, results=results, failure=failure)
    assert report.not_accepted
    assert not report.model_copy(update={"results": None}).not_accepted
    assert not report.model_copy(update={"failure": None}).not_accepted
    other = ReportedFailure(reason=Reason.DIVERGED, message="nan")
    assert not report.model_copy(update={"failure": other}).not_accepted
