"""A stack whose server and services are containers, without an engine: what the volumes get, and a real server told by them."""

from __future__ import annotations

import asyncio
import secrets
import socket
import stat
import sysconfig
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from events.streams import ensure_streams
from services.access import containers
from services.access.cluster_realm import ClusterRealm
from services.access.containers import MEMBERS, TOKEN_FILE, TOKEN_LIFE, Volumes, set_up
from services.access.identities import ControlRole, NodeIdentity
from services.enrol.authority import hosts_of, read_certificates
from services.enrol.cluster import begin_rotation, end_rotation, provide
from services.enrol.roster import Roster, revoked
from services.enrol.roster_file import change, read_roster
from services.enrol.server_reload import reload_servers
from services.enrol.tokens import parse_line
from trainshed_client.endpoint import Endpoint, read_credentials
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.nats_client import SafeClient, connect

GPU01 = {"gpu01": NodeIdentity("gpu01")}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


class ServedVolumes:
    """The volumes below one folder, and the server that compose.yaml has in a container of its own."""

    def __init__(self, folder: Path) -> None:
        self.state_dir, self.root = folder / "authority", folder / "volumes"
        self.port = free_port()
        self.url = f"tls://localhost:{self.port}"
        self.log = folder / "nats.log"
        self._process: asyncio.subprocess.Process | None = None
        self._clients: list[SafeClient] = []

    def set_up(self, *hosts: str) -> None:
        set_up(
            self.root,
            self.state_dir,
            hosts=hosts or ("hub", "nats"),
            port=4222,
            enrol_port=4224,
            server=self.url,
            enrol="enrol",
        )

    @property
    def realm(self) -> Path:
        return self.root / "server/realm.conf"

    @property
    def roster(self) -> Roster:
        return read_roster(self.state_dir / "cluster")

    def token(self) -> str:
        return (self.state_dir / TOKEN_FILE).read_text().strip()

    async def start(self) -> None:
        (self.root / "nats.conf").write_text(
            f'listen: "127.0.0.1:{self.port}"\njetstream {{ store_dir: {self.root}/log }}\ninclude server/realm.conf\n'
        )
        program = Path(sysconfig.get_path("scripts")) / "nats-server"
        words = ("-c", self.root / "nats.conf", "-l", self.log)
        self._process = await asyncio.create_subprocess_exec(program, *words)
        async with asyncio.timeout(10):
            while not self.log.exists() or "Server is ready" not in self.log.read_text():
                await asyncio.sleep(0.01)

    async def stop(self) -> None:
        for client in self._clients:
            await client.close()
        if self._process is not None:
            self._process.terminate()
            await self._process.wait()

    async def client(self, stem: str) -> SafeClient:
        return await self.connected(read_credentials(self.root / stem / f"{stem}.json", given_by="the test"))

    async def connected(self, endpoint: Endpoint) -> SafeClient:
        client = await connect(endpoint, name="test", on_error=lambda _: None)
        self._clients.append(client)
        return client

    def node(self) -> Endpoint:
        """A node that has been enrolled; the server does not know it yet."""
        own = provide(self.state_dir, GPU01, now=datetime.now(UTC))["gpu01"]
        return Endpoint(self.url, ca=str(own.with_name("gpu01-ca.crt")), cert=str(own), key=str(own))


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[ServedVolumes]:
    one = ServedVolumes(tmp_path)
    yield one
    await one.stop()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_each_volume_has_its_own_and_a_second_start_changes_nothing(tmp_path: Path) -> None:
    volumes = ServedVolumes(tmp_path)
    volumes.set_up()
    made = contents(volumes.root)
    keys = {f"{stem}/{stem}{end}" for stem in MEMBERS for end in (".json", ".pem", "-ca.crt")}
    assert made.keys() == {
        *keys,
        "server/server.pem",
        "server/ca.crt",
        "server/realm.conf",
        "people/roster.json",
    }
    modes = {stat.S_IMODE(path.stat().st_mode) for path in volumes.root.rglob("*") if path.is_file()}
    assert modes == {0o600}
    assert msgspec.json.decode(made["people/roster.json"], type=Roster).tokens == ()
    before = contents(volumes.state_dir)
    volumes.set_up()
    assert contents(volumes.root) == made
    assert contents(volumes.state_dir) == before


