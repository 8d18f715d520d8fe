"""What two results computed of the same rows: losses, scores, answers and weights, to the bit where bits are stored.

Floats depend on the machine, so what is found here may be the doing of another one; whoever tells it looks at
``surroundings.py`` first.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from finetune_trainer.counted import counted
from finetune_trainer.output.finding import Finding, Result, different, not_compared, same
from finetune_trainer.storage.files import FileEntry

__all__ = ["compare_numbers"]

_METRICS: Final = "metrics.jsonl"
_PREDICTIONS: Final = "predictions.jsonl"
_SAMPLES: Final = "samples.jsonl"
_GONE: Final = "is gone or damaged"
_OLD_DIGITS: Final = 6
"""Digits of a loss in ``metrics.jsonl`` before every bit was kept there."""
_MODELS: Final = {"baseline": "baseline", "fewShot": "few-shot", "tuned": "test"}
"""How the keys of a model begin in ``predictions.jsonl``, with the subject."""
_SCORES: Final = {"baseline": "baseline", "fewShot": "few-shot", "test": "test"}
"""The same in the report's results."""

Line = dict[str, Any]
Place = tuple[int, str, int]
"""Of a sample: step, file and row."""


def compare_numbers(original: Result, again: Result) -> Iterator[Finding]:
    """Compare what was computed, in the order of computing it."""
    losses, validation = _curves(original, again)
    answers = _answers(original, again)
    yield from (finding for finding in answers if finding.subject != "test")
    yield losses
    if validation is not None:
        yield validation
    yield from _samples(original, again)
    yield from (finding for finding in answers if finding.subject == "test")
    yield _rest_of_results(original, again)
    yield _weights(original, again)


def _curves(original: Result, again: Result) -> tuple[Finding, Finding | None]:
    then, now = (_lines(result, _METRICS) for result in (original, again))
    if then is None or now is None:
        missing = not_compared("losses", f"{_METRICS} {_GONE}", arithmetic=True)
        return missing, None
    before, after = (_points(lines, "train_loss") for lines in (then, now))
    # The version that rounded wrote no number with more digits.
    exact = any(round(value, _OLD_DIGITS) != value for value in before.values())
    if not exact:
        after = {place: round(value, _OLD_DIGITS) for place, value in after.items()}
    how = "to the bit" if exact else f"to {_OLD_DIGITS} digits, of which that version kept no more"
    losses = _compared("losses", "optimizer step", before, after, how)
    before, after = _validations(then), _validations(now)
    if not (before or after):
        return losses, None
    return losses, _compared("validation", "validation at step", before, after, "as told")


def _points(lines: list[Line], key: str) -> dict[tuple[Any, ...], float]:
    """Values by (step of the line before, step): a line tells the mean over the steps since the one before."""
    steps = [(int(line["step"]), float(line[key])) for line in lines if key in line]
    befores = [0, *(step for step, _ in steps)]
    return {(before, step): value for before, (step, value) in zip(befores, steps, strict=False)}


def _validations(lines: list[Line]) -> dict[tuple[Any, ...], float]:
    return {
        (key, int(line["step"])): float(value)
        for line in lines
        for key, value in line.items()
        if key.startswith("valid_")
    }


