"""How the process runs and ends: what stops Kopf, and which exit code follows."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kopf
import pytest

from finetune_operator import __main__ as program


class Heart:
    """As much of an engine as the program looks at while Kopf runs."""

    def __init__(self) -> None:
        self.died = asyncio.Event()

    def event(self, *_: Any) -> None: ...


@pytest.fixture
def stops(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Puts a Kopf in place that runs until it is cancelled, and tells that it was."""
    told: list[str] = []

    async def operator(**_: Any) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            told.append("stopped")

    monkeypatch.setattr(kopf, "operator", operator)
    return told


async def test_the_death_of_a_worker_stops_kopf(stops: list[str]) -> None:
    heart = Heart()
    asyncio.get_running_loop().call_later(0.01, heart.died.set)
    async with asyncio.timeout(5):
        await program._watch_until_stopped(heart)  # type: ignore[arg-type]  # a heart is all it needs
    assert stops == ["stopped"]


async def test_a_cancelled_program_stops_kopf_first(stops: list[str]) -> None:
    task = asyncio.create_task(program._watch_until_stopped(Heart()))  # type: ignore[arg-type]  # as above
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stops == ["stopped"]


async def test_what_ends_kopf_comes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async def operator(**_: Any) -> None:
        raise LookupError("a watch has died")

    monkeypatch.setattr(kopf, "operator", operator)
    with pytest.raises(LookupError, match="a watch has died"):
        await program._watch_until_stopped(Heart())  # type: ignore[arg-type]  # as above


@pytest.fixture
def restored_logging() -> Iterator[None]:
    root, kopf_objects = logging.getLogger(), logging.getLogger("kopf.objects")
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    kopf_objects.setLevel(logging.NOTSET)
    logging.captureWarnings(False)


@pytest.mark.usefixtures("restored_logging")
@pytest.mark.parametrize(("error", "code", "event"), [(None, 0, "Stopped"), (OSError("gone"), 1, "OperatorFailed")])
def test_the_exit_code_tells_whether_the_end_was_wanted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception | None, code: int, event: str
) -> None:
    async def operate(*_: Any, **__: Any) -> None:
        if error is not None:
            raise error

    monkeypatch.setattr(program, "operate", operate)
    assert program.main() == code
    last = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert last["event"] == event


@pytest.mark.usefixtures("restored_logging")
@pytest.mark.parametrize("content", [None, "kind: FineTuneRuntime"], ids=["missing", "not JSON"])
def test_a_runtime_file_that_can_not_be_used_ends_the_start_and_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "runtime.json"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("FINETUNE_RUNTIME_FILE", str(file))
    assert program.main() == 2
    assert f"FINETUNE_RUNTIME_FILE: {file}" in capsys.readouterr().err
