"""The certificate authority of a stack: itself, what it signs for servers and for clients, and its file.

Owns what stands in a certificate; knows neither tokens nor who is enrolled. The name in a certificate is always the
caller's: nothing is taken from a request but its key.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID as Usage

from services.access.identities import user_name
from services.enrol.keys import SIGNED_WITH, key_fingerprint, key_pem, make_key, read_key, requested_key
from services.enrol.roster import IssuedCertificate, Member
from services.enrol.roster_file import BUNDLE_FILE
from trainshed_client.endpoint import write_private
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.os_errors import why

AUTHORITY_FILE = "authority.pem"
AUTHORITY_LIFE = timedelta(days=3650)
SERVER_LIFE = timedelta(days=365)
CLIENT_LIFE = timedelta(days=90)
SKEW = timedelta(minutes=5)
"""So far a clock may be behind the authority's."""


class ClientCertificate(msgspec.Struct, frozen=True):
    """A certificate for a client, and what the roster keeps of it."""

    pem: str
    issued: IssuedCertificate


@dataclass(frozen=True)
class Authority:
    """A certificate authority and its private key, which its text form leaves out."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def pem(self) -> bytes:
        """Its certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def fingerprint(self) -> str:
        """SHA-256, lower-case hex, of its certificate (DER)."""
        return authority_fingerprint(self.certificate)

    def sign_client(
        self, request: str, identity: Member, *, now: datetime, life: timedelta = CLIENT_LIFE
    ) -> ClientCertificate:
        """A certificate that bears the name of ``identity`` and the key of the signing request.

        Raises TrainshedError: INVALID for a request that is not accepted, CONFLICT where the authority is at its end.
        """
        key = requested_key(request)
        certificate = self._sign(key, [x509.DNSName(user_name(identity))], [Usage.CLIENT_AUTH], now, life)
        issued = IssuedCertificate(
            serial=f"{certificate.serial_number:x}",
            key=key_fingerprint(key),
            issued_at=now,
            not_after=certificate.not_valid_after_utc,
            authority=self.fingerprint,
        )
        return ClientCertificate(_pem(certificate).decode(), issued)

    def sign_server(self, hosts: Sequence[str], *, now: datetime, life: timedelta = SERVER_LIFE) -> bytes:
        """A server's new key, its certificate for these host names and addresses and the authority's: one PEM file.

        Raises TrainshedError: INVALID for what is no host, CONFLICT where the authority is at its end.
        """
        if not hosts:
            raise TrainshedError(
                ErrorCode.INVALID, "a server's certificate needs a host name or address", "--host"
            )
        key = make_key()
        names = [_host(host) for host in canonical_hosts(hosts)]
        certificate = self._sign(key.public_key(), names, [Usage.SERVER_AUTH], now, life)
        return key_pem(key) + _pem(certificate) + self.pem

    def sign_route(self, hosts: Sequence[str], *, now: datetime) -> bytes:
        """The same for one server of a cluster towards the others, to which it is a client too; it lasts as the authority."""
        key = make_key()
        names = [_host(host) for host in canonical_hosts(hosts)]
        both = [Usage.SERVER_AUTH, Usage.CLIENT_AUTH]
        certificate = self._sign(key.public_key(), names, both, now, AUTHORITY_LIFE)
        return key_pem(key) + _pem(certificate) + self.pem

    def _sign(
        self,
        key: ec.EllipticCurvePublicKey,
        names: Sequence[x509.GeneralName],
        usages: Sequence[x509.ObjectIdentifier],
        now: datetime,
        life: timedelta,
    ) -> x509.Certificate:
        ends = self.certificate.not_valid_after_utc
        if ends <= now:
            raise TrainshedError(
                ErrorCode.CONFLICT,
                f"the certificate authority expired on {ends:%Y-%m-%d}. Make another: trainshed cluster rotate",
            )
        own = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(max(now - SKEW, self.certificate.not_valid_before_utc))
            .not_valid_after(min(now + life, ends))
            .add_extension(x509.SubjectAlternativeName(names), critical=True)  # it is the only name
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own), critical=False
            )
        )
        return builder.sign(self.key, SIGNED_WITH)


@dataclass(frozen=True)
class Authorities:
    """The authorities that a stack trusts: one, or while one replaces another both, the older first.

    Servers are signed by the older, which everybody knows already; clients by the younger, so that the older one can go.
    """

    trusted: tuple[Authority, ...]

    @property
    def for_servers(self) -> Authority:
        """Who signs servers' certificates, and whom a token pins."""
        return self.trusted[0]

    @property
    def for_clients(self) -> Authority:
        """Who signs clients' certificates."""
        return self.trusted[-1]

    @property
    def bundle(self) -> bytes:
        """The certificates of all that are trusted, as PEM."""
        return b"".join(authority.pem for authority in self.trusted)

    def with_younger(self, younger: Authority) -> Authorities:
        """The same with a younger authority. Raises TrainshedError (CONFLICT) while one is being replaced."""
        if len(self.trusted) > 1:
            raise TrainshedError(
                ErrorCode.CONFLICT, "the certificate authority is being replaced already; finish that first"
            )
        return Authorities((*self.trusted, younger))

    def without_older(self) -> Authorities:
        """The younger alone. Raises TrainshedError (CONFLICT) where there is no younger one."""
        if len(self.trusted) < 2:
            raise TrainshedError(ErrorCode.CONFLICT, "no certificate authority is being replaced")
        return Authorities(self.trusted[-1:])


