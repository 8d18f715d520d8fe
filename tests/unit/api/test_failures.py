"""docs/failures.md is current and tells the truth: what it says of who finds a reason stands in that one's source."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from finetune_api import failures
from finetune_api.reasons import EXIT_RESUMABLE, REASONS, Half, Reason, ReasonInfo

ROOT = Path(__file__).resolve().parents[3]
SOURCES: dict[Half, Path] = {
    "trainer": ROOT / "trainer_image/finetune_trainer",
    "operator": ROOT / "operator/finetune_operator",
}


def test_the_page_is_current() -> None:
    assert failures.main(["--check"]) == 0


def test_a_stale_page_is_told_and_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(failures, "REPO_ROOT", tmp_path)
    assert failures.main(["--check"]) == 1
    assert "failures --write" in capsys.readouterr().err
    assert failures.main(["--write"]) == 0
    assert (tmp_path / failures.PATH).read_text() == failures.render()
    assert failures.main(["--check"]) == 0


@pytest.mark.parametrize("half", SOURCES)
def test_whoever_is_said_to_find_a_reason_names_it_in_his_source(half: Half) -> None:
    text = "".join(path.read_text() for path in SOURCES[half].rglob("*.py"))
    named = {Reason[name] for name in re.findall(r"\bReason\.([A-Z_]+)\b", text)}
    assert {reason for reason, info in REASONS.items() if half in info.found_by} == named


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_its_row_and_its_section(reason: Reason) -> None:
    page, info = failures.render(), REASONS[reason]
    (row,) = re.findall(rf"^\| \[{reason}\]\(#{reason.lower()}\) \| (.*) \|$", page, re.MULTILINE)
    assert row.split(" | ")[0].strip() == ("" if info.exit_code is None else str(info.exit_code))
    section = page.split(f"\n## {reason}\n")[1].split("\n## ")[0]
    assert info.meaning in section
    assert f"**Mend:** {info.mend}\n" in section


THEN: list[tuple[ReasonInfo, str]] = [
    (ReasonInfo(meaning="", mend="", found_by=("trainer",)), "ends the job"),
    (ReasonInfo(meaning="", mend="", found_by=("trainer",), retried=True), "tried again"),
    (ReasonInfo(meaning="", mend="", found_by=("operator",), waits=True), "waits"),
]


@pytest.mark.parametrize(("info", "then"), THEN)
def test_what_follows_is_said_in_a_word(info: ReasonInfo, then: str) -> None:
    assert failures._then(info) == then


def test_every_reason_is_found_by_somebody() -> None:
    assert [reason for reason, info in REASONS.items() if not info.found_by] == []


def test_the_meaning_of_a_reason_is_a_sentence() -> None:
    assert [reason for reason, info in REASONS.items() if not re.fullmatch(r"[A-Z].{20,}\.", info.meaning)] == []


def test_the_resumable_exit_code_is_explained_as_no_failure() -> None:
    assert re.search(rf"^\| {EXIT_RESUMABLE} \| No failure", failures.render(), re.MULTILINE)


def test_every_reason_has_an_example_unless_the_mend_says_it_all() -> None:
    assert set(Reason) - set(failures.EXAMPLES) == {Reason.NOT_REPORTED}
