"""Credentials of one role, as kubelet mounts them: a folder with one file for each key of the Secret.

No folder means the identity of the environment (service account, profile, environment variables), which the clients
find by themselves. Values never reach a message, a log or ``repr``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from finetune_api.names import Role, credentials_field
from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError

__all__ = ["S3Keys", "hub_token", "s3_keys"]


@dataclass(frozen=True, slots=True)
class S3Keys:
    """An S3 identity; hidden from ``repr``."""

    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(repr=False, default=None)


def s3_keys(role: Role, credentials_dir: Path) -> S3Keys | None:
    """Read the S3 keys of a role; None without a folder for it.

    Raises
    ------
    StageError
        CredentialsNotFound: the folder is there and a key is missing or empty.
    """
    folder = credentials_dir / role
    if not folder.is_dir():
        return None
    return S3Keys(
        access_key_id=_required(folder, "AWS_ACCESS_KEY_ID", role),
        secret_access_key=_required(folder, "AWS_SECRET_ACCESS_KEY", role),
        session_token=_value(folder, "AWS_SESSION_TOKEN", role),
    )


def hub_token(role: Role, credentials_dir: Path) -> str | None:
    """Read the Hugging Face token of a role; None without a folder for it.

    Rows may come from S3 and a public dataset at once, so their Secret may hold the keys of S3 alone.

    Raises
    ------
    StageError
        CredentialsNotFound: the folder is there and HF_TOKEN is missing or empty.
    """
    folder = credentials_dir / role
    if not folder.is_dir() or (role == "dataset" and not (folder / "HF_TOKEN").exists() and _has_s3_keys(folder)):
        return None
    return _required(folder, "HF_TOKEN", role)


def _has_s3_keys(folder: Path) -> bool:
    return (folder / "AWS_ACCESS_KEY_ID").exists()


def _value(folder: Path, key: str, role: Role) -> str | None:
    path = folder / key
    try:
        # Secrets made by hand often end with a newline.
        return path.read_text(encoding="utf-8").strip() or None if path.is_file() else None
    except (OSError, UnicodeDecodeError) as error:
        raise StageError(
            Reason.CREDENTIALS_NOT_FOUND,
            f"key {key} of the Secret of {credentials_field(role)} can't be read ({type(error).__name__})",
        ) from None


def _required(folder: Path, key: str, role: Role) -> str:
    value = _value(folder, key, role)
    if value is None:
        raise StageError(
            Reason.CREDENTIALS_NOT_FOUND,
            f"the Secret of {credentials_field(role)} has no value under the key {key}",
        )
    if not (value.isascii() and value.isprintable() and " " not in value):
        raise StageError(
            Reason.CREDENTIALS_NOT_FOUND,
            f"the Secret of {credentials_field(role)} has a value under the key {key} with spaces, line ends or "
            "letters that no key has",
        )
    return value
