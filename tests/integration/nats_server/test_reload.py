"""A running server is told who gets in: what it would not take is refused before, and nobody is dropped by it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from services.access.cluster_realm import ClusterRealm
from services.access.identities import ControlRole, Person, PersonRole
from services.enrol.cluster import AGENT, initialise, local_members, prepare, provide
from services.enrol.roster import revoked
from services.enrol.roster_file import CLUSTER_DIR, change
from services.enrol.roster_watch import RosterWatch
from services.nats_server.embedded_nats import EmbeddedNats
from services.nats_server.reload import RunningServer
from services.nats_server.web_socket import WebSocketListener
from services.setting_values import Listen
from tests.support import eventually
from trainshed_client.endpoint import Endpoint
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.nats_client import connect

SAM = Person("sam", PersonRole.VIEWER)


@pytest.fixture
async def server(tmp_path: Path, unused_tcp_port: int) -> AsyncIterator[EmbeddedNats]:
    """A server as `up --listen 127.0.0.1` starts it, with this machine's own members."""
    now = datetime.now(UTC)
    await asyncio.to_thread(partial(initialise, tmp_path, ["localhost"], now=now, port=unused_tcp_port))
    await asyncio.to_thread(partial(prepare, tmp_path, local_members("box"), "127.0.0.1", now=now))
    made = EmbeddedNats(tmp_path, ClusterRealm(tmp_path), listen=Listen("127.0.0.1", unused_tcp_port))
    await made.start()
    yield made
    await made.stop()


def running(server: EmbeddedNats, state_dir: Path, realm: ClusterRealm | None = None) -> RunningServer:
    """The same server, as another process has it."""
    port = int(server.url.rpartition(":")[2])
    return RunningServer(state_dir, realm or ClusterRealm(state_dir), Listen("127.0.0.1", port))


def endpoint_of(server: EmbeddedNats, state_dir: Path, stem: str) -> Endpoint:
    """How that member connects."""
    return ClusterRealm(state_dir).service(stem, server.url)


async def test_who_is_enrolled_gets_in_and_who_is_revoked_is_cut_off(
    server: EmbeddedNats, tmp_path: Path
) -> None:
    box, dropped = await connect(endpoint_of(server, tmp_path, AGENT), name="box"), []
    box.reconnect_hooks.add(lambda: dropped.append(1))
    await asyncio.to_thread(partial(provide, tmp_path, {"sam": SAM}, now=datetime.now(UTC)))
    folder = tmp_path.absolute() / "credentials"
    own = str(folder / "sam.pem")
    sam = Endpoint(server.url, ca=str(folder / "sam-ca.crt"), cert=own, key=own)
    with pytest.raises(TrainshedError):
        await connect(sam, name="sam")
    await running(server, tmp_path).apply()
    nc = await connect(sam, name="sam")
    change(tmp_path / CLUSTER_DIR, lambda roster: (revoked(roster, SAM, now=datetime.now(UTC)), None))
    await running(server, tmp_path).apply()
    await eventually(lambda: not nc.is_connected, 5)
    assert box.is_connected and not dropped
    await nc.close()
    await box.close()


class _Empty(ClusterRealm):
    def text(self, password: str, web: WebSocketListener | None) -> str:
        return "accounts { TRAINSHED: { users: [ { user: 1 "


async def test_what_the_server_would_not_take_is_refused_and_what_counted_counts_on(
    server: EmbeddedNats, tmp_path: Path
) -> None:
    before = (tmp_path / "nats" / "realm.conf").read_text()
    with pytest.raises(TrainshedError, match="does not take what is to count") as refused:
        await running(server, tmp_path, _Empty(tmp_path)).apply()
    assert refused.value.code is ErrorCode.UNAVAILABLE
    assert (tmp_path / "nats" / "realm.conf").read_text() == before
    nc = await connect(endpoint_of(server, tmp_path, ControlRole.GATEWAY), name="gateway")
    await nc.close()


async def test_a_server_that_does_not_run_is_told_nothing(server: EmbeddedNats, tmp_path: Path) -> None:
    other = running(server, tmp_path)
    await server.stop()
    with pytest.raises(TrainshedError, match="does not run|does not answer"):
        await other.apply()
    await server.start()
    await other.apply()


async def test_a_roster_that_changed_is_noticed_and_a_damaged_one_changes_nothing(
    server: EmbeddedNats, tmp_path: Path
) -> None:
    watch = RosterWatch(tmp_path / CLUSTER_DIR, every_s=0.02)
    watching = asyncio.create_task(watch.run())
    await watch.ready.wait()
    assert watch.people.rights("sam") is None
    await asyncio.to_thread(partial(provide, tmp_path, {"sam": SAM}, now=datetime.now(UTC)))
    await eventually(lambda: watch.people.rights("sam"))
    roster = tmp_path / CLUSTER_DIR / "roster.json"
    kept = roster.read_bytes()
    roster.write_text("{")
    await asyncio.sleep(0.1)
    assert watch.people.rights("sam") is not None
    roster.write_bytes(kept)
    change(tmp_path / CLUSTER_DIR, lambda roster: (revoked(roster, SAM, now=datetime.now(UTC)), None))
    await eventually(lambda: watch.people.rights("sam") is None)
    watch.stop()
    await watching
