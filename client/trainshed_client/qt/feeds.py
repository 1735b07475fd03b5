"""What is followed, as feeds of the outbox: the one place where the bridge reads from the client as things happen.

Owns which signal an item becomes; knows neither threads nor Qt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from trainshed_client.client import Trainshed
from trainshed_client.metrics import metrics_lines
from trainshed_client.output_range import STREAMS
from trainshed_client.qt.client_thread import Feed
from trainshed_client.qt.outbox import Outbox
from trainshed_client.records import RunRecord
from trainshed_client.watching.newest import PRESENT, Gone

if TYPE_CHECKING:
    from trainshed_client.watching.watch import RecordWatch


def runs(since_seq: int) -> Feed:
    """Every live run's record and the last that ended, then each that changes."""
    return _records(
        "runs",
        "run_changed",
        lambda client: client.watch_runs(since_seq=since_seq),
        lambda record: str(record.run_id),
    )


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


def output(run_id: str, since: int | Mapping[str, int]) -> Feed:
    """Output of a run; ``since``: so many bytes of each stream are passed over."""
    begin = dict.fromkeys(STREAMS, since) if isinstance(since, int) else dict(since)

    async def feed(client: Trainshed, outbox: Outbox) -> None:
        first: int | None = None
        passed_over = begin
        while True:
            async with client.output(run_id, first_attempt=first, begin=passed_over, patient=True) as chunks:
                async for chunk in chunks:
                    await outbox.wait_for_room()
                    outbox.put(
                        *("output_received", run_id, chunk.attempt, chunk.stream, chunk.offset, chunk.data),
                        size=len(chunk.data),
                    )
                for missing in chunks.missing:
                    outbox.put("failed", f"output of {run_id}: {missing}")
                last = chunks.record.attempt
            await _tried_again(client, run_id, last)
            first, passed_over = last + 1, {}

    return feed


def metrics(run_id: str) -> Feed:
    """What a run's worker measured, from the first line of its latest attempt."""

    async def feed(client: Trainshed, outbox: Outbox) -> None:
        first: int | None = None
        while True:
            async with client.output(
                run_id, first_attempt=first, streams=["metrics"], patient=True
            ) as chunks:
                async for attempt, line in metrics_lines(chunks):
                    await outbox.wait_for_room()
                    outbox.put("metrics_received", run_id, attempt, line)
                last = chunks.record.attempt
            await _tried_again(client, run_id, last)
            first = last + 1

    return feed


async def _tried_again(client: Trainshed, run_id: str, attempt: int) -> None:
    """Wait until a run that has ended is given an attempt after this one."""
    async with client.watch_runs([run_id]) as changes:
        async for change in changes:
            if isinstance(change, RunRecord) and change.attempt > attempt:
                return
