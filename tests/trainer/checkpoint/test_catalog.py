"""Catalog as files: complete or not there, newest first, and never a reason to fail."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_api.reasons import Reason
from finetune_api.status import ValidationPoint
from finetune_trainer.checkpoint.catalog import Catalog, clear_checkpoints
from finetune_trainer.checkpoint.format import CHECKPOINTS, Identity, Restored
from finetune_trainer.checkpoint.kept_baseline import BASELINE
from finetune_trainer.checkpoint.sealed import seal, unseal
from finetune_trainer.errors import StageError
from finetune_trainer.model.device import Precision
from finetune_trainer.process.console import no_progress
from finetune_trainer.storage.access import Access
from finetune_trainer.storage.local import LocalStore
from finetune_trainer.storage.store import Store
from finetune_trainer.training.optimizer import OptimizerState
from finetune_trainer.training.state import TrainingProgress, TrainingState
from tests.support.recording_store import IDENTITY, Recording

SETTINGS = {"batch_size": 16, "lora": {"rank": 4}}
SHAPES = {"w": torch.Size([3, 2]), "never.used": torch.Size([4])}


def make_state(step: int, best: dict[str, torch.Tensor] | None = None) -> TrainingState:
    torch.manual_seed(step)
    moments = [{"w": torch.randn(3, 2)} for _ in range(2)]
    return TrainingState(
        progress=TrainingProgress(
            step=step,
            losses=tuple(1 / (i + 3) for i in range(step)),
            validation=(ValidationPoint(epoch=1, step=2, loss="0.5", score="0.25"),),
            best_loss=0.1 + 0.2 if best else None,
            best_score=0.25 if best else None,
            best_step=1 if best else 0,
            seconds=1.1,
            branching=True,
        ),
        optimizer=OptimizerState(
            masters={"w": torch.randn(3, 2), "never.used": torch.zeros(4)},
            moments={"exp_avg": moments[0], "exp_avg_sq": moments[1]},
            steps={"w": step},
        ),
        best=best,
    )


@pytest.fixture
def store(tmp_path: Path) -> Recording:
    return Recording(tmp_path / "out")


def attempt(store: Store, *, pod: str | None = None, identity: Identity = IDENTITY) -> Catalog:
    scratch = getattr(store, "folder", Path()).parent / "scratch"
    scratch.mkdir(exist_ok=True)
    return Catalog(store, identity, folder=scratch, pod=pod)


def write(
    checkpoints: Catalog,
    state: TrainingState,
    *,
    precision: Precision = "Float32",
    settings: dict[str, Any] | None = None,
) -> str:
    key, _ = checkpoints.write(
        state, precision=precision, settings=settings or SETTINGS, machine={"threads": 2}, metrics=b'{"step": 1}\n'
    )
    return key


def restore(checkpoints: Catalog, **other: Any) -> Restored | None:
    about: dict[str, Any] = {"precision": "Float32", "settings": SETTINGS, "shapes": SHAPES, **other}
    return checkpoints.restore(**about, progress=no_progress)


def step_of(restored: Restored | None) -> int | None:
    return restored.state.progress.step if restored else None


def folders(store: LocalStore) -> list[str]:
    return sorted({file.key.split("/")[1] for file in store.list() if file.key.startswith(CHECKPOINTS)})


def same(one: TrainingState, other: TrainingState) -> bool:
    parts = ("masters", "exp_avg", "exp_avg_sq")
    tensors = [(one.optimizer.moments[p], other.optimizer.moments[p]) for p in parts[1:]]
    tensors.append((one.optimizer.masters, other.optimizer.masters))
    tensors.append((one.best or {}, other.best or {}))
    return (
        one.progress == other.progress
        and one.optimizer.steps == other.optimizer.steps
        and all(a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a) for a, b in tensors)
    )


@pytest.mark.parametrize("best", [None, {"w": torch.full((3, 2), 1 / 3).bfloat16()}])
def test_a_state_is_read_as_it_was_written(best: dict[str, torch.Tensor] | None, store: Recording) -> None:
    state = make_state(7, best)
    key = write(attempt(store, pod="1F0C9A3E-7b"), state)
    assert key == "checkpoints/000000007-001-1f0c9a3e/"
    restored = restore(attempt(store))
    assert restored is not None
    assert same(restored.state, state)
    assert restored.found.key == key
    assert restored.metrics == '{"step": 1}\n'
    assert best is None or (restored.state.best is not None and restored.state.best["w"].dtype == torch.bfloat16)


def test_a_state_is_read_from_s3_as_it_was_written(access: Access, bucket: str, tmp_path: Path) -> None:
    store = access.open("output", f"s3://{bucket}/out/")
    state = make_state(7, {"w": torch.ones(3, 2)})
    write(Catalog(store, IDENTITY, folder=tmp_path), state)
    again = Catalog(store, IDENTITY, folder=tmp_path)
    restored = restore(again)
    assert restored is not None
    assert same(restored.state, state)
    assert again.attempt == 2
    clear_checkpoints(store)
    assert store.list() == []


def test_the_manifest_comes_last_and_only_where_there_is_none(store: Recording) -> None:
    key = write(attempt(store), make_state(3, {"w": torch.ones(1)}))
    puts = [done for done in store.done if done.startswith("put")]
    assert len(puts) == 6
    assert puts[-1] == f"put once {key}manifest.json"


def test_without_a_manifest_there_is_no_checkpoint(store: Recording) -> None:
    first = attempt(store)
    write(first, make_state(3))
    key = write(first, make_state(6))
    store.delete(key + "manifest.json")
    assert step_of(restore(attempt(store))) == 3


def test_the_highest_step_wins_and_then_the_later_attempt(store: Recording) -> None:
    first, second = attempt(store, pod="a"), attempt(store, pod="b")
    write(first, make_state(9))
    third = attempt(store, pod="c")
    write(second, make_state(8))
    write(third, make_state(9))
    restored = restore(attempt(store))
    assert restored is not None
    assert restored.found.key == "checkpoints/000000009-002-c/"
    assert [found.manifest.progress.step for found in attempt(store).found] == [9, 9, 8]


@pytest.mark.parametrize("name", ["masters", "exp_avg", "exp_avg_sq", "best", "metrics", "manifest"])
@pytest.mark.parametrize("how", ["gone", "cut", "a bit flips", "not what it was"])
def test_a_damaged_checkpoint_is_skipped_for_the_one_before(
    name: str, how: str, store: Recording, caplog: pytest.LogCaptureFixture
) -> None:
    first = attempt(store)
    old = make_state(3)
    write(first, old)
    key = write(first, make_state(6, {"w": torch.ones(3, 2)}))
    if name == "best":
        (path,) = (store.folder / CHECKPOINTS / "best").iterdir()
    else:
        (path,) = (store.folder / key).glob(name + ".*")
    data = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
    elif how == "cut":
        path.write_bytes(data[:-1] if name != "manifest" else data[: len(data) // 2])
    elif how == "a bit flips":
        digit = data.index(b'"seconds":1.1') + 12 if name == "manifest" else len(data) // 2
        data[digit] ^= 1
        path.write_bytes(data)
    else:
        path.write_bytes(b'{"digest": "x", "content": []}')
    with caplog.at_level(logging.WARNING):
        restored = restore(attempt(store))
    assert restored is not None
    assert same(restored.state, old)
    # Without its manifest it is none, and nothing to warn of.
    assert (key in caplog.text) is not (name == "manifest" and how == "gone")


def test_when_all_are_damaged_there_is_none(store: Recording) -> None:
    first = attempt(store)
    for step in (3, 6):
        (store.folder / write(first, make_state(step)) / "masters.safetensors").write_bytes(b"x")
    assert restore(attempt(store)) is None


@pytest.mark.parametrize("field", Identity.model_fields)
def test_the_state_of_another_training_is_ignored_and_left_alone(
    field: str, store: Recording, caplog: pytest.LogCaptureFixture
) -> None:
    key = write(attempt(store), make_state(9))
    with caplog.at_level(logging.INFO):
        other = attempt(store, identity=IDENTITY.model_copy(update={field: "another"}))
    assert other.found == []
    assert field in caplog.text
    for step in (1, 2, 3):
        write(other, make_state(step))
    assert (store.folder / key / "masters.safetensors").exists()


@pytest.mark.parametrize(
    "other",
    [
        {"precision": "BFloat16"},
        {"settings": {**SETTINGS, "batch_size": 8}},
        {"shapes": {"w": torch.Size([3, 3]), "never.used": torch.Size([4])}},
        {"shapes": {"w": torch.Size([3, 2])}},
    ],
)
def test_a_state_that_does_not_fit_is_ignored_and_does_not_push_out_new_ones(
    other: dict[str, Any], store: Recording
) -> None:
    write(attempt(store, pod="old"), make_state(90))
    mine = attempt(store, pod="new")
    assert restore(mine, **other) is None
    write(mine, make_state(3))
    assert folders(store) == ["000000003-002-new"]


def test_each_attempt_counts_on_from_the_highest_that_left_anything(store: Recording) -> None:
    assert attempt(store).attempt == 1
    store.put_bytes("checkpoints/000000004-041-abc/masters.safetensors", b"cut short")
    assert attempt(store).attempt == 42
    store.put_bytes("checkpoints/best/000000004-1000-abc.safetensors", b"cut short")
    assert attempt(store).attempt == 1001
    store.put_bytes("model/checkpoints/000000004-2000-abc/x", b"")
    assert attempt(store).attempt == 1001


def test_a_pod_that_lives_on_never_writes_where_another_does(store: Recording) -> None:
    keys = {write(attempt(store, pod=None), make_state(4)) for _ in range(3)}
    one, two = attempt(store, pod="one"), attempt(store, pod="two")
    keys |= {write(one, make_state(4)), write(two, make_state(4))}
    assert len(keys) == 5


def test_the_newest_two_and_their_best_weights_are_kept(store: Recording) -> None:
    mine = attempt(store, pod="p")
    best = [{"w": torch.full((3, 2), float(i))} for i in range(2)]
    for step in range(1, 6):
        write(mine, make_state(step, best[step // 4]))
        if step == 4:
            # Step 3 still names the first best weights.
            assert [f.key for f in store.list() if "/best/" in f.key] == [
                "checkpoints/best/000000001-001-p.safetensors",
                "checkpoints/best/000000004-001-p.safetensors",
            ]
    assert folders(store) == ["000000004-001-p", "000000005-001-p", "best"]
    assert [f.key for f in store.list() if "/best/" in f.key] == ["checkpoints/best/000000004-001-p.safetensors"]
    restored = restore(attempt(store))
    assert restored is not None
    assert restored.state.best is not None
    assert torch.equal(restored.state.best["w"], best[1]["w"])


def test_best_weights_are_uploaded_when_they_change_and_not_again_by_a_later_attempt(store: Recording) -> None:
    mine, best = attempt(store), {"w": torch.ones(3, 2)}
    write(mine, make_state(1, best))
    write(mine, make_state(2, best))
    later = attempt(store)
    restored = restore(later)
    assert restored is not None
    for step in (3, 4, 5):
        write(later, make_state(step, dict(restored.state.best or {}) if step == 5 else restored.state.best))  # type: ignore[arg-type]
    assert len([done for done in store.done if done.startswith("put checkpoints/best/")]) == 2


def test_older_checkpoints_go_after_the_newer_one_is_complete_and_their_manifests_first(store: Recording) -> None:
    mine = attempt(store)
    for step in (1, 2):
        write(mine, make_state(step))
    store.done.clear()
    key = write(mine, make_state(3))
    complete = store.done.index(f"put once {key}manifest.json")
    deleted = [i for i, done in enumerate(store.done) if done.startswith("delete")]
    assert len(deleted) == 5
    assert min(deleted) > complete
    assert store.done[deleted[0]].endswith("manifest.json")


def test_a_failed_upload_removes_nothing_and_can_be_repeated(store: Recording) -> None:
    mine = attempt(store)
    for step in (1, 2):
        write(mine, make_state(step))
    before = folders(store)
    store.refused["put once"] = Reason.ARTIFACT_UPLOAD_FAILED
    with pytest.raises(StageError):
        write(mine, make_state(3))
    assert set(before) < set(folders(store))
    assert step_of(restore(attempt(store))) == 2
    store.refused.clear()
    write(mine, make_state(3))
    assert step_of(restore(attempt(store))) == 3


def test_what_earlier_attempts_left_unfinished_goes_with_the_first_new_checkpoint(store: Recording) -> None:
    store.put_bytes("checkpoints/000000004-001-dead/masters.safetensors", b"cut short")
    store.put_bytes("checkpoints/best/000000004-001-dead.safetensors", b"cut short")
    store.put_bytes(BASELINE, b"x")
    mine = attempt(store, pod="p")
    store.put_bytes("checkpoints/000000005-002-zombie/masters.safetensors", b"came later")
    write(mine, make_state(3))
    assert folders(store) == ["000000003-002-p", "000000005-002-zombie", "baseline.json"]


def test_a_store_that_refuses_to_delete_costs_space_only(store: Recording, caplog: pytest.LogCaptureFixture) -> None:
    store.refused["delete"] = Reason.ACCESS_DENIED
    mine = attempt(store)
    for step in (1, 2, 3):
        write(mine, make_state(step))
    assert step_of(restore(attempt(store))) == 3
    clear_checkpoints(store)
    assert caplog.text.count("left behind") == 2


def test_a_manifest_that_was_written_though_the_answer_was_lost_counts(store: Recording) -> None:
    mine, state = attempt(store), make_state(3)
    write(mine, state)
    write(mine, state)
    assert step_of(restore(attempt(store))) == 3


def test_a_manifest_of_somebody_else_is_not_taken_for_ours(store: Recording) -> None:
    store.put_bytes("checkpoints/000000003-001-p/manifest.json", b"{}")
    mine = attempt(store, pod="p")
    mine.attempt = 1
    with pytest.raises(StageError, match="somebody else"):
        write(mine, make_state(3))


@pytest.mark.parametrize("key", ["../elsewhere", "model/model.safetensors", "/etc/passwd", "checkpoints/../owner.json"])
def test_a_manifest_whose_files_lie_elsewhere_is_damaged(key: str, store: Recording) -> None:
    path = store.folder / write(attempt(store), make_state(3)) / "manifest.json"
    content = unseal(path.read_bytes())
    content["files"][0]["path"] = key
    path.write_bytes(seal(content))
    assert attempt(store).found == []


@pytest.mark.parametrize("reason", [Reason.STORAGE_UNAVAILABLE, Reason.ACCESS_DENIED])
def test_a_store_that_does_not_answer_is_no_damaged_checkpoint(reason: Reason, store: Recording) -> None:
    write(attempt(store), make_state(3))
    store.refused["get"] = reason
    with pytest.raises(StageError) as error:
        attempt(store)
    assert error.value.reason is reason


def test_nothing_is_left_when_checkpoints_are_cleared(store: Recording) -> None:
    store.put_bytes("owner.json", b"{}")
    write(attempt(store), make_state(3, {"w": torch.ones(1)}))
    store.put_bytes(BASELINE, b"x")
    clear_checkpoints(store)
    assert [path.name for path in store.folder.iterdir()] == ["owner.json"]
