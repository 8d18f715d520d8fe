"""What `make test` says about itself is so."""

from __future__ import annotations

import re
from pathlib import Path

from hack.test.run import NOT_IN_THIS_TIER, STEPS

ROOT = Path(__file__).resolve().parents[2]


def test_every_make_target_that_is_not_in_the_tier_exists() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {line.split()[1].rstrip(":") for line in NOT_IN_THIS_TIER if line.startswith("make ")}
    assert named
    assert named <= targets


def test_every_target_that_tests_or_measures_is_in_the_tier_or_said_not_to_be() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^((?:test|bench)-[a-z0-9-]+):", makefile, re.MULTILINE))
    named = {line.split()[1].rstrip(":") for line in NOT_IN_THIS_TIER if line.startswith("make ")}
    assert targets - named == {f"test-{step.name}" for step in STEPS if step.paths}


def test_every_folder_with_tests_is_in_a_step_or_by_hand() -> None:
    in_steps = {path for step in STEPS for path in step.paths}
    folders = {
        f"tests/{path.parent.relative_to(ROOT / 'tests').parts[0]}" for path in ROOT.glob("tests/*/**/test_*.py")
    }
    assert folders - in_steps == {"tests/gpu"}
    assert [path for path in in_steps if not (ROOT / path).is_dir()] == []
