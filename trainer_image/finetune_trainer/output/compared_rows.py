"""The prepared rows of two results: which row is in which part, as which tokens, with which text.

Digests tell whether they are the same; where they don't agree, the files are read to name the first row that differs.
No row's text is shown.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from finetune_trainer.counted import counted
from finetune_trainer.data.parts import PARTS
from finetune_trainer.errors import StageError
from finetune_trainer.output.finding import Finding, Result, different, not_compared, same
from finetune_trainer.prepare.arrayfile import map_arrays
from finetune_trainer.prepare.folder import PREPARED
from finetune_trainer.process.console import no_progress
from finetune_trainer.storage.files import read_back

__all__ = ["compare_rows"]

_ARRAYS: Final = PREPARED + "rows.safetensors"
_REST: Final = PREPARED + "prepared.json"
_OF_THE_RUN: Final = (PREPARED + "manifest.json", _REST)
"""Files that tell of the run too; of the second what both versions tell is compared."""
_TOLD_ELSEWHERE: Final = ("summary", "inputs", "template_source", "template_digest", "tokenizer_digest")

Arrays = dict[str, NDArray[Any]]


def compare_rows(original: Result, again: Result, folder: Path) -> Iterator[Finding]:
    """Compare the split, the tokens and the prepared files.

    Parameters
    ----------
    folder
        Scratch folder; must exist.
    """
    before, after = original.manifest.report.dataset, again.manifest.report.dataset
    counts = {part: (getattr(before, part, None), getattr(after, part, None)) for part in PARTS}
    parts = ", ".join(f"{now} {part}" for part, (_, now) in counts.items())
    if original.manifest.fingerprint == again.manifest.fingerprint:
        yield same("split", f"{parts}: the same rows in each part")
        yield same("tokens", f"fingerprint {again.manifest.fingerprint}")
    elif (arrays := _arrays(original, again, folder)) is not None:
        yield _split(*arrays, parts=parts)
        yield _tokens(*arrays)
    else:
        moved = [f"{part} {now}, and it was {then}" for part, (then, now) in counts.items() if then != now]
        why = "prepared/ of the result is gone or damaged, so no row can be named"
        yield different("split", f"{'; '.join(moved)}; {why}") if moved else not_compared("split", why)
        yield different("tokens", f"the fingerprints differ; {why}")
    yield _summary(original, again)
    yield _files(original, again)


def _arrays(original: Result, again: Result, folder: Path) -> tuple[Arrays, Arrays] | None:
    """Map the arrays of both; None where those of the original can't be had."""
    found = []
    for name, result in (("then", original), ("now", again)):
        entries = result.entries(_ARRAYS).values()
        place = folder / name
        try:
            read_back(result.store, entries, place, no_progress)
            found.append(map_arrays(place / _ARRAYS))
        except (StageError, OSError, ValueError, KeyError, SafetensorError):
            shutil.rmtree(place, ignore_errors=True)
            return None
    return found[0], found[1]


def _split(then: Arrays, now: Arrays, *, parts: str) -> Finding:
    """Compare the row numbers of each part; a file's rows are numbered from 1."""
    for part in PARTS:
        before, after = then[f"{part}.rows"], now[f"{part}.rows"]
        if np.array_equal(before, after):
            continue
        gone, new = np.setdiff1d(before, after), np.setdiff1d(after, before)
        told = [
            f"{_some(rows)} {words}" for rows, words in ((gone, "no longer in it"), (new, "new in it")) if len(rows)
        ]
        first = f"part {part}: {' and '.join(told)}" if told else f"part {part} has its rows in another order"
        return different("split", first)
    return same("split", f"{parts}: the same rows in each part")


def _some(rows: NDArray[Any]) -> str:
    """Name rows by the first of them, and say how many they are; the verb is part of it."""
    return f"row {rows[0]} is" if len(rows) == 1 else f"{len(rows)} rows, the first of them row {rows[0]}, are"


