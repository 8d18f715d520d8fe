"""The README's map and commands match the tree."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import yaml

from finetune_api import __version__

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def _map() -> list[str]:
    block = re.search(r"## Map\n\n```text\n(.*?)```", README, re.DOTALL)
    assert block
    return [line.split()[0] for line in block[1].splitlines()]


def _tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return listed.splitlines()


def test_every_path_of_the_map_exists() -> None:
    assert [path for path in _map() if not (ROOT / path).exists()] == []


def test_every_file_below_a_folder_is_covered_by_the_map() -> None:
    covered = tuple(_map())
    ours = [path for path in _tracked() if "/" in path and not path.startswith(".ci/")]
    assert ours
    assert [p for p in ours if not p.startswith(covered) and p != "tests/conftest.py"] == []


def test_every_make_target_that_the_readme_names_exists() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE))
    assert {"demo", "test"} <= named
    assert named <= targets


def test_the_code_the_package_and_the_chart_name_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((ROOT / "charts/finetune-operator/Chart.yaml").read_text())
    assert project == __version__ == chart["appVersion"] == chart["version"]
