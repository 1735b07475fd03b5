"""Which record of a run is the newest."""

from __future__ import annotations

from collections.abc import Collection

from tests.unit.test_cli_words import record
from trainshed_client.nats_client import SafeClient
from trainshed_client.nats_connection import NatsConnection
from trainshed_client.records import RunRecord
from trainshed_client.statuses import RunStatus
from trainshed_client.watch import PresentRuns, RunWatch


async def nothing(_: Collection[str] | None) -> PresentRuns:
    return PresentRuns(0, [])


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


class Model:
    """What a read side would answer, and a watch of every live run on it."""

    def __init__(self, *runs: RunRecord, seq: int) -> None:
        self.runs = {run.run_id: run for run in runs}
        self.seq = seq
        self.watch = RunWatch(NatsConnection(SafeClient(), "nats://nowhere"), self.present, None)

    async def present(self, run_ids: Collection[str] | None) -> PresentRuns:
        found = [
            run
            for run in self.runs.values()
            if (not run.status.ended if run_ids is None else run.run_id in run_ids)
        ]
        return PresentRuns(self.seq, found)

    def change(self, run: RunRecord) -> None:
        self.runs[run.run_id] = run
        self.seq = max(self.seq, run.seq)

    async def handed_out(self) -> list[tuple[str, RunStatus]]:
        self.watch._read_again()  # as after a reconnection
        out = []
        while (one := await self.watch.next_change()) is not None:
            out.append((one.run_id, one.status))
        return out


def run(name: str, status: RunStatus, seq: int) -> RunRecord:
    return record(name * 26, status=status, seq=seq)


async def test_after_a_reconnection_only_what_changed_is_handed_out_and_no_end_is_missed() -> None:
    live, old = run("a", RunStatus.RUNNING, 5), run("b", RunStatus.FAILED, 4)
    model = Model(live, old, run("c", RunStatus.RUNNING, 6), seq=6)
    assert len(await model.handed_out()) == 2
    assert await model.handed_out() == []
    for again in (old, live):  # a bucket that is filled anew
        model.watch.offer(again)
    assert await model.handed_out() == []
    model.change(run("a", RunStatus.COMPLETED, 7))  # while nobody heard of it
    assert await model.handed_out() == [("a" * 26, RunStatus.COMPLETED)]
    model.watch.offer(run("b", RunStatus.PENDING, 8))  # retried, so live
    model.watch.offer(run("d", RunStatus.CANCELLED, 9))  # it came and went
    model.change(run("b", RunStatus.PENDING, 8))
    assert await model.handed_out() == [("b" * 26, RunStatus.PENDING), ("d" * 26, RunStatus.CANCELLED)]


async def test_what_had_ended_before_the_first_reading_is_not_handed_out_and_what_ended_beside_it_is() -> (
    None
):
    model = Model(run("a", RunStatus.RUNNING, 5), seq=6)
    model.watch.offer(run("b", RunStatus.FAILED, 6))
    model.watch.offer(run("c", RunStatus.FAILED, 7))
    assert await model.handed_out() == [("a" * 26, RunStatus.RUNNING), ("c" * 26, RunStatus.FAILED)]
