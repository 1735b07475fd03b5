"""What is followed, as feeds of the outbox: the one place where the bridge reads from the client as things happen.

Owns which signal an item becomes; knows neither threads nor Qt.
"""

from __future__ import annotations

from collections.abc import Mapping

from trainshed_client.client import Trainshed
from trainshed_client.metrics import metrics_lines
from trainshed_client.output_range import STREAMS
from trainshed_client.qt.client_thread import Feed
from trainshed_client.qt.outbox import Outbox


def runs() -> Feed:
    """Every live run's record, and each that changes."""

    async def feed(client: Trainshed, outbox: Outbox) -> None:
        async with client.watch(patient=True) as records:
            async for record in records:
                outbox.put("run_changed", record, key=record.run_id)

    return feed


def output(run_id: str, since: int | Mapping[str, int]) -> Feed:
    """Output of a run; ``since``: so many bytes of each stream are passed over."""
    begin = dict.fromkeys(STREAMS, since) if isinstance(since, int) else dict(since)

    async def feed(client: Trainshed, outbox: Outbox) -> None:
        async with client.output(run_id, begin=begin, patient=True) as chunks:
            async for chunk in chunks:
                await outbox.wait_for_room()
                outbox.put(
                    *("output_received", run_id, chunk.attempt, chunk.stream, chunk.offset, chunk.data),
                    size=len(chunk.data),
                )
            for missing in chunks.missing:
                outbox.put("failed", f"output of {run_id}: {missing}")

    return feed


def metrics(run_id: str) -> Feed:
    """What a run's worker measured, from the first line of its latest attempt."""

    async def feed(client: Trainshed, outbox: Outbox) -> None:
        async with client.output(run_id, streams=["metrics"], patient=True) as chunks:
            async for attempt, line in metrics_lines(chunks):
                await outbox.wait_for_room()
                outbox.put("metrics_received", run_id, attempt, line)

    return feed