def _compared(
    subject: str, what: str, then: Mapping[tuple[Any, ...], float], now: Mapping[tuple[Any, ...], float], how: str
) -> Finding:
    """Compare numbers by where they stand; the last part of a place is its step.

    A validation tells several numbers of one step, and counts once.
    """
    common = [place for place in then if place in now]
    if not common:
        return not_compared(subject, "no step of the one stands in the other", arithmetic=True)
    steps = {place[-1] for place in common}
    apart = {place: abs(then[place] - now[place]) for place in common if then[place] != now[place]}
    if apart:
        first, worst = next(iter(apart)), max(apart, key=lambda place: apart[place])
        return different(
            subject,
            f"{len({place[-1] for place in apart})} of {len(steps)} differ, first at {what} {_named(first)}: "
            f"{now[first]!r}, and it was {then[first]!r}; the largest difference is {apart[worst]:.3g}, at step "
            f"{_named(worst)}",
            arithmetic=True,
            largest=apart[worst],
        )
    if len(common) < max(len(then), len(now)) and then.keys() != now.keys():
        last, other = (max(place[-1] for place in found) for found in (then, now))
        if last != other:
            return different(subject, f"the last is at step {other}, and it was {last}", arithmetic=True)
    elsewhere = len({place[-1] for place in then} - steps)
    rest = f"; {elsewhere} {'is' if elsewhere == 1 else 'are'} told for other steps" if elsewhere else ""
    return same(subject, f"{len(steps)} {'is' if len(steps) == 1 else 'are'} equal {how}{rest}", arithmetic=True)


def _named(place: tuple[Any, ...]) -> str:
    """Name a step, and which number of its validation is meant."""
    name, step = place
    return f"{step} ({name})" if isinstance(name, str) else str(step)


def _samples(original: Result, again: Result) -> Iterator[Finding]:
    """Compare what the model wrote to the same few rows as it learned; nothing where none were taken.

    An answer is known by its step and row. No text is shown.
    """
    then, now = (result.entries(_SAMPLES).get(_SAMPLES) for result in (original, again))
    if then is None:
        if now is not None:
            yield not_compared("samples", f"the result has no {_SAMPLES}", arithmetic=True)
        return
    if now is None:
        yield different("samples", f"{_SAMPLES} is not written any more", arithmetic=True)
        return
    if then.sha256 == now.sha256:
        yield same("samples", "the same answers at each step", arithmetic=True)
        return
    lines, others = (_lines(result, _SAMPLES) for result in (original, again))
    if lines is None or others is None:
        yield not_compared("samples", f"{_SAMPLES} {_GONE}", arithmetic=True)
    else:
        yield _sampled_answers({_place(line): line for line in lines}, {_place(line): line for line in others})


def _sampled_answers(then: Mapping[Place, Line], now: Mapping[Place, Line]) -> Finding:
    if missing := next((place for place in then if place not in now), None):
        return different("samples", f"{_asked(missing)} is not asked any more", arithmetic=True)
    if new := next((place for place in now if place not in then), None):
        return different("samples", f"{_asked(new)} was not asked", arithmetic=True)
    # A later version may tell more.
    apart = {
        place: next(key for key in line if line[key] != now[place].get(key))
        for place, line in then.items()
        if any(line[key] != now[place].get(key) for key in line)
    }
    if not apart:
        return same("samples", f"{counted(len(then), 'answer')} are equal as told", arithmetic=True)
    first = next(iter(apart))
    text = f"{len(apart)} of {len(then)} answers differ, first that to {_asked(first)}: another {apart[first]}"
    return different("samples", text, arithmetic=True)


def _place(line: Line) -> Place:
    return int(line["step"]), str(line.get("file", "")), int(line["row"])


def _asked(place: Place) -> str:
    step, file, row = place
    return f"row {row}{f' of {file}' if file else ''} at step {step}"


def _answers(original: Result, again: Result) -> list[Finding]:
    """Compare scores, and the answers to each row, one finding a model."""
    then, now = (result.entries(_PREDICTIONS).get(_PREDICTIONS) for result in (original, again))
    equal = then is not None and now is not None and then.sha256 == now.sha256
    then_lines, now_lines = (None if equal else _lines(result, _PREDICTIONS) for result in (original, again))
    before, after = (_results(result) for result in (original, again))
    found = []
    for prefix, subject in _MODELS.items():
        key = next(key for key, name in _SCORES.items() if name == subject)
        score, other = before.get(key), after.get(key) or {}
        if score is None:
            continue
        # A later version may tell more.
        differing = [name for name in score if score[name] != other.get(name)]
        told = f"score {score['score']}"
        if differing:
            found.append(_score_differs(subject, differing[0], score, other))
        elif equal:
            found.append(same(subject, f"{told}, with the same answer to each row", arithmetic=True))
        elif then_lines is None or now_lines is None:
            found.append(same(subject, f"{told}; {_PREDICTIONS} {_GONE}, so answers weren't compared", arithmetic=True))
        else:
            found.append(_rows_of(subject, prefix, then_lines, now_lines, told))
    return found


