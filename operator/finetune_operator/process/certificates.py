"""The certificates of the endpoint for live reports: an authority that lasts, and short-lived ones signed by it.

The authority lies in one Secret of the operator's own namespace, which the installation makes empty and kubelet mounts.
Where nothing is mounted yet the operator patches that one name, and takes what the answer says stands there. It may
read no Secret, and learns of no other one. Pods are told the authority when they are made, so that it has to outlive
them; the certificate that the endpoint shows is made in memory, and renewed there.
"""

from __future__ import annotations

import base64
import binascii
import logging
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from finetune_api.names import MANAGED_BY
from finetune_operator.cluster.protocol import ClusterGateway, ConflictError, Raw
from finetune_operator.cluster.views import as_dict, as_text, metadata

__all__ = ["Authority", "ServerCertificate", "authority_of", "found_or_made", "mounted_authority", "new_authority"]

log = logging.getLogger(__name__)

AUTHORITY_LIFE: Final = timedelta(days=3650)
AUTHORITY_REST: Final = timedelta(days=90)
"""An authority that ends sooner is replaced: longer than a job may run."""

LEAF_LIFE: Final = timedelta(days=30)
LEAF_REST: Final = timedelta(days=15)
CLOCK_SKEW: Final = timedelta(days=1)
"""Certificates hold since so long before they were made, for nodes whose clocks are behind."""

CERTIFICATE_KEY: Final = "tls.crt"
PRIVATE_KEY: Final = "tls.key"
TRIES: Final = 5

_NAME: Final = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "finetune-operator live reports")])


@dataclass(frozen=True, slots=True)
class Authority:
    """What signs."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> str:
        """The certificate, for pods to trust."""
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def private_pem(self) -> str:
        """The key."""
        return _private_pem(self.key).decode()

    def lasts(self, now: datetime) -> bool:
        """Tell whether it outlives the jobs that begin now."""
        certificate = self.certificate
        return certificate.not_valid_before_utc <= now and now + AUTHORITY_REST < certificate.not_valid_after_utc


def new_authority(now: datetime) -> Authority:
    """Make an authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_NAME)
        .issuer_name(_NAME)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate, key)


def authority_of(certificate: bytes, key: bytes) -> Authority | None:
    """Read an authority; None if that isn't one."""
    try:
        found = x509.load_pem_x509_certificate(certificate)
        private = serialization.load_pem_private_key(key, password=None)
        found.verify_directly_issued_by(found)
    except (ValueError, TypeError, InvalidSignature):
        return None
    if not isinstance(private, ec.EllipticCurvePrivateKey) or private.public_key() != found.public_key():
        return None
    return Authority(found, private)


# --- where it lies ----------------------------------------------------------------------------------------------------


def mounted_authority(folder: Path) -> Authority | None:
    """Return the authority that kubelet has mounted; None if there is none yet."""
    try:
        return authority_of((folder / CERTIFICATE_KEY).read_bytes(), (folder / PRIVATE_KEY).read_bytes())
    except OSError:
        return None


async def found_or_made(
    gateway: ClusterGateway, *, namespace: str, name: str, folder: Path | None, now: Callable[[], datetime]
) -> Authority:
    """Return the authority that stands, or make one and store it first.

    Raises
    ------
    ClusterError
        The Secret could not be patched.
    """
    mounted = mounted_authority(folder) if folder is not None else None
    if mounted is not None and mounted.lasts(now()):
        return mounted
    for _ in range(TRIES):
        stored = await gateway.patch_secret(namespace, name, {})
        found = _stored_authority(stored)
        if found is not None and found.lasts(now()):
            return found
        made = new_authority(now())
        try:
            await gateway.patch_secret(namespace, name, _patch(made, stored))
        except ConflictError:
            continue  # another operator was faster; what it made counts
        log.info("A certificate authority for live reports was made", extra={"event": "AuthorityMade"})
        return made
    raise ConflictError(f"Secret {name} changes all the time")


def _patch(authority: Authority, stored: Raw) -> Raw:
    """Return the merge patch that puts an authority where none is, on the very version that was looked at."""
    texts = {CERTIFICATE_KEY: authority.pem, PRIVATE_KEY: authority.private_pem}
    return {
        "metadata": {"resourceVersion": as_text(metadata(stored).get("resourceVersion")) or ""},
        "data": {key: base64.b64encode(text.encode()).decode() for key, text in texts.items()},
    }


def _stored_authority(secret: Raw) -> Authority | None:
    data = as_dict(secret.get("data"))
    texts = [as_text(data.get(key)) or "" for key in (CERTIFICATE_KEY, PRIVATE_KEY)]
    try:
        certificate, key = (base64.b64decode(text, validate=True) for text in texts)
    except (ValueError, binascii.Error):
        return None
    return authority_of(certificate, key)


# --- what the endpoint shows ------------------------------------------------------------------------------------------


class ServerCertificate:
    """The endpoint's certificate, in a TLS context that always has one that lasts.

    Parameters
    ----------
    host
        Name by which pods reach the endpoint.
    """

    def __init__(self, authority: Authority, host: str, *, now: Callable[[], datetime]) -> None:
        self._authority, self._host, self._now = authority, host, now
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._ends = now()
        self.renew()

    def renew(self) -> bool:
        """Make a new certificate if the present one ends soon; connections that stand keep theirs."""
        now = self._now()
        if now + LEAF_REST < self._ends:
            return False
        key = ec.generate_private_key(ec.SECP256R1())
        self._ends = min(now + LEAF_LIFE, self._authority.certificate.not_valid_after_utc)
        leaf = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, MANAGED_BY)]))
            .issuer_name(self._authority.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - CLOCK_SKEW)
            .not_valid_after(self._ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(self._host)]), critical=False)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._authority.key.public_key()), critical=False
            )
            .sign(self._authority.key, hashes.SHA256())
        )
        self._load(leaf.public_bytes(serialization.Encoding.PEM) + _private_pem(key))
        return True

    def _load(self, chain: bytes) -> None:
        """Load certificate and key from memory; OpenSSL takes them from a file only, so it gets one without a place."""
        descriptor = os.memfd_create("finetune-certificate")
        try:
            os.write(descriptor, chain)
            self.context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )
