"""Writes ``docs/templates.md`` from the library, each template with its example as it is rendered.

Run by ``make generate``; a test fails while the page is stale, so that it is the library's golden file too.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from finetune_trainer.text.template.catalog import PromptTemplate, template_of
from finetune_trainer.text.template.document import DEFAULT, MESSAGES, FieldEntry, TemplateDocument, library
from finetune_trainer.text.template.fields import project
from finetune_trainer.text.template.render import Rendered, Renderer
from finetune_trainer.text.template.survey import AnswerSurvey

__all__ = ["PATH", "main", "page", "render_example"]

REPO_ROOT: Final = Path(__file__).resolve().parents[4]
PATH: Final = "docs/templates.md"

_HEAD: Final = """\
# The template library

<!-- Generated from the templates by `make generate`; edit trainer_image/finetune_trainer/text/template/library. -->

Name one in `dataset.template.name`. Its fields are columns of the data; a column of another name is mapped:

```yaml
dataset:
  template:
    name: intent
    columns: {text: utterance, label: category}
```

`finetune-trainer render job.yaml` shows what a template makes of your rows. How a row becomes tokens, and how to write
a template of your own, is in [prompts.md](prompts.md).

The metric is the one that suits the task. `evaluation.metric: Auto` takes it where the answers allow it, else
ChoiceAccuracy where choices are known and ExactMatch where they are not ([evaluation.md](evaluation.md)).

"""
_HOLDS: Final[Mapping[str, str]] = {
    "text": "",
    "json": " Holds JSON, as such or as text.",
    "either": " Holds text or JSON.",
    "code": " The first line keeps its indentation.",
}
_SIDES: Final[Mapping[str, str]] = {"start": "the beginning", "end": "the end", "middle": "the middle"}


def render_example(document: TemplateDocument) -> dict[str, Rendered]:
    """Render a document's example by the default prompt and by each paraphrase; nothing for ``messages``."""
    template = template_of(document, columns={}, choices=None)
    assert document.example is not None  # noqa: S101  # a test holds that every template of the library has one
    row = document.example.row
    survey = AnswerSurvey(template)
    survey.add("line 1", row)
    fields = project(template, row, survey.judge()[0])
    choices = list(fields.choices or template.choices or document.example.choices or ())
    context = {**fields.inputs, "choices": choices, str(template.answer): fields.answer}
    return {name: _rendered(template, prompt, context) for name, prompt in document.prompts.items()}


def _rendered(template: PromptTemplate, prompt: str, context: dict[str, Any]) -> Rendered:
    with Renderer(prompt, template.completion, verbatim=template.verbatim) as renderer:
        (result,) = renderer.render([(f"the example of {template.name}", context)])
    if not isinstance(result, Rendered):
        raise ValueError(f"the example of {template.name} can't be rendered: {result}")  # noqa: TRY004
    return result


def page() -> str:
    """Return the page."""
    documents = library()
    rows = [f"| [{d.name}](#{d.name}) | {_one_line(d.description)} | {d.metric} |\n" for d in documents]
    table = "| template | what it is for | metric |\n| --- | --- | --- |\n" + "".join(rows)
    return _HEAD + table + "".join("\n" + "\n".join(_section(d)) + "\n" for d in documents)


def _section(document: TemplateDocument) -> Iterator[str]:
    yield from (f"## {document.name}", "", document.description, "")
    yield from ("| field | column | what it holds |", "| --- | --- | --- |")
    for name, field in document.fields.items():
        yield f"| `{name}` | `{field.column or name}` | {_of_field(name, field, document)} |"
    yield from ("", f"- Answers: {_of_choices(document)}", f"- Metric: `{document.metric}`")
    if document.answer_tokens is not None:
        yield f"- Length: answers of at most {document.answer_tokens} tokens; longer ones are warned of."
    if document.truncate:
        cut = " and ".join(f"{_SIDES[side]} of `{name}`" for name, side in document.truncate.items())
        yield f"- A prompt that is too long loses {cut}."
    yield from ("", "```yaml", "dataset:", f"  template: {{name: {document.name}}}", "```", "")
    yield from _of_example(document)


def _of_field(name: str, field: FieldEntry, document: TemplateDocument) -> str:
    notes = " (the answer)" if name == document.answer else " (may be missing)" if field.optional else ""
    return _one_line(field.description) + _HOLDS[field.holds] + notes


def _of_choices(document: TemplateDocument) -> str:
    if isinstance(document.choices, list):
        return " or ".join(f"`{choice}`" for choice in document.choices) + "; others by `template.choices`."
    return {
        "labels": "the labels of the train rows, or `template.choices`.",
        "row": "each row's own choices, or `template.choices` for all.",
        "none": "any text, unless `template.choices` lists them.",
    }[document.choices]


def _of_example(document: TemplateDocument) -> Iterator[str]:
    if document.example is None:
        return
    given = document.example.choices
    beside = f", with the labels {', '.join(f'`{c}`' for c in given)} in train" if given else ""
    yield from (f"The row{beside}", "", "```json", json.dumps(document.example.row, ensure_ascii=False), "```", "")
    if document.name == MESSAGES:
        yield "is rendered by the model's own chat template."
        return
    for name, result in render_example(document).items():
        yield f"{'becomes' if name == DEFAULT else f'or, as `{name}`,'}"
        yield from ("", "```text", result.prompt, "```", "")
        if name == DEFAULT:
            yield from ("and is answered by", "", "```text", result.completion, "```", "")
    if document.paraphrases:
        yield "with the same answer."


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main(argv: list[str] | None = None) -> int:
    """Write the page, or tell whether it is stale; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m finetune_trainer.text.template.page", description=f"Generates {PATH}."
    )
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true", help="write the page")
    action.add_argument("--check", action="store_true", help="exit with 1 if the page is not what would be written")
    arguments = parser.parse_args(argv)
    path, text = REPO_ROOT / PATH, page()
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return 0
    if arguments.check:
        sys.stderr.write(f"stale: {PATH}; run python -m finetune_trainer.text.template.page --write\n")
        return 1
    path.write_text(text, encoding="utf-8")
    print(f"wrote: {PATH}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
