"""Turns what boto3 raises into reasons, each told as what it is, with the field and the person that mend it.

Beside ``s3.py``, whose requests run inside :func:`telling`. Credentials are the tenant's; endpoint, region,
certificates and addressing are the platform team's. Of an answer only its code, a region, a host and the time are
quoted: a server's own message may hold anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final, Literal

from boto3.exceptions import S3UploadFailedError
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConfigNotFound,
    ConfigParseError,
    CredentialRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)
from botocore.parsers import ResponseParserError
from s3transfer.exceptions import RetriesExceededError

from finetune_api.names import Role, credentials_field
from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError
from finetune_trainer.storage.connection import IN_RUNTIME, Fault, explain, is_lasting, speaks_tls, tls_expected
from finetune_trainer.storage.store import NOT_FOUND, OUTPUT_PREFIX

__all__ = [
    "MISSING",
    "NO_IDENTITY",
    "NotS3Error",
    "Operation",
    "S3Place",
    "code_of",
    "end_search_for_region",
    "give_up_if_lasting",
    "refuse_web_pages",
    "telling",
]

Operation = Literal["reading", "listing", "writing"]

NO_IDENTITY: Final = (
    NoCredentialsError, PartialCredentialsError, CredentialRetrievalError, TokenRetrievalError, SSOError,
    ProfileNotFound, ConfigNotFound, ConfigParseError,
)  # fmt: skip
"""What boto3 raises where it finds no identity, or one that can't be read."""

MISSING: Final = frozenset({"404", "NoSuchKey", "NotFound"})
_REGION: Final = frozenset(
    {
        "301",
        "302",
        "307",
        "308",
        "PermanentRedirect",
        "TemporaryRedirect",
        "AuthorizationHeaderMalformed",
        "IllegalLocationConstraintException",
    }
)
_VIRTUAL_ONLY: Final = frozenset(
    {"PathStyleRequestNotAllowed", "PathStyleDomainForbidden", "SecondLevelDomainForbidden"}
)
_DENIED: Final = frozenset(
    {
        "401", "403", "AccessDenied", "AccountProblem", "AllAccessDisabled", "Forbidden", "KMS.AccessDeniedException",
        "KMS.DisabledException", "MethodNotAllowed", "Unauthorized",
    }
)  # fmt: skip
_UNKNOWN_KEY: Final = ("the storage knows no such access key", "Correct AWS_ACCESS_KEY_ID in {secret}.")
_EXPIRED: Final = (
    "the temporary credentials have expired",
    "Put new values of AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN into {secret}.",
)
_OWN_COPY: Final = ("the bucket wants its readers to pay", "Copy the files to a bucket of your own.")
_CREDENTIALS: Final[dict[str, tuple[str, str]]] = {
    "InvalidAccessKeyId": _UNKNOWN_KEY,
    "XAdminUserNotFound": _UNKNOWN_KEY,  # versitygw
    "SignatureDoesNotMatch": (
        "the secret key is not the one of the access key",
        "Correct AWS_SECRET_ACCESS_KEY in {secret}; if it is right, a proxy before the storage changes requests.",
    ),
    "ExpiredToken": _EXPIRED,
    "RequestExpired": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
    "InvalidToken": (
        "the session token is none of this storage's",
        "Correct AWS_SESSION_TOKEN in {secret}, or remove it.",
    ),
    "InvalidObjectState": ("the file is archived", "Restore it to a storage class that can be read at once."),
    "UserProjectMissing": _OWN_COPY,  # Google Cloud Storage
    "RequestPayerRequired": _OWN_COPY,
}
"""Codes that are refusals, in words: what is wrong and what mends it."""

_RIGHTS: Final[dict[Operation, str]] = {
    "reading": "s3:GetObject",
    "listing": "s3:ListBucket (and s3:ListBucketMultipartUploads below output.uri)",
    "writing": "s3:PutObject, s3:DeleteObject and s3:AbortMultipartUpload",
}


class NotS3Error(Exception):
    """A web page came where S3 would have answered with an object."""


@dataclass(frozen=True, slots=True)
class S3Place:
    """What a message needs to know about a store.

    Attributes
    ----------
    field
        What names the place: a field of the spec, or of the runtime.
    uri
        The folder, ending with ``/``.
    endpoint
        Where requests go: the runtime's, or AWS's own.
    style
        ``path``, ``virtual`` or ``auto``.
    """

    role: Role
    field: str
    uri: str
    bucket: str
    endpoint: str
    region: str
    style: str

    @property
    def names_bucket_twice(self) -> bool:
        """Whether the endpoint's host has the bucket in it, which is then looked for below itself."""
        return self.endpoint.partition("://")[2].startswith(f"{self.bucket}.")


