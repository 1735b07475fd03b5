"""A certificate authority for tests, and a nats-server that maps its certificates to users: TLS 1.3, handshake first."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import signal
import socket
import sysconfig
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from trainshed_client.endpoint import Endpoint

DAY = datetime.timedelta(days=1)
USER = "sam.user.trainshed"


class TestAuthority:
    """Issues certificates into a folder: ``NAME.pem``, ``NAME.key``; its own is ``ca.pem``."""

    __test__ = False

    def __init__(self, folder: Path, *, days: float = 1, issues: bool = True) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.ca = folder / "ca.pem"
        self._key = Ed25519PrivateKey.generate()
        self._name = _name(f"authority {folder.name}")
        usage = x509.KeyUsage(
            digital_signature=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=issues,
            crl_sign=issues,
            encipher_only=False,
            decipher_only=False,
        )
        made = (
            self._builder(self._name, self._key, days)
            .add_extension(x509.BasicConstraints(ca=issues, path_length=None), critical=True)
            .add_extension(usage, critical=True)
        )
        self.ca.write_bytes(made.sign(self._key, None).public_bytes(Encoding.PEM))

    def issue(
        self, name: str, *names: str, server: bool = False, days: float = 1, file: str | None = None
    ) -> tuple[str, str]:
        """A certificate for these names (addresses are recognised), and its key; their paths. ``days``: how long from now."""
        key = Ed25519PrivateKey.generate()
        use = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
        made = (
            self._builder(_name(name), key, days)
            .add_extension(
                x509.SubjectAlternativeName([_general(one) for one in (names or (name,))]), critical=False
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
        )
        pem, secret = self.folder / f"{file or name}.pem", self.folder / f"{file or name}.key"
        secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        pem.write_bytes(made.sign(self._key, None).public_bytes(Encoding.PEM))
        return str(pem), str(secret)

    def _builder(self, name: x509.Name, key: Ed25519PrivateKey, days: float) -> x509.CertificateBuilder:
        end = datetime.datetime.now(datetime.UTC) + days * DAY
        public = self._key.public_key()
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(end - 2 * abs(days) * DAY)
            .not_valid_after(end)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        )


class TlsServer:
    """A nats-server with TLS in a folder; USER is its one user, known by his certificate."""

    def __init__(
        self,
        authority: TestAuthority,
        *,
        names: tuple[str, ...] = ("127.0.0.1", "localhost"),
        days: float = 1,
        user: str = USER,
        monitored: bool = False,
        store: Path | None = None,
        tls: str = 'verify_and_map: true, handshake_first: true, min_version: "1.3"',
    ) -> None:
        self.authority = authority
        self.port = _free_port()
        self.url = f"tls://127.0.0.1:{self.port}"
        cert, key = authority.issue("server", *names, server=True, days=days)
        files = f'cert_file: "{cert}", key_file: "{key}", ca_file: "{authority.ca}"'
        self._config = authority.folder / "server.conf"
        self._config.write_text(
            f'listen: "127.0.0.1:{self.port}"\ntls {{ {files}, timeout: 2, {tls} }}\n'
            f'authorization {{ users: [ {{ user: "{user}" }} ] }}\n'
        )
        self.monitor_port = _free_port()
        with self._config.open("a") as config:
            if monitored:
                config.write(f'https: "127.0.0.1:{self.monitor_port}"\n')
            if store is not None:
                config.write(f'jetstream {{ store_dir: "{store}" }}\n')
        self._process: asyncio.subprocess.Process | None = None

    def endpoint(self, cert: str | None = None, key: str | None = None, ca: str | None = None) -> Endpoint:
        """How to reach it; by default with a certificate of USER."""
        if cert is None:
            cert, key = self.authority.issue(USER)
        return Endpoint(self.url, ca=ca or str(self.authority.ca), cert=cert, key=key)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *unused: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start it and return when it listens."""
        binary = Path(sysconfig.get_path("scripts")) / "nats-server"
        self._process = await asyncio.create_subprocess_exec(
            binary, "-c", str(self._config), stderr=asyncio.subprocess.PIPE
        )
        assert self._process.stderr is not None
        async with asyncio.timeout(10):
            while line := await self._process.stderr.readline():
                if b"Server is ready" in line:
                    return
        raise AssertionError("nats-server does not start")

    async def stop(self) -> None:
        """End it."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    def pause(self) -> None:
        """Let it stand still until it is stopped."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
