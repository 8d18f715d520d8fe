"""Runs the job of a finished result once more, and says what came out the same and what differs first.

The rerun goes through the stages that ``finetune-trainer run`` goes through; ``rerun.py`` settles what was left open,
``output/comparison.py`` compares.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from finetune_api.reasons import EXIT_DIFFERENT, EXIT_LAST_DIGITS, Reason
from finetune_trainer.errors import StageError
from finetune_trainer.job.input import local_storage
from finetune_trainer.job.rerun import rerun_of
from finetune_trainer.job.run import exit_code, failure_of, run_stage
from finetune_trainer.output.comparison import compare, differing_inputs
from finetune_trainer.output.finding import Finding, Result
from finetune_trainer.output.folder import MANIFEST, OWNER
from finetune_trainer.output.manifest import Manifest, read_manifest
from finetune_trainer.output.surroundings import Change, changes
from finetune_trainer.process.console import Console
from finetune_trainer.process.environment import Environment
from finetune_trainer.process.interrupt import Interrupt, Interrupted
from finetune_trainer.storage.access import Access
from finetune_trainer.storage.local import LocalStore
from finetune_trainer.storage.store import Store

__all__ = ["Request", "reproduce"]

_STATES: Final = {"Same": "same", "Different": "DIFFERENT", "NotCompared": "not compared"}
_COPIES: Final = 3
"""Of a model's files that lie on the disk at once: written, stored, and read back."""
_GOES_ON: Final = "the rerun goes on, to say what follows from it; stop it if nothing else was meant to be read"
"""After an input that differs. A file that was only written otherwise still gives the same rows and weights."""
_THREADS: Final = "OMP_NUM_THREADS"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be reproduced, and how.

    Attributes
    ----------
    uri
        The folder of a finished result.
    into
        Keeps the rerun's result; None lets it go.
    work_dir
        Exists; scratch folders lie below it.
    places
        Where inputs lie now, by the field of the spec that names them.
    cpu
        Compute on the CPU, whatever computed then.
    digest
        What ``manifest.json`` must have, such as ``status.manifestDigest``.
    """

    uri: str
    work_dir: Path
    into: Path | None = None
    places: Mapping[str, str] = field(default_factory=dict)
    cpu: bool = False
    digest: str | None = None


def reproduce(request: Request, *, console: Console, interrupt: Interrupt) -> int:
    """Run it once more, compare and tell.

    Returns
    -------
    int
        0: all that was compared is the same; ``EXIT_DIFFERENT``, ``EXIT_LAST_DIGITS``; or the code of the reason why it
        could not be run again.

    Raises
    ------
    Interrupted
        The process was told to stop.
    """
    try:
        with tempfile.TemporaryDirectory(dir=request.work_dir, prefix="reproduce-") as scratch:
            return _reproduce(request, Path(scratch), console, interrupt)
    except StageError as error:
        failure_of(error, console, local=True)
        return error.exit_code
    except Interrupted:
        if request.into is None:
            console.event(
                "state_let_go", "without --into nothing keeps its state; run again, it begins anew", level="warning"
            )
        raise


def _reproduce(request: Request, scratch: Path, console: Console, interrupt: Interrupt) -> int:
    environment = Environment(credentials_dir=scratch / "no-credentials", work_dir=request.work_dir)
    storage = local_storage()
    access = Access(storage=storage, credentials_dir=environment.credentials_dir, scratch=scratch)
    uri = request.uri.removesuffix(MANIFEST)
    store = access.open("output", uri if uri.endswith("/") else uri + "/", "the result's URI")
    original = Result(manifest=_manifest(store, request.digest), store=store)
    output = _folder(request.into) if request.into is not None else scratch / "out"
    stage_input = rerun_of(original.manifest, output=output, places=request.places, cpu=request.cpu, storage=storage)
    _check_room(original.manifest, output if request.into else request.work_dir)
    _check_device(original.manifest, gpus=stage_input.spec.resources.gpus_per_node)

    def tell_inputs(inputs: Mapping[str, str], model_revision: str) -> None:
        told = differing_inputs(original.manifest, stage_input.spec, inputs=inputs, model_revision=model_revision)
        for finding in told:
            text = f"{finding.subject}: {finding.text}; {_GOES_ON}"
            console.event("input_differs", text, level="warning", subject=finding.subject)

    with _threads_of(original.manifest):
        report = run_stage(
            stage_input,
            environment=environment,
            console=console,
            fresh=True,
            interrupt=interrupt,
            on_inputs=tell_inputs,
        )
    if report.failure is not None:
        return exit_code(report)
    own = LocalStore(role="output", folder=output)
    again = Result(manifest=_manifest(own, report.digest), store=own)
    compared = scratch / "compared"
    compared.mkdir()
    with console.step("compare", "compare the two results"):
        findings = compare(original, again, compared)
    return _tell(findings, changes(original.manifest, again.manifest), again, request, console)


def _manifest(store: Store, digest: str | None) -> Manifest:
    """Read the manifest of a complete result.

    Raises
    ------
    StageError
        VerificationFailed: there is none, it is none of a finished job, or not the expected one.
    """
    if store.size(MANIFEST) is None:
        unfinished = store.size(OWNER) is not None
        why = "a job has begun there and not finished" if unfinished else "no job has finished there"
        raise StageError(
            Reason.VERIFICATION_FAILED,
            f"{store.uri} has no {MANIFEST}: {why}; name the output.uri of a job that has Succeeded (status.outputUri)",
            tells_mend=True,
        )
    manifest = read_manifest(store.get_bytes(MANIFEST))
    if manifest is None:
        raise StageError(
            Reason.VERIFICATION_FAILED,
            f"{store.uri}{MANIFEST} is not the manifest of a finished job; name the output.uri of one",
            tells_mend=True,
        )
    if digest is not None and manifest.digest != digest:
        raise StageError(
            Reason.VERIFICATION_FAILED,
            f"{store.uri}{MANIFEST} has the digest {manifest.digest}, and {digest} was expected; it was changed, or "
            "another job has written there since",
            tells_mend=True,
        )
    return manifest


def _folder(into: Path) -> Path:
    """Return the folder that keeps the rerun's result; one that was begun and not finished is gone on with.

    Raises
    ------
    StageError
        OutputExists: there is a result already.
    """
    folder = into.resolve()
    if (folder / MANIFEST).exists():
        raise StageError(
            Reason.OUTPUT_EXISTS, f"--into {into} holds a result already; name an empty folder", tells_mend=True
        )
    return folder


def _check_room(manifest: Manifest, place: Path) -> None:
    """Make sure before hours of training that the disk takes the result.

    Raises
    ------
    StageError
        ArtifactUploadFailed, with what is needed and what there is.
    """
    model = sum(entry.bytes for entry in manifest.files if entry.path.startswith(("model/", "adapter/")))
    needed = _COPIES * model + sum(entry.bytes for entry in manifest.files)
    there = next(folder for folder in (place, *place.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise StageError(
            Reason.ARTIFACT_UPLOAD_FAILED,
            f"the rerun needs {needed} bytes of disk besides its model and rows, and {there} has {free}; name another "
            "place with --work-dir and --into",
            tells_mend=True,
        )


def _check_device(manifest: Manifest, *, gpus: int) -> None:
    from torch import cuda  # noqa: PLC0415 - takes seconds; a URI that is wrong is told before

    if gpus and not cuda.is_available():
        known = "ran on a GPU" if manifest.machine.get("device") == "cuda" else "asked for a GPU"
        raise StageError(
            Reason.INVALID_SPEC,
            f"the job {known}, and none works here; --cpu computes on the CPU, where the last digits of losses differ",
            tells_mend=True,
        )


@contextmanager
def _threads_of(manifest: Manifest) -> Iterator[None]:
    """Compute with as many threads as then, if the machine has so many and nobody asks for another number."""
    threads = manifest.machine.get("threads")
    if _THREADS in os.environ or not isinstance(threads, int):
        yield
        return
    os.environ[_THREADS] = str(threads)
    try:
        yield
    finally:
        del os.environ[_THREADS]


def _tell(
    findings: Sequence[Finding], surroundings: Sequence[Change], again: Result, request: Request, console: Console
) -> int:
    """Tell each finding, the surroundings and the sum of all."""
    if console.interactive:
        rows = [(finding.subject, f"{_STATES[finding.state]:<12}  {finding.text}") for finding in findings]
        rows += [("surroundings", f"{'changed':<12}  {change}") for change in surroundings]
        rows += [("result", f"file://{request.into.resolve()}/")] if request.into else []
        console.table(rows)
    else:
        for finding in findings:
            console.event(
                "compared",
                f"{finding.subject}: {finding.text}",
                level="warning" if finding.state == "Different" else "info",
                subject=finding.subject,
                state=finding.state,
                **({"largest_difference": finding.largest} if finding.largest is not None else {}),
            )
        for change in surroundings:
            console.event("surroundings_differ", str(change), name=change.name, then=change.then, now=change.now)
    code, sentence = _verdict(findings, surroundings, gpu=again.manifest.machine.get("device") == "cuda")
    event = "reproduced" if code == 0 else "not_reproduced"
    console.event(event, sentence, level="warning" if code else "info")
    return code


def _verdict(findings: Sequence[Finding], surroundings: Sequence[Change], *, gpu: bool) -> tuple[int, str]:
    """Sum up in a sentence; the first difference is the one that explains those behind it."""
    differing = [finding for finding in findings if finding.state == "Different"]
    unknown = [finding.subject for finding in findings if finding.state == "NotCompared"]
    rest = f"; not compared: {', '.join(unknown)}" if unknown else ""
    where = "; ".join(str(change) for change in surroundings)
    if not differing:
        elsewhere = f", though the surroundings differ ({where})" if where else ""
        return 0, f"reproduced: all that was compared is the same{elsewhere}{rest}"
    first = differing[0]
    told = f"{first.subject}: {first.text}"
    if not first.arithmetic or not (surroundings or gpu):
        beside = f" (the surroundings differ too: {where})" if where else ""
        return EXIT_DIFFERENT, f"not reproduced; what differs first is {told}{beside}{rest}"
    why = f"the surroundings differ ({where})" if where else "a GPU adds in another order each time"
    largest = [finding.largest for finding in differing if finding.subject == "losses" and finding.largest is not None]
    most = f"; the largest difference of a loss is {largest[0]:.3g}" if largest else ""
    return (
        EXIT_LAST_DIGITS,
        f"split and rows are the same, and computed numbers differ, which may be because {why}: {told}{most}{rest}",
    )
