"""A result that the job refuses: Failed, and the results, the artifacts and the digest stand in the status."""

from __future__ import annotations

from finetune_api.reasons import Reason
from finetune_api.report import ReportedFailure, StageReport
from finetune_api.trust import ResultWarning
from tests.support import builders as b
from tests.support.simulation import Simulation
from tests.unit.operator.decide.kit import SPEC, running

CODE = 24


def refused(reason: Reason = Reason.NOT_ACCEPTED) -> StageReport:
    warnings = [ResultWarning(type="NoGain", message="the gain may be chance")]
    report = b.train_report(SPEC, results=b.results(warnings=warnings))
    return report.model_copy(update={"failure": ReportedFailure(reason=reason, message="minGain asks for 1.")})


def ended(report: StageReport, code: int = CODE) -> Simulation:
    return running().pod_fails("train", code, report).fails("train").settle(5)


def test_a_job_that_does_not_accept_its_result_has_failed_and_tells_it() -> None:
    report = refused()
    life = ended(report)
    status = life.status
    assert (status["phase"], status["failure"]["reason"]) == ("Failed", "NotAccepted")
    assert status["failure"]["message"] == "minGain asks for 1."
    assert status["results"]["gain"] == "+0.4589"
    assert status["results"]["warnings"] == [{"type": "NoGain", "message": "the gain may be chance"}]
    assert [a["name"] for a in status["artifacts"]] == [a.name for a in report.artifacts or []]
    assert status["manifestDigest"] == report.digest
    kinds = ("Succeeded", "Finished", "Stalled", "ArtifactPublished")
    truths = {kind: life.condition(kind)["status"] for kind in kinds}
    assert truths == {"Succeeded": "False", "Finished": "True", "Stalled": "True", "ArtifactPublished": "False"}


def test_it_is_not_tried_again() -> None:
    life = ended(refused()).settle(3600)
    assert len(life.pods) <= 1
    assert [event.reason for event in life.events][-1] == "Failed"


def test_results_beside_another_failure_are_not_believed() -> None:
    life = ended(refused(Reason.DIVERGED), 20)
    assert life.status["failure"]["reason"] == "Diverged"
    assert "results" not in life.status
    assert "manifestDigest" not in life.status


def test_results_of_another_spec_are_not_believed() -> None:
    stranger = refused().model_copy(update={"spec_digest": "sha256:" + "0" * 64})
    life = ended(stranger)
    assert life.status["failure"]["reason"] == "NotAccepted"
    assert "results" not in life.status


def test_a_job_that_succeeds_with_warnings_names_them_in_its_condition() -> None:
    warnings = [ResultWarning(type="NoGain"), ResultWarning(type="FewTestRows", message="9 test rows")]
    life = running().completes("train", b.train_report(SPEC, results=b.results(warnings=warnings))).settle(5)
    assert str(life.condition("Succeeded")["message"]).endswith("; warnings: NoGain, FewTestRows")
