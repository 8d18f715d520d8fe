"""From a manifest to the same job once more: what its spec left open is settled as it was settled then.

Above ``input.py``, which reads a job that nobody has run yet; ``reproduce.py`` runs what comes out and compares.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from finetune_api.dataset import Dataset
from finetune_api.job import Adapter, Evaluation, FineTuneJobSpec, Model, Training
from finetune_api.names import DATA_DIR, mount_path
from finetune_api.reasons import Reason
from finetune_api.runtime import ResolvedStorage
from finetune_api.stage import JobIdentity, StageInput
from finetune_api.status import Resolved
from finetune_api.uris import MOUNTED, hub_rows, parse_uri
from finetune_trainer.errors import StageError
from finetune_trainer.output.comparison import given_uris
from finetune_trainer.output.manifest import Manifest

__all__ = ["rerun_of"]

_COMMIT: Final = re.compile("[0-9a-f]{40}")

Placed = TypeVar("Placed", Model, Adapter)


def rerun_of(
    manifest: Manifest, *, output: Path, places: Mapping[str, str], cpu: bool, storage: ResolvedStorage
) -> StageInput:
    """Return what runs the manifest's job once more, in one stage.

    What was left to choose is what was chosen then; what lies on a hub is taken at the commit that was read; a template
    is the text that it was. What judges a result without changing it is left out, since there is one already.

    Parameters
    ----------
    output
        Folder for the result.
    places
        Where inputs lie now, by the field of the spec that names them.
    cpu
        Compute on the CPU, whatever computed then.

    Raises
    ------
    StageError
        InvalidSpec: the manifest's spec is none of this version's; a field of ``places`` is none of the spec; an input
        lies where only pods of a cluster can read it.
    """
    spec = _spec(manifest)
    text, places = _template_text(spec, manifest.template_source, places)
    _check_places(spec, places, text)
    resolved = manifest.report.resolved or Resolved()
    on_cpu = cpu or manifest.machine.get("device") == "cpu"
    settled = spec.model_copy(
        update={
            "model": _model(spec.model, manifest, places),
            "dataset": _dataset(spec.dataset, manifest, places),
            "training": _training(spec.training, resolved),
            "evaluation": _evaluation(spec.evaluation, resolved),
            "output": spec.output.model_copy(update={"uri": f"file://{output}/", "if_exists": "Fail"}),
            **({"resources": spec.resources.model_copy(update={"gpus_per_node": 0})} if on_cpu else {}),
        }
    )
    return StageInput(
        stage="train",
        includes_prepare=True,
        job=JobIdentity(
            namespace="", name=manifest.job.name, uid="rerun-" + manifest.digest.removeprefix("sha256:")[:32]
        ),
        spec=settled,
        spec_digest=manifest.report.spec_digest,
        output_uri=f"file://{output}/",
        storage=storage,
        template=manifest.template,
        template_source=text,
    )


def _uris_of(spec: FineTuneJobSpec) -> dict[str, str]:
    """Return what a job reads, by the field that names it."""
    found = {"model.uri": spec.model.uri}
    if spec.model.adapter is not None:
        found["model.adapter.uri"] = spec.model.adapter.uri
    found |= given_uris(spec)
    return found | (dict([spec.dataset.template.file]) if spec.dataset.template.file else {})


def _spec(manifest: Manifest) -> FineTuneJobSpec:
    try:
        return FineTuneJobSpec.model_validate(dict(manifest.spec), extra="forbid", context={"local": True})
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in ("spec", *first["loc"]))
        wrote = str(manifest.versions.get("finetune-operator", "unknown"))[:40]
        raise StageError(
            Reason.INVALID_SPEC,
            f"manifest.json: {place}: {first['msg']}; it was written by version {wrote}, so reproduce it with that one",
            tells_mend=True,
        ) from None


def _template_text(
    spec: FineTuneJobSpec, kept: str | None, places: Mapping[str, str]
) -> tuple[str | None, dict[str, str]]:
    """Return the text of the template's file, and the places without it; a manifest of before doesn't hold it."""
    rest = dict(places)
    field = spec.dataset.template.file[0] if spec.dataset.template.file else None
    given = rest.pop(field, None) if field is not None else None
    if kept is not None or given is None:
        return kept, rest
    try:
        return Path(parse_uri(given).path).read_text(encoding="utf-8-sig"), rest
    except (OSError, ValueError) as error:
        raise StageError(
            Reason.INVALID_SPEC, f"--at {field}={given} can't be read: {error}; give a file:// URI", tells_mend=True
        ) from None


def _check_places(spec: FineTuneJobSpec, places: Mapping[str, str], text: str | None) -> None:
    named = _uris_of(spec)
    for field in places:
        if field not in named:
            raise StageError(
                Reason.INVALID_SPEC,
                f"--at {field}: the job reads nothing by that field; it has {', '.join(named)}",
                tells_mend=True,
            )
    file = spec.dataset.template.file
    away = {
        field: uri
        for field, uri in named.items()
        if field not in places and not (text is not None and file is not None and field == file[0]) and _is_away(uri)
    }
    if away:
        listed = " and ".join(f"{field} ({uri})" for field, uri in away.items())
        options = " ".join(f"--at {field}=file:///…" for field in away)
        raise StageError(
            Reason.INVALID_SPEC,
            f"{listed}: mounted into the pods of a cluster alone; copy it here and say where: {options}",
            tells_mend=True,
        )


def _is_away(uri: str) -> bool:
    """Whether only a pod has it, and this is none."""
    try:
        parsed = parse_uri(uri)
    except ValueError:
        return False  # whoever opens it says what is wrong
    return parsed.scheme in MOUNTED and not Path(mount_path(parsed.scheme, parsed.host, DATA_DIR)).is_dir()


def _model(model: Model, manifest: Manifest, places: Mapping[str, str]) -> Model:
    settled = _at_revision(model, "model.uri", manifest.model_revision, places)
    if model.adapter is None:
        return settled
    adapter = _at_revision(model.adapter, "model.adapter.uri", manifest.adapter_revision, places)
    return settled.model_copy(update={"adapter": adapter})


def _at_revision(one: Placed, field: str, revision: str | None, places: Mapping[str, str]) -> Placed:
    """A model or adapter where it lies now; one of a hub at the commit that was read."""
    uri = places.get(field, one.uri)
    pinned = revision if uri.startswith("hf://") and revision and _COMMIT.fullmatch(revision) else None
    return one.model_copy(update={"uri": uri, "revision": pinned or (one.revision if uri == one.uri else None)})


def _dataset(dataset: Dataset, manifest: Manifest, places: Mapping[str, str]) -> Dataset:
    data = manifest.report.dataset
    commits = [source.revision for source in (data.sources if data else None) or []]
    whole = data.revision if data else None

    def settle(field: str, uri: str, commit: str | None) -> str:
        return places[field] if field in places else _pinned(uri, commit)

    if dataset.sources is not None:
        sources = [
            one.model_copy(update={"uri": settle(f"dataset.sources[{number}].uri", one.uri, commit)})
            for number, (one, commit) in enumerate(zip(dataset.sources, [*commits, *[None] * 64], strict=False))
        ]
        return dataset.model_copy(update={"sources": sources})
    if dataset.files is not None:
        parts = {part: getattr(dataset.files, part) for part in ("train", "validation", "test")}
        files = {p: settle(f"dataset.files.{p}", uri, whole) for p, uri in parts.items() if uri is not None}
        return dataset.model_copy(update={"files": dataset.files.model_copy(update=files)})
    return dataset.model_copy(update={"uri": settle("dataset.uri", dataset.uri or "", whole)})


def _pinned(uri: str, commit: str | None) -> str:
    """Name the commit of a dataset of a hub; a digest over several commits names none."""
    place = hub_rows(uri)
    if place is None or commit is None or not _COMMIT.fullmatch(commit):
        return uri
    return str(type(place)(repo=place.repo, config=place.config, revision=commit, split=place.split))


def _training(training: Training, resolved: Resolved) -> Training:
    chosen = ("precision", "learning_rate", "batch_size", "select_by")
    return training.model_copy(update=_told(resolved, chosen))


def _evaluation(evaluation: Evaluation, resolved: Resolved) -> Evaluation:
    gates = {"min_score": None, "min_gain": None, "fail_on": None}
    return evaluation.model_copy(update={**_told(resolved, ("metric", "stop")), **gates})


def _told(resolved: Resolved, names: tuple[str, ...]) -> dict[str, Any]:
    """Return those that the report tells."""
    return {name: value for name in names if (value := getattr(resolved, name)) is not None}
