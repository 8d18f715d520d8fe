"""The page that lists the named templates lists what the library has."""

from __future__ import annotations

import re
from pathlib import Path

import finetune_trainer.text.template as package
from finetune_trainer.text.template.catalog import library_template
from tests.support.docs import ROOT

LIBRARY = {path.stem for path in (Path(package.__file__).parent / "library").glob("*.yaml")}


def listed() -> dict[str, list[tuple[str, bool]]]:
    """Fields by template, each with whether it may be missing."""
    table = (ROOT / "docs/prompts.md").read_text().partition("| template | fields")[2].partition("\n\n")[0]
    found = {}
    for line in table.splitlines()[2:]:
        names, fields, _ = line.strip("| ").split(" | ")
        for name in re.findall(r"`([a-z-]+)`", names):
            found[name] = [(field, bool(bracket)) for bracket, field in re.findall(r"(\(?)`([a-z]+)`", fields)]
    return {name: [f for f in fields if f[0] not in {"role", "content"}] for name, fields in found.items()}


def test_the_page_lists_every_template_with_its_fields() -> None:
    known = {
        name: [(field, of.get("optional", False)) for field, of in library_template(name)["fields"].items()]
        for name in LIBRARY
    }
    assert listed() == known
