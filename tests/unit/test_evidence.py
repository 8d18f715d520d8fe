"""docs/evidence.md and docs/reliability.md name tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = {"evidence.md": ("V", 16), "reliability.md": ("R", 27)}
"""Each page with the letter of its lines and how many there are at least."""


def _text(page: str) -> str:
    return (ROOT / "docs" / page).read_text(encoding="utf-8")


def _named(page: str) -> list[tuple[str, str]]:
    return re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", _text(page))


def _defined(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}


@pytest.mark.parametrize("page", PAGES)
def test_every_test_that_the_page_names_exists(page: str) -> None:
    assert [f"{path}::{name}" for path, name in _named(page) if name not in _defined(path)] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_line_of_the_table_names_a_test(page: str) -> None:
    letter, least = PAGES[page]
    lines = re.findall(rf"^\| {letter}\d+ .*$", _text(page), re.MULTILINE)
    assert least <= len(lines) == len(_named(page))


def test_no_fault_is_left_out_of_the_page_on_reliability() -> None:
    numbers = {int(number) for number in re.findall(r"^\| R(\d+) ", _text("reliability.md"), re.MULTILINE)}
    assert numbers == set(range(1, 28))
