"""The authority of the live reports' endpoint: found, made once, kept; and certificates that change under it."""

from __future__ import annotations

import asyncio
import base64
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from finetune_operator.cluster.protocol import NotFoundError, Raw
from finetune_operator.process.certificates import (
    Authority,
    ServerCertificate,
    authority_of,
    found_or_made,
    mounted_authority,
    new_authority,
)
from tests.support.memory_gateway import MemoryCluster, MemoryGateway

NOW = datetime.now(UTC).replace(microsecond=0)
NAMESPACE, NAME = "finetune-system", "finetune-operator-progress"


class Bench:
    def __init__(self) -> None:
        self.cluster = MemoryCluster(now=lambda: NOW)
        self.cluster.create("secrets", {"metadata": {"namespace": NAMESPACE, "name": NAME}})

    def find(
        self, folder: Path | None = None, *, now: datetime = NOW, gateway: MemoryGateway | None = None
    ) -> Authority:
        return asyncio.run(
            found_or_made(
                gateway or MemoryGateway(self.cluster), namespace=NAMESPACE, name=NAME, folder=folder, now=lambda: now
            )
        )

    @property
    def secret(self) -> Raw:
        return self.cluster.get("secrets", NAMESPACE, NAME)


def mount(secret: Raw, folder: Path) -> None:
    """As kubelet does."""
    for key, text in secret["data"].items():
        (folder / key).write_bytes(base64.b64decode(text))


# --- the authority ----------------------------------------------------------------------------------------------------


def test_an_authority_is_made_once_and_found_ever_after() -> None:
    bench = Bench()
    made = bench.find()
    before = bench.secret
    assert bench.find().pem == made.pem
    assert bench.secret == before


def test_it_lasts_ten_years_and_signs_nothing_but_certificates_of_servers() -> None:
    certificate = new_authority(NOW).certificate
    assert certificate.not_valid_after_utc == NOW + timedelta(days=3650)
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.ca, constraints.path_length) == (True, 0)


def test_what_kubelet_has_mounted_needs_no_request(tmp_path: Path) -> None:
    bench = Bench()
    made = bench.find()
    mount(bench.secret, tmp_path)
    bench.cluster.delete("secrets", NAMESPACE, NAME)
    assert bench.find(tmp_path).pem == made.pem


def test_an_empty_mount_is_no_authority(tmp_path: Path) -> None:
    assert mounted_authority(tmp_path) is None
    assert Bench().find(tmp_path) is not None


def test_an_authority_that_ends_soon_is_replaced() -> None:
    bench = Bench()
    old = bench.find()
    later = NOW + timedelta(days=3650 - 89)
    new = bench.find(now=later)
    assert new.pem != old.pem
    assert bench.find(now=later).pem == new.pem


@pytest.mark.parametrize("part", ["tls.crt", "tls.key"])
def test_a_damaged_secret_is_made_good(part: str) -> None:
    bench = Bench()
    old = bench.find()
    bench.cluster.patch("secrets", NAMESPACE, NAME, {"data": {part: "bm90aGluZw=="}})
    assert bench.find().pem != old.pem


def test_a_key_of_another_authority_is_none() -> None:
    one, other = new_authority(NOW), new_authority(NOW)
    assert authority_of(one.pem.encode(), other.private_pem.encode()) is None
    assert authority_of(one.pem.encode(), one.private_pem.encode()) is not None


def test_of_two_operators_at_once_the_first_one_counts() -> None:
    bench = Bench()
    theirs = new_authority(NOW)

    class Beaten(MemoryGateway):
        async def patch_secret(self, namespace: str, name: str, patch: Raw) -> Raw:
            if patch and "data" not in bench.secret:
                data = {"tls.crt": theirs.pem, "tls.key": theirs.private_pem}
                coded = {key: base64.b64encode(text.encode()).decode() for key, text in data.items()}
                bench.cluster.patch("secrets", namespace, name, {"data": coded})
            return await super().patch_secret(namespace, name, patch)

    assert bench.find(gateway=Beaten(bench.cluster)).pem == theirs.pem


def test_a_secret_that_is_missing_is_an_error_and_none_is_made() -> None:
    bench = Bench()
    bench.cluster.delete("secrets", NAMESPACE, NAME)
    with pytest.raises(NotFoundError):
        bench.find()


# --- what the endpoint shows ------------------------------------------------------------------------------------------


def shown(certificate: ServerCertificate, authority: Authority, host: str = "operator.example.svc") -> x509.Certificate:
    """The certificate that a client sees and has checked, without a socket."""
    client = ssl.create_default_context(cadata=authority.pem)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname=host)
    theirs = certificate.context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(5):
        for side in (ours, theirs):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    found = ours.getpeercert(binary_form=True)
    assert found is not None
    return x509.load_der_x509_certificate(found)


def test_pods_that_trust_the_authority_trust_the_certificate() -> None:
    authority = new_authority(NOW)
    certificate = ServerCertificate(authority, "operator.example.svc", now=lambda: NOW)
    assert shown(certificate, authority).not_valid_after_utc == NOW + timedelta(days=30)


def test_another_name_or_another_authority_is_not_trusted() -> None:
    authority = new_authority(NOW)
    certificate = ServerCertificate(authority, "operator.example.svc", now=lambda: NOW)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shown(certificate, authority, "elsewhere.svc")
    with pytest.raises(ssl.SSLCertVerificationError):
        shown(certificate, new_authority(NOW))


def test_the_certificate_changes_under_the_same_authority_before_it_ends() -> None:
    now = begun = NOW - timedelta(days=20)
    authority = new_authority(begun)
    certificate = ServerCertificate(authority, "operator.example.svc", now=lambda: now)
    first = shown(certificate, authority)
    now = begun + timedelta(days=14)
    assert not certificate.renew()
    now = begun + timedelta(days=16)
    assert certificate.renew()
    second = shown(certificate, authority)
    assert second.serial_number != first.serial_number
    assert second.not_valid_after_utc == now + timedelta(days=30)


def test_nothing_of_the_key_lies_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    ServerCertificate(new_authority(NOW), "operator.example.svc", now=lambda: NOW)
    assert list(tmp_path.iterdir()) == []
