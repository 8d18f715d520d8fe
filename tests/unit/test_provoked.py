"""No reason without a test that provokes it for real, and no line of the table without its test."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from finetune_api.reasons import REASONS, Reason
from tests.support.provoked import PROVOKED, Provoked

TESTS = Path(__file__).resolve().parents[1]


def _words(node: ast.AST, module: ast.Module, seen: frozenset[str] = frozenset()) -> set[str]:
    """Names and texts of a function, of what decorates it, and of what it refers to in its module."""
    found: set[str] = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute):
            found.add(part.attr)
        elif isinstance(part, ast.Constant) and isinstance(part.value, str):
            found.add(part.value)
        elif isinstance(part, ast.Name):
            found.add(part.id)
        elif isinstance(part, ast.arg):
            found.add(part.arg)
    for name in found - seen:
        for one in module.body:
            targets = one.targets if isinstance(one, ast.Assign) else []
            if getattr(one, "name", None) == name or any(isinstance(t, ast.Name) and t.id == name for t in targets):
                found |= _words(one, module, seen | found)
    return found


@pytest.mark.parametrize("line", PROVOKED, ids=lambda line: line.situation)
def test_the_named_test_exists_and_is_about_the_reason(line: Provoked) -> None:
    module = ast.parse((TESTS / line.file).read_text())
    functions = {node.name: node for node in module.body if isinstance(node, ast.FunctionDef)}
    assert line.test in functions, f"{line.file} has no {line.test}"
    assert {line.reason.value, line.reason.name} & _words(functions[line.test], module)


def test_every_reason_is_provoked() -> None:
    assert {line.reason for line in PROVOKED} == set(Reason)


def test_a_situation_stands_in_the_table_once() -> None:
    situations = [line.situation for line in PROVOKED]
    assert len(set(situations)) == len(situations)


def test_every_reason_with_an_exit_code_is_provoked_in_a_stage() -> None:
    """The code is what the operator goes by where the report is lost."""
    in_a_stage = {line.reason for line in PROVOKED if line.file.startswith(("trainer/", "gpu/"))}
    assert {r for r, i in REASONS.items() if i.exit_code is not None} <= in_a_stage
