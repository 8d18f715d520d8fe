"""A model cache on a folder, and what a fetch through it says and leaves there."""

from __future__ import annotations

import io
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_trainer.process.console import Console
from finetune_trainer.storage.access import Access
from finetune_trainer.storage.cacheroom import IN_USE_SECONDS, USED
from finetune_trainer.storage.fetch import FetchedModel
from finetune_trainer.storage.modelcache import ModelCache
from tests.support.fetch_kit import get

__all__ = ["CacheFolder", "unused_since"]


@dataclass
class CacheFolder:
    """The volume of a namespace; each fetch is a pod of its own."""

    root: Path
    disks: Path
    """Where the pods have their own disks."""
    max_bytes: int | None = None
    pods: int = 0
    stream: io.StringIO = field(default_factory=io.StringIO)

    def open(self) -> ModelCache:
        console = Console(job="", stage="train", stream=self.stream, interactive=False)
        return ModelCache(self.root, max_bytes=self.max_bytes, console=console)

    def fetch(self, access: Access, uri: str, **options: Any) -> FetchedModel:
        """Fetch a model as a new pod does."""
        self.pods += 1
        folder = self.disks / f"pod-{self.pods}"
        return get(access, uri, folder, cache=self.open(), **options)

    def told(self) -> list[tuple[str, str]]:
        """Events so far, with their message where they are warnings; forgotten with the call."""
        lines = [json.loads(line) for line in self.stream.getvalue().splitlines()]
        self.stream.seek(0)
        self.stream.truncate()
        return [(line["event"], line["message"] if line["level"] == "warning" else "") for line in lines]

    def below(self, name: str) -> list[Path]:
        """What lies in ``models``, ``incoming`` or ``trash``."""
        folder = self.root / "finetune.dev" / "v1" / name
        return sorted(folder.iterdir()) if folder.is_dir() else []

    def entry(self) -> Path:
        """The only entry."""
        (entry,) = self.below("models")
        return entry


def unused_since(entry: Path, seconds: float) -> Path:
    """Say that an entry was used so long before it may go, or so long after where negative."""
    moment = time.time() - IN_USE_SECONDS - seconds
    os.utime(entry / USED, (moment, moment))
    return entry
