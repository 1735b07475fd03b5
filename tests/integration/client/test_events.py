"""`Trainshed.events` over a real server: each event once and in order, through losses, restarts and an exchanged log."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from events.streams import ensure_streams
from tests.support import NatsServer, eventually
from tests.support.stored_log import projecting, store
from tests.support.watched import OneOfSeveral, StoredInParts
from trainshed_client import ErrorCode, EventStream, LogEvent, Trainshed, TrainshedError
from trainshed_client.direct_get import Message
from trainshed_client.log_reading import follower, log_reader
from trainshed_client.nats_connection import NatsConnection


async def client(server: NatsServer) -> Trainshed:
    return Trainshed(NatsConnection(await server.client(), server.endpoint.url))


async def collect(events: EventStream, into: list[LogEvent]) -> None:
    async for event in events:
        into.append(event)


async def test_what_is_stored_then_what_is_appended_each_once_whatever_the_connection_does(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_reader, "PAGE", 7)
    nc = await nats_server.client()
    await ensure_streams(nc)
    log = StoredInParts(nc)
    for _ in range(20):
        log.made.submit()
    await log.store()
    trainshed = await client(nats_server)
    heard: list[LogEvent] = []
    task = asyncio.create_task(collect(trainshed.events(), heard))
    for round_ in range(3):
        for _ in range(30):
            run_id = log.made.submit()
            log.made.dispatch(run_id)
        await log.store()
        if round_ == 0:
            await nats_server.restart()
        if round_ == 1:
            for again in tuple(trainshed.nc.reconnect_hooks):
                again()
    await eventually(lambda: heard and heard[-1].seq == log.made.seq, 20)
    task.cancel()
    await asyncio.wait({task})
    assert [event.seq for event in heard] == list(range(1, log.made.seq + 1))
    last = heard[-1]
    assert (last.type, last.run_id, last.role, last.node) == ("dispatched", run_id, "dispatcher", "gpu01")
    assert last.body is not None and last.body["run_id"] == run_id
    assert last.stored_at.utcoffset() is not None and not last.stored_at.utcoffset()
    await trainshed.close()


async def test_a_reader_that_stands_still_reads_from_the_log_what_no_memory_has(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "MOST", 5)
    nc = await nats_server.client()
    await ensure_streams(nc)
    log = StoredInParts(nc)
    await log.store()
    trainshed = await client(nats_server)
    async with trainshed.events(log.made.seq) as events:
        log.made.submit()
        await log.store()
        assert (await events.__anext__()).seq == log.made.seq
        seen = log.made.seq
        for _ in range(50):
            log.made.submit()
        await log.store()
        await trainshed.nc.flush()
        async with asyncio.timeout(10):
            assert [(await events.__anext__()).seq for _ in range(50)] == list(range(seen + 1, seen + 51))
    await trainshed.close()


async def test_of_a_run_and_of_some_types_also_live(nats_server: NatsServer, tmp_path: Path) -> None:
    nc = await nats_server.client()
    log_id = await ensure_streams(nc)
    log = StoredInParts(nc)
    first, second = log.made.submit(), log.made.submit()
    for run_id in (first, second):
        log.made.dispatch(run_id)
        log.made.start(run_id)
    await log.store()
    trainshed = await client(nats_server)
    async with projecting(await nats_server.client(), tmp_path / "t.db"):
        some: list[LogEvent] = []
        of_one: list[LogEvent] = []
        types = trainshed.events(types=["completed", "submitted"], log_id=log_id)
        tasks = [
            asyncio.create_task(collect(types, some)),
            asyncio.create_task(
                collect(trainshed.events(run=second[:9] if first[:9] != second[:9] else second), of_one)
            ),
        ]
        await eventually(lambda: len(some) == 2 and len(of_one) == 3)
        assert types.log_id == log_id
        for run_id in (first, second):
            log.made.complete(run_id)
        await log.store()
        await eventually(lambda: len(some) == 4 and len(of_one) == 4)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert [event.type for event in some] == ["submitted"] * 2 + ["completed"] * 2
        assert {event.run_id for event in of_one} == {second}
        whole = [event async for event in trainshed.events(3, follow=False, types=["completed", "started"])]
        assert [event.type for event in whole] == ["started"] * 2 + ["completed"] * 2
        with pytest.raises(TrainshedError, match=r"types: .*'no\.type'"):
            await trainshed.events(types=["no.type"]).__aenter__()
        with pytest.raises(TrainshedError, match="exchanged") as other:
            await trainshed.events(log_id="another").__aenter__()
        assert other.value.code is ErrorCode.CONFLICT
    await trainshed.close()


async def test_what_is_no_event_comes_without_a_body(nats_server: NatsServer) -> None:
    nc = await nats_server.client()
    await ensure_streams(nc)
    await store(nc, [Message(1, 0, "trainshed.events.oops", b"\xff")])
    trainshed = await client(nats_server)
    (event,) = [event async for event in trainshed.events(follow=False)]
    assert (event.body, event.type, event.raw) == (None, "", b"\xff")
    await trainshed.close()


async def test_an_exchanged_log_is_an_error_and_no_silence(nats_server: NatsServer) -> None:
    nc = await nats_server.client()
    await ensure_streams(nc)
    log = StoredInParts(nc)
    await log.store()
    trainshed = await client(nats_server)
    with pytest.raises(TrainshedError, match="another one now") as beyond:
        await trainshed.events(log.made.seq + 1).__aenter__()
    assert beyond.value.code is ErrorCode.CONFLICT
    heard: list[LogEvent] = []
    task = asyncio.create_task(collect(trainshed.events(), heard))
    await eventually(lambda: len(heard) == log.made.seq)
    await nats_server.embedded.stop()
    shutil.rmtree(nats_server.embedded.store_dir)
    await nats_server.embedded.start()
    await eventually(lambda: nc.is_connected)
    await ensure_streams(nc)
    await StoredInParts(nc).store()
    async with asyncio.timeout(20):
        with pytest.raises(TrainshedError, match="another one now"):
            await task
    await trainshed.close()


async def test_of_several_types_nothing_is_passed_over_that_is_stored_while_they_are_read(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_reader, "PAGE", 1)
    nc = await nats_server.client()
    await ensure_streams(nc)

    async def append(*types: str) -> None:
        for type_ in types:
            await nc.request(f"trainshed.events.run.r.agent.{type_}.n", b"{}")

    await append("a", "b", "b", "b")
    filters = ("trainshed.events.run.*.agent.a.*", "trainshed.events.run.*.agent.b.*")
    found: list[int] = []
    async for page in log_reader.LogReader(nc, where="test").pages(filters):
        found += [message.seq for message in page]
        if len(found) == 3:  # all of a was read
            await append("a", "b")
    assert found == list(range(1, len(found) + 1))


async def test_on_a_cluster_the_end_is_looked_at_though_nothing_is_heard(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "LOOK_EVERY_S", 0.2)
    nc = await nats_server.client()
    await ensure_streams(nc)
    log = StoredInParts(nc)
    trainshed = Trainshed(OneOfSeveral(await nats_server.client(), nats_server.endpoint.url))
    heard: list[LogEvent] = []
    task = asyncio.create_task(collect(trainshed.events(), heard))
    for _ in range(3):
        log.made.submit()
        await log.store()
        await eventually(lambda: bool(heard) and heard[-1].seq == log.made.seq)
    task.cancel()
    await asyncio.wait({task})
    assert [event.seq for event in heard] == list(range(1, log.made.seq + 1))
    await trainshed.close()


async def test_on_a_cluster_what_is_not_there_yet_is_no_other_log(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "LAGS_S", 0.1)
    nc = await nats_server.client()
    await ensure_streams(nc)
    log = StoredInParts(nc)
    log.made.submit()
    await log.store()
    trainshed = Trainshed(OneOfSeveral(await nats_server.client(), nats_server.endpoint.url))
    heard: list[LogEvent] = []
    task = asyncio.create_task(collect(trainshed.events(), heard))
    await eventually(lambda: heard)
    at, asked = log_reader.LogReader.at, 0

    async def lags(self: log_reader.LogReader, seq: int) -> Message | None:
        nonlocal asked
        asked += 1
        return None if asked < 4 else await at(self, seq)

    monkeypatch.setattr(log_reader.LogReader, "at", lags)
    for again in tuple(trainshed.nc.reconnect_hooks):
        again()
    log.made.submit()
    await log.store()
    await eventually(lambda: task.done() or heard[-1].seq == log.made.seq)
    assert not task.done() and asked >= 4
    task.cancel()
    await asyncio.wait({task})
    await trainshed.close()
