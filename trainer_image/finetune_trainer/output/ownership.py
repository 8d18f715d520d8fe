"""Who may write at output.uri: the job that claimed it first, until one with ``ifExists: Overwrite`` takes it.

``owner.json`` decides. It is written with If-None-Match, so of several jobs that come at once exactly one gets an empty
folder. Taking it over is not conditional, since not every store can replace a file only if it is still the one that was
read; of two jobs that overwrite at once, the later write wins, and the loser finds out at its next check: before train
begins, before each checkpoint and each upload of results, before and after ``manifest.json`` is written.

A job that is applied again after it failed has another uid, and the same namespace, name and spec. It goes on with
what the failed one left: ``owner.json`` then names whose work it continues. In one cluster the two are never there at
once; of two clusters that share a folder and a name the later one goes on, and the other finds out at its next check.

What remains open: an upload that is under way when the folder is taken can't be called back, so for as long as it lasts
it may replace a file of the new owner. Whoever takes a result is safe all the same, by the digests in manifest and
status. And a job that loses the folder after its last check has succeeded: its result was complete before it was
replaced.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final, Literal

from finetune_api.digest import canonical_json
from finetune_api.reasons import Reason
from finetune_api.stage import JobIdentity
from finetune_trainer.errors import StageError
from finetune_trainer.output.folder import MANIFEST, OWNER, clear, is_log
from finetune_trainer.output.manifest import Manifest, read_manifest
from finetune_trainer.storage.store import Store

__all__ = ["EarlierResult", "check_owner", "claim", "describe_job", "predecessors", "publish_manifest", "release"]

IfExists = Literal["Reuse", "Fail", "Overwrite"]

_REMEMBERED: Final = 16
"""Earlier owners that ``owner.json`` names, newest last."""

_LOOKED_AT: Final = 100
"""More files than there are logs."""

_PLAIN: Final = re.compile(r"[A-Za-z0-9./-]{1,128}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Owner:
    """``owner.json``; empty words where somebody else's file says nothing usable."""

    uid: str
    job: str
    spec_digest: str = ""
    replaced: tuple[str, ...] = ()
    continues: tuple[str, ...] = ()

    def __str__(self) -> str:
        return _words(self.job, self.uid)


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierResult:
    """A complete result that fills the folder; whether it can stand for ours is not decided yet.

    ``owner`` says whose it is, in words.
    """

    owner: str
    manifest: Manifest


def claim(
    store: Store, job: JobIdentity, *, spec_digest: str, if_exists: IfExists, again: bool = False
) -> EarlierResult | None:
    """Take the folder for this job, or find that it has it already.

    A folder of the same job is its own whatever ``if_exists`` says. Of others, Overwrite takes every folder, the rest
    an empty one, and one that a job of the same name and spec left without a result: files without an owner may be
    somebody's model.

    Parameters
    ----------
    again
        A person starts the job anew, and what it completed before is met like another job's. False in a pod: there it
        is this attempt's own, and a job overwrites once, so two of them don't take the folder from each other for ever.

    Returns
    -------
    EarlierResult | None
        None: the folder is ours. Else a complete result that is not, with Reuse only; nothing was written then.

    Raises
    ------
    StageError
        OutputExists, naming the folder, its owner and the mend; AccessDenied, StorageUnavailable.
    """
    owner = _read(store)
    if owner is None:
        strangers = _beside_logs(store)
        # Another attempt of this job may have come in between; then the owner's name decides below.
        if strangers and (owner := _read(store)) is None:
            if if_exists != "Overwrite":
                raise _exists(
                    f"{store.uri} holds files that no job wrote, such as {strangers[0][:200]!r}; set "
                    "output.ifExists: Overwrite to take the folder all the same"
                )
            _take(store, job, spec_digest, None)
            return None
    if owner is None:
        store.put_bytes(OWNER, _document(job, spec_digest), if_none_match=True)
        # Read back even after a successful write: not every store honours the condition.
        owner = _parse(store.get_bytes(OWNER))
    ours = owner.uid == job.uid
    if ours and not (again and store.size(MANIFEST) is not None):
        return None
    if if_exists == "Overwrite":
        if job.uid in owner.replaced and not again:
            raise _lost(store, owner)
        _take(store, job, spec_digest, owner)
        return None
    if not ours and _is_the_same_again(owner, job, spec_digest) and store.size(MANIFEST) is None:
        if job.uid in owner.replaced:
            raise _lost(store, owner)
        _go_on(store, job, spec_digest, owner)
        return None
    return _earlier(store, owner, if_exists, whose="an earlier run of this job" if ours else f"another job ({owner})")


def release(store: Store, job: JobIdentity) -> None:
    """Give a folder back in which this job has stored nothing, so that a corrected one may take it.

    One that was taken from another job stays ours: ``owner.json`` says whom we replaced.
    """
    if _beside_logs(store) != [OWNER]:
        return
    owner = _parse(store.get_bytes(OWNER))
    if owner.uid == job.uid and not owner.replaced:
        store.delete(OWNER)


def _beside_logs(store: Store) -> list[str]:
    """Return some of the files in the folder that are no logs, so that logs alone don't make it taken."""
    return [file.key for file in store.list(limit=_LOOKED_AT) if not is_log(file.key)]


