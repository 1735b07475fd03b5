"""Which record of a run is the newest."""

from __future__ import annotations

from collections.abc import Collection

from tests.unit.test_cli_words import record
from trainshed_client.nats_client import SafeClient
from trainshed_client.nats_connection import NatsConnection
from trainshed_client.records import RunRecord
from trainshed_client.watch import RunWatch


async def nothing(_: Collection[str] | None) -> list[RunRecord]:
    return []


async def test_the_newest_by_sequence_and_then_by_time_is_handed_out_once() -> None:
    watch = RunWatch(NatsConnection(SafeClient(), "nats://nowhere"), nothing, [record().run_id])
    newest = record(seq=5, updated_at="2026-11-24T12:00:00.000000Z", step=3)
    watch.offer(record(seq=4, updated_at="2026-11-24T13:00:00.000000Z", step=1))
    watch.offer(record(seq=5, updated_at="2026-11-24T11:00:00.000000Z", step=2))
    watch.offer(newest)
    watch.offer(record(seq=5, updated_at="2026-11-24T11:30:00.000000Z", step=4))
    watch.offer(record(seq=4, updated_at="2026-11-24T14:00:00.000000Z", step=5))
    assert await watch.next_change() is newest
    assert await watch.next_change() is None
    watch.offer(newest)
    assert await watch.next_change() is None
    watch.offer(record(seq=6, step=6))
    assert (await watch.next_change() or newest).step == 6
