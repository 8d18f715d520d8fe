"""Reads prompts of PromptSource, unchanged, out of their files.

The format (https://github.com/bigscience-workshop/promptsource, ``promptsource/templates.py``): YAML whose templates
are tagged as Python objects; each has a name, one Jinja text that renders prompt and answer parted by ``|||``, an
expression for the answer choices, parted likewise, and metadata. No object is ever made: the two tags are read as plain
mappings, and any other is refused. ``worker.py`` renders what is read here.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import yaml

from finetune_api.metrics import MetricName

__all__ = ["JoinedPrompt", "read_prompt"]

MAX_CHARS: Final = 65536
"""Of one Jinja text."""

_TAGS: Final = ("!Template", "!TemplateMetadata")
_BAR: Final = "|||"
_METRICS: Final[Mapping[str, MetricName]] = {
    "Accuracy": "ExactMatch",
    "ROUGE": "ROUGEL",
    "BLEU": "BLEU",
    "Squad": "TokenF1",
    "Trivia QA": "TokenF1",
    "COQA F1": "TokenF1",
}
"""What the collection calls a metric, and ours; others have none here."""
_OF_CHOICES: Final = ("{{", "{%")


@dataclass(frozen=True, slots=True)
class JoinedPrompt:
    """A prompt of PromptSource.

    Attributes
    ----------
    name
        As the file has it.
    jinja
        Renders prompt and answer, parted by ``|||``.
    answer_choices
        Renders the choices; None where answers are open.
    metric
        The first of its metrics that is known here.
    choices_in_prompt, original_task
        What its author says of it; None where nothing is said.
    """

    name: str
    jinja: str
    answer_choices: str | None
    metric: MetricName | None = None
    choices_in_prompt: bool | None = None
    original_task: bool | None = None

    @property
    def fixed_choices(self) -> tuple[str, ...] | None:
        """The choices, where they are the same in every row."""
        given = self.answer_choices
        if given is None or any(mark in given for mark in _OF_CHOICES):
            return None
        return tuple(choice.strip() for choice in given.split(_BAR))


class _Loader(yaml.SafeLoader):
    """The safe loader, and the two tags as mappings."""


def _mapping(loader: yaml.SafeLoader, node: yaml.Node) -> dict[Any, Any]:
    if not isinstance(node, yaml.MappingNode):
        raise yaml.constructor.ConstructorError(None, None, f"{node.tag} is no mapping", node.start_mark)
    return loader.construct_mapping(node, deep=True)


for _tag in _TAGS:
    _Loader.add_constructor(_tag, _mapping)


def read_prompt(text: str, name: str) -> JoinedPrompt:
    """Return the prompt of a name, or of an id.

    Raises
    ------
    ValueError
        It is no such file, or has no such prompt, or one that can't be used; says why, and what would do.
    """
    try:
        content = yaml.load(text, Loader=_Loader)  # noqa: S506  # a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as e:
        raise ValueError(f"is no file of PromptSource: {' '.join(str(e).split())[:300]}") from e
    templates = content.get("templates") if isinstance(content, dict) else None
    if not isinstance(templates, dict) or not all(isinstance(entry, dict) for entry in templates.values()):
        raise ValueError("is no file of PromptSource: it has no mapping of templates by their ids")
    return _prompt(_found(templates, name))


def _found(templates: Mapping[Any, dict[str, Any]], name: str) -> dict[str, Any]:
    if isinstance(by_id := templates.get(name), dict):
        return by_id
    called = {key: entry for key, entry in templates.items() if entry.get("name") == name}
    if len(called) == 1:
        return next(iter(called.values()))
    if called:
        raise ValueError(
            f"has {len(called)} prompts called {name!r}; give the id of one: {', '.join(map(str, called))}"
        )
    names = [str(entry.get("name")) for entry in templates.values()]
    near = difflib.get_close_matches(name, names, n=5, cutoff=0.5) or names[:10]
    raise ValueError(f"has no prompt called {name!r}; there {_are(len(names))}, such as {', '.join(map(repr, near))}")


def _are(count: int) -> str:
    return "is one" if count == 1 else f"are {count}"


def _prompt(entry: Mapping[str, Any]) -> JoinedPrompt:
    name, jinja, choices = str(entry.get("name")), entry.get("jinja"), entry.get("answer_choices")
    if not isinstance(jinja, str) or not jinja.strip():
        raise ValueError(f"has no jinja text in prompt {name!r}")
    if _BAR not in jinja:
        raise ValueError(f"has no {_BAR} in the jinja text of prompt {name!r}, so there is no answer to learn")
    if choices is not None and not isinstance(choices, str):
        raise ValueError(f"has answer_choices in prompt {name!r} that are no text; write them as one ||| two")
    if max(len(jinja), len(choices or "")) > MAX_CHARS:
        raise ValueError(f"has more than {MAX_CHARS} characters in prompt {name!r}")
    said = entry.get("metadata") or {}
    said = said if isinstance(said, dict) else {}
    metrics = said.get("metrics")
    known = [_METRICS[m] for m in metrics if m in _METRICS] if isinstance(metrics, list) else []
    prompt = JoinedPrompt(
        name=name,
        jinja=jinja,
        answer_choices=choices if choices and choices.strip() else None,
        metric=known[0] if known else None,
        choices_in_prompt=_flag(said.get("choices_in_prompt")),
        original_task=_flag(said.get("original_task")),
    )
    fixed = prompt.fixed_choices
    if fixed is not None and (len(fixed) < 2 or "" in fixed or len(set(fixed)) < len(fixed)):
        raise ValueError(
            f"has the answer_choices {choices!r} in prompt {name!r}; there must be two or more, none of them empty or "
            "there twice"
        )
    return prompt


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None
