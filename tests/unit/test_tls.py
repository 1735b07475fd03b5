"""The files of a TLS connection: which are refused, with file and setting; and which addresses need TLS."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from tests.support.authority import TestAuthority
from trainshed_client.endpoint import Endpoint
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.loopback import is_loopback, refuse_open
from trainshed_client.tls import client_context


def endpoint_of(authority: TestAuthority) -> Endpoint:
    cert, key = authority.issue("sam")
    return Endpoint("tls://hub:4222", ca=str(authority.ca), cert=cert, key=key)


def test_a_context_is_of_tls_1_3_and_checks_name_and_authority(tmp_path: Path) -> None:
    context = client_context(endpoint_of(TestAuthority(tmp_path)), now=time.time())
    assert context.minimum_version is ssl.TLSVersion.TLSv1_3
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert len(context.get_ca_certs()) == 1, "none but the stack's own authority"


def _swapped(folder: Path) -> None:
    TestAuthority(folder).issue("ada")
    (folder / "sam.key").write_bytes((folder / "ada.key").read_bytes())


def _locked(folder: Path) -> None:
    (folder / "sam.key").write_bytes(
        Ed25519PrivateKey.generate().private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"hush")
        )
    )


def _folder(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return change


def _written(name: str, text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_text(text)

    return change


PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize(
    ("change", "file", "setting", "wrong"),
    [
        (
            lambda folder: (folder / "ca.pem").unlink(),
            "ca.pem",
            "CA",
            "cannot be read (no such file or directory)",
        ),
        (
            lambda folder: (folder / "sam.pem").unlink(),
            "sam.pem",
            "CERT",
            "cannot be read (no such file or directory)",
        ),
        (
            lambda folder: (folder / "sam.key").unlink(),
            "sam.key",
            "KEY",
            "cannot be read (no such file or directory)",
        ),
        (_folder("ca.pem"), "ca.pem", "CA", "cannot be read (is a directory)"),
        (_folder("sam.key"), "sam.key", "KEY", "cannot be read (is a directory)"),
        (_written("ca.pem", "no"), "ca.pem", "CA", "holds no certificate in PEM"),
        (_written("ca.pem", ""), "ca.pem", "CA", "holds no certificate in PEM"),
        (_written("sam.pem", "no"), "sam.pem", "CERT", "holds no certificate in PEM"),
        (_written("sam.key", PEM), "sam.key", "KEY", "holds no key in PEM"),
        (_written("sam.pem", PEM), "sam.pem", "CERT", "is damaged"),
        (_swapped, "sam.key", "KEY", "is not that of the certificate"),
        (_locked, "sam.key", "KEY", "is under a passphrase, and nobody is asked for it"),
        (lambda folder: TestAuthority(folder, days=-1) and None, "ca.pem", "CA", "has expired"),
        (lambda folder: TestAuthority(folder, issues=False) and None, "ca.pem", "CA", "is no authority's"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_its_setting(
    tmp_path: Path, change: Callable[[Path], None], file: str, setting: str, wrong: str
) -> None:
    endpoint = endpoint_of(TestAuthority(tmp_path))
    change(tmp_path)
    with pytest.raises(TrainshedError) as refused:
        client_context(endpoint, now=time.time())
    assert refused.value.code is ErrorCode.INVALID
    for part in (f"{tmp_path}/{file}", f"TRAINSHED_NATS_{setting}", wrong):
        assert part in refused.value.message


def test_an_authority_in_exchange_may_have_expired_beside_its_successor(tmp_path: Path) -> None:
    older, newer = TestAuthority(tmp_path / "older", days=-1), TestAuthority(tmp_path / "newer")
    both = tmp_path / "both.pem"
    both.write_bytes(older.ca.read_bytes() + newer.ca.read_bytes())
    context = client_context(Endpoint("tls://hub:4222", ca=str(both)), now=time.time())
    assert len(context.get_ca_certs()) == 2


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost", "LocalHost"])
def test_this_machine_needs_no_tls(host: str) -> None:
    assert is_loopback(host)
    refuse_open(Endpoint(f"nats://[{host}]:1" if ":" in host else f"nats://{host}:1"))


@pytest.mark.parametrize(
    "host",
    [
        "10.0.0.5",
        "0.0.0.0",
        "128.0.0.1",
        "::",
        "fe80::1",
        "::ffff:127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "localhost.example",
        "hub.example",
        "nats",
    ],
)
def test_any_other_is_refused_without_tls_with_the_command_to_run(host: str) -> None:
    assert not is_loopback(host)
    shown = f"[{host}]" if ":" in host else host
    with pytest.raises(TrainshedError) as refused:
        refuse_open(Endpoint(f"nats://127.0.0.1:4222,nats://{shown}:4333"))
    assert refused.value.code is ErrorCode.INVALID
    assert refused.value.message.startswith(f"{host} is not this machine, and nats:// is without TLS")
    assert f"Write tls://{shown}:4333 and name the authority in TRAINSHED_NATS_CA" in refused.value.message
    assert f"trainshed login TOKEN@{shown}:PORT" in refused.value.message
    refuse_open(Endpoint(f"tls://{shown}:4333"))
