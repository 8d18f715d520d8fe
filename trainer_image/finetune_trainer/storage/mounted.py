"""A volume or a ConfigMap that kubelet has mounted, as a store that is read where it lies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from typing_extensions import override

from finetune_api.names import Role
from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError
from finetune_trainer.storage.local import LocalStore

__all__ = ["MountedStore"]


class MountedStore(LocalStore):
    """A folder of a mounted volume; links in it may lead to other places of the same volume, and nowhere else.

    Parameters
    ----------
    root
        Where the volume is mounted.
    below
        The folder's path in the volume.
    uri
        What the user calls the folder.
    """

    def __init__(self, *, role: Role, root: Path, below: str, uri: str, field: str | None = None) -> None:
        super().__init__(role=role, folder=Path(f"{root}/{below}"), field=field)
        self._root = root
        self._uri = uri if uri.endswith("/") else uri + "/"

    @property
    @override
    def uri(self) -> str:
        return self._uri

    def path_of(self, key: str) -> Path:
        """Return where a file lies that can be read.

        Raises
        ------
        StageError
            AccessDenied: it is a link that leads out of the volume, or not for this user.
        """
        path = self._path(key)
        with self._errors("reading", key), path.open("rb"):
            return path

    @override
    def _path(self, key: str) -> Path:
        path = super()._path(key)
        # The pod has Secrets mounted beside it, which whoever fills the volume may not be allowed to read.
        if not path.resolve().is_relative_to(self._root.resolve()):
            raise StageError(
                Reason.ACCESS_DENIED,
                f"{self.uri}{key} is a link that leads out of its volume; store the file itself there",
                tells_mend=True,
            )
        return path

    @contextmanager
    @override
    def _errors(self, operation: str, key: str) -> Iterator[None]:
        try:
            with super()._errors(operation, key):
                yield
        except StageError as error:
            if error.reason is not Reason.ACCESS_DENIED or error.tells_mend:
                raise
            raise StageError(
                Reason.ACCESS_DENIED,
                f"{error.message}; pods run as user and group 65532, so let that group or everybody read it",
                tells_mend=True,
            ) from error