def _earlier(store: Store, owner: _Owner, if_exists: IfExists, *, whose: str) -> EarlierResult:
    manifest = read_manifest(store.get_bytes(MANIFEST)) if store.size(MANIFEST) is not None else None
    # A job that has lost the folder may have left its manifest there; the owner's own counts.
    if manifest is None or manifest.job.uid != owner.uid:
        raise _exists(
            f"{store.uri} holds files of {whose} and no complete result of it; let that job finish if it "
            "runs, name another output.uri, or set output.ifExists: Overwrite to replace them"
        )
    if if_exists == "Fail":
        raise _exists(
            f"{store.uri} holds the complete result of {whose}, and output.ifExists is Fail; set "
            "output.ifExists: Reuse to take a result of the same spec, model and rows, or Overwrite to replace it"
        )
    return EarlierResult(owner=whose, manifest=manifest)


def _take(store: Store, job: JobIdentity, spec_digest: str, owner: _Owner | None) -> None:
    """Make the folder ours: first it is no longer complete, then it is no longer theirs, then their files go.

    Stopped in between, the job comes back as the owner of a folder without prepared rows of its own, and whoever
    prepares rows clears the folder first.
    """
    store.delete(MANIFEST)
    replaced = (*owner.replaced, owner.uid)[-_REMEMBERED:] if owner else ()
    store.put_bytes(OWNER, _document(job, spec_digest, replaced), if_none_match=owner is None)
    check_owner(store, job)
    clear(store)


def _is_the_same_again(owner: _Owner, job: JobIdentity, spec_digest: str) -> bool:
    """Tell whether the owner was applied as this job is: by namespace, name and spec."""
    return bool(job.namespace) and (owner.job, owner.spec_digest) == (f"{job.namespace}/{job.name}", spec_digest)


def _go_on(store: Store, job: JobIdentity, spec_digest: str, owner: _Owner) -> None:
    """Make the folder ours with all that lies there."""
    replaced = (*owner.replaced, owner.uid)[-_REMEMBERED:]
    continues = (*owner.continues, owner.uid)[-_REMEMBERED:]
    store.put_bytes(OWNER, _document(job, spec_digest, replaced, continues))
    check_owner(store, job)


def predecessors(store: Store) -> tuple[str, ...]:
    """Return the uids of the jobs whose work the owner of a folder goes on with."""
    owner = _read(store)
    return owner.continues if owner is not None else ()


def check_owner(store: Store, job: JobIdentity) -> None:
    """Make sure that the folder is still this job's.

    Raises
    ------
    StageError
        OutputExists, naming who took it; VerificationFailed when ``owner.json`` is gone.
    """
    owner = _parse(store.get_bytes(OWNER))
    if owner.uid != job.uid:
        raise _lost(store, owner)


def publish_manifest(store: Store, job: JobIdentity, data: bytes) -> None:
    """Write ``manifest.json``, which makes the result complete, unless the folder is no longer this job's.

    Raises
    ------
    StageError
        OutputExists: another job took the folder, before or meanwhile; VerificationFailed: something else was read
        back.
    """
    check_owner(store, job)
    store.put_bytes(MANIFEST, data)
    try:
        check_owner(store, job)
    except StageError:
        if store.size(MANIFEST) is not None and store.get_bytes(MANIFEST) == data:
            store.delete(MANIFEST)
        raise
    if store.get_bytes(MANIFEST) != data:
        raise StageError(Reason.VERIFICATION_FAILED, f"{store.uri}{MANIFEST} is not what was written there")


def describe_job(job: JobIdentity) -> str:
    """Name the job of somebody else's document; only plain words of it are repeated."""
    return _words(f"{job.namespace}/{job.name}".strip("/"), job.uid)


def _words(*values: str) -> str:
    return ", ".join(value for value in values if _PLAIN.fullmatch(value)) or "unknown owner"


def _document(
    job: JobIdentity, spec_digest: str, replaced: tuple[str, ...] = (), continues: tuple[str, ...] = ()
) -> bytes:
    name = f"{job.namespace}/{job.name}".strip("/")
    owner: dict[str, Any] = {"jobUid": job.uid, "job": name, "specDigest": spec_digest}
    lists = {"replaced": replaced, "continues": continues}
    return canonical_json(owner | {key: uids for key, uids in lists.items() if uids})


def _read(store: Store) -> _Owner | None:
    return None if store.size(OWNER) is None else _parse(store.get_bytes(OWNER))


def _parse(data: bytes) -> _Owner:
    """Read an owner; the file may have been written by anybody."""
    try:
        value: Any = json.loads(data)
    except ValueError:
        value = None
    document: dict[str, Any] = value if isinstance(value, dict) else {}
    return _Owner(
        uid=str(document.get("jobUid", "")),
        job=str(document.get("job", "")),
        spec_digest=str(document.get("specDigest", "")),
        replaced=_uids(document.get("replaced")),
        continues=_uids(document.get("continues")),
    )


def _uids(value: Any) -> tuple[str, ...]:
    return tuple(str(one) for one in value[-_REMEMBERED:]) if isinstance(value, list) else ()


def _exists(text: str) -> StageError:
    return StageError(Reason.OUTPUT_EXISTS, f"output.uri: {text}")


def _lost(store: Store, owner: _Owner) -> StageError:
    return _exists(f"{store.uri} was taken over by another job ({owner})")
