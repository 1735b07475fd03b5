"""More than a server should bear: messages of any size, lines without an end, connections that answer nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
import pytest

from services.access.identities import Control, Known
from services.access.table import COLUMNS
from services.nats_server import server_config
from tests.support.everybody import EVERYBODY, EverybodyServer
from trainshed_client.nats_client import SafeClient

GB = 1 << 30
RSS_LEEWAY = 64 << 20


def columned(who: Known) -> str:
    return next((name for name, one in COLUMNS.items() if one == who), "another")


def resident(server: EverybodyServer) -> int:
    pid = server.embedded.pid
    assert pid is not None
    return int(psutil.Process(pid).memory_info().rss)


@pytest.mark.parametrize(
    "head",
    [
        b"PUB trainshed.api.run.submit %d\r\n" % GB,
        b"HPUB trainshed.api.run.submit 12 %d\r\n" % GB,
        b"HPUB trainshed.api.run.submit %d %d\r\n" % (GB, GB),
        b"PUB trainshed.api.run.submit 99999999999999999999\r\n",
        b"PUB trainshed.api.run.submit -1\r\n",
        b"PUB " + b"x" * 1_000_000,
        b'CONNECT {"name": "' + b"x" * 1_000_000,
    ],
    ids=lambda head: head[:24].decode(),
)
async def test_what_claims_to_be_too_long_is_hung_up_on_before_it_is_read(
    server: EverybodyServer, head: bytes
) -> None:
    before = resident(server)
    other = await server.client(COLUMNS["admin"])
    async with server.raw(COLUMNS["submitter"]) as raw:
        with pytest.raises(ConnectionError):
            await raw.send(head + b"x" * 100_000)
    assert resident(server) - before < RSS_LEEWAY
    await other.flush(5)


@pytest.mark.parametrize("who", [one for one in EVERYBODY if not isinstance(one, Control)], ids=columned)
async def test_each_sends_so_much_at_once_and_no_more(server: EverybodyServer, who: Known) -> None:
    most = 64 * 1024 if who == COLUMNS["page"] else 1024 * 1024
    async with server.raw(who) as raw:
        await raw.publish(b"trainshed.api.health", b"x" * most)
        with pytest.raises(ConnectionError, match="(?i)maximum payload"):
            await raw.publish(b"trainshed.api.health", b"x" * (most + 1))


async def test_who_answers_no_ping_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a stack after a minute: ping_interval and ping_max; here sooner."""
    assert 'ping_interval: "20s"\nping_max: 2' in server_config.CONFIG
    quick = server_config.CONFIG.replace('ping_interval: "20s"', 'ping_interval: "500ms"')
    monkeypatch.setattr(server_config, "CONFIG", quick)
    async with EverybodyServer(tmp_path) as server, server.raw(COLUMNS["submitter"]) as silent:
        lively = await server.client(COLUMNS["admin"])
        async with asyncio.timeout(20):
            heard = await silent._reader.read()
        assert b"Stale Connection" in heard
        await lively.flush(5)


async def test_one_account_holds_so_many_connections_and_the_others_have_theirs(
    server: EverybodyServer,
) -> None:
    node = COLUMNS["node"]
    held: list[SafeClient] = [await server.client(node) for _ in range(4)]
    with pytest.raises(ConnectionError, match="(?i)maximum account active connections"):
        async with server.raw(node):
            pass
    assert all(one.is_connected for one in held)
    assert (await server.client(COLUMNS["viewer"])).is_connected
