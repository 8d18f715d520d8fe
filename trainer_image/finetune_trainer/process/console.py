"""What people and log collectors see: a bar and readable lines on a terminal, one JSON object a line elsewhere.

Every message of the trainer goes through one :class:`Console`, so that nothing bypasses the redaction of secrets, and
a log can be read by a machine line by line.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from typing import Any, Final, Literal, Protocol, TextIO

from tqdm import tqdm

from finetune_api.names import StageName
from finetune_trainer.process.kept_log import KeptLog
from finetune_trainer.process.live import LiveState

__all__ = ["Console", "Progress", "Steps", "no_progress", "no_steps"]

Level = Literal["info", "warning", "error"]

_LOG_INTERVAL: Final = 10.0
"""Seconds between two progress lines in a JSON log."""


class Progress(Protocol):
    """Receives how far a long step is; cheap enough to be called for every micro-batch."""

    def __call__(self, done: int, total: int, /) -> None:
        """``done`` of ``total`` units; ``total`` may be 0 while it is unknown."""
        ...


def no_progress(_done: int, _total: int, /) -> None:
    """Report nothing."""


class Steps(Protocol):
    """Times and shows the sub-steps of something long: :meth:`Console.step`."""

    def __call__(self, name: str, text: str, /) -> AbstractContextManager[Progress]:
        """Begin a sub-step; see :meth:`Console.step`."""
        ...


@contextmanager
def no_steps(_name: str, _text: str, /) -> Iterator[Progress]:
    """Show nothing."""
    yield no_progress


class Console:
    """Output of one stage.

    Parameters
    ----------
    job, stage
        Written into every JSON line.
    stream
        Where to write; standard error by default, so that standard output stays free for results.
    interactive
        Readable lines and bars instead of JSON; None asks the stream whether it is a terminal.

    Attributes
    ----------
    seconds
        Duration of each finished sub-step.
    signs
        Grows with every line and every progress: whether the stage is alive.
    running
        The sub-step under way.
    kept
        The lines so far, as JSON whatever the stream got.
    live
        How far the stage is, for live reports.
    """

    def __init__(
        self, *, job: str, stage: StageName | None, stream: TextIO | None = None, interactive: bool | None = None
    ) -> None:
        self._job = job
        self._stage = stage
        self._stream = stream or sys.stderr
        self.interactive = self._stream.isatty() if interactive is None else interactive
        self._secrets: tuple[str, ...] = ()
        self.seconds: dict[str, float] = {}
        self.signs = 0
        self.running: str | None = None
        self.kept = KeptLog()
        self.live = LiveState()

    def for_stage(self, stage: StageName) -> Console:
        """Return a console for another stage of the same job on the same stream."""
        console = Console(job=self._job, stage=stage, stream=self._stream, interactive=self.interactive)
        console._secrets = self._secrets
        console.kept, console.live = self.kept, self.live
        return console

    def hide(self, secrets: Sequence[str]) -> None:
        """Replace these texts wherever they would be written. A last line of defence: nothing should print them."""
        self._secrets = tuple(text for text in secrets if len(text) >= 6)

    def redact(self, text: str) -> str:
        """Return ``text`` without hidden texts."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def event(self, event: str, text: str | None = None, *, level: Level = "info", **fields: object) -> None:
        """Write one line.

        Parameters
        ----------
        event
            Stable name for machines, in snake_case.
        text
            The line for people; made of event and fields when absent.
        fields
            JSON-able values.
        """
        self.alive()
        line: dict[str, Any] = {
            "ts": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": level,
            "job": self._job,
            **({"stage": self._stage} if self._stage else {}),
            "event": event,
            **fields,
            **({"message": text} if text else {}),
        }
        written = self.redact(json.dumps(line, ensure_ascii=False, default=str))
        self.kept.add(written)
        if self.interactive:
            words = text or " ".join([event.replace("_", " "), *(f"{name}={value}" for name, value in fields.items())])
            mark = {"info": "  ", "warning": "! ", "error": "✗ "}[level]
            with tqdm.external_write_mode(file=self._stream):
                self._stream.write(self.redact(mark + words) + "\n")
        else:
            self._stream.write(written + "\n")
        self._stream.flush()

    def alive(self) -> None:
        """Count a sign of life, from whichever thread; what matters is that the number changes."""
        self.signs += 1

    @contextmanager
    def step(self, name: str, text: str) -> Iterator[Progress]:
        """Time a sub-step and show its progress.

        Parameters
        ----------
        name
            Stable name for machines; ``seconds[name]`` holds the duration afterwards.
        text
            What happens, for people.

        Yields
        ------
        Progress
            To be called with how far the step is.
        """
        begin = time.perf_counter()
        progress = _Bar(self, text, self._stream) if self.interactive else _Lines(self, name)
        self.running = name
        self.live.began(name)
        if not self.interactive:
            self.event("step_started", step=name)
        try:
            yield progress
        except BaseException:
            progress.close()
            raise
        progress.close()
        self.running = None
        self.seconds[name] = seconds = time.perf_counter() - begin
        self.live.ended(name, seconds)
        if self.interactive:
            self.event("step_finished", f"{text:<58} {_duration(seconds):>9}")
        else:
            self.event("step_finished", step=name, seconds=round(seconds, 3))

    def table(self, rows: Sequence[tuple[str, str]]) -> None:
        """Print a two-column summary for people; JSON logs have the same numbers in their events."""
        if not self.interactive:
            return
        width = max(len(name) for name, _ in rows)
        self._stream.write("\n")
        for name, value in rows:
            self._stream.write(self.redact(f"  {name:<{width}}  {value}".rstrip()) + "\n")
        self._stream.write("\n")
        self._stream.flush()


class _Bar:
    """A bar on a terminal, drawn once there is progress."""

    def __init__(self, console: Console, text: str, stream: TextIO) -> None:
        self._console = console
        self._text = text
        self._stream = stream
        self._bar: tqdm[Any] | None = None

    def __call__(self, done: int, total: int, /) -> None:
        self._console.alive()
        if self._bar is None:
            self._bar = tqdm(total=total or None, desc=f"  {self._text}", file=self._stream, leave=False, unit="")
        self._bar.total = total or None
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


class _Lines:
    """Progress in a JSON log: the first sign of it at once, then a line now and then."""

    def __init__(self, console: Console, name: str) -> None:
        self._console = console
        self._name = name
        self._last = -math.inf

    def __call__(self, done: int, total: int, /) -> None:
        self._console.alive()
        now = time.perf_counter()
        if now - self._last >= _LOG_INTERVAL:
            self._last = now
            self._console.event("progress", step=self._name, done=done, total=total)

    def close(self) -> None:
        """Nothing is left open."""


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"
