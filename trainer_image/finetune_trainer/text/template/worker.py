"""The child process that renders a template: Jinja in its sandbox, under limits of memory and CPU time.

The sandbox stops a template from reaching Python; only limits of the operating system stop it from looping for ever
or filling the memory. The file is run by its path in an isolated interpreter, so it imports nothing of this package,
and it speaks JSON lines: data that comes back is parsed, never unpickled.

Requests: ``{"prompts", "completion", "fields"}`` once, answered by ``{"uses": [prompt, ..., completion]}`` or
``{"error"}``; then ``{"rows": [context, ...], "wordings": [number of its prompt, ...]}``, answered line by line with
``{"prompt", "completion", "spans"}``, ``{"bad"}``, ``{"unknown"}`` (a variable that the row lacks) or ``{"error"}`` (no
row can be rendered). Spans say where in the prompt the values of ``fields`` stand: ``[field, start, end]``, in
characters.

A prompt of PromptSource comes as ``{"joined", "answerChoices"}`` instead: one text that renders prompt and completion,
parted by ``|||``. Its rows are answered with ``"choices"`` beside, or with ``{"skip"}`` where they render to nothing.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import math
import random
import re
import resource
import secrets
import sys
import types
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final

from jinja2 import StrictUndefined, Template, TemplateSyntaxError, UndefinedError, meta, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedEnvironment

__all__ = ["MAX_RENDERED"]

MAX_RENDERED: Final = 4 * 2**20
"""Characters of one rendered text."""

_UNKNOWN: Final = re.compile(r"^'(.+)' is undefined$")
_OTHER_FILES: Final[tuple[type[nodes.Node], ...]] = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)


_WHOLE: Final = re.compile(r"0|[1-9][0-9]{0,8}")
"""A whole number from 0 on, as text."""

_METHODS: Final = frozenset(name for name in dir(dict) if not name.startswith("_"))
"""What ``row.items`` and its like give, whatever the columns are called."""


class _NotPrintedError(Exception):
    """A template prints what is no value of a row."""


def _printable(value: Any) -> Any:
    if value is None:
        raise _NotPrintedError("a null would be printed")
    if isinstance(value, types.BuiltinMethodType | types.MethodType):
        name = value.__name__
        raise _NotPrintedError(f"a method would be printed; a column of that name is row[{name!r}]")
    return value


def _listed(values: Iterable[Any]) -> str:
    """Join choices for a prompt: by commas, or by semicolons where a choice itself has a comma."""
    texts = [str(v) for v in values]
    return ("; " if any("," in t for t in texts) else ", ").join(texts)


def _environment() -> ImmutableSandboxedEnvironment:
    env = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_printable, autoescape=False
    )
    # The same row must render to the same text every time.
    del env.filters["random"]
    del env.globals["lipsum"]
    env.filters["listed"] = _listed
    return env


_BAR: Final = "|||"
"""Stands between a prompt of PromptSource and its answer, and between its answer choices."""


class _Choices(list[str]):
    """The answers of a prompt; a label of -1, which stands for an unknown one, is not the last of them.

    Unless the prompt itself counts from the end.
    """

    from_the_end = False

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return super().__getitem__(place)
        if isinstance(place, str) and _WHOLE.fullmatch(place):
            place = int(place)  # a cell of CSV is always a text
        if not isinstance(place, int):
            raise _NotPrintedError(
                f"answer_choices[…] is asked for {place!r}, and its answers go by whole numbers; write the column that "
                "numbers them as 0, 1, 2 …"
            )
        if not (-len(self) if self.from_the_end else 0) <= place < len(self):
            raise _NotPrintedError(f"answer_choices[…] is asked for {place}, and its answers are 0 to {len(self) - 1}")
        return super().__getitem__(place)


class _Joined:
    """A prompt of PromptSource: https://github.com/bigscience-workshop/promptsource, ``promptsource/templates.py``."""

    def __init__(self, source: str, answer_choices: str | None) -> None:
        # Prompts may append to lists of their own; a row is rendered once, so nothing outlives it.
        self._env = SandboxedEnvironment(undefined=StrictUndefined, finalize=_printable, autoescape=False)
        self._random = random.Random()  # noqa: S311  # seeded by each row
        draw = pass_context(lambda _, values: self._random.choice(list(values)))  # else drawn once, when it is compiled
        self._env.filters |= {"choice": draw, "random": draw, "most_frequent": _most_frequent}
        self._env.filters["highlight"] = str
        self._env.globals["zip"] = zip
        del self._env.globals["lipsum"]
        # What parts the sides can't stand in a row: it is another one in every process, and never seen outside.
        self._bar = f"\ue0f0{secrets.token_hex(16)}\ue0f1"
        self._template, uses = _compile(self._env, "jinja", source.replace(_BAR, self._bar))
        self._choices: Template | None = None
        names = set(uses["names"])
        if answer_choices is not None:
            self._choices, more = _compile(self._env, "answer_choices", answer_choices.replace(_BAR, self._bar))
            names = names - {"answer_choices"} | set(more["names"])
        self.uses = {"names": sorted(names), "whole_row": False}
        self._from_the_end = _counts_from_the_end(self._env.parse(source))

    def answer(self, row: dict[str, Any]) -> dict[str, Any]:
        """Render a row; raises what the template raises."""
        said = json.dumps(row, sort_keys=True).encode()
        self._random.seed(hashlib.blake2b(said, digest_size=8).digest())
        context, choices = dict(row), None
        if self._choices is not None:
            rendered, _ = _render(self._choices, copy.deepcopy(row))
            choices = [choice.strip() for choice in rendered.split(self._bar)]
            answers = _Choices(choices)
            answers.from_the_end = self._from_the_end
            context["answer_choices"] = answers
        text, _ = _render(self._template, context)
        if not text.strip():
            return {"skip": True}
        sides = [side.strip() for side in text.split(self._bar)]
        if len(sides) != 2:
            return {"bad": f"it renders {_BAR} {len(sides) - 1} times, and one prompt needs one answer"}
        if "" in sides:
            return {"skip": True}
        return {"prompt": sides[0], "completion": sides[1], "spans": [], "choices": choices}


