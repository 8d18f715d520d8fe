"""docs/evidence.md names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs/evidence.md").read_text(encoding="utf-8"))


def _defined(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}


def test_every_test_that_the_page_names_exists() -> None:
    assert len(NAMED) >= 16
    assert [f"{path}::{name}" for path, name in NAMED if name not in _defined(path)] == []


def test_every_line_of_the_table_names_a_test() -> None:
    lines = re.findall(r"^\| V\d+ .*$", (ROOT / "docs/evidence.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(lines) == len(NAMED)
