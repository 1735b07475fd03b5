"""The shared fold on a real nats-server: it follows, keeps a snapshot, and waits out what a server may do."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from events.codec import StoredEvent
from events.evolve import Change
from events.log import EventLog
from events.state import snapshot
from events.types import CancelRequested, Completed, Failed, RetryRequested, Submitted
from services import fold as folds
from services.fold import KeptFold, SharedFold
from tests.support import NatsServer, RawNats, eventually
from tests.support.builders import EXAMPLES, config, facts
from tests.support.control import joined, kill_and_start_again, new_log, running, say, stopped
from trainshed_client.statuses import FailureReason, RunStatus
from trainshed_client.subjects import Role


async def submit(log: EventLog, run_id: str, **fields: object) -> int:
    return await say(log, Role.GATEWAY, Submitted(run_id=run_id, config=config(**fields), digest=""))


async def ended_run(log: EventLog, run_id: str = "r1", *, well: bool = False) -> int:
    """A run that was granted, and has ended; returns its last sequence."""
    await submit(log, run_id)
    epoch = await say(log, Role.DISPATCHER, EXAMPLES["elected"][1])
    grant = msgspec.structs.replace(EXAMPLES["dispatched"][1], run_id=run_id, epoch=epoch)
    await say(log, Role.DISPATCHER, grant)
    end = (
        Completed(run_id=run_id, attempt=1)
        if well
        else Failed(run_id=run_id, attempt=1, failure_reason=FailureReason.EXIT_CODE)
    )
    return await say(log, Role.AGENT, end, "gpu01")


async def new_fold(server: NatsServer, path: Path | None = None) -> tuple[EventLog, SharedFold]:
    log = await new_log(server)
    return log, SharedFold(log, await log.log_id(), path)


async def test_it_is_ready_once_what_was_stored_at_the_start_is_folded(nats_server: NatsServer) -> None:
    log, fold = await new_fold(nats_server)
    for number in range(500):
        await submit(log, f"r{number}")
    assert not fold.ready.is_set()
    async with running(fold):
        await asyncio.wait_for(fold.ready.wait(), 10)
        assert len(fold.state.runs) == 500
        assert fold.position == 500


async def test_an_empty_log_is_ready_at_once(nats_server: NatsServer) -> None:
    _, fold = await new_fold(nats_server)
    async with running(fold):
        await asyncio.wait_for(fold.ready.wait(), 5)
        await asyncio.wait_for(fold.reached(0), 5)


async def test_it_follows_and_tells_each_change_in_order_and_who_waits_for_a_sequence(
    nats_server: NatsServer,
) -> None:
    log, fold = await new_fold(nats_server)
    heard: list[tuple[int, str]] = []

    def listen(stored: StoredEvent, change: Change) -> None:
        heard.append((stored.seq, change.runs[0].after.run_id if change.runs else ""))

    fold.listen(listen)
    async with running(fold):
        await fold.ready.wait()
        waiting = asyncio.create_task(fold.reached(3))
        given_up = asyncio.create_task(fold.reached(2))
        await asyncio.sleep(0)
        given_up.cancel()
        for run_id in ("r1", "r2", "r3"):
            await submit(log, run_id)
        await asyncio.wait_for(waiting, 5)
        assert heard == [(1, "r1"), (2, "r2"), (3, "r3")]


async def test_poison_is_passed_over_and_the_position_goes_on(nats_server: NatsServer) -> None:
    log, fold = await new_fold(nats_server)
    await submit(log, "r1")
    async with RawNats(nats_server.endpoint) as raw:
        await raw.publish(b"trainshed.events.run.r2.gateway.submitted._", b"\xff")
        await raw.publish(b"trainshed.events.run.\xff.gateway.submitted._", b"{}")
    await submit(log, "r4", priority="high")
    async with running(fold):
        await asyncio.wait_for(fold.ready.wait(), 10)
        await asyncio.wait_for(fold.reached(4), 10)
        assert set(fold.state.runs) == {"r1"}


# --- the snapshot -----------------------------------------------------------------------------------------


async def test_a_snapshot_is_kept_at_the_end_and_gone_on_from(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    path = tmp_path / "fold"
    log, first = await new_fold(nats_server, path)
    await submit(log, "r1", labels={"team": "ä"})
    await say(log, Role.AGENT, joined(), "gpu01")
    async with running(first):
        await first.ready.wait()
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.glob("fold*")) == [path]
    _, second = await new_fold(nats_server, path)
    assert facts(second.state) == facts(first.state)
    assert second.position == 2
    heard: list[int] = []
    second.listen(lambda stored, _: heard.append(stored.seq))
    await submit(log, "r2")
    async with running(second):
        await asyncio.wait_for(second.reached(3), 5)
    assert heard == [3], "nothing is folded twice"


async def test_a_snapshot_is_kept_now_and_then(
    nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folds, "SNAPSHOT_EVERY", 10)
    path = tmp_path / "fold"
    log, fold = await new_fold(nats_server, path)
    async with running(fold):
        for number in range(12):
            await submit(log, f"r{number}")
        await eventually(path.exists)


async def test_a_snapshot_after_poison_does_not_fold_it_again(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    path = tmp_path / "fold"
    log, first = await new_fold(nats_server, path)
    await submit(log, "r1")
    async with RawNats(nats_server.endpoint) as raw:
        await raw.publish(b"trainshed.events.run.r2.gateway.submitted._", b"\xff")
    async with running(first):
        await asyncio.wait_for(first.reached(2), 10)
    _, second = await new_fold(nats_server, path)
    assert second.position == 2


@pytest.mark.parametrize("what", ["damaged", "empty", "another log", "another release", "ahead of the log"])
async def test_a_snapshot_that_does_not_fit_is_not_used(
    nats_server: NatsServer, tmp_path: Path, what: str
) -> None:
    path = tmp_path / "fold"
    log, first = await new_fold(nats_server, path)
    await submit(log, "r1")
    async with running(first):
        await first.ready.wait()
    kept = msgspec.msgpack.decode(path.read_bytes(), type=KeptFold)
    match what:
        case "damaged":
            path.write_bytes(path.read_bytes()[:-3])
        case "empty":
            path.write_bytes(b"")
        case "another log":
            kept = msgspec.structs.replace(kept, log_id="another")
        case "another release":
            kept = msgspec.structs.replace(kept, state=msgspec.structs.replace(kept.state, v=2))
        case "ahead of the log":
            kept = msgspec.structs.replace(kept, state=msgspec.structs.replace(kept.state, seq=99, runs=()))
    if what not in ("damaged", "empty"):
        path.write_bytes(msgspec.msgpack.encode(kept))
    _, second = await new_fold(nats_server, path)
    async with running(second):
        await asyncio.wait_for(second.ready.wait(), 10)
        assert set(second.state.runs) == {"r1"}
        assert second.position == 1


async def test_a_snapshot_that_cannot_be_written_costs_nothing_but_time(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    log, fold = await new_fold(nats_server, tmp_path / "no such folder" / "fold")
    await submit(log, "r1")
    async with running(fold):
        await asyncio.wait_for(fold.reached(1), 5)
    assert set(fold.state.runs) == {"r1"}


# --- ended runs -------------------------------------------------------------------------------------------


async def test_ended_runs_are_read_back_where_an_event_refers_to_them(nats_server: NatsServer) -> None:
    log, fold = await new_fold(nats_server)
    await ended_run(log, "r1")
    await ended_run(log, "good", well=True)
    async with running(fold):
        await fold.ready.wait()
        assert fold.state.runs == {}
        await say(log, Role.GATEWAY, RetryRequested(run_id="r1", attempt=1))
        seq = await submit(log, "r2", after=["good", "r1"])
        await asyncio.wait_for(fold.reached(seq), 10)
        assert fold.state.runs["r1"].attempt == 2
        assert getattr(fold.state.runs["r2"].phase, "waiting_for", None) == {"r1"}
        run = await fold.history.run_before("good", seq)
        assert run is not None and run.status is RunStatus.COMPLETED
        assert await fold.history.run_before("nobody", seq) is None
        assert await fold.history.run_before("good", 1) is None, "below its Submitted there was none"


async def test_a_second_reader_folds_to_the_same_state(nats_server: NatsServer) -> None:
    log, one = await new_fold(nats_server)
    _, other = await new_fold(nats_server)
    async with running(one, other):
        await one.ready.wait()
        await ended_run(log)
        seq = await say(log, Role.GATEWAY, RetryRequested(run_id="r1", attempt=1))
        await asyncio.wait_for(asyncio.gather(one.reached(seq), other.reached(seq)), 10)
        assert facts(one.state) == facts(other.state)


# --- what a server may do -----------------------------------------------------------------------------------


async def test_it_goes_on_after_the_server_was_killed(nats_server: NatsServer) -> None:
    log, fold = await new_fold(nats_server)
    async with running(fold):
        await fold.ready.wait()
        await submit(log, "r1")
        await kill_and_start_again(nats_server)
        await eventually(lambda: log.nc.is_connected, within=10)
        await submit(log, "r2")
        await asyncio.wait_for(fold.reached(2), 20)
        assert set(fold.state.runs) == {"r1", "r2"}


async def test_a_server_that_stands_still_while_a_past_is_read_ends_nothing(nats_server: NatsServer) -> None:
    """A retry of an ended run needs an answer; it is asked for until it comes."""
    log, fold = await new_fold(nats_server)
    seq = await ended_run(log)
    async with running(fold):
        await fold.ready.wait()
        real = fold.history.run_before
        asked = 0

        async def timing_out(run_id: str, before: int) -> object:
            nonlocal asked
            asked += 1
            if asked == 1:
                with stopped(nats_server.pid):
                    await log.nc.request("$JS.API.INFO", b"", timeout=0.2)
            return await real(run_id, before)

        fold.history.run_before = timing_out  # type: ignore[method-assign,assignment]
        await say(log, Role.GATEWAY, RetryRequested(run_id="r1", attempt=1))
        await asyncio.wait_for(fold.reached(seq + 1), 20)
        assert asked == 2
        assert fold.state.runs["r1"].attempt == 2


async def test_stopped_it_returns_and_keeps_what_it_has(nats_server: NatsServer, tmp_path: Path) -> None:
    path = tmp_path / "fold"
    log, fold = await new_fold(nats_server, path)
    await submit(log, "r1")
    await say(log, Role.GATEWAY, CancelRequested(run_id="r1"))
    async with running(fold):
        await fold.ready.wait()
    kept = msgspec.msgpack.decode(path.read_bytes(), type=KeptFold)
    assert kept.state == snapshot(fold.state)
    assert kept.state.runs[0].cancel_requested
