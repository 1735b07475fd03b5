"""The log adapter on a real nats-server: conflicts, duplicates, batches, unknown outcomes and reading back."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest

from events.codec import MAX_EVENT_BYTES, NewEvent, StoredEvent, Unreadable
from events.feed import api_call
from events.log import Conflict, EventLog, Guard, Refused, UnknownOutcome, messages_between
from events.types import CancelRequested, Submitted
from tests.support import NatsServer, RawNats, eventually
from tests.support.builders import config
from tests.support.control import everything, joined, kill_and_start_again, new_log, say, stopped, writer
from trainshed_client import subjects
from trainshed_client.errors import ErrorCode
from trainshed_client.subjects import Role

GATEWAY = writer(Role.GATEWAY)


def submitted(run_id: str = "r1", **fields: object) -> NewEvent:
    return GATEWAY.new(Submitted(run_id=run_id, config=config(**fields), digest="0" * 64))


def guard(run_id: str = "r1", seq: int = 0) -> Guard:
    return Guard(subjects.run_events(run_id), seq)


@pytest.fixture
async def log(nats_server: NatsServer) -> EventLog:
    return await new_log(nats_server)


async def test_an_event_is_stored_and_read_back(log: EventLog) -> None:
    before = time.time_ns()
    event = submitted()
    stored = await log.append(event, guard())
    assert (stored.seq, stored.duplicate) == (1, False)
    (read,) = await everything(log)
    assert (read.seq, read.id, str(read.subject), read.source) == (1, event.id, event.subject, "gateway")
    assert before - 1_000_000 <= read.stored_ns <= time.time_ns() + 1_000_000
    assert await log.end() == 1


@pytest.mark.parametrize("status", ["404", "100", "no number"])
async def test_a_status_that_was_stored_with_an_event_is_not_the_answer(log: EventLog, status: str) -> None:
    event = submitted()
    headers = {"Status": status, "Nats-Sequence": "7", "Nats-Time-Stamp": "2020-01-01T00:00:00Z"}
    await log.nc.request(event.subject, event.body, headers=headers)
    last = await log.last(event.subject)
    assert isinstance(last, StoredEvent) and (last.seq, last.id) == (1, event.id)
    (read,) = await everything(log)
    assert last == read


async def test_a_guard_that_does_not_hold_stores_nothing(log: EventLog) -> None:
    await log.append(submitted(), guard())
    with pytest.raises(Conflict):
        await log.append(submitted(), guard())
    with pytest.raises(Conflict):
        await log.append(GATEWAY.new(CancelRequested(run_id="r1")), guard(seq=7))
    assert await log.end() == 1
    assert (await log.append(GATEWAY.new(CancelRequested(run_id="r1")), guard(seq=1))).seq == 2


async def test_a_guard_on_one_run_is_not_moved_by_another(log: EventLog) -> None:
    await log.append(submitted("r1"), guard("r1"))
    assert (await log.append(submitted("r2"), guard("r2"))).seq == 2


async def test_the_same_id_twice_is_stored_once_and_told(log: EventLog) -> None:
    event = GATEWAY.new(CancelRequested(run_id="r1"))
    first = await log.append(event)
    again = await log.append(event)
    assert (again.seq, again.duplicate) == (first.seq, True)
    assert await log.end() == 1


async def test_rule_2_the_guard_is_checked_before_the_id(log: EventLog) -> None:
    """A repeat of what was stored is a conflict, to be resolved by comparing ids."""
    event = submitted()
    await log.append(event, guard())
    with pytest.raises(Conflict):
        await log.append(event, guard())
    assert await log.last_id(event.subject) == (1, event.id)


@pytest.mark.parametrize("many", [1, 2, 8, 1_000])
async def test_a_batch_is_stored_whole_and_in_order(log: EventLog, many: int) -> None:
    events = [submitted(f"r{number}") for number in range(many)]
    seqs = await log.append_batch(events, [guard(f"r{number}") for number in range(many)])
    assert seqs == list(range(1, many + 1))
    assert [one.id for one in await everything(log)] == [event.id for event in events]


@pytest.mark.parametrize("place", [0, 3, 7])
async def test_a_batch_with_one_guard_that_does_not_hold_is_not_stored_at_all(
    log: EventLog, place: int
) -> None:
    await log.append(submitted(f"r{place}"), guard(f"r{place}"))
    with pytest.raises(Conflict):
        await log.append_batch(
            [submitted(f"r{number}") for number in range(8)], [guard(f"r{number}") for number in range(8)]
        )
    assert await log.end() == 1


async def test_a_batch_under_one_literal_guard_is_what_a_dispatcher_sends(log: EventLog) -> None:
    """Each message expects the same last sequence of the one control subject (rule 1)."""
    epoch = Guard(subjects.ELECTED, 0)
    assert len(await log.append_batch([submitted(f"r{n}") for n in range(20)], [epoch] * 20)) == 20


async def test_an_id_that_was_stored_before_makes_a_batch_a_conflict(log: EventLog) -> None:
    event = submitted("r1")
    await log.append(event)
    with pytest.raises(Conflict):
        await log.append_batch([submitted("r2"), event, submitted("r3")], [None] * 3)
    assert await log.end() == 1


async def test_a_batch_of_more_than_a_thousand_is_not_tried(log: EventLog) -> None:
    with pytest.raises(ValueError, match="1000"):
        await log.append_batch([submitted(f"r{number}") for number in range(1_001)], [None] * 1_001)
    assert await log.append_batch([], []) == []


async def test_what_is_too_large_is_refused_before_it_is_sent(log: EventLog) -> None:
    large = submitted(metadata={"x": "y" * MAX_EVENT_BYTES})
    for events in ([large], [submitted("r2"), large], [large, submitted("r2")]):
        with pytest.raises(Refused) as caught:
            await log.append_batch(events, [None] * len(events))
        assert caught.value.code is ErrorCode.TOO_LARGE
    assert await log.end() == 0


async def test_a_server_that_does_not_answer_leaves_the_outcome_unknown(nats_server: NatsServer) -> None:
    log = await new_log(nats_server, timeout_s=0.3)
    event = submitted()
    with stopped(nats_server.pid):
        with pytest.raises(UnknownOutcome):
            await log.append(event, guard())
        with pytest.raises(UnknownOutcome):
            await log.append_batch([submitted("r2"), submitted("r3")], [None, None])
        with pytest.raises(UnknownOutcome):
            await log.last_id(event.subject)

    # it was on its way: stored after all, and resolved by its id
    async def is_stored() -> bool:
        return await log.last_id(event.subject) == (1, event.id)

    await eventually(is_stored)
    with pytest.raises(Conflict):
        await log.append(event, guard())


async def test_appending_surely_goes_on_until_the_server_answers_and_stores_once(
    nats_server: NatsServer,
) -> None:
    log = await new_log(nats_server, timeout_s=0.2)
    event = GATEWAY.new(CancelRequested(run_id="r1"))
    with stopped(nats_server.pid):
        appending = asyncio.create_task(log.append_surely(event))
        await asyncio.wait({appending}, timeout=0.7)
        assert not appending.done()
    await asyncio.wait_for(appending, 20)
    assert [one.id for one in await everything(log)] == [event.id]


async def test_appending_surely_survives_a_killed_server(nats_server: NatsServer) -> None:
    log = await new_log(nats_server, timeout_s=0.5)
    event = GATEWAY.new(CancelRequested(run_id="r1"))
    await log.append(event)
    restarting = asyncio.create_task(kill_and_start_again(nats_server))
    stored = await asyncio.wait_for(log.append_surely(event), 30)
    await restarting
    assert stored.seq == 1
    assert await log.end() == 1


async def test_appending_surely_says_at_last_that_the_outcome_stays_unknown(nats_server: NatsServer) -> None:
    log = await new_log(nats_server, timeout_s=0.1)
    with stopped(nats_server.pid), pytest.raises(UnknownOutcome):
        await log.append_surely(submitted(), within_s=0.5)


async def test_a_log_without_room_refuses_and_that_is_certain(log: EventLog) -> None:
    await log.append(submitted("r1"))
    stream = f"STREAM.UPDATE.{subjects.EVENTS_STREAM}"
    settings = (await api_call(log.nc, f"STREAM.INFO.{subjects.EVENTS_STREAM}"))["config"]
    await api_call(log.nc, stream, {**settings, "max_bytes": 600})
    for events in ([submitted("r2")], [submitted("r2"), submitted("r3")]):
        with pytest.raises(Refused, match="maximum bytes"):
            await log.append_batch(events, [None] * len(events))
    await api_call(log.nc, stream, settings)
    assert (await log.append(submitted("r2"))).seq == 2


async def test_without_a_stream_the_outcome_is_unknown_and_not_a_success(nats_server: NatsServer) -> None:
    log = EventLog(await nats_server.client())
    with pytest.raises(UnknownOutcome):
        await log.append(submitted())


async def test_an_answer_of_somebody_else_is_no_acknowledgement(nats_server: NatsServer) -> None:
    nc = await nats_server.client()

    async def impostor(msg: object) -> None:
        await msg.respond(b"stored, promise")  # type: ignore[attr-defined]

    await nc.subscribe("trainshed.events.>", cb=impostor)
    await nc.flush()
    with pytest.raises(UnknownOutcome):
        await EventLog(await nats_server.client()).append(submitted())


# --- reading ------------------------------------------------------------------------------------------------


async def test_reading_by_filters_from_and_to_a_sequence(log: EventLog) -> None:
    for number in range(10):
        await log.append(submitted(f"r{number % 2}", submission_key=str(number)))
    await say(log, Role.AGENT, joined(), "gpu01")
    await log.append(submitted("r1"))

    async def seqs(*filters: str, **bounds: int) -> list[int]:
        return [one.seq async for one in log.read(filters or (subjects.ALL_EVENTS,), **bounds)]

    assert await seqs() == list(range(1, 13))
    assert await seqs(start_seq=5, end_seq=7) == [5, 6, 7]
    assert await seqs(start_seq=12) == [12]
    assert await seqs(start_seq=13) == []
    assert await seqs(end_seq=0) == []
    assert await seqs(subjects.run_events("r0")) == [1, 3, 5, 7, 9]
    assert await seqs(subjects.run_events("r0"), start_seq=4, end_seq=8) == [5, 7]
    assert await seqs(subjects.run_events("r1"), end_seq=11) == [2, 4, 6, 8, 10]
    assert await seqs(subjects.ALL_NODE_EVENTS) == [11]
    assert await seqs(subjects.run_events("r1"), subjects.ALL_NODE_EVENTS, start_seq=9) == [10, 11, 12]
    assert await seqs(subjects.run_events("nobody")) == []
    assert await seqs(subjects.run_events("nobody"), subjects.ALL_CONTROL_EVENTS) == []
    assert await seqs(end_seq=99) == list(range(1, 13)), "an end that is not there yet is not waited for"


async def test_reading_an_empty_log_gives_nothing(log: EventLog) -> None:
    assert await everything(log) == []
    assert [one async for one in log.read((subjects.ALL_NODE_EVENTS,))] == []


async def test_reading_by_a_filter_that_thousands_of_subjects_match(log: EventLog) -> None:
    """More than a direct get would answer (1,024): a lab whose nodes come and go has as many."""
    for first in range(0, 2_000, 500):
        events = [writer(Role.AGENT, f"n{n}").new(joined(f"n{n}")) for n in range(first, first + 500)]
        await log.append_batch(events, [None] * 500)
    await log.append(submitted())
    assert len([one async for one in log.read((subjects.ALL_NODE_EVENTS,))]) == 2_000
    assert [one.seq async for one in log.read((subjects.run_events("r1"), subjects.ALL_CONTROL_EVENTS))] == [
        2_001
    ]


async def test_reading_leaves_no_consumer_behind(log: EventLog) -> None:
    await log.append(submitted())
    for _ in range(5):
        await everything(log)

    async def consumers() -> list[object]:
        answer = await log.nc.request(f"$JS.API.CONSUMER.NAMES.{subjects.EVENTS_STREAM}", b"")
        return msgspec.json.decode(answer.data).get("consumers") or []

    async def gone() -> bool:
        return await consumers() == []

    await eventually(gone, within=5)


async def test_the_last_event_of_a_literal_subject(log: EventLog) -> None:
    assert await log.last(subjects.submitted("r1")) is None
    assert await log.last_id(subjects.submitted("r1")) == (0, None)
    event = submitted()
    await log.append(event)
    last = await log.last(event.subject)
    assert isinstance(last, StoredEvent)
    (read,) = await everything(log)
    assert last == read, "a direct get tells the same time of storing as a consumer does"


# --- poison -------------------------------------------------------------------------------------------------


async def test_poison_is_read_as_unreadable_and_nothing_after_it_is_lost(
    nats_server: NatsServer, log: EventLog
) -> None:
    await log.append(submitted("r1"))
    async with RawNats(nats_server.endpoint) as raw:
        subject = subjects.submitted("r2").encode()
        await raw.publish(subject, b"no json")
        await raw.publish(subject, b"\xff\xfe")
        await raw.publish(subject, b"{}", headers=b"NATS/1.0\r\nX: \xff\xfe\r\n\r\n")
        await raw.publish(b"trainshed.events.run.r\xff2.gateway.submitted._", b"{}")
        await raw.publish(b"trainshed.events.whatever", b"{}")
        await raw.publish(b"trainshed.events.run.\xc3\xa4.gateway.submitted._", b"{}")
    await log.append(submitted("r3"))
    await eventually(lambda: _end_is(log, 8))
    read = await asyncio.wait_for(_all(log), 20)
    assert [one.seq for one in read] == list(range(1, 9))
    assert [type(one) for one in read] == [StoredEvent, *[Unreadable] * 6, StoredEvent]
    assert isinstance(await log.last(subjects.submitted("r2")), Unreadable)
    assert await log.last_id(subjects.submitted("r2")) == (4, None)


async def test_poison_at_the_end_of_the_log_stops_no_reader(nats_server: NatsServer, log: EventLog) -> None:
    async with RawNats(nats_server.endpoint) as raw:
        await raw.publish(b"trainshed.events.run.\xff.gateway.submitted._", b"{}")
    await eventually(lambda: _end_is(log, 1))
    (one,) = await asyncio.wait_for(_all(log), 20)
    assert isinstance(one, Unreadable)


async def _end_is(log: EventLog, seq: int) -> bool:
    return await log.end() == seq


async def _all(log: EventLog) -> list[StoredEvent | Unreadable]:
    return [one async for one in log.read()]


async def test_a_stretch_of_a_long_log_is_read_without_a_consumer(
    log: EventLog, nats_server: NatsServer
) -> None:
    said = [submitted(f"r{place}") for place in range(2_500)]
    for at in range(0, 2_500, 500):
        await log.append_batch(said[at : at + 500], [None] * 500)
    expected = [message async for message in log.read_raw()]
    for first, last in ((1, 2_500), (3, 9), (7, 7), (2_400, 2_400), (2_400, 9_999), (2_501, 3_000), (5, 4)):
        found = await messages_between(log.nc, log.stream, first, last)
        assert found == [message for message in expected if first <= message.seq <= last]
    assert (await api_call(log.nc, f"CONSUMER.NAMES.{log.stream}"))["total"] == 0
    with stopped(nats_server.pid), pytest.raises(UnknownOutcome):
        await messages_between(log.nc, log.stream, 1, 5, timeout_s=0.5)
