"""The library as it is rendered: every wording shows what the row says, and the page shows every wording."""

from __future__ import annotations

import pytest

from finetune_trainer.text.template import page
from finetune_trainer.text.template.document import TemplateDocument, library

LIBRARY = {document.name: document for document in library()}


@pytest.mark.parametrize("name", sorted(name for name, document in LIBRARY.items() if document.paraphrases))
def test_every_wording_shows_the_same_values_and_never_the_answer(name: str) -> None:
    document = LIBRARY[name]
    marked = _marked(document)
    for result in page.render_example(marked).values():
        shown = [key for key in document.fields if f"<{key}>" in result.prompt]
        wanted = [key for key, field in document.fields.items() if key != document.answer and field.holds != "json"]
        # A wording may be silent about what need not be there.
        assert set(wanted) - set(shown) <= {key for key, field in document.fields.items() if field.optional}
        assert document.answer not in shown
        assert (marked.example is not None and bool(marked.example.choices)) <= ("<one>" in result.prompt)


def _marked(document: TemplateDocument) -> TemplateDocument:
    """The document with an example whose values name their fields."""
    row: dict[str, object] = {field.column or key: f"<{key}>" for key, field in document.fields.items()}
    answer = document.fields[document.answer]
    if answer.holds == "json":
        row[answer.column or document.answer] = {"a": f"<{document.answer}>"}
    choices = ["<one>", "<two>"] if document.choices == "labels" else None
    if document.choices == "row":
        row[document.fields["choices"].column or "choices"] = ["<choices>", "other"]
        row[answer.column or document.answer] = "other"
    if isinstance(document.choices, list):
        row[answer.column or document.answer] = document.choices[0]
    assert document.example is not None
    example = document.example.model_copy(update={"row": row, "choices": choices})
    return document.model_copy(update={"example": example})


def test_the_page_of_the_library_is_current() -> None:
    assert page.main(["--check"]) == 0