def test_another_host_gets_another_certificate_and_nothing_else(tmp_path: Path) -> None:
    volumes = ServedVolumes(tmp_path)
    volumes.set_up()
    before = contents(volumes.root)
    volumes.set_up("10.0.0.5", "nats")
    changed = {name for name, content in contents(volumes.root).items() if before[name] != content}
    assert changed == {"server/server.pem"}
    leaf = read_certificates((volumes.root / "server/server.pem").read_bytes())[0]
    assert {"10.0.0.5", "nats", "localhost"} <= set(hosts_of(leaf))
    assert "hub" not in hosts_of(leaf)


def test_the_token_is_made_anew_for_another_authority_and_when_half_of_its_life_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volumes = ServedVolumes(tmp_path)
    volumes.set_up()
    first = volumes.token()
    assert parse_line(first, given_by="the test").host == "enrol"
    begin_rotation(volumes.state_dir, now=datetime.now(UTC))
    volumes.set_up()
    assert volumes.token() == first, "the older authority signs servers"
    end_rotation(volumes.state_dir, now=datetime.now(UTC))
    volumes.set_up()
    assert (second := volumes.token()) != first
    monkeypatch.setattr(containers, "TOKEN_LIFE", TOKEN_LIFE * 3)
    volumes.set_up()
    assert volumes.token() != second
    (volumes.state_dir / TOKEN_FILE).write_text("cut of")
    volumes.set_up()
    assert parse_line(volumes.token(), given_by="the test")


async def test_who_is_enrolled_counts_and_who_is_revoked_does_no_more(served: ServedVolumes) -> None:
    served.set_up()
    await served.start()
    gateway = await served.client(ControlRole.GATEWAY)
    volumes, endpoint = Volumes(served.root, served.state_dir), served.node()
    with pytest.raises(TrainshedError):
        await served.connected(endpoint)
    await volumes.apply(served.roster)
    node = await served.connected(endpoint)
    await node.flush()
    change(
        served.state_dir / "cluster",
        lambda roster: (revoked(roster, GPU01["gpu01"], now=datetime.now(UTC)), None),
    )
    await volumes.apply(served.roster)
    with pytest.raises(TrainshedError) as refused:
        await served.connected(endpoint)
    assert refused.value.code is ErrorCode.DENIED
    await gateway.flush()
    assert gateway.is_connected
    assert gateway.stats["reconnects"] == 0


async def test_streams_are_the_operators_and_the_gateway_finds_them(served: ServedVolumes) -> None:
    served.set_up()
    await served.start()
    log_id = await ensure_streams(await served.client(ControlRole.OPERATOR))
    for role in (ControlRole.GATEWAY, ControlRole.DISPATCHER):
        assert await ensure_streams(await served.client(role), buckets=False) == log_id
    await ensure_streams(await served.client(ControlRole.PROJECTOR))


async def test_the_reloader_may_do_nothing_but_that(served: ServedVolumes) -> None:
    served.set_up()
    await served.start()
    reloader = await served.client(ControlRole.RELOADER)
    await reload_servers(reloader)
    for subject in ("$SYS.REQ.SERVER.PING.CONNZ", "$SYS.REQ.ACCOUNT.TRAINSHED.CONNZ", "trainshed.api.health"):
        with pytest.raises(TimeoutError):
            await reloader.request(subject, b"", timeout=0.3)


async def test_what_the_server_would_not_take_is_not_put_in_place(
    served: ServedVolumes, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.set_up()
    await served.start()
    before = served.realm.read_text()
    monkeypatch.setattr(ClusterRealm, "text_of", lambda *_: f"accounts {{ {secrets.token_hex(4)}: {{ nobody")
    with pytest.raises(TrainshedError, match="does not take"):
        await Volumes(served.root, served.state_dir).apply(served.roster)
    assert served.realm.read_text() == before
    assert not list(served.state_dir.glob("candidate*"))


async def test_a_slow_writer_puts_nothing_back(served: ServedVolumes) -> None:
    """What is published is the roster as it is then, whatever the one was that was to be applied."""
    served.set_up()
    await served.start()
    older = served.roster
    served.node()
    await Volumes(served.root, served.state_dir).apply(older)
    assert '"NODE_gpu01"' in served.realm.read_text()
