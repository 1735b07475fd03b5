"""``audit verify``: the live tables against a replay, and what must hold at every sequence."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from bench.log_maker import LogMaker
from events.log import EventLog
from events.streams import ensure_streams
from events.types import Failed
from projections.audit.acknowledged import SubmitAnswer, read_acks
from projections.audit.against import Against, KeptHead, read_checkpoints
from projections.audit.legality import NotCounted
from projections.audit.verify import rows_from, verify
from projections.queries.answers import Queries
from projections.read_model.database import Database
from tests.support import NatsServer
from tests.support.deadline import eventually
from tests.support.random_log import RandomLog
from tests.support.stored_log import ask, projecting, reading, store
from trainshed_client.errors import ErrorCode, ExitCode, TrainshedError
from trainshed_client.nats_client import SafeClient
from trainshed_client.statuses import FailureReason


@pytest.fixture
async def nc(nats_server: NatsServer) -> SafeClient:
    client = await nats_server.client()
    await ensure_streams(client)
    return client


def _busy() -> LogMaker:
    made = LogMaker()
    made.elect()
    made.join()
    for place in range(30):
        run_id = made.submit()
        made.dispatch(run_id, slots=(place % 2,))
        made.start(run_id, slots=(place % 2,))
        if place < 28:
            made.complete(run_id)
    return made


async def test_a_replay_gives_the_live_tables_and_the_same_state_hash(
    nats_server: NatsServer, nc: SafeClient, tmp_path: Path
) -> None:
    made = _busy()
    end = await store(nc, made.messages)
    seen: list[tuple[int, int]] = []
    async with projecting(await nats_server.client(), tmp_path / "t.db"):
        verdict = await verify(reading(nc), rows_from(nc), progress=lambda seq, of: seen.append((seq, of)))
        health = await ask(nc, "health")
    assert seen[-1] == (end, end)
    assert (verdict.ok, verdict.seq, verdict.events, verdict.violations) == (True, end, end, ())
    assert verdict.state_hash == health["state_hash"]


async def test_any_log_at_all_is_replayed_alike(
    nats_server: NatsServer, nc: SafeClient, tmp_path: Path
) -> None:
    made = RandomLog(99)
    while made.seq < 1500:
        made.grow()
    await store(nc, made.messages)
    async with projecting(await nats_server.client(), tmp_path / "t.db"):
        verdict = await verify(reading(nc), rows_from(nc))
    assert [violation for violation in verdict.violations if violation.invariant == "I4"] == []


@pytest.mark.parametrize(
    ("tampering", "message"),
    [
        (
            "UPDATE runs SET status = 'FAILED' WHERE submit_seq = 3",
            'status is "FAILED", the log says "COMPLETED" (set by completed at 6)',
        ),
        ("DELETE FROM attempts WHERE submit_seq = 7", "is missing"),
        ("UPDATE timeline SET data = '{}' WHERE submit_seq = 3 AND seq = 3", "data is {}, the log says "),
        ("INSERT INTO timeline VALUES (3, 'x', 9999, 't', 't', '{}')", "is in no replay of the log"),
        (
            "UPDATE checkpoint SET state_hash = '" + "0" * 64 + "'",
            "the kept state hash is not that of the tables' rows",
        ),
    ],
)
async def test_tables_that_were_tampered_with_are_told(
    nats_server: NatsServer, nc: SafeClient, tmp_path: Path, tampering: str, message: str
) -> None:
    await store(nc, _busy().messages)
    async with projecting(await nats_server.client(), tmp_path / "t.db") as service:
        await ask(nc, "health")
        with service._database.writer() as connection, connection.begin():
            connection.exec_driver_sql(tampering)
        verdict = await verify(reading(nc), rows_from(nc))
    assert not verdict.ok
    assert {violation.invariant for violation in verdict.violations} == {"I4"}
    assert any(message in violation.message for violation in verdict.violations), verdict.violations


@pytest.mark.parametrize(
    ("theirs", "told"),
    [
        (
            None,
            "is older (its tables are of an unnamed version, those of this trainshed of version 13). Restart the stack: ",
        ),
        (
            12,
            "is older (its tables are of version 12, those of this trainshed of version 13). Restart the stack: ",
        ),
        (
            14,
            "is newer (its tables are of version 14, those of this trainshed of version 13). Ask with the trainshed ",
        ),
    ],
)
async def test_a_projector_of_another_release_is_named_and_compared_with_nothing(
    nats_server: NatsServer,
    nc: SafeClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    theirs: int | None,
    told: str,
) -> None:
    monkeypatch.setattr("projections.read_model.tables.SCHEMA_VERSION", 13)

    async def rows_of_theirs() -> AsyncIterator[bytes]:
        async with aclosing(cast("Any", rows_from(nc))) as rows:
            head = msgspec.json.decode(await anext(rows))
            head["schema_version"] = theirs
            yield msgspec.json.encode({name: value for name, value in head.items() if value is not None})
            yield msgspec.json.encode({"part": 1, "table": "runs", "rows": [{"run_id": "of another shape"}]})

    await store(nc, _busy().messages)
    async with projecting(await nats_server.client(), tmp_path / "t.db"):
        with pytest.raises(TrainshedError, match=re.escape(told)) as refused:
            await verify(reading(nc), rows_of_theirs())
    assert refused.value.exit_code == ExitCode.NO_SERVICE


async def test_heartbeat_columns_of_the_live_are_not_compared(
    nats_server: NatsServer, nc: SafeClient, tmp_path: Path
) -> None:
    await store(nc, _busy().messages)
    async with projecting(await nats_server.client(), tmp_path / "t.db") as service:
        await ask(nc, "health")
        with service._database.writer() as connection, connection.begin():
            for statement in (
                "UPDATE runs SET step = 7, updated_at = 'later' WHERE status = 'RUNNING'",
                "UPDATE attempts SET step = 7 WHERE status = 'RUNNING'",
                "UPDATE slots SET utilisation = 99",
                "UPDATE nodes SET last_heartbeat_at = 'now'",
            ):
                assert connection.exec_driver_sql(statement).rowcount > 0
        verdict = await verify(reading(nc), rows_from(nc))
    assert verdict.ok, verdict.violations


async def test_a_slot_granted_twice_is_a_violation_at_its_sequence(
    nats_server: NatsServer, nc: SafeClient, tmp_path: Path
) -> None:
    made = LogMaker()
    made.elect()
    made.join()
    first, second = made.submit(), made.submit()
    made.dispatch(first, slots=(1,))
    at = made.dispatch(second, slots=(0, 1))
    await store(nc, made.messages)
    async with projecting(await nats_server.client(), tmp_path / "t.db"):
        verdict = await verify(reading(nc), rows_from(nc))
    [violation] = verdict.violations
    assert (violation.invariant, violation.seq) == ("I2", at)
    assert f"slot gpu01.1 was granted to run {second}" in violation.message


async def test_an_event_without_its_ground_is_a_violation_and_what_counted_for_nothing_is_told(
    nats_server: NatsServer, nc: SafeClient, tmp_path: Path
) -> None:
    made = _busy()
    late = made.messages[2].subject.split(".")[3]
    made.by_dispatcher(
        Failed(run_id=late, attempt=1, epoch=made.epoch, failure_reason=FailureReason.SHIM_LOST)
    )
    twice = made.start(late)
    made.raw("trainshed.events.run.x.agent.exploded.gpu01", b"{}")
    await store(nc, made.messages)
    async with projecting(await nats_server.client(), tmp_path / "t.db"):
        verdict = await verify(reading(nc), rows_from(nc))
        assert (verdict.ok, verdict.late, verdict.unreadable) == (True, 0, 1)
        assert verdict.not_counted == (NotCounted("failed", 1, twice - 1), NotCounted("started", 1, twice))
        forged = LogMaker()
        forged.complete(late, 7)
        at = await store(nc, forged.messages)

        async def projected() -> bool:
            return bool((await ask(nc, "health"))["seq"] >= at)

        await eventually(projected, 20)
        verdict = await verify(reading(nc), rows_from(nc))
    assert [(each.invariant, each.seq) for each in verdict.violations] == [("I9", at)]


async def test_a_run_that_ended_and_begins_again_without_a_retry_is_a_violation(
    nats_server: NatsServer, nc: SafeClient, tmp_path: Path
) -> None:
    made = LogMaker()
    made.elect()
    made.join()
    run_id = made.submit({"entry_point": "/bin/true"})
    made.dispatch(run_id)
    made.complete(run_id)
    made.submit({"entry_point": "/bin/true"})
    await store(nc, made.messages)
    async with projecting(await nats_server.client(), tmp_path / "t.db"):
        verdict = await verify(reading(nc), rows_from(nc))
    assert [violation.invariant for violation in verdict.violations] == ["I1"]


async def test_rows_and_replay_are_compared_at_one_sequence_while_the_system_writes(
    nats_server: NatsServer, nc: SafeClient, tmp_path: Path
) -> None:
    """The rows are of one read transaction, which names its sequence; what is stored later is checked, and compared with none."""
    made = LogMaker()
    made.elect()
    made.join()
    await store(nc, made.messages)
    writing = await nats_server.client()
    written, stop = len(made.messages), asyncio.Event()

    async def write_on() -> None:
        nonlocal written
        while not stop.is_set():
            run_id = made.submit()
            made.dispatch(run_id, slots=(0,))
            made.start(run_id, slots=(0,))
            made.complete(run_id)
            for message in made.messages[written:]:
                await writing.publish(message.subject, message.body)
            written = len(made.messages)
            await asyncio.sleep(0.01)

    async with projecting(await nats_server.client(), tmp_path / "t.db"), asyncio.TaskGroup() as tasks:
        tasks.create_task(write_on())
        try:
            verdicts = [await verify(reading(nc), rows_from(nc)) for _ in range(5)]
        finally:
            stop.set()
    for verdict in verdicts:
        assert verdict.ok, (verdict.seq, verdict.end, verdict.violations)
    assert verdicts[0].seq < verdicts[-1].seq
    assert any(verdict.seq < verdict.end for verdict in verdicts), "the log grew between rows and replay"


async def test_a_log_that_goes_on_above_a_read_model_is_checked_to_its_end(
    nats_server: NatsServer, nc: SafeClient, tmp_path: Path
) -> None:
    made = _busy()
    end = await store(nc, made.messages)
    async with projecting(await nats_server.client(), tmp_path / "t.db"):
        rows = [part async for part in rows_from(nc)]

    async def as_it_was() -> AsyncIterator[bytes]:
        for part in rows:
            yield part

    later = LogMaker()
    submitted = later.submit()
    later.complete(submitted)
    at = await store(nc, later.messages)
    acks = [SubmitAnswer(submitted, "d", at - 1)]
    verdict = await verify(reading(nc), as_it_was(), acks)
    assert (verdict.seq, verdict.end, verdict.events) == (end, at, at)
    assert [(each.invariant, each.seq) for each in verdict.violations] == [("I9", at)]


async def test_rows_that_do_not_come_whole_are_no_verdict(nc: SafeClient, tmp_path: Path) -> None:
    made = _busy()
    await store(nc, made.messages)
    from projections.read_model.projector import Projector

    database = Database(tmp_path / "t.db")
    projector = Projector.open(database, await EventLog(nc).log_id(), made.seq)
    projector.apply(made.messages)
    projector.close()
    parts = list(Queries(database).audit_rows())
    assert len(parts) == 6

    async def without(place: int) -> AsyncIterator[bytes]:
        for number, part in enumerate(parts):
            if number != place:
                yield part

    for place in range(len(parts)):
        with pytest.raises(TrainshedError) as raised:
            await verify(reading(nc), without(place))
        assert raised.value.code is ErrorCode.UNAVAILABLE


async def test_without_a_projector_it_says_so(nc: SafeClient) -> None:
    with pytest.raises(TrainshedError, match="no projector answers"):
        await verify(reading(nc), rows_from(nc))


async def test_many_rows_come_in_many_parts(nats_server: NatsServer, nc: SafeClient, tmp_path: Path) -> None:
    made = LogMaker()
    made.elect()
    for number in range(400):
        made.submit({"entry_point": "/bin/x", "arguments": ["y" * 5000], "submission_key": str(number)})
    end = await store(nc, made.messages)
    async with projecting(await nats_server.client(), tmp_path / "t.db"):
        await ask(nc, "health")
        parts = [part async for part in rows_from(nc)]
        verdict = await verify(reading(nc), rows_from(nc))
    assert len(parts) > 4
    assert max(map(len, parts)) < 1_000_000
    assert msgspec.json.decode(parts[0])["counts"]["runs"] == 400
    assert (verdict.ok, verdict.events) == (True, end)


async def test_a_submission_that_was_acknowledged_and_is_not_in_the_log_is_a_violation(
    nats_server: NatsServer, nc: SafeClient, tmp_path: Path
) -> None:
    made = _busy()
    end = await store(nc, made.messages)
    first = made.messages[2]
    assert ".submitted." in first.subject
    kept = SubmitAnswer(first.subject.split(".")[3], "d", 3)
    lost = [
        SubmitAnswer("never", "d", 3),
        SubmitAnswer(kept.run_id, "d", 4),
        SubmitAnswer(kept.run_id, "d", end + 1),
    ]
    async with projecting(await nats_server.client(), tmp_path / "t.db"):
        assert (await verify(reading(nc), rows_from(nc), [kept])).ok
        verdict = await verify(reading(nc), rows_from(nc), [kept, *lost])
    assert [(violation.invariant, violation.seq) for violation in verdict.violations] == [
        ("I6", 3),
        ("I6", 4),
        ("I6", end + 1),
    ]


def test_a_line_that_is_no_answer_is_named() -> None:
    good = b'{"run_id": "r", "digest": "d", "created": true, "status": "PENDING", "seq": 3}\n'
    assert read_acks([good, b"\n"]) == [SubmitAnswer("r", "d", 3)]
    for bad in (b"{}", b'{"run_id": "r", "digest": "d", "seq": "3"}', b"\xff"):
        with pytest.raises(TrainshedError, match="line 2: .*submit --json"):
            read_acks([good, bad])


async def test_a_checkpoint_kept_from_before_fits_and_one_of_what_was_altered_does_not(
    nats_server: NatsServer, nc: SafeClient, tmp_path: Path
) -> None:
    made = _busy()
    log = reading(nc)
    await store(nc, made.messages)
    async with projecting(await nats_server.client(), tmp_path / "t.db", records=True):
        kept = (await ask(nc, "audit.checkpoint"))["checkpoint"].encode()
        await store(nc, made.messages[2:3])  # what comes after it changes nothing
        head = read_checkpoints(kept, "f")[0].head
        fits = Against([KeptHead(head)])
        verdict = await verify(log, rows_from(nc), against=fits)
        assert [each for each in verdict.violations if each.invariant == "I8"] == []
        forged = msgspec.structs.replace(head, root=bytes(32))
        beyond = msgspec.structs.replace(head, size=head.size + 100)
        verdict = await verify(log, rows_from(nc), against=Against([KeptHead(forged), KeptHead(beyond)]))
        assert [(each.invariant, each.seq) for each in verdict.violations if each.invariant == "I8"] == [
            ("I8", 1),
            ("I8", head.size + 2),
        ]