def _tokens(then: Arrays, now: Arrays) -> Finding:
    """Compare row by row what training and scoring see of it.

    A row is known by its number. One that stands in a part of one result alone has nothing to be held against there.
    """
    compared, alone = 0, []
    for part in PARTS:
        before, after = then[f"{part}.rows"], now[f"{part}.rows"]
        common, places, others = _places(before, after)
        for row, place, other in zip(common.tolist(), places.tolist(), others.tolist(), strict=True):
            if not np.array_equal(_tokens_at(then, part, place), _tokens_at(now, part, other)):
                return different("tokens", f"row {row} of {part} has other tokens")
        compared += len(common)
        if len(either := np.setxor1d(before, after)):
            alone.append(f"{counted(len(either), 'row')} of {part}")
    if not all(np.array_equal(then[f"{part}.rows"], now[f"{part}.rows"]) for part in PARTS):
        rest = f"; not compared: {', '.join(alone)}, in that part of one result alone" if alone else ""
        return same("tokens", f"those of {counted(compared, 'row')} in the same part of both{rest}")
    differing = [name for name in then if name not in now or not np.array_equal(then[name], now[name])]
    if differing:
        return different("tokens", f"the tokens are the same, and {', '.join(differing[:3])} differ")
    return different("tokens", "the tokens of the rows are the same, and those of the choices or the end differ")


def _places(before: NDArray[Any], after: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return the rows that stand in both, and where they stand in each."""
    if np.array_equal(before, after):
        places = np.arange(len(before))
        return before, places, places
    common, places, others = np.intersect1d(before, after, return_indices=True)
    return common, places, others


def _tokens_at(arrays: Arrays, part: str, place: int) -> NDArray[Any]:
    offsets = arrays[f"{part}.offsets"]
    return arrays[f"{part}.tokens"][offsets[place] : offsets[place + 1]]


def _summary(original: Result, again: Result) -> Finding:
    """Compare what is told of the rows: dropped, duplicates, shortened and so on."""
    before, after = (_told(result) for result in (original, again))
    differing = [f"{key} {after.get(key)}, and it was {was}" for key, was in before.items() if after.get(key) != was]
    if not before:
        return not_compared("rows", "the version that wrote the manifest told nothing of them")
    if differing:
        return different("rows", "; ".join(differing[:3]))
    return same("rows", f"{after.get('rows')} read, with the same ones dropped, shortened and repeated")


def _told(result: Result) -> dict[str, Any]:
    data = result.manifest.report.dataset
    wire = data.to_wire() if data is not None else {}
    sources = [
        {key: value for key, value in one.items() if key != "revision"} for one in wire.pop("sources", None) or []
    ]
    return {k: v for k, v in wire.items() if k not in ("revision", "fingerprint")} | (
        {"sources": sources} if sources else {}
    )


def _files(original: Result, again: Result) -> Finding:
    """Compare the prepared folder by digests; no byte of it is read where they agree."""
    before, after = original.entries(PREPARED), again.entries(PREPARED)
    if not before:
        return not_compared("prepared rows", "manifest.json lists none")
    for path, entry in before.items():
        if path in _OF_THE_RUN:
            continue
        if path not in after:
            return different("prepared rows", f"{path} is not written any more")
        if after[path].sha256 != entry.sha256:
            return different("prepared rows", f"{path} has another digest{_first_line(original, again, path)}")
    return _rest(original, again)


def _rest(original: Result, again: Result) -> Finding:
    """Compare what stands beside the rows: as far as the original tells it."""
    text = f"{len(again.entries(PREPARED)) - 1} files of prepared/ are the same"
    before, after = (result.entries(_REST).get(_REST) for result in (original, again))
    if before is not None and after is not None and before.sha256 == after.sha256:
        return same("prepared rows", text)
    then, now = (_json(result) for result in (original, again))
    if then is None or now is None:
        return same("prepared rows", f"{text}, but for {_REST}, which is gone or damaged and can't be compared")
    differing = [key for key, value in then.items() if key not in _TOLD_ELSEWHERE and now.get(key) != value]
    if differing:
        return different("prepared rows", f"{_REST} has another {differing[0]}")
    return same("prepared rows", text)


def _json(result: Result) -> dict[str, Any] | None:
    data = result.content(_REST)
    try:
        value: Any = None if data is None else json.loads(data)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _first_line(original: Result, again: Result, path: str) -> str:
    """Name the first line of a file that differs, where both can be read and have lines."""
    if not path.endswith(".jsonl"):
        return ""
    then, now = (result.content(path) for result in (original, again))
    if then is None or now is None:
        return ""
    lines, others = then.splitlines(), now.splitlines()
    at = next((i for i, (a, b) in enumerate(zip(lines, others, strict=False)) if a != b), min(len(lines), len(others)))
    return f"; line {at + 1} is the first that differs"
