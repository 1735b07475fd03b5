"""The event log on the official image, by testcontainers: what is acknowledged is there after a kill -9."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

# Ryuk is an image more, and does nothing that a fixture's end does not do. Read at the import below.
os.environ["TESTCONTAINERS_RYUK_DISABLED"] = "true"
from testcontainers.community.nats import NatsContainer

from events.codec import NewEvent, StoredEvent, Writer, uuid7
from events.log import Conflict, EventLog, Guard, UnknownOutcome
from events.streams import ensure_streams
from events.types import NodeDrained
from tests.containers.stack import ROOT, free_port
from tests.support import eventually
from trainshed_client import subjects
from trainshed_client.endpoint import Endpoint
from trainshed_client.nats_client import SafeClient, connect
from trainshed_client.subjects import Role

pytestmark = pytest.mark.timeout(120)
IMAGE = re.findall(r"image: (nats:\S+)", (ROOT / "compose.yaml").read_text())[0]


@pytest.fixture(scope="module")
def server(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsContainer]:
    """A server with the settings of the compose stack's, but for its TLS and its accounts."""
    folder = tmp_path_factory.mktemp("nats")
    (folder / "server").mkdir()
    (folder / "server/realm.conf").write_text("")
    config = (ROOT / "deploy/nats.conf").read_text()
    container = NatsContainer(IMAGE).with_bind_ports(4222, free_port())
    container.with_volume_mapping(str(_put(folder / "nats.conf", config)), "/etc/trainshed/nats.conf", "ro")
    container.with_volume_mapping(str(folder / "server"), "/etc/trainshed/server", "ro")
    container.with_command("-c /etc/trainshed/nats.conf")
    with container:
        yield container


def _put(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.fixture
async def nc(server: NatsContainer) -> AsyncIterator[SafeClient]:
    """A connection to it, with Trainshed's streams made."""
    # its own word for the host is the address of a bridge, where nothing goes without TLS
    port = server.get_exposed_port(4222)
    client = await connect(Endpoint(f"nats://127.0.0.1:{port}"), name="test", forever=True)
    await ensure_streams(client, replicas=1)
    yield client
    await client.close()


def said(writer: Writer, node: str) -> NewEvent:
    """An event that needs nothing before it."""
    return writer.new(NodeDrained(node=node, incarnation="a"))


@pytest.fixture
def writer() -> Writer:
    return Writer(Role.GATEWAY, time.time_ns, uuid7)


async def test_the_streams_are_made_once_and_keep_what_they_have(nc: SafeClient) -> None:
    log_id = await EventLog(nc).log_id()
    assert await ensure_streams(nc, replicas=1) == log_id
    config = (await nc.jetstream().stream_info(subjects.EVENTS_STREAM)).config
    assert (config.storage, config.deny_delete, config.deny_purge) == ("file", True, True)


async def test_the_log_decides_a_race(nc: SafeClient, writer: Writer) -> None:
    log, node = EventLog(nc), "race"
    guard = Guard(subjects.node_event(node, Role.GATEWAY, "node_drained"), 0)
    outcomes = await asyncio.gather(
        *(log.append(said(writer, node), guard) for _ in range(8)), return_exceptions=True
    )
    assert len([one for one in outcomes if not isinstance(one, BaseException)]) == 1
    assert len([one for one in outcomes if isinstance(one, Conflict)]) == 7


async def test_a_batch_is_appended_whole_or_not_at_all(nc: SafeClient, writer: Writer) -> None:
    log = EventLog(nc)
    seqs = await log.append_batch([said(writer, f"batch{place}") for place in range(20)], [None] * 20)
    assert seqs == list(range(seqs[0], seqs[0] + 20))
    end = await log.end()
    broken = Guard(subjects.node_event("batch0", Role.GATEWAY, "node_drained"), 0)
    with pytest.raises(Conflict):
        await log.append_batch([said(writer, f"none{place}") for place in range(9)], [None] * 8 + [broken])
    assert await log.end() == end


async def test_what_was_acknowledged_is_there_after_a_kill(
    nc: SafeClient, server: NatsContainer, writer: Writer
) -> None:
    log = EventLog(nc, timeout_s=1.0)
    acknowledged: dict[int, str] = {}
    killed = asyncio.Event()

    async def append_for_ever() -> None:
        while True:
            new = said(writer, f"kill{len(acknowledged) % 7}")
            try:
                acknowledged[(await log.append(new)).seq] = new.id
            except UnknownOutcome:
                killed.set()
                await log.reachable()

    appending = asyncio.create_task(append_for_ever())
    await eventually(lambda: len(acknowledged) > 50, 20.0)
    container = server.get_wrapped_container()
    await asyncio.to_thread(container.kill)
    await asyncio.wait_for(killed.wait(), 20)
    before = len(acknowledged)
    await asyncio.to_thread(container.start)
    await eventually(lambda: len(acknowledged) > before + 20, 40.0)
    appending.cancel()
    await asyncio.gather(appending, return_exceptions=True)
    stored = {one.seq: one.id async for one in log.read() if isinstance(one, StoredEvent)}
    assert {seq: stored.get(seq) for seq in acknowledged} == acknowledged
