"""The child process that renders a template: Jinja in its sandbox, under limits of memory and CPU time.

The sandbox stops a template from reaching Python; only limits of the operating system stop it from looping for ever
or filling the memory. The file is run by its path in an isolated interpreter, so it imports nothing of this package,
and it speaks JSON lines: data that comes back is parsed, never unpickled.

Requests: ``{"prompts", "completion", "fields"}`` once, answered by ``{"uses": [prompt, ..., completion]}`` or
``{"error"}``; then ``{"rows": [context, ...], "wordings": [number of its prompt, ...]}``, answered line by line with
``{"prompt", "completion", "spans"}``, ``{"bad"}``, ``{"unknown"}`` (a variable that the row lacks) or ``{"error"}`` (no
row can be rendered). Spans say where in the prompt the values of ``fields`` stand: ``[field, start, end]``, in
characters.
"""

from __future__ import annotations

import json
import math
import re
import resource
import sys
import types
from collections.abc import Iterable
from typing import Any, Final

from jinja2 import StrictUndefined, Template, TemplateSyntaxError, UndefinedError, meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

__all__ = ["MAX_RENDERED"]

MAX_RENDERED: Final = 4 * 2**20
"""Characters of one rendered text."""

_UNKNOWN: Final = re.compile(r"^'(.+)' is undefined$")
_OTHER_FILES: Final[tuple[type[nodes.Node], ...]] = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)


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


def _compile(env: ImmutableSandboxedEnvironment, part: str, source: str) -> tuple[Template, dict[str, Any]]:
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


def _answer(prompt_of: Template, completion_of: Template, fields: list[str], context: dict[str, Any]) -> dict[str, Any]:
    try:
        (prompt, spans), (completion, _) = _render(prompt_of, context, fields), _render(completion_of, context)
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
    env = _environment()
    sources = json.loads(sys.stdin.buffer.readline())
    _grant_cpu(cpu)
    try:
        compiled = [_compile(env, "prompt", prompt) for prompt in sources["prompts"]]
        compiled.append(_compile(env, "completion", sources["completion"]))
    except ValueError as e:
        _send({"error": str(e)})
        return
    except (MemoryError, RecursionError) as e:
        _send({"error": "memory" if isinstance(e, MemoryError) else "it is nested too deeply"})
        return
    _send({"uses": [uses for _, uses in compiled]})
    *prompts, completion = [template for template, _ in compiled]
    while line := sys.stdin.buffer.readline():
        request = json.loads(line)
        for context, wording in zip(request["rows"], request["wordings"], strict=True):
            _grant_cpu(cpu)
            _send(_answer(prompts[wording], completion, sources["fields"], context))


if __name__ == "__main__":
    _main(*(int(a) for a in sys.argv[1:]))
