"""A folder that tells what was done to it and can refuse, and the training whose state is stored there."""

from __future__ import annotations

from pathlib import Path

from typing_extensions import override

from finetune_api.reasons import Reason
from finetune_trainer.checkpoint.format import Identity
from finetune_trainer.errors import StageError
from finetune_trainer.storage.local import LocalStore
from finetune_trainer.storage.store import OnBytes

__all__ = ["IDENTITY", "Recording"]

IDENTITY = Identity(spec_digest="sha256:s", fingerprint="sha256:f", model_revision="r", method="LoRA", device="cpu")


class Recording(LocalStore):
    """A folder that tells what was done to it, and can refuse."""

    def __init__(self, folder: Path) -> None:
        super().__init__(role="output", folder=folder)
        self.done: list[str] = []
        self.refused: dict[str, Reason] = {}

    def _did(self, what: str, key: str) -> None:
        if what in self.refused:
            raise StageError(self.refused[what], f"{what} {key} was refused")
        self.done.append(f"{what} {key}")

    @override
    def get_bytes(self, key: str) -> bytes:
        self._did("get", key)
        return super().get_bytes(key)

    @override
    def put_bytes(self, key: str, data: bytes, *, if_none_match: bool = False) -> bool:
        self._did("put once" if if_none_match else "put", key)
        return super().put_bytes(key, data, if_none_match=if_none_match)

    @override
    def put_file(self, key: str, path: Path, on_bytes: OnBytes | None = None) -> None:
        self._did("put", key)
        super().put_file(key, path, on_bytes)

    @override
    def delete(self, key: str) -> None:
        self._did("delete", key)
        super().delete(key)