def _score_differs(subject: str, key: str, then: Line, now: Line) -> Finding:
    before, after = then[key], now.get(key)
    try:
        largest = abs(float(str(before)) - float(str(after)))
    except ValueError:
        largest = None
    text = f"{key} {_short(after)}, and it was {_short(before)}"
    return different(subject, text, arithmetic=True, largest=largest)


def _rows_of(subject: str, prefix: str, then: list[Line], now: list[Line], told: str) -> Finding:
    """Compare the keys of one model, row by row; a row is known by its number, not by its place."""
    if len(then) != len(now):
        return different(
            subject, f"{counted(len(now), 'row')} scored, and it was {counted(len(then), 'row')}", arithmetic=True
        )
    others = {line["row"]: line for line in now}
    rows = [
        line["row"]
        for line in then
        if line["row"] in others
        and any(value != others[line["row"]].get(key) for key, value in line.items() if key.startswith(prefix))
    ]
    alone = [line["row"] for line in then if line["row"] not in others]
    rest = f"; not compared: {counted(len(alone), 'row')} that only one result scored" if alone else ""
    if rows:
        which = f"row {rows[0]}" if len(rows) == 1 else f"the first of them row {rows[0]}"
        text = f"{len(rows)} of {len(then) - len(alone)} rows answered otherwise, {which}{rest}"
        return different(subject, text, arithmetic=True)
    if alone:
        return different(subject, f"row {alone[0]} is not scored any more{rest}", arithmetic=True)
    return same(subject, f"{told}, with the same answer to each row", arithmetic=True)


def _rest_of_results(original: Result, again: Result) -> Finding:
    """Compare gain, p-value, warnings and references."""
    then, now = (_results(result) for result in (original, again))
    keys = [key for key in then if key not in _SCORES and then[key] != now.get(key)]
    if keys:
        text = f"{keys[0]} {_short(now.get(keys[0]))}, and it was {_short(then[keys[0]])}"
        return different("results", text, arithmetic=True)
    return same("results", f"gain {now.get('gain')}, with the same p-value and warnings", arithmetic=True)


def _short(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[:120]


def _weights(original: Result, again: Result) -> Finding:
    """Compare the stored weights by digest."""
    then, now = (_weights_of(result) for result in (original, again))
    if not then:
        return not_compared("weights", "manifest.json lists none", arithmetic=True)
    differing = [path for path in sorted(then.keys() | now.keys()) if _digest(then, path) != _digest(now, path)]
    if differing:
        return different("weights", f"{differing[0]} has another digest", arithmetic=True)
    size = sum(entry.bytes for entry in now.values())
    return same("weights", f"the same digests of {', '.join(sorted(now))} ({size} bytes)", arithmetic=True)


def _weights_of(result: Result) -> dict[str, FileEntry]:
    entries = result.entries("model/") | result.entries("adapter/")
    return {path: entry for path, entry in entries.items() if path.endswith(".safetensors")}


def _digest(entries: Mapping[str, FileEntry], path: str) -> str | None:
    return entries[path].sha256 if path in entries else None


def _results(result: Result) -> Line:
    results = result.manifest.report.results
    return results.to_wire() if results is not None else {}


def _lines(result: Result, path: str) -> list[Line] | None:
    """Read a file of JSON lines; None where it can't be had as it was written."""
    data = result.content(path)
    if data is None:
        return None
    try:
        lines: list[Any] = [json.loads(line) for line in data.splitlines()]
    except ValueError:
        return None
    return lines if all(isinstance(line, dict) for line in lines) else None