def make_authority(*, now: datetime, life: timedelta = AUTHORITY_LIFE) -> Authority:
    """A new authority, named by its key, so that two of them are told apart."""
    key = make_key()
    name = f"trainshed authority {key_fingerprint(key.public_key())[:16]}"
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + life)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, SIGNED_WITH)
    )
    return Authority(certificate, key)


def authority_fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256, lower-case hex, of a certificate (DER)."""
    return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()


def read_certificates(pem: bytes) -> list[x509.Certificate]:
    """Every certificate of a PEM file, in its order. Raises ValueError where there is none."""
    return x509.load_pem_x509_certificates(pem)


def write_authorities(folder: Path, authorities: Authorities) -> None:
    """Write what is trusted (``ca.crt``) and the authorities with their keys (``authority.pem``), each whole or not at all.

    The order holds at a kill between the two: whoever grows the set trusts a new authority before it signs, and whoever
    shrinks it trusts the old one until it does not sign any more.
    """
    held = b"".join(authority.pem + key_pem(authority.key) for authority in authorities.trusted)
    files = [(folder / BUNDLE_FILE, authorities.bundle), (folder / AUTHORITY_FILE, held)]
    for path, content in files if len(authorities.trusted) > 1 else reversed(files):
        write_private(path, content)


def read_authorities(folder: Path) -> Authorities:
    """The authorities of a cluster folder, with their keys.

    Raises TrainshedError: NOT_FOUND where there is none yet, DENIED where others may read the keys or we may not, INVALID
    for a file that is damaged.
    """
    path = folder / AUTHORITY_FILE
    try:
        if path.stat().st_mode & 0o077:
            raise TrainshedError(
                ErrorCode.DENIED, f"{path} may be read by others than its owner. Close it: chmod 600 {path}"
            )
        blocks = path.read_bytes().split(b"-----BEGIN CERTIFICATE-----")[1:]
        pems = [b"-----BEGIN CERTIFICATE-----" + block for block in blocks]
        trusted = tuple(Authority(read_certificates(pem)[0], read_key(pem)) for pem in pems)
    except FileNotFoundError:
        raise not_initialised(folder) from None
    except OSError as error:
        raise TrainshedError(ErrorCode.DENIED, f"{path} cannot be read ({why(error)})") from None
    except ValueError as error:
        raise _damaged(path, str(error)) from None
    if not trusted or any(one.certificate.public_key() != one.key.public_key() for one in trusted):
        raise _damaged(path, "it lacks a certificate with its key")
    return Authorities(trusted)


def read_bundle(folder: Path) -> list[x509.Certificate]:
    """The certificates of the authorities that are trusted; no key is read. Raises TrainshedError as `read_authorities`."""
    path = folder / BUNDLE_FILE
    try:
        return read_certificates(path.read_bytes())
    except FileNotFoundError:
        raise not_initialised(folder) from None
    except OSError as error:
        raise TrainshedError(ErrorCode.DENIED, f"{path} cannot be read ({why(error)})") from None
    except ValueError as error:
        raise _damaged(path, str(error)) from None


def not_initialised(folder: Path) -> TrainshedError:
    """What to print where a stack has no authority."""
    return TrainshedError(
        ErrorCode.NOT_FOUND,
        f"there is no certificate authority in {folder}. Make one: trainshed cluster init",
    )


def _damaged(path: Path, what: str) -> TrainshedError:
    return TrainshedError(ErrorCode.INVALID, f"{path} is damaged ({what}). Bring it back from a backup")


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        pass
    labels = text.split(".")
    if len(text) > 253 or not all(_is_label(label) for label in labels):
        raise TrainshedError(
            ErrorCode.INVALID, f"{text!r} is no host; a host name or an IP address is accepted", "--host"
        )
    return x509.DNSName(text.lower())


def _is_label(label: str) -> bool:
    letters = label.replace("-", "")
    return (
        0 < len(label) <= 63 and letters.isascii() and letters.isalnum() and "-" not in (label[0], label[-1])
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def canonical_hosts(hosts: Sequence[str]) -> list[str]:
    """Host names and addresses as `hosts_of` reads them back. Raises TrainshedError (INVALID) for what is no host."""
    return list(dict.fromkeys(str(_host(host).value) for host in hosts))


def hosts_of(certificate: x509.Certificate) -> list[str]:
    """The host names and addresses that a server's certificate is for."""
    names: Iterable[x509.GeneralName] = certificate.extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    ).value
    return [str(name.value) for name in names]
