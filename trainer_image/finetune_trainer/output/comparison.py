"""Two results of one spec held against each other: what came out the same, what differs first, what can't be told.

``compared_rows.py`` looks at the prepared rows, ``compared_numbers.py`` at what was computed of them; here are the
inputs and the order, from cause to effect: the first difference is the one that explains those behind it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from finetune_api.digest import spec_digest
from finetune_api.job import FineTuneJobSpec
from finetune_api.templates import LIBRARY
from finetune_api.uris import HUB_ROWS
from finetune_trainer.output.compared_numbers import compare_numbers
from finetune_trainer.output.compared_rows import compare_rows
from finetune_trainer.output.finding import Finding, Result, different, not_compared, same
from finetune_trainer.output.folder import changed, missing
from finetune_trainer.output.manifest import Manifest

__all__ = ["compare", "differing_inputs", "given_uris"]

_BY_CONTENT: Final = ("file://", "pvc://")
"""Schemes whose revisions are digests of content, so that places of both can be compared."""
_ELSEWHERE: Final = ("image", "modelRevision", "adapterRevision", "templateDigest")
"""Keys of ``resolved`` that are looked at by themselves, or say nothing about the result."""


def compare(original: Result, again: Result, folder: Path) -> list[Finding]:
    """Compare two results.

    Parameters
    ----------
    original, again
        The result that somebody believes, and that of the rerun.
    folder
        Scratch folder; must exist.

    Returns
    -------
    list[Finding]
        From cause to effect.

    Raises
    ------
    StageError
        AccessDenied, StorageUnavailable.
    """
    then, now = original.manifest, again.manifest
    return [
        *_spec(then),
        _stored(original),
        *_revisions(then, now),
        *_inputs(then, now),
        *_texts(then, now),
        *_settings(then, now),
        *compare_rows(original, again, folder),
        *compare_numbers(original, again),
    ]


def differing_inputs(
    then: Manifest, spec: FineTuneJobSpec, *, inputs: Mapping[str, str], model_revision: str
) -> list[Finding]:
    """Return what is known to differ once model and rows have been fetched, before anything is computed of them.

    Parameters
    ----------
    spec, inputs, model_revision
        The rerun's spec, the digests of what it read by field, and the revision of its model.
    """
    before, places = _spec_of(then), given_uris(spec)
    found = [_revision("model.uri", (before.model.uri, then.model_revision), (spec.model.uri, model_revision))]
    for field, uri in given_uris(before).items():
        if field in then.inputs and field in inputs:
            found.append(_input(field, (uri, then.inputs[field]), (places[field], inputs[field]), "digest"))
    return [finding for finding in found if finding.state == "Different"]


def given_uris(spec: FineTuneJobSpec) -> dict[str, str]:
    """Return the URIs of the rows by their fields, such as ``dataset.files.test``."""
    dataset = spec.dataset
    if dataset.sources is not None:
        return {f"dataset.sources[{number}].uri": one.uri for number, one in enumerate(dataset.sources)}
    if dataset.files is not None:
        files = {part: getattr(dataset.files, part) for part in ("train", "validation", "test")}
        return {f"dataset.files.{part}": uri for part, uri in files.items() if uri is not None}
    return {"dataset.uri": dataset.uri} if dataset.uri is not None else {}


def _spec(then: Manifest) -> Iterator[Finding]:
    """Hold the original's spec against the digest and the seed that its manifest tells beside it."""
    spec = _spec_of(then)
    document = then.template.document if then.template else None
    seed = spec.training.seed
    if then.seed is not None and then.seed != seed:
        yield different("spec", f"manifest.json tells the seed {then.seed}, and its spec has training.seed {seed}")
    elif spec_digest(spec, template=document) != then.report.spec_digest:
        yield different(
            "spec",
            "the spec in manifest.json is not the one that its specDigest names: it was changed afterwards, or another "
            "version of the trainer reads it otherwise",
        )
    else:
        yield same("spec", "has the digest that manifest.json tells")


def _stored(original: Result) -> Finding:
    """Hold what lies there against what the manifest lists; large files by their size."""
    files = original.manifest.files
    if (text := changed(original.store, files)) is not None:
        return different("files", f"{text}, says manifest.json")
    gone = missing(original.store, files)
    if gone:
        return not_compared("files", f"{len(gone)} of {len(files)} files are gone, such as {gone[0]}")
    return same("files", f"all {len(files)} are those that manifest.json lists")


