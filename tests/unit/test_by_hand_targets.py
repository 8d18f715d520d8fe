"""What only runs by hand (GPU tests, benchmarks, demo, images) names modules and things that are still there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOMES = {"finetune_api": "crds", "finetune_operator": "operator", "finetune_trainer": "trainer_image"}
BY_HAND = sorted(
    path
    for folder in ("tests/gpu", "benchmarks", "hack", "examples")
    for path in (ROOT / folder).rglob("*.py")
    # An environment of a benchmark's lies below it and is not ours.
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)
TEXTS = sorted(
    path
    for pattern in (
        "*/Dockerfile",
        "Makefile",
        ".ci/run",
        "charts/**/*.yaml",
        "docs/*.md",
        "README.md",
        "examples/*",
        "examples/*/*.md",
    )
    for path in ROOT.glob(pattern)
    if path.is_file()
)


def module_file(dotted: str) -> Path | None:
    """The file of one of our modules, None if there is none."""
    path = ROOT / HOMES[dotted.partition(".")[0]] / dotted.replace(".", "/")
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def names_in(file: Path) -> set[str]:
    """What a module defines or imports at its top."""
    found: set[str] = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {name.asname or name.name for name in node.names}
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


@pytest.mark.parametrize("path", BY_HAND, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_imported_is_there(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or (node.module or "").partition(".")[0] not in HOMES:
            continue
        file = module_file(node.module or "")
        assert file is not None, node.module
        missing = {
            name.name
            for name in node.names
            if name.name not in names_in(file) and module_file(f"{node.module}.{name.name}") is None
        }
        assert not missing, f"{node.module} has no {missing}"


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_text_names_is_there(path: Path) -> None:
    text = path.read_text()
    for dotted in re.findall(r"python3? -m (finetune_[a-z_.]*[a-z])", text):
        assert module_file(dotted) is not None, dotted
    for source in re.findall(r"(?:trainer_image|operator|crds)/finetune_[a-z]+(?:/[a-z_]+(?:\.py)?)*", text):
        assert (ROOT / source).exists(), source
