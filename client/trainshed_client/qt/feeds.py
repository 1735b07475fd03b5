"""What is followed, as feeds of the outbox: the one place where the bridge reads from the client as things happen.

Owns which signal an item becomes; knows neither threads nor Qt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from trainshed_client.client import Trainshed
from trainshed_client.output_range import STREAMS
from trainshed_client.qt.client_thread import Feed
from trainshed_client.qt.outbox import Outbox
from trainshed_client.qt.run_configs import RunConfigs
from trainshed_client.records import RunRecord
from trainshed_client.statuses import PLACED
from trainshed_client.watching.newest import PRESENT, Gone

if TYPE_CHECKING:
    from trainshed_client.watching.watch import RecordWatch


def runs(since_seq: int, configs: RunConfigs) -> Feed:
    """Every live run's record and the last that ended, then each that changes; the config of each that is granted a place."""

    def key_of(record: RunRecord) -> str:
        if record.status in PLACED:
            configs.want(record.run_id)
        return record.run_id

    return _records("runs", "run_changed", lambda client: client.watch_runs(since_seq=since_seq), key_of)


def slots() -> Feed:
    """Every slot's record, then each that changes or goes."""
    return _records(
        "slots",
        "slot_changed",
        lambda client: client.watch_slots(),
        lambda record: f"{record.node}.{record.index}",
    )


def nodes() -> Feed:
    """Every node's record, then each that changes or goes."""
    return _records(
        "nodes", "node_changed", lambda client: client.watch_nodes(), lambda record: str(record.node)
    )


def queue() -> Feed:
    """The queue, whenever it changes."""
    return _records("queue", "queue_changed", lambda client: client.watch_queue(), lambda record: "queue")


def _records(
    what: str, signal: str, watch: Callable[[Trainshed], RecordWatch[Any]], key_of: Callable[[Any], str]
) -> Feed:
    async def feed(client: Trainshed, outbox: Outbox) -> None:
        async with watch(client) as changes:
            async for change in changes:
                if change is PRESENT:
                    outbox.put("present_reached", what)
                else:
                    key = change.key if isinstance(change, Gone) else key_of(change)
                    outbox.put(signal, change, key=key)

    return feed


def events(since_seq: int) -> Feed:
    """Every event of the log after that one, then each that is appended."""
    last = since_seq

    async def feed(client: Trainshed, outbox: Outbox) -> None:
        nonlocal last
        async with client.events(last) as log:
            async for event in log:
                await outbox.wait_for_room()
                outbox.put("event_received", event, size=len(event.raw))
                last = event.seq

    return feed


def output(run_id: str, since: int | Mapping[str, int], configs: RunConfigs) -> Feed:
    """Output of a run, attempt after attempt; ``since``: so many bytes of each stream are passed over."""
    first: int | None = None
    begin = dict.fromkeys(STREAMS, since) if isinstance(since, int) else dict(since)

    async def feed(client: Trainshed, outbox: Outbox) -> None:
        nonlocal first, begin
        await configs.have(client, outbox, run_id)
        while True:
            async with client.output(run_id, first_attempt=first, begin=begin, patient=True) as chunks:
                async for chunk in chunks:
                    await outbox.wait_for_room()
                    outbox.put(
                        *("output_received", run_id, chunk.attempt, chunk.stream, chunk.offset, chunk.data),
                        size=len(chunk.data),
                    )
                    if chunk.attempt != first:
                        begin = begin if first is None else {}
                        first = chunk.attempt
                    begin[chunk.stream] = chunk.offset + len(chunk.data)
                for missing in chunks.missing:
                    outbox.put("failed", f"output of {run_id}: {missing}")
                last = chunks.record.attempt
            await _tried_again(client, run_id, last)
            first, begin = last + 1, {}

    return feed


def metrics(run_id: str, configs: RunConfigs) -> Feed:
    """What a run's worker measured, from the first line of its latest attempt on."""
    first: int | None = None
    seen: tuple[int, datetime] | None = None

    async def feed(client: Trainshed, outbox: Outbox) -> None:
        nonlocal first, seen
        await configs.have(client, outbox, run_id)
        while True:
            async with client.metrics(run_id, attempt=first) as points:
                async for point in points:
                    first = point.attempt
                    if seen is None or (point.attempt, point.time) > seen:
                        await outbox.wait_for_room()
                        outbox.put("metrics_received", run_id, point.attempt, point)
                        seen = point.attempt, point.time
                last = points.record.attempt
            await _tried_again(client, run_id, last)
            first = last + 1

    return feed


def telemetry(run_id: str, since: int, configs: RunConfigs) -> Feed:
    """The telemetry lines in a run's stdout, from the byte ``since`` of its latest attempt on."""
    first: int | None = None
    begin = since

    async def feed(client: Trainshed, outbox: Outbox) -> None:
        nonlocal first, begin
        await configs.have(client, outbox, run_id)
        while True:
            async with client.telemetry(run_id, attempt=first, since=begin) as lines:
                async for line in lines:
                    await outbox.wait_for_room()
                    outbox.put("telemetry_received", run_id, line.attempt, line)
                    first, begin = line.attempt, line.offset + 1
                last = lines.record.attempt
            await _tried_again(client, run_id, last)
            first, begin = last + 1, 0

    return feed


async def _tried_again(client: Trainshed, run_id: str, attempt: int) -> None:
    """Wait until a run that has ended is given an attempt after this one."""
    async with client.watch_runs([run_id]) as changes:
        async for change in changes:
            if isinstance(change, RunRecord) and change.attempt > attempt:
                return