def _most_frequent(values: Iterable[Any]) -> list[Any]:
    """The values that come most often, in the order of their coming."""
    counts = Counter(values)
    return [value for value, count in counts.items() if count == max(counts.values())]


def _counts_from_the_end(tree: nodes.Template) -> bool:
    """Tell whether a prompt itself writes ``answer_choices[-1]``, so that a number below 0 is meant."""
    return any(
        isinstance(node.node, nodes.Name) and node.node.name == "answer_choices" and isinstance(node.arg, nodes.Neg)
        for node in tree.find_all(nodes.Getitem)
    )


def _uses(tree: nodes.Template) -> dict[str, Any]:
    """Names that the template reads, and what it reads of ``row``; ``whole_row`` if that can't be told."""
    names = meta.find_undeclared_variables(tree)
    picked = 0
    reads: list[nodes.Getattr | nodes.Getitem] = [*tree.find_all(nodes.Getattr), *tree.find_all(nodes.Getitem)]
    for node in reads:
        if not (isinstance(node.node, nodes.Name) and node.node.name == "row"):
            continue
        if isinstance(node, nodes.Getattr):
            if node.attr in _METHODS:
                continue  # row.items() and its like may read every column
            names.add(node.attr)
        elif isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str):
            names.add(node.arg.value)
        else:
            continue
        picked += 1
    mentioned = sum(n.name == "row" for n in tree.find_all(nodes.Name))
    return {"names": sorted(names), "whole_row": mentioned > picked}


def _compile(env: SandboxedEnvironment, part: str, source: str) -> tuple[Template, dict[str, Any]]:
    try:
        tree = env.parse(source)
        template = env.from_string(source)
    except TemplateSyntaxError as e:
        raise ValueError(f"{part}, line {e.lineno}: {e.message}") from e
    for kind in _OTHER_FILES:
        if (other := tree.find(kind)) is not None:
            raise ValueError(f"{part}, line {other.lineno}: a template can't use other files")
    return template, _uses(tree)


