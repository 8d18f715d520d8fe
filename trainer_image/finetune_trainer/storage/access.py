"""Opens stores: one client a role, with the role's own credentials and the platform's endpoint.

Sits between ``job/run.py``, which knows roles and URIs, and the stores, which know neither spec nor Secret layout.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_api.names import DATA_DIR, Role, mount_path
from finetune_api.reasons import Reason
from finetune_api.runtime import ResolvedStorage, Storage
from finetune_api.uris import MOUNTED, URI, parse_uri
from finetune_trainer.errors import StageError
from finetune_trainer.storage.credentials import hub_token, s3_keys
from finetune_trainer.storage.local import LocalStore
from finetune_trainer.storage.mounted import MountedStore
from finetune_trainer.storage.store import FIELDS, Store

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

__all__ = ["Access", "parse_role_uri"]


def parse_role_uri(role: Role, uri: str, field: str | None = None) -> URI:
    """Parse a URI of the spec; ``field`` names the one that holds it where the role has several.

    Raises
    ------
    StageError
        InvalidSpec, with the field that holds the URI.
    """
    try:
        return parse_uri(uri)
    except ValueError as error:
        raise StageError(Reason.INVALID_SPEC, f"{field or FIELDS[role]}: {error}") from None


class Access:
    """How this job reaches its storage.

    Parameters
    ----------
    storage
        Endpoint, region and certificates, one entry a role.
    credentials_dir
        Folder with one folder of key files a role.
    scratch
        Local folder for certificate files.
    max_attempts
        Attempts for one S3 request.
    data_dir
        Below which volumes and ConfigMaps are mounted.
    """

    def __init__(
        self,
        *,
        storage: ResolvedStorage,
        credentials_dir: Path,
        scratch: Path,
        max_attempts: int = 6,
        data_dir: str = DATA_DIR,
    ) -> None:
        self._data_dir = data_dir
        self._storage = storage
        self._credentials_dir = credentials_dir
        self._scratch = scratch
        self._max_attempts = max_attempts
        self._clients: dict[Role, S3Client] = {}

    def settings(self, role: Role) -> Storage | None:
        """Return how the role's storage is reached; None is AWS or the public hub."""
        settings: Storage | None = getattr(self._storage, role)
        return settings

    def settings_for(self, role: Role, uri: str) -> Storage | None:
        """Return the same where it is about storage of the URI's scheme; a role may read from several."""
        settings = self.settings(role)
        scheme = uri.partition("://")[0] + "://"
        return settings if settings is not None and settings.prefix.startswith(scheme) else None

    def hub_token(self, role: Role) -> str | None:
        """Return the role's Hugging Face token; None leaves it to the hub client."""
        return hub_token(role, self._credentials_dir)

    def ca_bundle(self, role: Role) -> Path | None:
        """Return a PEM file with the role's certificates; None is the system's."""
        settings = self.settings(role)
        if settings is None or settings.ca_bundle is None:
            return None
        try:
            ssl.create_default_context(cadata=settings.ca_bundle)
        except (ssl.SSLError, ValueError):
            raise StageError(
                Reason.INVALID_SPEC,
                f"storage.caBundle of the FineTuneRuntime, for {settings.prefix}, holds no certificate that can be "
                "read. The platform team puts the whole PEM text there, from BEGIN to END of each certificate.",
                tells_mend=True,
            ) from None
        path = self._scratch / f"ca-{role}.pem"
        path.write_text(settings.ca_bundle, encoding="utf-8")
        return path

    def open(self, role: Role, uri: str, field: str | None = None) -> Store:
        """Open the folder ``uri`` (s3://, pvc://, configmap:// or file://); ``field`` names the one that holds it.

        Raises
        ------
        StageError
            InvalidSpec or CredentialsNotFound. Nothing is read yet.
        """
        field = field or FIELDS[role]
        parsed = parse_role_uri(role, uri, field)
        if parsed.scheme == "s3":
            from finetune_trainer.storage.s3 import S3Store  # noqa: PLC0415 - boto3, which a file:// job does without

            return S3Store(client=self._client(role), role=role, bucket=parsed.host, prefix=parsed.path, field=field)
        if parsed.scheme == "file":
            return LocalStore(role=role, folder=Path(parsed.path), field=field)
        if parsed.scheme in MOUNTED:
            below = parsed.path if parsed.scheme == "pvc" else ""  # a ConfigMap has keys and no folders
            return MountedStore(role=role, root=self._mounted(parsed, field), below=below, uri=uri, field=field)
        raise StageError(Reason.INVALID_SPEC, f"{field}: {uri} is no place for files; use s3:// or file://")

    def open_file(self, role: Role, uri: str, field: str | None = None) -> tuple[Store, str]:
        """Open the folder that holds the file ``uri``; return it and the file's key.

        Raises
        ------
        StageError
            InvalidSpec, with ``field`` and the whole of ``uri``, or CredentialsNotFound. Nothing is read yet.
        """
        field = field or FIELDS[role]
        parsed = parse_role_uri(role, uri, field)
        folder, _, name = uri.rpartition("/")
        if not name:
            raise StageError(Reason.INVALID_SPEC, f"{field}: {uri} is a folder; name one file")
        if parsed.scheme == "hf":
            raise StageError(Reason.INVALID_SPEC, f"{field}: {uri} is no place for files; use s3:// or file://")
        if parsed.scheme == "configmap":  # has keys and no folders, so there is no URI to open
            return MountedStore(
                role=role, root=self._mounted(parsed, field), below="", uri=folder + "/", field=field
            ), name
        return self.open(role, folder + "/", field), name

    def _mounted(self, uri: URI, field: str) -> Path:
        """Where kubelet has mounted the volume or the ConfigMap of a URI."""
        root = Path(mount_path(uri.scheme, uri.host, self._data_dir))
        if not root.is_dir():
            raise StageError(
                Reason.INVALID_SPEC,
                f"{field}: {uri} is mounted into the pods of a cluster alone; use file:// in a local run",
                tells_mend=True,
            )
        return root

    def _client(self, role: Role) -> S3Client:
        from finetune_trainer.storage.s3 import make_client  # noqa: PLC0415

        if role not in self._clients:
            settings = self.settings_for(role, "s3://")
            self._clients[role] = make_client(
                storage=settings,
                keys=s3_keys(role, self._credentials_dir),
                ca_bundle=self.ca_bundle(role) if settings else None,
                max_attempts=self._max_attempts,
            )
        return self._clients[role]
