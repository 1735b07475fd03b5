"""The shared fold on a real nats-server: it follows, keeps a snapshot, and waits out what a server may do."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import msgspec
import pytest

from events.change import Change
from events.codec import StoredEvent
from events.log import EventLog
from events.state import SNAPSHOT_VERSION, Snapshot, State, snapshot
from events.types import CancelRequested, Completed, Failed, RetryRequested, Submitted
from services import fold as folds
from services import fold_file
from services.fold import SharedFold
from services.fold_file import KeptFold
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
    """Some seconds after each change: one killed with -9 then has no more than that to fold again."""
    monkeypatch.setattr(folds, "KEEP_EVERY_S", 0.01)
    path = tmp_path / "fold"
    log, fold = await new_fold(nats_server, path)
    log_id = await log.log_id()

    def kept_runs() -> int:
        kept = fold_file.read(path, log_id)
        return 0 if kept is None else len(kept.state.runs)

    async with running(fold):
        for number in range(1, 4):
            await submit(log, f"r{number}")
            await eventually(lambda number=number: kept_runs() == number, 10)  # type: ignore[misc]


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
    assert second.state.seq == 1, "of what was passed over the state knows nothing"


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("cut off", "it is damaged"),
        ("a bit turned", "it is damaged"),
        ("empty", "it is damaged"),
        ("no file", "it cannot be read"),
        ("another log", "it is of another log"),
        ("another release", "it is of another release"),
        ("other fields", "it is of another release"),
        ("ahead of the log", "ahead of the log"),
    ],
)
async def test_a_snapshot_that_does_not_fit_is_not_used(
    nats_server: NatsServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str, why: str
) -> None:
    path = tmp_path / "fold"
    log, first = await new_fold(nats_server, path)
    await submit(log, "r1")
    async with running(first):
        await first.ready.wait()
    log_id = await log.log_id()
    kept = fold_file.read(path, log_id)
    assert kept is not None
    state = kept.state
    whole = path.read_bytes()
    match what:
        case "cut off":
            path.write_bytes(whole[:-3])
        case "a bit turned":
            place = whole.index(b"r1") + 1  # another run's id: it could be read as well as the right one
            path.write_bytes(whole[:place] + b"2" + whole[place + 1 :])
        case "empty":
            path.write_bytes(b"")
        case "no file":
            path.unlink()
            path.mkdir()
        case "another log":
            fold_file.write(path, KeptFold("another", state))
        case "another release":
            fold_file.write(path, KeptFold(log_id, msgspec.structs.replace(state, v=state.v + 1)))
        case "other fields":
            body = msgspec.msgpack.encode({"log_id": log_id, "state": {"v": state.v}})
            path.write_bytes(hashlib.sha256(body).digest() + body)
        case _:
            fold_file.write(path, KeptFold(log_id, msgspec.structs.replace(state, seq=99, runs=())))
    capsys.readouterr()
    _, second = await new_fold(nats_server, path)
    heard: list[int] = []
    second.listen(lambda stored, _: heard.append(stored.seq))
    async with running(second):
        await asyncio.wait_for(second.ready.wait(), 10)
        assert set(second.state.runs) == {"r1"}
        assert heard == [1] and second.position == 1, "the log is folded from its start"
    said = capsys.readouterr()
    assert why in said.out + said.err


def test_a_state_of_another_shape_is_another_version() -> None:
    """Whoever changes what a run or a node is in the fold raises SNAPSHOT_VERSION, and writes the new digest here."""
    shape = msgspec.json.encode(without_words(msgspec.json.schema(Snapshot)), order="sorted")
    assert (SNAPSHOT_VERSION, hashlib.sha256(shape).hexdigest()[:16]) == (9, "8132aa2ad82cff69")


def without_words(schema: object) -> object:
    match schema:
        case dict():
            return {key: without_words(value) for key, value in schema.items() if key != "description"}
        case list():
            return [without_words(value) for value in schema]
        case _:
            return schema


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
    kept = fold_file.read(path, await log.log_id())
    assert kept is not None and kept.state == snapshot(fold.state)
    assert kept.state.runs[0].cancel_requested


def test_a_snapshot_of_release_0_1_stands_at_its_states_sequence(tmp_path: Path) -> None:
    state = State()
    state.seq = 7
    body = msgspec.msgpack.encode({"log_id": "log", "state": snapshot(state)})
    path = tmp_path / "fold"
    path.write_bytes(hashlib.sha256(body).digest() + body)
    kept = fold_file.read(path, "log")
    assert kept is not None and kept.position == 7
