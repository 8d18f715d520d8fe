"""Renders prompt and completion of many rows in a child process; the parent's side of ``worker.py``.

Whatever a template does, the parent gets a :class:`~finetune_trainer.errors.StageError` with reason TemplateInvalid,
and neither hangs nor grows.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError
from finetune_trainer.text.template import worker
from finetune_trainer.text.template.catalog import PromptTemplate, Side

__all__ = ["Limits", "Rendered", "Renderer", "Skipped", "Span", "Unrendered", "Uses"]

_BATCH_ROWS: Final = 256
_BATCH_CHARS: Final = 2**20
_EXIT_SECONDS: Final = 10
# JSON writes a character as up to 12 bytes.
_MAX_REPLY: Final = 2 * 12 * worker.MAX_RENDERED + 4096


@dataclass(frozen=True, slots=True)
class Limits:
    """What the child process may take: address space in bytes, CPU seconds for one row."""

    memory_bytes: int = 512 * 2**20
    cpu_seconds: int = 5


@dataclass(frozen=True, slots=True)
class Uses:
    """What a template reads: variable names, and whether it may read every column through ``row``."""

    names: frozenset[str]
    whole_row: bool


@dataclass(frozen=True, slots=True)
class Span:
    """Where in a prompt the value of a field stands, in characters, and at which side it may be shortened."""

    name: str
    start: int
    end: int
    side: Side


@dataclass(frozen=True, slots=True)
class Rendered:
    """Prompt and completion of a row, neither empty; ``spans`` are those of the fields that may be shortened.

    ``choices`` are those that the template renders for the row; None where it renders none.
    """

    prompt: str
    completion: str
    spans: tuple[Span, ...] = ()
    choices: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Skipped:
    """A row that the template leaves out: it renders to nothing."""


@dataclass(frozen=True, slots=True)
class Unrendered:
    """Why a row could not be rendered; ``unknown`` is the variable that it lacked, if that was it."""

    why: str
    unknown: str | None = None


class Renderer:
    """A template in its child process; a context manager.

    Parameters
    ----------
    prompt, completion
        Jinja texts.
    wordings
        Other texts of the prompt, for the rows that ask for one by its number.
    sides
        The fields of the prompt that may be shortened, and where.
    verbatim
        Keep outer white space; else it is stripped.
    limits
        Of the child process.

    Raises
    ------
    StageError
        TemplateInvalid: on entering, a syntax error with its line; while rendering, a template that takes more than its
        limits or does what the sandbox forbids.
    """

    def __init__(
        self,
        prompt: str,
        completion: str,
        *,
        wordings: Sequence[str] = (),
        sides: Mapping[str, Side] | None = None,
        verbatim: bool = False,
        limits: Limits | None = None,
    ) -> None:
        self._sides = dict(sides or {})
        self._verbatim = verbatim
        self._sources: dict[str, Any]
        self._sources = {"prompts": [prompt, *wordings], "completion": completion, "fields": list(self._sides)}
        self._limits = limits or Limits()

    @classmethod
    def of(cls, template: PromptTemplate) -> Renderer:
        """Return what renders rows of a template."""
        if template.promptsource is not None:
            renderer = cls("", "")
            joined = template.promptsource
            renderer._sources = {"joined": joined.jinja, "answerChoices": joined.answer_choices}
            return renderer
        return cls(
            template.prompt,
            template.completion,
            wordings=[text for _, text in template.wordings],
            sides=dict(template.truncate),
            verbatim=template.verbatim,
        )

    def __enter__(self) -> Self:
        # -I: neither the environment nor the working directory decides what the child imports.
        self._child = subprocess.Popen(
            [
                sys.executable,
                "-I",
                str(Path(worker.__file__)),
                str(self._limits.memory_bytes),
                str(self._limits.cpu_seconds),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={k: v for k, v in os.environ.items() if k == "LD_LIBRARY_PATH"},
        )
        try:
            self._send(self._sources, doing="compiling its text")
            reply = self._receive(doing="compiling its text")
        except BaseException:
            self._stop()
            raise
        prompt, *wordings, completion = ((Uses(frozenset(u["names"]), u["whole_row"])) for u in reply["uses"])
        self.prompt_uses: Uses = prompt
        self.wording_uses: tuple[Uses, ...] = tuple(wordings)
        self.completion_uses: Uses = completion
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def render(
        self, rows: Iterable[tuple[str, Mapping[str, Any]]], wordings: Iterable[int | None] | None = None
    ) -> Iterator[Rendered | Unrendered | Skipped]:
        """Yield one result a row, in order.

        Parameters
        ----------
        rows
            Where a row stands, in words for messages ("line 7"), and its variables as JSON values.
        wordings
            For each row the number of its wording, None for the prompt itself; absent, all have the prompt.
        """
        chosen = itertools.repeat(None) if wordings is None else iter(wordings)
        for batch in _batches(rows):
            numbers = [0 if number is None else number + 1 for number in itertools.islice(chosen, len(batch))]
            # The child reads a batch to its end before it answers, so neither side ever waits on a full pipe.
            request = {"rows": [context for _, context in batch], "wordings": numbers}
            self._send(request, doing=f"rendering {batch[0][0]}")
            for where, _ in batch:
                yield self._result(self._receive(doing=f"rendering {where}"))

    def _send(self, message: Mapping[str, Any], *, doing: str) -> None:
        stdin = self._child.stdin
        assert stdin is not None  # noqa: S101  # opened as a pipe above
        try:
            stdin.write(json.dumps(message).encode() + b"\n")
            stdin.flush()
        except BrokenPipeError as e:
            raise self._died(doing) from e

    def _receive(self, *, doing: str) -> dict[str, Any]:
        stdout = self._child.stdout
        assert stdout is not None  # noqa: S101  # opened as a pipe above
        line = stdout.readline(_MAX_REPLY)
        if not line.endswith(b"\n"):
            raise self._died(doing)
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise self._too_much_memory(doing) if reply["error"] == "memory" else _invalid(reply["error"])
        return reply

    def _result(self, reply: Mapping[str, Any]) -> Rendered | Unrendered | Skipped:
        if "skip" in reply:
            return Skipped()
        if "unknown" in reply:
            return Unrendered(f"column {reply['unknown']!r} is missing", unknown=reply["unknown"])
        if "bad" in reply:
            return Unrendered(f"the template can't render it: {reply['bad']}")
        prompt, completion = reply["prompt"], reply["completion"]
        if "choices" in reply:
            return _with_choices(prompt, completion, reply["choices"])
        return self._parted(prompt, completion, reply["spans"])

    def _parted(self, prompt: str, completion: str, spans: Sequence[tuple[str, int, int]]) -> Rendered | Unrendered:
        for name, text in (("prompt", prompt), ("completion", completion)):
            if not text.strip():
                return Unrendered(f"its {name} is empty")
        if self._verbatim:
            return Rendered(prompt, completion, tuple(Span(n, s, e, self._sides[n]) for n, s, e in spans))
        before, text = len(prompt) - len(prompt.lstrip()), prompt.strip()
        inner = ((n, max(0, s - before), min(len(text), e - before)) for n, s, e in spans)
        return Rendered(text, completion.strip(), tuple(Span(n, s, e, self._sides[n]) for n, s, e in inner if s < e))

    def _died(self, doing: str) -> StageError:
        try:
            code = self._child.wait(timeout=_EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            return _invalid(f"{doing} gives more than can be read")
        if code == -signal.SIGXCPU:
            return _invalid(f"{doing} takes more than {self._limits.cpu_seconds} s of CPU time")
        return self._too_much_memory(doing)

    def _too_much_memory(self, doing: str) -> StageError:
        return _invalid(f"{doing} takes more than {self._limits.memory_bytes // 2**20} MiB of memory")

    def _stop(self) -> None:
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                # What is still buffered for a dead child is lost, as it should be.
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def _with_choices(prompt: str, completion: str, choices: list[str] | None) -> Rendered | Unrendered:
    if choices is None:
        return Rendered(prompt, completion)
    if len(choices) < 2 or "" in choices or len(set(choices)) < len(choices):
        told = ", ".join(repr(choice[:60]) for choice in choices[:5])
        return Unrendered(
            f"its answer_choices are {told}; there must be two or more, none of them empty or there twice"
        )
    return Rendered(prompt, completion, (), tuple(choices))


def _invalid(message: str) -> StageError:
    return StageError(Reason.TEMPLATE_INVALID, f"dataset.template: {message}")


def _batches(
    rows: Iterable[tuple[str, Mapping[str, Any]]],
) -> Iterator[list[tuple[str, Mapping[str, Any]]]]:
    """Group rows so that neither side holds more than a few megabytes of them at once."""
    batch: list[tuple[str, Mapping[str, Any]]] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += sum(len(v) if isinstance(v, str) else 64 for v in row[1].values())
        if len(batch) >= _BATCH_ROWS or size >= _BATCH_CHARS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
