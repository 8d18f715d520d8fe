"""What the pages under docs/ tell a reader to type or to write, taken out of their blocks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

__all__ = ["PAGES", "commands", "fragments"]

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(path for path in (ROOT / "docs").glob("*.md") if path.name != "failures.md")

_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:^ {4}.*\n(?:\n(?= {4}))?)+", re.MULTILINE)


def _blocks(page: Path) -> list[str]:
    """Text of every block of a page, fenced or indented, without its indentation."""
    text = page.read_text(encoding="utf-8")
    fenced = [match[2] for match in _FENCED.finditer(text)]
    rest = _FENCED.sub("", text)
    return fenced + [re.sub(r"^ {4}", "", match[0], flags=re.MULTILINE) for match in _INDENTED.finditer(rest)]


def commands(page: Path, program: str) -> list[str]:
    """Lines of a page that call a program, without the prompt in front of them."""
    lines = [line.removeprefix("$ ") for block in _blocks(page) for line in block.splitlines()]
    return [line for line in lines if line.startswith(program + " ")]


def fragments(page: Path) -> list[dict[str, Any]]:
    """Parts of manifests that a page shows: whole objects, specs, or blocks of a spec."""
    found = []
    for block in _blocks(page):
        if re.match(r"(apiVersion|spec|model|dataset|training|evaluation|output|resources):", block):
            found.append(yaml.safe_load(block))
    return found