def refuse_web_pages(http_response: Any, **_: Any) -> None:
    """Refuse what no S3 server sent: HTML without an ETag, as of a proxy's login or a console's start page.

    Called by boto3 after each request, so that such a page is never taken for rows, for weights or for an empty folder.
    """
    headers = http_response.headers
    if http_response.status_code < 300 and "etag" not in headers and _is_html(headers):
        http_response.raw.close()
        raise NotS3Error


@contextmanager
def telling(place: S3Place, operation: Operation, key: str) -> Iterator[None]:
    """Raise every failure of the block as a :class:`StageError` of the table."""
    what = f"{operation} {place.uri}{key}"
    try:
        yield
    except StageError:
        raise
    except NO_IDENTITY:
        raise StageError(
            Reason.CREDENTIALS_NOT_FOUND,
            f"{what} ({place.field}): no credentials. Name a Secret in {credentials_field(place.role)}, or give the "
            "service account an identity; a local run reads AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
            tells_mend=True,
        ) from None
    except ClientError as error:
        raise _refused(place, operation, what, error) from error
    except S3UploadFailedError as error:
        cause = error.__cause__ or error.__context__
        if isinstance(cause, ClientError):
            raise _refused(place, operation, what, cause) from error
        raise _unanswered(place, what, cause or error) from error
    except (NotS3Error, ResponseParserError) as error:
        raise _told(Reason.STORAGE_UNAVAILABLE, f"{what}: ", _web_page(place, "")) from error
    except (BotoCoreError, RetriesExceededError) as error:
        raise _unanswered(place, what, error) from error
    except OSError as error:
        raise StageError(
            Reason.TRAINER_ERROR, f"{what} failed on the local disk: {error.strerror or type(error).__name__}"
        ) from error


def code_of(error: ClientError) -> str:
    """Return the store's error code: a short word, whatever the server sent."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = str(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
    return code if re.fullmatch(r"[A-Za-z0-9.]{1,64}", code) else status or "unknown"


def _told(reason: Reason, what: str, fault: Fault) -> StageError:
    return StageError(reason, f"{what}{fault}", tells_mend=True)


def _unanswered(place: S3Place, what: str, error: BaseException) -> StageError:
    fault = explain(error, place.endpoint)
    if fault is None:
        return StageError(Reason.STORAGE_UNAVAILABLE, f"{what} ({place.field}) failed: {type(error).__name__}")
    return _told(Reason.STORAGE_UNAVAILABLE, f"{what} ({place.field}): ", fault)


def _refused(place: S3Place, operation: Operation, what: str, error: ClientError) -> StageError:
    code = code_of(error)
    named = f"{what} ({place.field})"
    misplaced = _misplaced(place, error, code)
    if misplaced is not None:
        return _told(Reason.STORAGE_UNAVAILABLE, f"{what}: ", misplaced)
    denied = _denied(place, operation, error, code)
    if denied is not None:
        return _told(Reason.ACCESS_DENIED, f"{named} was refused: {code}", denied)
    if code == "NoSuchBucket":
        return _told(
            Reason.OUTPUT_NOT_FOUND if place.role == "output" else NOT_FOUND[place.role], named, _absent(place)
        )
    if code in MISSING and operation != "writing":
        return StageError(NOT_FOUND[place.role], f"{named}: there is no such file")
    reason = Reason.ARTIFACT_UPLOAD_FAILED if operation == "writing" else Reason.STORAGE_UNAVAILABLE
    return StageError(reason, f"{what} failed: {code}")


def _absent(place: S3Place) -> Fault:
    """There is no such bucket: another try ends alike, so whoever named it is told at once."""
    hint = "; or the storage needs addressingStyle Path" if place.style == "virtual" else ""
    if place.field == OUTPUT_PREFIX:
        mend = f"The platform team creates the bucket or corrects {place.field}."
    else:
        mend = f"Create the bucket, or correct {place.field}."
    return Fault(f": there is no bucket {place.bucket!r}{hint}", mend)


def _misplaced(place: S3Place, error: ClientError, code: str) -> Fault | None:
    """The endpoint, its scheme, the region or the addressing is wrong: requests end where they can't be answered."""
    headers = _headers(error)
    sent_on = code.startswith("30") and headers.get("location", "").startswith("https:")
    if place.endpoint.startswith("http:") and (sent_on or (code == "400" and speaks_tls(place.endpoint))):
        return tls_expected(place.endpoint)
    if _is_html(headers):
        return _web_page(place, f" with status {code}")
    if code in _VIRTUAL_ONLY:
        return Fault(
            f"the storage wants the bucket in the host's name ({code})",
            f"The platform team sets storage.addressingStyle to Virtual {IN_RUNTIME}.",
        )
    if code in MISSING | {"NoSuchBucket"} and place.names_bucket_twice:
        return Fault(
            f"the endpoint {place.endpoint} names the bucket already, so that the storage looks for it twice ({code})",
            f"The platform team writes storage.endpoint {IN_RUNTIME} without the bucket.",
        )
    if code in _REGION or (code == "400" and "x-amz-bucket-region" in headers):
        return _region(place, error, code)
    return None


