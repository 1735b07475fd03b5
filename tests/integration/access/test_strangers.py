"""Attacks from without, on a server that other machines may reach: who has no key that counts gets nowhere, as nobody."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from services.access.cluster_realm import ClusterRealm
from services.access.identities import (
    Control,
    ControlRole,
    Identity,
    NodeIdentity,
    Person,
    PersonRole,
    user_name,
)
from services.enrol.authority import CLIENT_LIFE, Authority, make_authority, read_authorities
from services.enrol.cluster import initialise, local_members, prepare, provide
from services.enrol.keys import key_pem, make_key, make_request, read_key
from services.enrol.roster_file import CLUSTER_DIR, SERVER_FILE
from services.nats_server.embedded_nats import EmbeddedNats
from services.setting_values import Listen
from trainshed_client.nats_client import connect

SAM = Person("sam", PersonRole.SUBMITTER)
OPERATOR = Control(ControlRole.OPERATOR)
GPU01 = NodeIdentity("gpu01")


class Listening:
    """The server as `up --listen` starts it, with gpu01 and Sam enrolled, and the files that an attacker may have got."""

    def __init__(self, state_dir: Path, port: int) -> None:
        self.state_dir = state_dir
        self.port = port
        self.nats = EmbeddedNats(state_dir, ClusterRealm(state_dir), listen=Listen("127.0.0.1", port))

    async def start(self) -> None:
        now = datetime.now(UTC)
        await asyncio.to_thread(partial(initialise, self.state_dir, ["localhost"], now=now, port=self.port))
        await asyncio.to_thread(partial(prepare, self.state_dir, local_members("box"), "127.0.0.1", now=now))
        await asyncio.to_thread(partial(provide, self.state_dir, {"sam": SAM, "gpu01": GPU01}, now=now))
        await self.nats.start()

    def pem(self, stem: str) -> Path:
        """Key and certificate of one who is enrolled."""
        return self.state_dir / "credentials" / f"{stem}.pem"

    @property
    def authority(self) -> Authority:
        return read_authorities(self.state_dir / CLUSTER_DIR).for_clients

    def signed(
        self,
        name: str,
        who: Identity,
        *,
        by: Authority,
        key_of: str | None = None,
        life: timedelta = CLIENT_LIFE,
    ) -> Path:
        """A certificate that nobody enrolled; ``key_of``: for the key of one who is."""
        key = make_key() if key_of is None else read_key(self.pem(key_of).read_bytes())
        made = by.sign_client(make_request(key).decode(), who, now=datetime.now(UTC), life=life)
        path = self.state_dir / f"{name}.pem"
        path.write_bytes(key_pem(key) + made.pem.encode())
        return path

    async def as_whom(
        self,
        pem: Path | None,
        *,
        latest: ssl.TLSVersion | None = None,
        claims: Mapping[str, str] | None = None,
    ) -> str:
        """The user whom the server takes this one for; empty where it does not let him in."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if latest is not None:
            context.maximum_version = latest
        if pem is not None:
            context.load_cert_chain(pem)
        options = {"verbose": False, "lang": "raw", "version": "0", **(claims or {})}
        try:
            async with asyncio.timeout(10):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=context)
                try:
                    writer.write(b"CONNECT " + json.dumps(options).encode() + b"\r\nSUB answer 1\r\n")
                    writer.write(b"PUB $SYS.REQ.USER.INFO answer 0\r\n\r\n")
                    while line := await reader.readline():
                        if line.startswith(b"-ERR"):
                            return ""
                        if line.startswith(b"{"):
                            return str(json.loads(line)["data"]["user"])
                finally:
                    writer.close()
        except (ssl.SSLError, ConnectionError):
            pass
        return ""


@pytest.fixture
async def listening(tmp_path: Path, unused_tcp_port: int) -> AsyncIterator[Listening]:
    made = Listening(tmp_path, unused_tcp_port)
    await made.start()
    yield made
    await made.nats.stop()


async def test_who_is_enrolled_is_whom_his_certificate_names_whatever_he_claims(listening: Listening) -> None:
    assert await listening.as_whom(listening.pem("sam")) == user_name(SAM)
    for claimed in (user_name(GPU01), user_name(OPERATOR), "probe"):
        claims = {"user": claimed, "pass": listening.nats.password}
        assert await listening.as_whom(listening.pem("gpu01"), claims=claims) in (user_name(GPU01), "")


Made = Callable[[Listening], Path | None]
STRANGERS: dict[str, Made] = {
    "no certificate": lambda at: None,
    "the server's own": lambda at: at.state_dir / CLUSTER_DIR / SERVER_FILE,
    "another authority, the operator's name": lambda at: at.signed(
        "x", OPERATOR, by=make_authority(now=datetime.now(UTC))
    ),
    "another authority, a key that counts": lambda at: at.signed(
        "x", OPERATOR, by=make_authority(now=datetime.now(UTC)), key_of="sam"
    ),
    "our authority, a key that nobody enrolled": lambda at: at.signed("x", OPERATOR, by=at.authority),
    "expired, a key that counts": lambda at: at.signed(
        "x", SAM, by=at.authority, key_of="sam", life=timedelta(seconds=-1)
    ),
    "one who was never enrolled, by a key that counts": lambda at: at.signed(
        "x", NodeIdentity("gpu99"), by=at.authority, key_of="sam"
    ),
}


@pytest.mark.parametrize("stranger", STRANGERS)
async def test_a_stranger_is_not_let_in(listening: Listening, stranger: str) -> None:
    """Nor where he names a user, with the password that stands in the server's folder."""
    pem = STRANGERS[stranger](listening)
    assert await listening.as_whom(pem) == ""
    for claimed in (user_name(OPERATOR), user_name(SAM), "local.user.trainshed"):
        assert await listening.as_whom(pem, claims={"user": claimed, "pass": listening.nats.password}) == ""


async def test_an_older_tls_is_not_spoken(listening: Listening) -> None:
    assert await listening.as_whom(listening.pem("sam"), latest=ssl.TLSVersion.TLSv1_2) == ""


async def test_who_speaks_plainly_hears_nothing(listening: Listening) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", listening.port)
    writer.write(b'CONNECT {"user":"local.user.trainshed","pass":"x"}\r\nPING\r\n')
    async with asyncio.timeout(10):
        assert b"INFO" not in await reader.read()
    writer.close()


async def test_half_open_connections_end_and_hold_nobody_up(listening: Listening) -> None:
    """Some say nothing at all, some no more after TLS's handshake, which needs no certificate before the server asks."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(listening.pem("gpu01"))
    silent = [await asyncio.open_connection("127.0.0.1", listening.port) for _ in range(100)]
    silent += [await asyncio.open_connection("127.0.0.1", listening.port, ssl=context) for _ in range(20)]
    nc = await connect(
        ClusterRealm(listening.state_dir).service("gateway", listening.nats.url), name="gateway"
    )
    assert nc.is_connected
    await nc.close()
    async with asyncio.timeout(30):
        for reader, writer in silent:
            try:
                while await reader.read(4096):
                    pass
            except (ConnectionError, ssl.SSLError):
                pass
            writer.close()
