"""What the sub-steps of a stage share: the job, its places, its stores and its output.

Made once by ``run.py`` and handed to ``prepare.py`` and ``train.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from finetune_api.job import FineTuneJobSpec
from finetune_api.stage import StageInput
from finetune_trainer.process.console import Console
from finetune_trainer.process.environment import Environment
from finetune_trainer.process.interrupt import Interrupt
from finetune_trainer.storage.access import Access
from finetune_trainer.storage.store import Store

__all__ = ["OnInputs", "Work"]

OnInputs = Callable[[Mapping[str, str], str], None]
"""Takes digests by field, and a revision."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """One run of one stage.

    Attributes
    ----------
    spec_digest
        Digest of the spec that the report answers.
    folder
        Scratch folder of this run; gone afterwards.
    output
        The folder at output.uri.
    fresh
        Started by a person: what an earlier run of this job completed is met like another job's result.
    interrupt
        What SIGTERM does to it.
    on_inputs
        Told the digests of the rows' files by field, and the model's revision, before anything is made of them.
    """

    stage_input: StageInput
    spec_digest: str
    environment: Environment
    console: Console
    access: Access
    folder: Path
    output: Store
    fresh: bool
    interrupt: Interrupt
    on_inputs: OnInputs | None = None

    @property
    def spec(self) -> FineTuneJobSpec:
        """The job's spec."""
        return self.stage_input.spec
