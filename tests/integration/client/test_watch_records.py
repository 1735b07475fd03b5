"""Watches over a real server: the present by direct gets, then what changes, through restarts and for slow readers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from events.streams import ensure_buckets, ensure_streams
from events.types import NodeLeft
from projections.records import PURGED
from tests.support import NatsServer, eventually
from tests.support.stored_log import projecting
from tests.support.watched import OneOfSeveral, StoredInParts
from tests.unit.test_cli_words import record
from trainshed_client import PRESENT, ErrorCode, Gone, RecordWatch, Trainshed, TrainshedError
from trainshed_client.nats_client import SafeClient
from trainshed_client.nats_connection import NatsConnection
from trainshed_client.records import SlotRecord, json_of
from trainshed_client.statuses import RunStatus
from trainshed_client.watching import buckets


async def put(nc: SafeClient, run: str, seq: int, **changes: Any) -> None:
    body = json_of(record(run * 26, seq=seq, updated_at=f"2026-11-24T09:00:00.{seq:06}Z"))
    await nc.request(f"$KV.trainshed_runs.{run * 26}", msgspec.json.encode({**body, **changes}))


async def client(server: NatsServer) -> Trainshed:
    return Trainshed(NatsConnection(await server.client(), server.endpoint.url))


class Reader:
    """Whoever reads a watch, and what was handed out; `stop` keeps from reading, and `go` goes on."""

    def __init__(self, watch: RecordWatch[Any]) -> None:
        self.watch = watch
        self.seen: list[Any] = []
        self.reading = asyncio.Event()
        self.reading.set()

    async def run(self) -> None:
        async for one in self.watch:
            self.seen.append(one)
            await self.reading.wait()

    @property
    def runs(self) -> list[tuple[str, int]]:
        """Runs and their sequences, `PRESENT` as ('', 0)."""
        return [("", 0) if one is PRESENT else (one.run_id[0], one.seq) for one in self.seen]


@contextlib.asynccontextmanager
async def read(watch: RecordWatch[Any]) -> AsyncIterator[Reader]:
    reader = Reader(watch)
    task = asyncio.create_task(reader.run())
    try:
        yield reader
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_the_present_then_the_marker_then_what_changes(nats_server: NatsServer) -> None:
    nc = await nats_server.client()
    await ensure_streams(nc)
    for run, seq in (("a", 1), ("b", 2), ("a", 3)):
        await put(nc, run, seq)
    trainshed = await client(nats_server)
    async with read(trainshed.watch_runs()) as whole, read(trainshed.watch_runs(since_seq=2)) as since:
        await eventually(lambda: PRESENT in whole.seen and PRESENT in since.seen)
        assert whole.runs == [("b", 2), ("a", 3), ("", 0)]
        assert since.runs == [("a", 3), ("", 0)]
        await put(nc, "c", 4)
        await put(nc, "b", 2, updated_at="2026-11-24T10:00:00Z", step=7)  # a heartbeat
        await nc.request(f"$KV.trainshed_runs.{'c' * 26}", b"", headers=dict(PURGED))  # a run is not gone
        await put(nc, "a", 5)
        await eventually(lambda: whole.runs[-1] == since.runs[-1] == ("a", 5))
        assert whole.runs[3:] == since.runs[2:] == [("c", 4), ("b", 2), ("a", 5)]
    await trainshed.close()


async def test_of_what_changes_faster_than_it_is_read_the_newest_is_handed_out(
    nats_server: NatsServer,
) -> None:
    nc = await nats_server.client()
    await ensure_streams(nc)
    trainshed = await client(nats_server)
    async with read(trainshed.watch_runs()) as reader:
        await eventually(lambda: PRESENT in reader.seen)
        reader.reading.clear()
        for seq in range(1, 200):
            await put(nc, "ab"[seq % 2], seq)
        await trainshed.nc.flush()
        reader.reading.set()
        await eventually(lambda: reader.runs[-1] == ("b", 199))
    assert reader.runs[1:] in ([("b", 1), ("a", 198), ("b", 199)], [("a", 198), ("b", 199)])
    await trainshed.close()


async def test_after_a_restart_only_what_changed_and_never_the_marker_again(nats_server: NatsServer) -> None:
    nc = await nats_server.client()
    await ensure_streams(nc)
    for number, run in enumerate("abcd", 1):
        await put(nc, run, number, status="COMPLETED")
    trainshed = await client(nats_server)
    async with read(trainshed.watch_runs()) as reader:
        await eventually(lambda: PRESENT in reader.seen)
        reader.seen.clear()
        await nats_server.restart()  # the buckets are gone, and the watch waits for them
        await eventually(lambda: nc.is_connected and trainshed.nc.is_connected)
        await ensure_buckets(nc)
        for number, run in enumerate("abcd", 1):
            await put(nc, run, number, status="COMPLETED")
        await put(nc, "e", 9)
        await eventually(lambda: reader.seen)
        assert reader.runs == [("e", 9)]
    await trainshed.close()


async def test_what_changed_while_nobody_heard_of_it_is_read_from_the_bucket(nats_server: NatsServer) -> None:
    nc = await nats_server.client()
    await ensure_streams(nc)
    await put(nc, "a", 1, status="RUNNING")
    trainshed = await client(nats_server)
    async with read(trainshed.watch_runs()) as reader:
        await eventually(lambda: PRESENT in reader.seen)
        for subscription in list(trainshed.nc._subs.values()):  # as if the server had cut it
            if subscription.subject.startswith("trainshed.watch"):
                await trainshed.nc.publish("nothing")
                trainshed.nc._subs.pop(subscription._id)
        await put(nc, "a", 2, status="COMPLETED")
        for again in tuple(trainshed.nc.reconnect_hooks):
            again()
        await eventually(lambda: reader.runs[-1] == ("a", 2))
        assert reader.runs == [("a", 1), ("", 0), ("a", 2)]
    await trainshed.close()


async def test_what_is_no_record_is_passed_over_and_what_is_not_known_is_unspecified(
    nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    nc = await nats_server.client()
    await ensure_streams(nc)
    await put(nc, "a", 1, status="SIDEWAYS", of_a_newer_release=True)
    await nc.request("$KV.trainshed_runs.x", b"{}")
    trainshed = await client(nats_server)
    with caplog.at_level(logging.WARNING):
        async with read(trainshed.watch_runs()) as reader:
            await eventually(lambda: PRESENT in reader.seen)
            await nc.request("$KV.trainshed_runs.y", b"no JSON")
            await nc.publish("trainshed.watch.runs.z", b"not JetStream's")
            await put(nc, "b", 2)
            await eventually(lambda: len(reader.seen) == 3)
    assert reader.seen[0].status is RunStatus.UNSPECIFIED
    assert "run record that this release cannot read is passed over: x" in caplog.text
    await trainshed.close()


async def test_without_a_bucket_there_is_an_error_for_people(nats_server: NatsServer) -> None:
    nc = await nats_server.client()
    await ensure_streams(nc)
    await nc.jetstream().delete_stream("KV_trainshed_queue")
    trainshed = await client(nats_server)
    with pytest.raises(TrainshedError, match="older release") as refused:
        async with trainshed.watch_queue():
            pass
    assert refused.value.code is ErrorCode.UNAVAILABLE
    assert not trainshed.nc.reconnect_hooks
    await trainshed.close()


async def test_a_watch_ends_with_its_loop_and_with_its_client(nats_server: NatsServer) -> None:
    nc = await nats_server.client()
    await ensure_streams(nc)
    await put(nc, "a", 1)
    trainshed = await client(nats_server)
    async for one in trainshed.watch_runs():
        if one is PRESENT:
            break
    await eventually(lambda: not trainshed.nc.reconnect_hooks)
    left_open = trainshed.watch_runs()
    await left_open.__aenter__()
    before = len(asyncio.all_tasks())
    await trainshed.close()
    await eventually(lambda: len(asyncio.all_tasks()) < before)


async def test_nodes_and_slots_that_are_gone_are_handed_out_so_also_after_a_restart(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    nc = await nats_server.client()
    await ensure_streams(nc)
    log = StoredInParts(nc)
    log.made.join("gpu02")
    await log.store()
    trainshed = await client(nats_server)
    async with (
        projecting(await nats_server.client(), tmp_path / "t.db", records=True),
        read(trainshed.watch_nodes()) as nodes,
        read(trainshed.watch_slots()) as slots,
        read(trainshed.watch_queue()) as queue,
    ):
        await eventually(lambda: all(PRESENT in reader.seen for reader in (nodes, slots, queue)))
        await eventually(lambda: {one.node for one in nodes.seen if one is not PRESENT} == {"gpu01", "gpu02"})
        run_id = log.made.submit()
        await log.store()
        await eventually(lambda: queue.seen[-1] is not PRESENT and queue.seen[-1].total == 1)
        assert queue.seen[-1].runs[0].run_id == run_id
        nodes.seen.clear()
        slots.seen.clear()
        await nats_server.restart()
        log.made.join("gpu02", slots=1, incarnation="gpu02-b")
        log.made.by_agent(NodeLeft(node="gpu02", incarnation="gpu02-b", upto=0), "gpu02")
        await log.store()
        await eventually(lambda: Gone("gpu02") in nodes.seen, 20)
        await eventually(lambda: Gone("gpu02.1") in slots.seen, 20)
        assert not any(isinstance(one, Gone) and "gpu01" in one.key for one in (*nodes.seen, *slots.seen))
    await trainshed.close()


async def test_what_left_a_bucket_unheard_is_asked_for(nats_server: NatsServer, tmp_path: Path) -> None:
    """The buckets are gone with the server and not filled again: a projector without `--records` answers alone."""
    nc = await nats_server.client()
    await ensure_streams(nc)
    log = StoredInParts(nc)
    run_id = log.made.submit()
    log.made.dispatch(run_id)
    log.made.start(run_id)
    log.made.complete(run_id)
    await log.store()
    running = json_of(record(run_id, seq=3, status=RunStatus.RUNNING))
    await nc.request(f"$KV.trainshed_runs.{run_id}", msgspec.json.encode(running))
    for node, index in (("gpu01", 0), ("gpu01", 1), ("gone", 0)):
        await nc.request(
            f"$KV.trainshed_slots.{node}.{index}",
            msgspec.json.encode(SlotRecord(node=node, index=index, seq=2)),
        )
    trainshed = await client(nats_server)
    async with (
        projecting(await nats_server.client(), tmp_path / "t.db"),
        read(trainshed.watch_slots()) as slots,
        read(trainshed.watch_runs()) as runs,
    ):
        await eventually(lambda: PRESENT in slots.seen and PRESENT in runs.seen)
        assert len(slots.seen) == 4
        await nats_server.restart()
        await eventually(lambda: nc.is_connected)
        await ensure_buckets(nc)
        await eventually(lambda: len(slots.seen) == 5 and len(runs.seen) == 3, 20)
        assert slots.seen[-1] == Gone("gone.0")
        assert runs.seen[-1].status is RunStatus.COMPLETED
    await trainshed.close()


async def test_on_a_cluster_the_present_is_read_once_more(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buckets, "LAGS_S", 0.5)
    nc = await nats_server.client()
    await ensure_streams(nc)
    trainshed = Trainshed(OneOfSeveral(await nats_server.client(), nats_server.endpoint.url))
    async with read(trainshed.watch_runs()) as reader:
        await eventually(lambda: PRESENT in reader.seen)
        await put(nc, "a", 1)  # as if the copy that was read had not had it yet
        await eventually(lambda: reader.runs == [("", 0), ("a", 1)])
        await put(nc, "b", 2)
        await asyncio.sleep(1.5)  # once: what changes later is heard, or put again
        assert reader.runs == [("", 0), ("a", 1)]
    await trainshed.close()
