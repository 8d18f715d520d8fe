"""The reason table is closed and unambiguous; derived names fit at their longest."""

from __future__ import annotations

import re

import pytest

from finetune_api import reasons
from finetune_api.job import Adapter, FineTuneJobSpec
from finetune_api.names import JOB_NAME_PATTERN, ROLES, StageName, child_labels, child_name
from finetune_api.reasons import BY_EXIT_CODE, EXIT_RESUMABLE, REASONS, Reason, final_exit_codes

UID = "0f3c9a1b-7d0c-4e0a-9b1c-2d3e4f5a6b7c"
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
STAGES: tuple[StageName, ...] = ("prepare", "train")


def test_every_reason_has_a_row_and_a_mend_that_is_a_sentence() -> None:
    assert set(REASONS) == set(Reason)
    assert [reason for reason, info in REASONS.items() if not re.fullmatch(r"[A-Z].{15,}\.", info.mend)] == []


def test_every_reason_is_a_valid_condition_reason() -> None:
    assert all(re.fullmatch(r"[A-Z][A-Za-z]{1,63}", reason) for reason in Reason)


def test_exit_codes_are_unique_and_none_means_something_else() -> None:
    codes = [info.exit_code for info in REASONS.values() if info.exit_code is not None]
    assert len(set(codes)) == len(codes) == len(BY_EXIT_CODE)
    # 0 is success, 75 resumable, 126 and above belong to the shell and to signals; 2 is a wrong command line.
    assert not set(codes) & {0, 2, EXIT_RESUMABLE}
    assert max(codes) < 126


def test_an_exit_code_leads_back_to_its_reason() -> None:
    assert all(BY_EXIT_CODE[info.exit_code] is reason for reason, info in REASONS.items() if info.exit_code)


def test_final_exit_codes_are_sorted_and_hold_no_code_that_is_retried() -> None:
    codes = final_exit_codes()
    assert codes == sorted(set(codes))
    assert {BY_EXIT_CODE[code] for code in codes} == {
        reason for reason, info in REASONS.items() if info.exit_code is not None and not info.retried
    }
    assert EXIT_RESUMABLE not in codes
    assert 1 not in codes


def test_final_exit_codes_are_sorted_whatever_the_order_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = final_exit_codes()
    monkeypatch.setattr(reasons, "REASONS", dict(reversed(REASONS.items())))
    assert final_exit_codes() == codes


def test_a_reason_that_waits_is_not_retried() -> None:
    assert [reason for reason, info in REASONS.items() if info.waits and info.retried] == []


@pytest.mark.parametrize("stage", STAGES)
def test_the_longest_name_leaves_room_for_the_pods_suffix(stage: StageName) -> None:
    longest = "a" * 40
    assert re.fullmatch(JOB_NAME_PATTERN, longest)
    assert not re.fullmatch(JOB_NAME_PATTERN, longest + "a")
    name = child_name(longest, UID, stage)
    assert len(name) + len("-abcde") <= 63
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)


@pytest.mark.parametrize("stage", STAGES)
def test_labels_are_valid_at_their_longest(stage: StageName) -> None:
    for key, value in child_labels("a" * 40, UID, stage).items():
        assert len(value) <= 63
        assert LABEL_VALUE.fullmatch(value)
        assert len(key.rpartition("/")[2]) <= 63


def test_children_of_two_jobs_of_the_same_name_have_different_names() -> None:
    assert child_name("a", UID, "train") != child_name("a", "1" + UID[1:], "train")


def test_children_of_the_two_stages_have_different_names() -> None:
    assert len({child_name("a", UID, stage) for stage in STAGES}) == 2


def test_every_role_has_a_field_for_its_credentials() -> None:
    for role in ROLES:
        block = Adapter if role == "adapter" else FineTuneJobSpec.model_fields[role].annotation
        assert block is not None
        assert "credentials_ref" in block.model_fields