def _render(template: Template, context: dict[str, Any], fields: Iterable[str] = ()) -> tuple[str, list[list[Any]]]:
    """Render a row; tell besides where the values of fields that are printed as they are stand."""
    size, pieces, spans = 0, [], []
    # A printed text is yielded as the very object that the row holds. One character may be the same object elsewhere.
    values = {id(context[f]): f for f in fields if isinstance(context.get(f), str) and len(context[f]) > 1}
    for piece in template.generate(context):
        if id(piece) in values:
            spans.append([values[id(piece)], size, size + len(piece)])
        size += len(piece)
        if size > MAX_RENDERED:
            raise ValueError(f"it renders to more than {MAX_RENDERED} characters")
        pieces.append(piece)
    return "".join(pieces), spans


def _answer(render: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return render()
    except UndefinedError as e:
        name = _UNKNOWN.match(str(e.message))
        return {"unknown": name[1]} if name else {"bad": str(e.message)}
    except _NotPrintedError as e:
        return {"bad": str(e)}
    except SecurityError as e:
        return {"error": f"the template does what it may not: {e}"}
    except MemoryError:
        return {"error": "memory"}
    except Exception as e:  # whatever a template does to a row's values is that row's fault
        return {"bad": f"{type(e).__name__}: {e}"[:300]}


class _Parted:
    """Prompts and a completion that are texts of their own."""

    def __init__(self, prompts: list[str], completion: str, fields: list[str]) -> None:
        env = _environment()
        compiled = [_compile(env, "prompt", prompt) for prompt in prompts]
        compiled.append(_compile(env, "completion", completion))
        self.uses = [uses for _, uses in compiled]
        *self._prompts, self._completion = [template for template, _ in compiled]
        self._fields = fields

    def answer(self, row: dict[str, Any], wording: int) -> dict[str, Any]:
        """Render a row; raises what the template raises."""
        prompt, spans = _render(self._prompts[wording], row, self._fields)
        completion, _ = _render(self._completion, row)
        return {"prompt": prompt, "completion": completion, "spans": spans}


def _limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, hard if kind == resource.RLIMIT_CPU else value))


def _grant_cpu(seconds: int) -> None:
    """Allow so many further seconds; the kernel then kills the process, in the middle of a C function too."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _limit(resource.RLIMIT_CPU, math.ceil(usage.ru_utime + usage.ru_stime) + seconds)


def _send(message: dict[str, Any]) -> None:
    sys.stdout.buffer.write(json.dumps(message).encode() + b"\n")
    # Row by row, so that the parent knows which row a killed worker was at.
    sys.stdout.buffer.flush()


def _main(memory: int, cpu: int) -> None:
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_NPROC, 0)
    _limit(resource.RLIMIT_AS, memory)
    sources = json.loads(sys.stdin.buffer.readline())
    _grant_cpu(cpu)
    try:
        if joined := sources.get("joined"):
            one = _Joined(joined, sources["answerChoices"])
            uses, answer = [one.uses, one.uses], lambda row, _: one.answer(row)
        else:
            two = _Parted(sources["prompts"], sources["completion"], sources["fields"])
            uses, answer = two.uses, two.answer
    except ValueError as e:
        _send({"error": str(e)})
        return
    except (MemoryError, RecursionError) as e:
        _send({"error": "memory" if isinstance(e, MemoryError) else "it is nested too deeply"})
        return
    _send({"uses": uses})
    while line := sys.stdin.buffer.readline():
        request = json.loads(line)
        for context, wording in zip(request["rows"], request["wordings"], strict=True):
            _grant_cpu(cpu)
            _send(_answer(functools.partial(answer, context, wording)))


if __name__ == "__main__":
    _main(*(int(a) for a in sys.argv[1:]))
