"""S3 and S3-compatible storage through boto3's classic transfer client.

Three defaults of boto3 are set aside, each known to break stores other than AWS: the CRT transfer client ignores
``endpoint_url`` (boto3 issue 4839), checksums are sent and checked only where the protocol requires them (boto3 issue
4401), and buckets are addressed by path where an endpoint is named.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.loaders import Loader, create_loader
from botocore.session import get_session
from typing_extensions import override

from finetune_api.names import Role
from finetune_api.reasons import Reason
from finetune_api.runtime import Storage
from finetune_trainer.errors import StageError
from finetune_trainer.storage.credentials import S3Keys
from finetune_trainer.storage.s3_errors import (
    MISSING,
    NO_IDENTITY,
    Operation,
    S3Place,
    code_of,
    end_search_for_region,
    give_up_if_lasting,
    refuse_web_pages,
    telling,
)
from finetune_trainer.storage.store import OnBytes, Store, StoredFile

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

__all__ = ["S3Store", "make_client"]

_BARE: Final = frozenset({"301", "302", "307", "308", "400", "401", "403", "404"})
"""All that an answer to HEAD can say; the answer to GET has the reason in its body."""

_EXISTS: Final = frozenset({"412", "PreconditionFailed", "409", "ConditionalRequestConflict"})
_BEYOND: Final = frozenset({"416", "InvalidRange"})
_MIB: Final = 1024 * 1024


@cache
def _models() -> Loader:
    """What is known of S3 itself: megabytes of JSON, which each client would read anew."""
    return create_loader()


def make_client(
    *, storage: Storage | None, keys: S3Keys | None, ca_bundle: Path | None, max_attempts: int = 6
) -> S3Client:
    """Make a client for one role.

    Parameters
    ----------
    storage
        Endpoint, region and addressing; None is AWS.
    keys
        Identity; None leaves it to boto3's default chain.
    ca_bundle
        PEM file to check the endpoint with; None is the system's.
    max_attempts
        Attempts for one request (standard mode: exponential backoff with jitter, at most 20 s between two).

    Raises
    ------
    StageError
        InvalidSpec: the endpoint is no address; CredentialsNotFound: the environment's profile can't be read.
    """
    endpoint = storage.endpoint if storage else None
    style = storage.addressing_style if storage else "Auto"
    if style == "Auto":
        style = "Path" if endpoint else "Auto"
    options: dict[str, Any] = dict(  # noqa: C408 - keywords, so that they read as in botocore's documentation
        retries={"mode": "standard", "total_max_attempts": max_attempts},
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=64,
        tcp_keepalive=True,
        s3={"addressing_style": style.lower()},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        # Where requests go is the platform's choice; a local run hands its environment's endpoint over as `storage`.
        ignore_configured_endpoint_urls=True,
        user_agent_appid="finetune-trainer",
    )
    try:
        core = get_session()
        core.register_component("data_loader", _models())
        session = boto3.Session(
            botocore_session=core,
            aws_access_key_id=keys.access_key_id if keys else None,
            aws_secret_access_key=keys.secret_access_key if keys else None,
            aws_session_token=keys.session_token if keys else None,
        )
        client = session.client(
            "s3",
            endpoint_url=endpoint,
            region_name=(storage.region if storage else None) or session.region_name or "us-east-1",
            verify=str(ca_bundle) if ca_bundle else None,
            config=Config(**options),
        )
    except NO_IDENTITY as error:
        raise StageError(
            Reason.CREDENTIALS_NOT_FOUND, f"the environment's AWS profile can't be used: {type(error).__name__}"
        ) from error
    except ValueError as error:
        raise StageError(
            Reason.INVALID_SPEC,
            f"storage.endpoint of the FineTuneRuntime, {endpoint}, is no address. The platform team corrects it; a "
            "local run takes it from AWS_ENDPOINT_URL.",
            tells_mend=True,
        ) from error
    # The stubs know no hook that answers; this event is for hooks that do.
    client.meta.events.register_first("needs-retry.s3", give_up_if_lasting)  # type: ignore[arg-type]
    client.meta.events.register_first("needs-retry.s3.HeadBucket", end_search_for_region)
    client.meta.events.register("after-call.s3", refuse_web_pages)
    return client


class S3Store(Store):
    """A prefix of a bucket as a :class:`~finetune_trainer.storage.store.Store`."""

    def __init__(self, *, client: S3Client, role: Role, bucket: str, prefix: str, field: str) -> None:
        self._client = client
        self._role: Role = role
        self._bucket = bucket
        # A key is bytes: "a//" and "/a/" are other folders than "a/", so nothing but the last slash is added.
        self._prefix = prefix if not prefix or prefix.endswith("/") else prefix + "/"
        self._transfer = TransferConfig(
            multipart_threshold=64 * _MIB,
            multipart_chunksize=64 * _MIB,
            max_concurrency=8,
            num_download_attempts=6,
            preferred_transfer_client="classic",
        )

        addressing: Any = getattr(client.meta.config, "s3", None) or {}
        self._place = S3Place(
            role=role,
            field=field,
            uri=self.uri,
            bucket=bucket,
            endpoint=client.meta.endpoint_url,
            region=client.meta.region_name,
            style=addressing.get("addressing_style", "auto"),
        )

    @property
    @override
    def uri(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}"

    @override
    def list(self, *, limit: int | None = None) -> list[StoredFile]:
        with self._telling("listing", ""):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix)
            found = (
                StoredFile(item["Key"].removeprefix(self._prefix), item["Size"], item.get("ETag", "").strip('"'))
                for page in pages
                for item in page.get("Contents", [])
                if not item["Key"].endswith("/")
            )
            files = list(islice(found, limit))
        return sorted(files, key=lambda file: file.key)

    @override
    def size(self, key: str) -> int | None:
        with self._telling("reading", key):
            try:
                return self._client.head_object(Bucket=self._bucket, Key=self._prefix + key)["ContentLength"]
            except ClientError as error:
                if code_of(error) not in _BARE:
                    raise
            # An answer to HEAD has no body, so it can't say whether the key, the bucket, the user or the region is
            # unknown, or what else is wrong.
            try:
                got = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)
            except ClientError as error:
                if code_of(error) in MISSING and not self._place.names_bucket_twice:
                    return None
                raise
            got["Body"].close()
            return got["ContentLength"]

    @override
    def get_bytes(self, key: str) -> bytes:
        with self._telling("reading", key):
            return self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)["Body"].read()

    @override
    def get_range(self, key: str, start: int, count: int) -> bytes:
        with self._telling("reading", key):
            try:
                answer = self._client.get_object(
                    Bucket=self._bucket, Key=self._prefix + key, Range=f"bytes={start}-{start + count - 1}"
                )
            except ClientError as error:
                if code_of(error) in _BEYOND:
                    return b""
                raise
            body = answer["Body"]
            # A store that knows no ranges sends the file from its beginning.
            data = body.read(count) if "ContentRange" in answer else body.read(start + count)[start:]
            body.close()
            return data

    @override
    def get_file(self, key: str, path: Path, on_bytes: OnBytes | None = None) -> None:
        with self._telling("reading", key):
            try:
                self._client.download_file(
                    self._bucket, self._prefix + key, str(path), Callback=on_bytes, Config=self._transfer
                )
            except ClientError as error:
                if error.operation_name == "HeadObject" and code_of(error) in _BARE:
                    self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)["Body"].close()  # says more
                raise

    @override
    def put_bytes(self, key: str, data: bytes, *, if_none_match: bool = False) -> bool:
        arguments: dict[str, Any] = {"Bucket": self._bucket, "Key": self._prefix + key, "Body": data}
        with self._telling("writing", key):
            if not if_none_match:
                self._client.put_object(**arguments)
                return True
            try:
                self._client.put_object(**arguments, IfNoneMatch="*")
            except ClientError as error:
                if code_of(error) in _EXISTS:
                    return False
                if code_of(error) not in {"501", "NotImplemented"}:
                    raise
                # A store without conditional writes: look first. Whoever needs certainty reads back what it wrote.
                if self.size(key) is not None:
                    return False
                self._client.put_object(**arguments)
            return True

    @override
    def put_file(self, key: str, path: Path, on_bytes: OnBytes | None = None) -> None:
        with self._telling("writing", key):
            self._client.upload_file(
                str(path), self._bucket, self._prefix + key, Callback=on_bytes, Config=self._transfer
            )

    @override
    def delete(self, key: str) -> None:
        with self._telling("writing", key):
            self._client.delete_object(Bucket=self._bucket, Key=self._prefix + key)

    @override
    def abort_uploads(self, ours: Callable[[str], bool]) -> int:
        with self._telling("listing", ""):
            pages = self._client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self._bucket, Prefix=self._prefix
            )
            found = [(item["Key"], item["UploadId"]) for page in pages for item in page.get("Uploads", [])]
        stale = [(key, upload) for key, upload in found if ours(key.removeprefix(self._prefix))]
        for key, upload in stale:
            with self._telling("writing", key.removeprefix(self._prefix)):
                try:
                    self._client.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload)
                except ClientError as error:
                    if code_of(error) != "NoSuchUpload":  # ended meanwhile
                        raise
        return len(stale)

    def _telling(self, operation: Operation, key: str) -> AbstractContextManager[None]:
        return telling(self._place, operation, key)
