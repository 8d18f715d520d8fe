"""One job owns a folder, until another is told to overwrite it."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import pytest

from finetune_api.reasons import Reason
from finetune_api.report import StageReport
from finetune_api.stage import JobIdentity
from finetune_api.status import Results, Score
from finetune_trainer.errors import StageError
from finetune_trainer.output.folder import MANIFEST, OWNER
from finetune_trainer.output.ownership import (
    EarlierResult,
    check_owner,
    claim,
    describe_job,
    predecessors,
    publish_manifest,
    release,
)
from finetune_trainer.storage.access import Access
from finetune_trainer.storage.store import Store

DIGEST = "sha256:" + "5" * 64
SCORE = Score(score="0.5", correct=1, total=2)
REPORT = StageReport(
    stage="train",
    spec_digest=DIGEST,
    results=Results(metric="ChoiceAccuracy", baseline=SCORE, test=SCORE, gain="+0.0"),
)

IfExists = Literal["Reuse", "Fail", "Overwrite"]
EVERY: tuple[IfExists, ...] = ("Reuse", "Fail", "Overwrite")


@pytest.fixture(params=["s3", "file"])
def store(request: pytest.FixtureRequest, access: Access, tmp_path: Path) -> Store:
    if request.param == "s3":
        return access.open("output", f"s3://{request.getfixturevalue('bucket')}/out/")
    return access.open("output", f"file://{tmp_path}/out/")


NAMES = {"uid-1": "mine", "applied-again": "mine"}
"""Every other job has its uid for a name."""


def job(uid: str = "uid-1") -> JobIdentity:
    return JobIdentity(namespace="team-a", name=NAMES.get(uid, uid), uid=uid)


def take(
    store: Store,
    uid: str = "uid-1",
    if_exists: IfExists = "Reuse",
    *,
    again: bool = False,
    spec_digest: str = DIGEST,
) -> EarlierResult | None:
    return claim(store, job(uid), spec_digest=spec_digest, if_exists=if_exists, again=again)


def refusal(store: Store, uid: str = "uid-2", if_exists: IfExists = "Reuse") -> str:
    before = listing(store)
    with pytest.raises(StageError) as caught:
        take(store, uid, if_exists)
    assert caught.value.reason is Reason.OUTPUT_EXISTS
    assert caught.value.message.startswith(f"output.uri: {store.uri} ")
    assert listing(store) == before
    return caught.value.message


def listing(store: Store) -> dict[str, bytes]:
    return {file.key: store.get_bytes(file.key) for file in store.list()}


def manifest(uid: str = "uid-1") -> bytes:
    document: dict[str, Any] = {
        "job": job(uid).to_wire(),
        "spec": {},
        "modelRevision": "r",
        "fingerprint": DIGEST,
        "report": REPORT.to_wire(),
        "files": [],
    }
    return json.dumps(document).encode()


def owner(store: Store) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(store.get_bytes(OWNER))
    return found


@pytest.mark.parametrize("if_exists", EVERY)
def test_an_empty_folder_is_taken(if_exists: IfExists, store: Store) -> None:
    assert take(store, if_exists=if_exists) is None
    assert owner(store) == {"jobUid": "uid-1", "job": "team-a/mine", "specDigest": DIGEST}


@pytest.mark.parametrize("if_exists", EVERY)
@pytest.mark.parametrize("key", ["model/half", MANIFEST])
def test_the_same_job_comes_back_to_its_files_whatever_if_exists_says(
    key: str, if_exists: IfExists, store: Store
) -> None:
    take(store)
    store.put_bytes(key, b"x")
    before = listing(store)
    assert take(store, if_exists=if_exists) is None
    assert listing(store) == before


@pytest.mark.parametrize("if_exists", ["Reuse", "Fail"])
def test_an_incomplete_result_of_another_job_is_refused_with_owner_and_mend(if_exists: IfExists, store: Store) -> None:
    take(store)
    text = refusal(store, if_exists=if_exists)
    assert "files of another job (team-a/mine, uid-1) and no complete result" in text
    assert "set output.ifExists: Overwrite" in text


def test_a_complete_result_of_another_job_can_be_looked_at_for_reuse(store: Store) -> None:
    take(store)
    store.put_bytes(MANIFEST, manifest())
    before = listing(store)
    found = take(store, "uid-2")
    assert found is not None
    assert found.owner == "another job (team-a/mine, uid-1)"
    assert found.manifest.job == job("uid-1")
    assert listing(store) == before


def test_a_complete_result_of_another_job_is_refused_where_the_job_says_fail(store: Store) -> None:
    take(store)
    store.put_bytes(MANIFEST, manifest())
    text = refusal(store, if_exists="Fail")
    assert "the complete result of another job (team-a/mine, uid-1)" in text
    assert "output.ifExists is Fail; set output.ifExists: Reuse" in text


@pytest.mark.parametrize("data", [b"{}", manifest("uid-9")])
def test_a_manifest_that_is_not_the_owners_is_no_complete_result(data: bytes, store: Store) -> None:
    take(store)
    store.put_bytes(MANIFEST, data)
    assert "no complete result" in refusal(store)


@pytest.mark.parametrize("if_exists", ["Reuse", "Fail"])
def test_a_folder_with_files_of_nobody_is_not_taken(if_exists: IfExists, store: Store) -> None:
    store.put_bytes("model.safetensors", b"precious")
    text = refusal(store, if_exists=if_exists)
    assert "holds files that no job wrote, such as 'model.safetensors'" in text
    assert "set output.ifExists: Overwrite" in text


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"jobUid": "\\u001b[31m"}', b'{"replaced": 1}'])
def test_a_damaged_owner_is_a_stranger_and_not_repeated(content: bytes, store: Store) -> None:
    store.put_bytes(OWNER, content)
    assert "unknown owner" in refusal(store)


def test_of_jobs_that_come_at_once_one_gets_the_folder(store: Store) -> None:
    begin = threading.Barrier(4)

    def try_to_claim(number: int) -> Reason | None:
        begin.wait()
        try:
            take(store, f"uid-{number}")
        except StageError as error:
            return error.reason
        return None

    with ThreadPoolExecutor(4) as pool:
        ends = list(pool.map(try_to_claim, range(4)))
    assert sorted(ends, key=str) == [None, *[Reason.OUTPUT_EXISTS] * 3]


@pytest.mark.parametrize("state", ["complete", "incomplete", "of nobody", "damaged owner"])
def test_overwrite_takes_any_folder_and_leaves_files_that_no_job_writes(state: str, store: Store) -> None:
    for key in ("model/x", "prepared/manifest.json", "checkpoints/1/x", "README.md", "notes.txt"):
        store.put_bytes(key, b"x")
    if state in ("complete", "incomplete"):
        store.put_bytes(OWNER, b'{"jobUid": "uid-1", "job": "team-a/mine"}')
    if state == "damaged owner":
        store.put_bytes(OWNER, b"{")
    if state != "incomplete":
        store.put_bytes(MANIFEST, manifest())
    assert take(store, "uid-2", "Overwrite") is None
    assert set(listing(store)) == {"notes.txt", OWNER}
    assert owner(store)["jobUid"] == "uid-2"


def record(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Log what is changed from now on, in order."""
    done: list[str] = []
    delete, put = store.delete, store.put_bytes

    def log_delete(key: str) -> None:
        done.append(f"delete {key}")
        delete(key)

    def log_put(key: str, data: bytes, *, if_none_match: bool = False) -> bool:
        done.append(f"put {key}")
        return put(key, data, if_none_match=if_none_match)

    monkeypatch.setattr(store, "delete", log_delete)
    monkeypatch.setattr(store, "put_bytes", log_put)
    return done


