"""What a stage tells of itself: phases in order, numbers only where they are known."""

from __future__ import annotations

import math
from io import StringIO

import pytest

from finetune_api.live import LiveReport, ValidationPoint
from finetune_trainer.process.console import Console
from finetune_trainer.process.live import LiveState


class Bench:
    def __init__(self) -> None:
        self.now = 1000.0
        self.state = LiveState(clock=lambda: self.now)

    def trained(self, step: int, *, total: int = 100, loss: float = 0.5, speed: float = 1000.0) -> None:
        self.state.trained(step=step, total=total, epoch=step / 50, loss=loss, tokens_per_second=speed)

    @property
    def report(self) -> LiveReport:
        document = self.state.document(1)
        assert document is not None
        return document


def point(step: int) -> ValidationPoint:
    return ValidationPoint(epoch=1, step=step, loss="0.5", score="0.5")


def test_before_the_first_phase_there_is_nothing_to_tell() -> None:
    bench = Bench()
    bench.state.began("check_result")
    assert bench.state.document(1) is None


def test_steps_of_the_console_are_phases() -> None:
    bench, seen = Bench(), []
    steps = "fetch_tokenizer fetch_rows fetch_model load_model baseline few_shot train export upload_model "
    for step in f"{steps}read_back_model verify_model load_model test test_train upload_report manifest".split():
        bench.state.began(step)
        document = bench.state.document(1)
        if document is not None and (not seen or seen[-1] != document.phase):
            seen.append(document.phase)
    assert seen == ["Preparing", "Baseline", "Training", "Uploading", "Evaluating"]


def test_another_phase_and_a_validation_are_news_and_steps_are_not() -> None:
    bench = Bench()
    bench.state.began("baseline")
    assert bench.state.news.is_set()
    bench.state.news.clear()
    bench.state.began("few_shot")
    bench.trained(1)
    assert not bench.state.news.is_set()
    bench.state.validated(point(1))
    assert bench.state.news.is_set()


def test_how_far_is_unknown_before_the_first_steps_are_done() -> None:
    bench = Bench()
    bench.state.began("train")
    assert (bench.report.percent, bench.report.step, bench.report.eta_seconds) == (None, None, None)


def test_the_percent_is_that_of_the_steps_and_never_100() -> None:
    bench = Bench()
    bench.state.began("train")
    bench.trained(62)
    assert (bench.report.percent, bench.report.step, bench.report.total_steps) == (62, 62, 100)
    assert (bench.report.epoch, bench.report.loss, bench.report.tokens_per_second) == ("1.24", "0.5000", 1000)
    bench.trained(100)
    assert bench.report.percent == 99
    bench.state.began("export")
    assert bench.report.percent == 99


def test_a_training_that_stopped_early_is_over_all_the_same() -> None:
    bench = Bench()
    bench.state.began("train")
    bench.trained(40)
    bench.state.began("export")
    assert (bench.report.percent, bench.report.step, bench.report.tokens_per_second) == (99, 40, None)


def test_the_rest_takes_as_long_as_the_steps_so_far_and_one_more_scoring() -> None:
    bench = Bench()
    bench.state.began("baseline")
    bench.state.ended("baseline", 30.0)
    bench.state.began("train")
    bench.trained(10)
    assert bench.report.eta_seconds is None
    bench.now += 20
    bench.trained(20)
    assert bench.report.eta_seconds == 80 * 2 + 30
    bench.now += 10
    assert bench.report.eta_seconds == 80 * 2 + 30 - 10


def test_a_training_that_goes_on_from_a_checkpoint_measures_its_own_steps() -> None:
    bench = Bench()
    bench.state.began("train")
    bench.trained(60)
    bench.now += 10
    bench.trained(70)
    assert bench.report.eta_seconds == 30


def test_while_the_result_is_scored_the_rest_follows_from_its_rows() -> None:
    bench = Bench()
    bench.state.began("test")
    assert bench.report.eta_seconds is None
    bench.now += 10
    bench.state.scored(25, 100)
    assert bench.report.eta_seconds == 30


@pytest.mark.parametrize("loss", [math.nan, math.inf, 1e300])
def test_a_loss_that_is_no_number_is_left_out(loss: float) -> None:
    bench = Bench()
    bench.state.began("train")
    bench.trained(1, loss=loss, speed=math.inf)
    assert (bench.report.loss, bench.report.tokens_per_second) == (None, None)


def test_the_newest_ten_validations_are_told() -> None:
    bench = Bench()
    bench.state.began("train")
    for step in range(15):
        bench.state.validated(point(step))
    assert [one.step for one in bench.report.validation or []] == list(range(5, 15))


def test_consoles_of_one_job_tell_one_story() -> None:
    console = Console(job="j", stage="train", stream=StringIO(), interactive=False)
    with console.for_stage("prepare").step("fetch_rows", "fetch"):
        pass
    assert console.live.document(1) is not None
