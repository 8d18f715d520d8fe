"""Whose token is it: from a bearer token to the pod that the API server vouches for.

``progress.py`` asks. A token is looked into before the API server is asked about it, so that nonsense costs no request:
what stands in it is believed only once a TokenReview, with our audience sent and compared, says the same. A verdict
holds for a while, for tokens that were good; that the pod still stands is looked up in our own cache every time,
because the API server goes on to accept the token of a deleted pod for some seconds.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from finetune_api.names import PROGRESS_AUDIENCE
from finetune_operator.cluster.protocol import ClusterGateway, Raw, UnavailableError
from finetune_operator.cluster.views import as_dict, as_list, as_text

__all__ = ["MAX_TOKEN", "BadTokenError", "PodIdentity", "TokenReviews", "claimed_identity"]

MAX_TOKEN: Final = 4096
"""Characters of a token; those of Kubernetes have about 1,100."""

REVIEW_SECONDS: Final = 120.0
"""How long a verdict holds."""

MAX_REVIEWS: Final = 8192
"""Verdicts that are kept."""

AT_ONCE: Final = 8
"""TokenReviews under way."""

WAITING: Final = 256
"""Tokens that may wait for one."""

_USERNAME: Final = "system:serviceaccount:"
_POD_NAME: Final = "authentication.kubernetes.io/pod-name"
_POD_UID: Final = "authentication.kubernetes.io/pod-uid"


class PodIdentity(NamedTuple):
    """Names one pod."""

    namespace: str
    name: str
    uid: str


class BadTokenError(Exception):
    """The token is not one of a pod for our audience."""


class TokenReviews:
    """Asks the API server about tokens, and remembers.

    Parameters
    ----------
    clock
        Seconds of a clock that never jumps.
    """

    def __init__(self, gateway: ClusterGateway, *, clock: Callable[[], float]) -> None:
        self._gateway, self._clock = gateway, clock
        self._known: OrderedDict[bytes, tuple[PodIdentity, float]] = OrderedDict()
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0

    def known(self, token: str) -> PodIdentity | None:
        """Return whose token it is, if the API server has vouched for it a short while ago."""
        found = self._known.get(_digest(token))
        return found[0] if found is not None and self._clock() < found[1] else None

    async def identify(self, token: str) -> PodIdentity:
        """Return whose token it is.

        Raises
        ------
        BadTokenError
            It is not one of a pod, or not for our audience.
        ClusterError
            The API server could not be asked.
        """
        if (known := self.known(token)) is not None:
            return known
        if self._waiting >= WAITING:
            raise UnavailableError("too many tokens wait for their review")
        self._waiting += 1
        try:
            async with self._slots:
                status = await self._gateway.review_token(token, audience=PROGRESS_AUDIENCE)
        finally:
            self._waiting -= 1
        identity = _vouched_for(status)
        if identity is None:
            raise BadTokenError
        self._known[_digest(token)] = identity, self._clock() + REVIEW_SECONDS
        if len(self._known) > MAX_REVIEWS:
            self._known.popitem(last=False)
        return identity


def claimed_identity(token: str) -> PodIdentity | None:
    """Return the pod that a token claims to be of, unverified; None if it can't be good for our audience."""
    parts = token.split(".")
    if len(token) > MAX_TOKEN or len(parts) != 3:
        return None
    try:
        claims = as_dict(json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))))
    except (ValueError, binascii.Error, RecursionError):
        return None
    audiences = claims.get("aud")
    if PROGRESS_AUDIENCE not in ([audiences] if isinstance(audiences, str) else as_list(audiences)):
        return None
    bound = as_dict(claims.get("kubernetes.io"))
    pod = as_dict(bound.get("pod"))
    return _identity(bound.get("namespace"), pod.get("name"), pod.get("uid"))


def _vouched_for(status: Raw) -> PodIdentity | None:
    """Read the status of a TokenReview.

    One that names no audience is of an API server that doesn't know of audiences, and takes any token.
    """
    user = as_dict(status.get("user"))
    username = as_text(user.get("username")) or ""
    if status.get("authenticated") is not True or PROGRESS_AUDIENCE not in as_list(status.get("audiences")):
        return None
    if not username.startswith(_USERNAME):
        return None
    extra = as_dict(user.get("extra"))
    namespace = username.removeprefix(_USERNAME).partition(":")[0]
    return _identity(namespace, _only(extra.get(_POD_NAME)), _only(extra.get(_POD_UID)))


def _identity(namespace: Any, name: Any, uid: Any) -> PodIdentity | None:
    texts = [as_text(namespace), as_text(name), as_text(uid)]
    found = [text for text in texts if text is not None]
    return PodIdentity(*found) if len(found) == len(texts) else None


def _only(values: Any) -> Any:
    items = as_list(values)
    return items[0] if len(items) == 1 else None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