def _revisions(then: Manifest, now: Manifest) -> Iterator[Finding]:
    before, after = _spec_of(then).model, _spec_of(now).model
    yield _revision("model.uri", (before.uri, then.model_revision), (after.uri, now.model_revision))
    if before.adapter is not None and after.adapter is not None:
        yield _revision(
            "model.adapter.uri", (before.adapter.uri, then.adapter_revision), (after.adapter.uri, now.adapter_revision)
        )


def _revision(field: str, then: tuple[str, str | None], now: tuple[str, str | None]) -> Finding:
    (place, revision), (other, found) = then, now
    if revision == found:
        return same(field, f"revision {found}")
    if revision is None:
        return not_compared(field, "the version that wrote the manifest told no revision")
    if place == other or (place.startswith(_BY_CONTENT) and other.startswith(_BY_CONTENT)):
        return different(field, f"{_changed(place, other)}: revision {found}, and it was {revision}")
    return not_compared(
        field,
        f"revisions of {place} and {other} are of different kinds; if the untouched model answers alike, it is it",
    )


def _inputs(then: Manifest, now: Manifest) -> Iterator[Finding]:
    """Rows by what was read, by digest; those of a hub by their commit."""
    commits = (_commits(then), _commits(now))
    places = given_uris(_spec_of(now))
    for field, uri in given_uris(_spec_of(then)).items():
        if uri.startswith(HUB_ROWS):
            before, after = (found.get(field, found.get("")) for found in commits)
            kind = "commit"
        else:
            before, after, kind = then.inputs.get(field), now.inputs.get(field), "digest"
        if before is None:
            yield not_compared(field, f"the version that wrote the manifest told no {kind} of what it read")
        elif after is None:
            yield not_compared(field, f"{uri} was read then, and now a place of another kind, which has no {kind}")
        else:
            yield _input(field, (uri, before), (places.get(field, uri), after), kind)


def _input(field: str, then: tuple[str, str], now: tuple[str, str], kind: str) -> Finding:
    (place, before), (other, after) = then, now
    if before == after:
        return same(field, f"{kind} {after}")
    return different(field, f"{_changed(place, other)}: {kind} {after}, and it was {before}")


def _changed(place: str, other: str) -> str:
    """Say that something else was read; a place that nobody read again isn't said to have changed."""
    return f"{other} has changed since" if place == other else f"{other} holds something else than {place} did then"


def _commits(manifest: Manifest) -> dict[str, str]:
    """Commits of a hub's datasets by field; under the empty name the one of all."""
    data = manifest.report.dataset
    if data is None:
        return {}
    found = {
        f"dataset.sources[{number}].uri": source.revision
        for number, source in enumerate(data.sources or [])
        if source.revision is not None
    }
    return found or ({"": data.revision} if data.revision is not None else {})


def _texts(then: Manifest, now: Manifest) -> Iterator[Finding]:
    name = _spec_of(then).dataset.template.name
    whose = f"template {name} of the library" if name in LIBRARY else "the template"
    for subject, before, after, words in (
        ("template", then.template_digest, now.template_digest, f"{whose} has another text in this version"),
        ("tokenizer", then.tokenizer_digest, now.tokenizer_digest, "the model's tokenizer is another one"),
    ):
        if before is None:
            yield not_compared(subject, "the version that wrote the manifest told no digest of it")
        elif before == after:
            yield same(subject, f"digest {after}")
        else:
            yield different(subject, f"{words}: digest {after}, and it was {before}")


def _settings(then: Manifest, now: Manifest) -> Iterator[Finding]:
    """What was chosen where the spec left a choice, as far as the original tells it."""
    before, after = (_resolved(manifest) for manifest in (then, now))
    if not before:
        yield not_compared("settings", "the version that wrote the manifest told none")
        return
    differing = [
        f"{key} {after.get(key)}, and it was {value}" for key, value in before.items() if after.get(key) != value
    ]
    if differing:
        yield different("settings", "; ".join(differing))
    else:
        yield same("settings", ", ".join(sorted(before)))


def _resolved(manifest: Manifest) -> dict[str, Any]:
    resolved = manifest.report.resolved
    return {key: value for key, value in resolved.to_wire().items() if key not in _ELSEWHERE} if resolved else {}


def _spec_of(manifest: Manifest) -> FineTuneJobSpec:
    return FineTuneJobSpec.model_validate(dict(manifest.spec), context={"local": True})
