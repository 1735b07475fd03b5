"""The certificate authority: what it signs, under which name, and what it refuses."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from services.access.identities import Control, ControlRole, Identity, NodeIdentity, Person, PersonRole
from services.enrol.authority import (
    Authorities,
    Authority,
    authority_fingerprint,
    hosts_of,
    make_authority,
    read_authorities,
    read_bundle,
    read_certificates,
    write_authorities,
)
from services.enrol.keys import key_fingerprint, make_key, make_request, read_key, requested_key
from trainshed_client.endpoint import write_private
from trainshed_client.errors import ErrorCode, TrainshedError

NOW = datetime(2026, 11, 30, 9, tzinfo=UTC)
AUTHORITY = make_authority(now=NOW)
NODE = NodeIdentity("gpu01")


def only(pem: str | bytes) -> x509.Certificate:
    [certificate] = read_certificates(pem.encode() if isinstance(pem, str) else pem)
    return certificate


def names(certificate: x509.Certificate) -> list[str]:
    return hosts_of(certificate)


def usages(certificate: x509.Certificate) -> list[x509.ObjectIdentifier]:
    return list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


@pytest.mark.parametrize(
    ("identity", "name"),
    [
        (NODE, "gpu01.node.trainshed"),
        (Person("ada_l", PersonRole.VIEWER), "ada_l.user.trainshed"),
        (Control(ControlRole.GATEWAY), "gateway.ctl.trainshed"),
    ],
)
def test_a_client_gets_the_one_name_that_the_caller_gives(identity: Identity, name: str) -> None:
    key = make_key()
    signed = AUTHORITY.sign_client(make_request(key).decode(), identity, now=NOW, life=timedelta(days=3))
    certificate = only(signed.pem)
    certificate.verify_directly_issued_by(AUTHORITY.certificate)
    assert names(certificate) == [name]
    assert list(certificate.subject) == []
    assert usages(certificate) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert certificate.not_valid_after_utc == NOW + timedelta(days=3) == signed.issued.not_after
    assert signed.issued.key == key_fingerprint(key.public_key())
    assert signed.issued.authority == AUTHORITY.fingerprint
    assert int(signed.issued.serial, 16) == certificate.serial_number


@pytest.mark.parametrize("claimed", ["../", "gateway.ctl.trainshed", "*", "gpu02.node.trainshed"])
def test_a_name_in_the_request_is_passed_over(claimed: str) -> None:
    key = make_key()
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, claimed)]))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(claimed)]), critical=True)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    certificate = only(AUTHORITY.sign_client(request.decode(), NODE, now=NOW).pem)
    assert names(certificate) == ["gpu01.node.trainshed"]
    assert usages(certificate) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def request_by(key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> str:
    signed_with = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, signed_with).public_bytes(serialization.Encoding.PEM).decode()


@pytest.mark.parametrize(
    "request_pem",
    [
        request_by(rsa.generate_private_key(65537, 2048)),
        request_by(ed25519.Ed25519PrivateKey.generate()),
        request_by(ec.generate_private_key(ec.SECP384R1())),
        request_by(ec.generate_private_key(ec.SECP256K1())),
    ],
    ids=["rsa", "ed25519", "p-384", "secp256k1"],
)
def test_keys_of_another_kind_are_refused(request_pem: str) -> None:
    with pytest.raises(TrainshedError, match="accepted is an ECDSA key on the curve P-256"):
        AUTHORITY.sign_client(request_pem, NODE, now=NOW)


@pytest.mark.parametrize(
    "text",
    ["", "x", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "é" * 10],
)
def test_what_is_no_request_is_refused(text: str) -> None:
    with pytest.raises(TrainshedError, match="cannot be read") as raised:
        requested_key(text)
    assert raised.value.code is ErrorCode.INVALID


def test_a_request_must_be_signed_with_the_key_that_it_bears() -> None:
    der = bytearray(x509.load_pem_x509_csr(make_request(make_key())).public_bytes(serialization.Encoding.DER))
    mine = make_key().public_key()
    point = serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    at = bytes(der).index(x509.load_der_x509_csr(bytes(der)).public_key().public_bytes(*point))
    der[at : at + 65] = mine.public_bytes(*point)
    stolen = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM).decode()
    with pytest.raises(TrainshedError, match="not signed with the key"):
        requested_key(stolen)


def test_a_request_of_any_length_is_not_read() -> None:
    with pytest.raises(TrainshedError, match="at most 8,192"):
        requested_key("x" * 8193)


def test_a_server_gets_its_hosts_and_the_chain() -> None:
    pem = AUTHORITY.sign_server(["control.lab", "10.0.0.1", "::1", "control.lab"], now=NOW)
    leaf, authority = read_certificates(pem)
    leaf.verify_directly_issued_by(authority)
    assert authority == AUTHORITY.certificate
    assert names(leaf) == ["control.lab", "10.0.0.1", "::1"]
    assert usages(leaf) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert read_key(pem).public_key() == leaf.public_key()


@pytest.mark.parametrize(
    "host", ["", "a b", "../", "*.lab", "-a", "a" * 64, "a..b", "é", "10.0.0.1/8", "a\n"]
)
def test_what_is_no_host_is_refused(host: str) -> None:
    with pytest.raises(TrainshedError, match="no host"):
        AUTHORITY.sign_server([host], now=NOW)


def test_a_certificate_never_outlives_its_authority_and_an_expired_one_signs_nothing() -> None:
    short = make_authority(now=NOW, life=timedelta(days=2))
    request = make_request(make_key()).decode()
    assert short.sign_client(request, NODE, now=NOW).issued.not_after == NOW + timedelta(days=2)
    with pytest.raises(TrainshedError, match="expired on 2026-12-02"):
        short.sign_client(request, NODE, now=NOW + timedelta(days=2))


def test_two_authorities_while_one_replaces_the_other() -> None:
    younger = make_authority(now=NOW)
    both = Authorities((AUTHORITY,)).with_younger(younger)
    assert both.for_servers is AUTHORITY
    assert both.for_clients is younger
    assert [one.subject for one in read_certificates(both.bundle)] == [
        AUTHORITY.certificate.subject,
        younger.certificate.subject,
    ]
    assert AUTHORITY.certificate.subject != younger.certificate.subject
    assert both.without_older() == Authorities((younger,))
    with pytest.raises(TrainshedError, match="being replaced already"):
        both.with_younger(make_authority(now=NOW))
    with pytest.raises(TrainshedError, match="no certificate authority is being replaced"):
        Authorities((younger,)).without_older()


def test_the_files_of_the_authorities(tmp_path: Path) -> None:
    folder = tmp_path / "cluster"
    with pytest.raises(TrainshedError, match="trainshed cluster init"):
        read_authorities(folder)
    both = Authorities((AUTHORITY, make_authority(now=NOW)))
    write_authorities(folder, both)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir()} == {
        "authority.pem": 0o600,
        "ca.crt": 0o600,
    }
    read = read_authorities(folder)
    assert [one.fingerprint for one in read.trusted] == [one.fingerprint for one in both.trusted]
    assert b"PRIVATE" not in (folder / "ca.crt").read_bytes()
    assert read_bundle(folder) == [one.certificate for one in both.trusted]
    assert "PRIVATE" not in repr(read)


def test_a_key_that_others_may_read_is_not_used(tmp_path: Path) -> None:
    write_authorities(tmp_path, Authorities((AUTHORITY,)))
    (tmp_path / "authority.pem").chmod(0o640)
    with pytest.raises(TrainshedError, match="chmod 600"):
        read_authorities(tmp_path)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    write_authorities(tmp_path, Authorities((AUTHORITY,)))
    other = Authority(AUTHORITY.certificate, make_key())
    for content in (b"", b"x", AUTHORITY.pem, Authorities((other,)).bundle):
        (tmp_path / "authority.pem").write_bytes(content)
        with pytest.raises(TrainshedError, match=r"authority\.pem is damaged"):
            read_authorities(tmp_path)
    write_authorities(tmp_path, Authorities((other,)))
    with pytest.raises(TrainshedError, match="lacks a certificate with its key"):
        read_authorities(tmp_path)


def killed_after_the_first(patch: pytest.MonkeyPatch, folder: Path, authorities: Authorities) -> None:
    """Write them, killed once the first file is written."""
    written: list[Path] = []

    def write(path: Path, content: bytes) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(path)
        write_private(path, content)

    with patch.context() as killing, pytest.raises(KeyboardInterrupt):
        killing.setattr("services.enrol.authority.write_private", write)
        write_authorities(folder, authorities)


def test_a_kill_between_the_two_files_leaves_nobody_whose_signer_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = Authorities((AUTHORITY, make_authority(now=NOW)))
    write_authorities(tmp_path, Authorities((AUTHORITY,)))
    for authorities in (both, both.without_older()):
        killed_after_the_first(monkeypatch, tmp_path, authorities)
        signs = {one.fingerprint for one in read_authorities(tmp_path).trusted}
        assert signs <= {authority_fingerprint(one) for one in read_bundle(tmp_path)}
        write_authorities(tmp_path, authorities)
