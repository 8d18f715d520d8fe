"""The one door to what the attempts at a training leave for each other: its states, and the untouched model's scores.

The job asks for the newest state that fits, hands this object to the loop, which offers its states to it, and clears
everything once the result is complete. Behind the door: what is stored and trusted (``catalog.py``, ``format.py``,
``terms.py``), the thread that writes (``background.py``), the kept scores (``kept_baseline.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import override

from finetune_trainer.checkpoint import background
from finetune_trainer.checkpoint.background import BackgroundCheckpointer, Schedule
from finetune_trainer.checkpoint.catalog import Catalog, clear_checkpoints
from finetune_trainer.checkpoint.format import Identity, Restored
from finetune_trainer.checkpoint.kept_baseline import FEW_SHOT, Baseline, load_baseline, store_baseline
from finetune_trainer.checkpoint.terms import Terms, machine_of, terms_of
from finetune_trainer.evaluation.results import Evaluation
from finetune_trainer.model.device import Precision
from finetune_trainer.process.console import Console
from finetune_trainer.process.interrupt import Interrupt
from finetune_trainer.storage.store import Store
from finetune_trainer.training.state import Checkpointer, Moment, TrainingState

__all__ = [
    "Checkpoints",
    "Identity",
    "Restored",
    "Settled",
    "Terms",
    "clear_checkpoints",
    "machine_of",
    "terms_of",
]


@dataclass(frozen=True, kw_only=True)
class Settled:
    """What the first attempt chose; it is part of the job's arithmetic ever since.

    Attributes
    ----------
    branching
        Whether answers share a prompt's forward pass; None where nothing says so.
    """

    precision: Precision
    branching: bool | None


class Checkpoints(Checkpointer):
    """What earlier attempts at a training left, and where this one leaves its own.

    Parameters
    ----------
    store
        The folder at output.uri.
    identity
        The training; what belongs to another one is ignored.
    folder
        Scratch folder; must exist.
    pod
        UID of the pod; random without one.
    interval
        Most seconds between two states.
    metrics
        metrics.jsonl, which grows meanwhile and is stored with each state.
    may_write
        Called before each upload; raises where nothing may be written any more.

    Raises
    ------
    StageError
        AccessDenied, CredentialsNotFound, StorageUnavailable.
    """

    def __init__(
        self,
        store: Store,
        identity: Identity,
        *,
        folder: Path,
        pod: str | None,
        interval: float,
        metrics: Path,
        may_write: Callable[[], None],
        console: Console,
        interrupt: Interrupt,
    ) -> None:
        self._store, self._identity, self._interval, self._metrics = store, identity, interval, metrics
        self._may_write, self._console, self._interrupt = may_write, console, interrupt
        self._catalog = Catalog(store, identity, folder=folder, pod=pod)
        self._kept = load_baseline(store, identity)
        self._writer: BackgroundCheckpointer | None = None

    @property
    def settled(self) -> Settled | None:
        """What an earlier attempt chose; None for the first one."""
        if (precision := self._catalog.precision) is not None:
            return Settled(precision=precision, branching=self._catalog.branching)
        if self._kept is not None:
            return Settled(precision=self._kept.precision, branching=self._kept.branching)
        return None

    def baseline(self, *, precision: Precision, indices: list[int]) -> Evaluation | None:
        """Return the untouched model's scores in this precision on just these rows, if an earlier attempt kept them."""
        return _fitting(self._kept, precision, indices)

    def few_shot(self, *, precision: Precision, indices: list[int]) -> Evaluation | None:
        """Return the same of its scores with examples in the prompt.

        Raises
        ------
        StageError
            AccessDenied, CredentialsNotFound, StorageUnavailable.
        """
        return _fitting(load_baseline(self._store, self._identity, FEW_SHOT), precision, indices)

    def keep_few_shot(self, evaluation: Evaluation, settled: Settled) -> None:
        """Keep them as :meth:`keep_baseline` does."""
        kept = Baseline(evaluation=evaluation, precision=settled.precision, branching=settled.branching)
        store_baseline(self._store, self._identity, kept, FEW_SHOT)

    def keep_baseline(self, evaluation: Evaluation, settled: Settled) -> None:
        """Keep the untouched model's scores for a later attempt; where that fails it measures them again."""
        kept = Baseline(evaluation=evaluation, precision=settled.precision, branching=settled.branching)
        store_baseline(self._store, self._identity, kept)

    def newest(self, terms: Terms) -> Restored | None:
        """Return the newest state that is whole and fits; those that the loop offers from now on are of these terms.

        Raises
        ------
        StageError
            AccessDenied, CredentialsNotFound, StorageUnavailable.
        """
        restored = self._restore(terms)
        self._interrupt.resumable = restored is not None
        self._writer = BackgroundCheckpointer(
            self._catalog,
            schedule=Schedule(interval=self._interval, min_epoch=background.MIN_EPOCH_SECONDS),
            precision=terms.precision,
            settings=terms.settings,
            machine=terms.machine,
            metrics=self._metrics,
            console=self._console,
            interrupt=self._interrupt,
            check=self._may_write,
            restored=restored.state.progress.step if restored else None,
        )
        return restored

    @property
    @override
    def stopping(self) -> bool:
        return self._interrupt.requested

    @override
    def due(self, moment: Moment) -> bool:
        return self._open().due(moment)

    @override
    def save(self, state: TrainingState) -> None:
        self._open().save(state)

    def save_now(self, state: TrainingState) -> Exception | None:
        """Store a state before returning; return what prevented it."""
        return self._open().save_now(state)

    def close(self) -> None:
        """Wait for the state that is being stored; call before the scratch folder or the checkpoints go."""
        if self._writer is not None:
            self._writer.wait()

    def clear(self) -> None:
        """Remove everything: the result is complete."""
        clear_checkpoints(self._store)

    def _open(self) -> BackgroundCheckpointer:
        if self._writer is None:
            raise RuntimeError("ask for the newest state first; what is saved later is of the same terms")
        return self._writer

    def _restore(self, terms: Terms) -> Restored | None:
        if not self._catalog.found:
            return None
        with self._console.step("fetch_checkpoint", "fetch the state of the stopped training") as progress:
            restored = self._catalog.restore(
                precision=terms.precision, settings=terms.settings, shapes=terms.shapes, progress=progress
            )
        if restored is not None:
            self._tell(restored, terms.machine)
        return restored

    def _tell(self, restored: Restored, machine: Mapping[str, Any]) -> None:
        console, manifest = self._console, restored.found.manifest
        step = manifest.progress.step
        console.event(
            "resumed",
            f"the training goes on after step {step}" if console.interactive else None,
            step=step,
            key=restored.found.key,
            attempt=self._catalog.attempt,
        )
        differ = sorted(key for key in machine if manifest.machine.get(key) != machine[key])
        if differ:
            told = ", ".join(f"{key} {manifest.machine.get(key)} there and {machine[key]} here" for key in differ)
            console.event(
                "machine_differs",
                f"the state comes from another machine, so the result is not the same to the bit: {told}",
                level="warning",
                fields=differ,
            )


def _fitting(kept: Baseline | None, precision: Precision, indices: list[int]) -> Evaluation | None:
    """Take kept scores where they are of this precision and of just these rows."""
    if kept and kept.precision == precision and kept.evaluation.indices == indices:
        return kept.evaluation
    return None