def _denied(place: S3Place, operation: Operation, error: ClientError, code: str) -> Fault | None:
    """Say why a request was refused; None where it was not the right to make it that was missing."""
    if error.operation_name.startswith("AssumeRole"):
        return Fault(
            " by the service that gives the service account its identity",
            "The platform team corrects the role that the service account names, and who may assume it.",
        )
    if code == "RequestTimeTooSkewed":
        return Fault(
            f", {_skew(error)}",
            "The platform team sets the clock of the pod's node, or of the storage, right; the keys may be good.",
        )
    if code in _CREDENTIALS:
        what, mend = _CREDENTIALS[code]
        secret = f"the Secret of {credentials_field(place.role)} (in a local run: the environment)"
        return Fault(f", {what}", mend.format(secret=secret))
    if code not in _DENIED:
        return None
    unseen = "; where listing is not allowed, a missing file is refused like this too" if operation == "reading" else ""
    return Fault(
        unseen, f"Give the identity of {credentials_field(place.role)} the right to do this: {_RIGHTS[operation]}."
    )


def _skew(error: ClientError) -> str:
    """Say how far apart the clocks are, if the answer has its time."""
    try:
        theirs = parsedate_to_datetime(_headers(error).get("date", ""))
    except ValueError:
        return "the clocks of the pod's node and of the storage differ by more than 15 minutes"
    ahead = datetime.now(UTC) - theirs
    if abs(ahead) < timedelta(minutes=1):
        return "the clocks of the pod's node and of the storage differed too much"
    return (
        f"the clock of the pod's node is {timedelta(seconds=round(abs(ahead).total_seconds()))} "
        f"{'ahead of' if ahead > timedelta(0) else 'behind'} the storage's"
    )


def _region(place: S3Place, error: ClientError, code: str) -> Fault:
    region = _right_region(error)
    if region is not None and region != place.region:
        return Fault(
            f"the bucket is in another region, {region}, and was looked for in {place.region} ({code})",
            f"The platform team sets storage.region to {region} {IN_RUNTIME}, and storage.endpoint to that region's if "
            "one is set; a local run takes it from AWS_REGION.",
        )
    host = str(error.response.get("Error", {}).get("Endpoint", ""))
    if re.fullmatch(r"[A-Za-z0-9.:-]{1,253}", host):
        return Fault(
            f"the bucket is reached at another endpoint, {host} ({code})",
            f"The platform team corrects storage.endpoint and storage.region {IN_RUNTIME}.",
        )
    return Fault(
        f"the bucket is in another region than {place.region}, or the endpoint takes no such signature ({code})",
        f"The platform team sets storage.region to the bucket's {IN_RUNTIME}; a local run takes it from AWS_REGION.",
    )


def _right_region(error: ClientError) -> str | None:
    """Find the region that the storage would accept: each kind of server names it in another place."""
    said: Mapping[str, Any] = error.response.get("Error", {})
    in_message = re.search(r"expect(?:ing|ed)\W+([a-z0-9-]+)", str(said.get("Message", "")))
    in_host = re.search(r"s3[.-]([a-z]{2}[a-z-]*-\d)\.amazonaws", str(said.get("Endpoint", "")))
    candidates = (
        said.get("Region"),
        _headers(error).get("x-amz-bucket-region"),
        in_host[1] if in_host else None,
        in_message[1] if in_message else None,
    )
    return next((str(one) for one in candidates if one and re.fullmatch(r"[a-z0-9-]{1,64}", str(one))), None)


def _web_page(place: S3Place, status: str) -> Fault:
    return Fault(
        f"a web page{status} came from {place.endpoint} where S3 was expected",
        f"The platform team corrects storage.endpoint {IN_RUNTIME} (the port of a console and the host of a website "
        "are not S3's), or the proxy that answered in its place (HTTPS_PROXY, NO_PROXY).",
    )


def _headers(error: ClientError) -> Mapping[str, str]:
    headers: Mapping[str, str] = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return headers


def _is_html(headers: Mapping[str, str]) -> bool:
    return headers.get("content-type", "").lower().startswith(("text/html", "application/xhtml"))


def end_search_for_region(response: tuple[Any, Mapping[str, Any]] | None = None, **_: Any) -> None:
    """Keep boto3 from asking for a bucket's region without end.

    Redirected, it asks for the bucket to learn its region; redirected there too, it asks again. Whoever sends plain
    requests on to https:// answers like that.
    """
    if response is not None and response[0] is not None and response[0].status_code >= 300:
        raise ClientError(dict(response[1]), "HeadBucket")  # type: ignore[arg-type]  # the shape of an answer


def give_up_if_lasting(caught_exception: BaseException | None = None, **_: Any) -> bool | None:
    """Keep boto3 from trying again what can't end otherwise."""
    return False if caught_exception is not None and is_lasting(caught_exception) else None