def test_overwriting_ends_completeness_then_ownership_then_the_files(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(store)
    store.put_bytes("model/x", b"x")
    store.put_bytes(MANIFEST, manifest())
    done = record(store, monkeypatch)
    take(store, "uid-2", "Overwrite")
    assert done == ["delete manifest.json", "put owner.json", "delete manifest.json", "delete model/x"]


def test_a_job_does_not_take_back_what_was_overwritten(store: Store) -> None:
    take(store, "uid-1", "Overwrite")
    take(store, "uid-2", "Overwrite")
    take(store, "uid-3", "Overwrite")
    for uid in ("uid-1", "uid-2"):
        assert "was taken over by another job (team-a/uid-3, uid-3)" in refusal(store, uid, "Overwrite")


def test_a_person_who_starts_a_job_again_can_take_it_back(store: Store) -> None:
    take(store, "uid-1", "Overwrite")
    take(store, "uid-2", "Overwrite")
    assert take(store, "uid-1", "Overwrite", again=True) is None
    assert owner(store)["replaced"] == ["uid-1", "uid-2"]


def test_only_the_newest_of_many_owners_are_remembered(store: Store) -> None:
    for number in range(20):
        take(store, f"uid-{number}", "Overwrite")
    assert owner(store)["replaced"] == [f"uid-{number}" for number in range(3, 19)]


def test_the_owner_passes_the_check(store: Store) -> None:
    take(store)
    check_owner(store, job())


def test_a_job_that_lost_its_folder_is_told_who_took_it(store: Store) -> None:
    take(store)
    take(store, "uid-2", "Overwrite")
    with pytest.raises(StageError) as caught:
        check_owner(store, job())
    assert caught.value.reason is Reason.OUTPUT_EXISTS
    assert caught.value.message == f"output.uri: {store.uri} was taken over by another job (team-a/uid-2, uid-2)"


def test_a_folder_without_its_owner_file_fails_the_check(store: Store) -> None:
    with pytest.raises(StageError) as caught:
        check_owner(store, job())
    assert caught.value.reason is Reason.VERIFICATION_FAILED


def test_the_owner_publishes_its_manifest(store: Store) -> None:
    take(store)
    publish_manifest(store, job(), b"mine")
    assert store.get_bytes(MANIFEST) == b"mine"


def lost(store: Store) -> None:
    with pytest.raises(StageError) as caught:
        publish_manifest(store, job(), b"mine")
    assert caught.value.reason is Reason.OUTPUT_EXISTS
    assert "uid-2" in caught.value.message


def test_a_job_that_lost_its_folder_publishes_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    take(store)
    take(store, "uid-2", "Overwrite")
    done = record(store, monkeypatch)
    lost(store)
    assert done == []


@pytest.mark.parametrize("theirs", [None, b"theirs"])
def test_a_manifest_that_was_written_while_the_folder_was_taken_is_withdrawn(
    theirs: bytes | None, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(store)
    put = store.put_bytes

    def taken_meanwhile(key: str, data: bytes, *, if_none_match: bool = False) -> bool:
        written = put(key, data, if_none_match=if_none_match)
        put(OWNER, b'{"jobUid": "uid-2"}')
        if theirs is not None:
            put(MANIFEST, theirs)
        return written

    monkeypatch.setattr(store, "put_bytes", taken_meanwhile)
    lost(store)
    assert (store.get_bytes(MANIFEST) if store.size(MANIFEST) is not None else None) == theirs


def test_a_manifest_that_reads_back_otherwise_is_not_published(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    take(store)
    put = store.put_bytes
    monkeypatch.setattr(store, "put_bytes", lambda key, data: put(key, data + b" "))
    with pytest.raises(StageError) as caught:
        publish_manifest(store, job(), b"mine")
    assert caught.value.reason is Reason.VERIFICATION_FAILED


def test_of_somebody_elses_names_only_plain_words_are_repeated() -> None:
    assert describe_job(JobIdentity(namespace="a", name="b", uid="\x1b[31m")) == "a/b"
    assert describe_job(JobIdentity(namespace="", name="\n", uid="<x>")) == "unknown owner"


# --- a failed job that is applied again -------------------------------------------------------------------------------


@pytest.mark.parametrize("if_exists", ["Reuse", "Fail"])
def test_a_failed_job_that_is_applied_again_goes_on_with_its_files(if_exists: IfExists, store: Store) -> None:
    take(store)
    store.put_bytes("checkpoints/1", b"state")
    assert take(store, "applied-again", if_exists) is None
    assert owner(store) == {
        "jobUid": "applied-again",
        "job": "team-a/mine",
        "specDigest": DIGEST,
        "replaced": ["uid-1"],
        "continues": ["uid-1"],
    }
    assert store.get_bytes("checkpoints/1") == b"state"
    assert predecessors(store) == ("uid-1",)
    assert take(store, "applied-again", if_exists) is None  # a later pod of it


def test_the_job_before_finds_out_that_its_work_is_gone_on_with(store: Store) -> None:
    take(store)
    take(store, "applied-again")
    with pytest.raises(StageError, match="was taken over by another job"):
        check_owner(store, job())
    assert "was taken over" in refusal(store, "uid-1")


def test_one_of_another_spec_or_another_name_does_not_go_on_with_it(store: Store) -> None:
    take(store)
    with pytest.raises(StageError, match="no complete result"):
        take(store, "applied-again", spec_digest="sha256:" + "6" * 64)
    refusal(store, "uid-2")
    assert predecessors(store) == ()


def test_one_that_overwrites_begins_anew(store: Store) -> None:
    take(store)
    store.put_bytes("checkpoints/1", b"state")
    assert take(store, "applied-again", "Overwrite") is None
    assert set(listing(store)) == {OWNER}
    assert predecessors(store) == ()


def test_a_complete_result_is_looked_at_and_not_gone_on_with(store: Store) -> None:
    take(store)
    store.put_bytes(MANIFEST, manifest())
    assert take(store, "applied-again") is not None
    assert owner(store)["jobUid"] == "uid-1"


def test_a_folder_in_which_nothing_was_stored_is_given_back(store: Store) -> None:
    take(store)
    release(store, job())
    assert listing(store) == {}
    assert take(store, "uid-2") is None


def test_a_folder_with_work_in_it_is_kept(store: Store) -> None:
    take(store)
    store.put_bytes("prepared/x", b"1")
    before = listing(store)
    release(store, job())
    assert listing(store) == before


def test_the_folder_of_another_job_is_not_given_back(store: Store) -> None:
    take(store, "uid-2")
    before = listing(store)
    release(store, job())
    assert listing(store) == before


def test_a_folder_that_was_taken_from_another_job_still_says_so(store: Store) -> None:
    take(store, "uid-2")
    take(store, if_exists="Overwrite")
    before = listing(store)
    release(store, job())
    assert listing(store) == before
    with pytest.raises(StageError, match="was taken over by another job"):
        take(store, "uid-2", "Overwrite")
