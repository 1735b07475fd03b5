"""Dispatchers on a real nats-server: one active, its epoch a guard, each debt paid once, and no slot granted twice."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from events import rules
from events.codec import StoredEvent
from events.config import stored_config
from events.evolve import ended_runs_needed, evolve
from events.feed import ApiError, api_call
from events.log import Conflict, EventLog, Guard, Refused
from events.state import Run, State
from events.types import (
    AttemptRef,
    Cancelled,
    CancelRequested,
    Completed,
    Dispatched,
    Elected,
    Event,
    Failed,
    NodeLeft,
    NodeLost,
    NodeRemoved,
    Started,
    Stopping,
    Submitted,
)
from services.dispatcher import election as elections
from services.dispatcher.dispatcher import Dispatcher
from services.fold import SharedFold
from services.scheduling.scheduler import SCHEDULER
from tests.support import NatsServer, eventually
from tests.support.builders import config, needs
from tests.support.configs import digest_of
from tests.support.control import (
    beat,
    everything,
    joined,
    kill_and_start_again,
    new_log,
    running,
    say,
    stopped,
    writer,
)
from trainshed_client import subjects
from trainshed_client.errors import ExitCode, TrainshedError
from trainshed_client.statuses import FailureReason, NodeStatus, RunStatus
from trainshed_client.subjects import Role


class Active:
    """A dispatcher with a fold of its own."""

    def __init__(self, log: EventLog, fold: SharedFold, service: Dispatcher) -> None:
        self.log = log
        self.fold = fold
        self.service = service

    @property
    def is_active(self) -> bool:
        """It was elected, and nobody since as far as it knows."""
        return self.service.ready.is_set() and self.fold.state.epoch_of == self.service._election._name


async def new_dispatcher(
    server: NatsServer, name: str, *, at_once: bool = True, node_lost_s: float = 60.0, **options: Any
) -> Active:
    log = await new_log(server, name, **options)
    fold = SharedFold(log, await log.log_id())
    return Active(
        log,
        fold,
        Dispatcher(log, fold, who=name, stand_at_once=at_once, node_lost_s=node_lost_s),
    )


@contextlib.asynccontextmanager
async def dispatching(*dispatchers: Active) -> AsyncIterator[None]:
    services = [service for one in dispatchers for service in (one.service, one.fold)]
    async with running(*services):
        yield


@pytest.fixture
async def log(nats_server: NatsServer) -> EventLog:
    return await new_log(nats_server)


@pytest.fixture
async def active(nats_server: NatsServer) -> AsyncIterator[Active]:
    one = await new_dispatcher(nats_server, "d1")
    async with dispatching(one):
        await asyncio.wait_for(one.service.ready.wait(), 10)
        yield one


async def submit(log: EventLog, number: int = 0, **fields: object) -> str:
    raw = config(submission_key=str(number), **fields)
    run_id = digest_of(stored_config(raw)).run_id
    await say(log, Role.GATEWAY, Submitted(run_id=run_id, config=raw, digest=""))
    return run_id


async def told(log: EventLog, kind: type[Event], *, many: int = 1, within: float = 10.0) -> list[StoredEvent]:
    """The events of this kind, once there are so many."""

    async def found() -> list[StoredEvent]:
        those = [one for one in await everything(log) if isinstance(one.event, kind)]
        return those if len(those) >= many else []

    return await eventually(found, within=within)


async def agent_says(log: EventLog, event: Event, node: str = "gpu01") -> int:
    return await say(log, Role.AGENT, event, node)


# --- grants -----------------------------------------------------------------------------------------------


async def test_a_submitted_run_is_granted_with_all_that_its_node_needs(log: EventLog, active: Active) -> None:
    await agent_says(log, joined(slots=2))
    run_id = await submit(
        log,
        entry_point="/usr/bin/python3",
        arguments=["-m", "x"],
        resources=needs(1, 2, 100),
        schedule={"max_steps": 5},
        metadata={"ui": 1, "worker": {"module": "x", "arguments": ["--seed", "1"]}},
    )
    (stored,) = await told(log, Dispatched)
    event = stored.event
    assert isinstance(event, Dispatched)
    assert (event.run_id, event.attempt, event.node, event.incarnation) == (run_id, 1, "gpu01", "a")
    assert (event.slots, event.cpus, event.memory_mb) == ((0,), 2, 100)
    assert event.epoch == active.fold.state.epoch
    assert stored.subject.node == "gpu01"
    assert msgspec.json.decode(event.launch) == {
        "entry_point": "/usr/bin/python3",
        "arguments": ["-m", "x"],
        "schedule": {"max_steps": 5},
        "worker": {"module": "x", "arguments": ["--seed", "1"]},
    }
    assert event.view.seq == stored.seq - 1
    assert (event.why.free, event.why.passed_over_count) == (2, 0)


async def test_many_runs_are_granted_in_order_as_slots_become_free(log: EventLog, active: Active) -> None:
    await agent_says(log, joined(slots=2))
    runs = [await submit(log, number, resources=needs(1)) for number in range(12)]
    for many in range(2, 13, 2):
        grants = await told(log, Dispatched, many=many)
        assert len(grants) == many
        for stored in grants[-2:]:
            assert isinstance(stored.event, Dispatched)
            await agent_says(log, Completed(run_id=stored.event.run_id, attempt=1))
    grants = await told(log, Dispatched, many=12)
    assert [one.event.run_id for one in grants if isinstance(one.event, Dispatched)] == runs


async def test_a_requeued_run_is_granted_once_its_back_off_is_over(log: EventLog, active: Active) -> None:
    await agent_says(log, joined())
    run_id = await submit(log, retry={"max_attempts": 2, "backoff_s": 0.3})
    await told(log, Dispatched)
    seq = await agent_says(log, Failed(run_id=run_id, attempt=1, failure_reason=FailureReason.EXIT_CODE))
    second = (await told(log, Dispatched, many=2))[1]
    failed = next(one for one in await everything(log) if one.seq == seq)
    assert isinstance(second.event, Dispatched) and second.event.attempt == 2
    assert second.stored_ns - failed.stored_ns >= 300_000_000


async def test_a_large_backlog_is_granted_in_batches(log: EventLog, active: Active) -> None:
    await agent_says(log, joined(slots=0, cpus=500))
    events = []
    for number in range(500):
        raw = config(submission_key=str(number))
        events.append(
            writer(Role.GATEWAY).new(
                Submitted(run_id=digest_of(stored_config(raw)).run_id, config=raw, digest="")
            )
        )
    await log.append_batch(events, [None] * 500)
    grants = await told(log, Dispatched, many=500, within=20)
    assert len({one.subject.id for one in grants}) == 500


# --- debts ------------------------------------------------------------------------------------------------


async def test_rule_3_a_cancelled_run_is_ended_or_stopped_exactly_once(log: EventLog, active: Active) -> None:
    await agent_says(log, joined(slots=1))
    running_ = await submit(log, 1, resources=needs(1))
    await told(log, Dispatched)
    queued = await submit(log, 2, resources=needs(1))
    for run_id in (running_, queued):
        await say(log, Role.GATEWAY, CancelRequested(run_id=run_id))
    (stop,) = await told(log, Stopping)
    (end,) = await told(log, Cancelled)
    assert isinstance(stop.event, Stopping) and isinstance(end.event, Cancelled)
    assert (stop.event.run_id, stop.event.reason, stop.subject.node) == (running_, "cancel", "gpu01")
    assert (end.event.run_id, end.subject.node) == (queued, "_")
    await agent_says(log, Cancelled(run_id=running_, attempt=1))
    last = await submit(log, 3, resources=needs(1))
    await told(log, Dispatched, many=2)
    assert len(await told(log, Stopping)) == 1
    assert len(await told(log, Cancelled)) == 2
    assert active.fold.state.runs.keys() == {last}


async def test_rule_8_what_a_join_lacks_is_ended_and_what_it_has_too_much_is_stopped(
    log: EventLog, active: Active
) -> None:
    await agent_says(log, joined())
    started = await submit(log, 1, retry={"max_attempts": 1})
    unstarted = await submit(log, 2)
    await told(log, Dispatched, many=2)
    await agent_says(log, Started(run_id=started, attempt=1, pid=1, host="h"))
    await agent_says(log, joined(attempts=(AttemptRef("gone", 7),)))
    ends = await told(log, Failed, many=2)
    reasons = {one.subject.id: one.event.failure_reason for one in ends if isinstance(one.event, Failed)}
    assert reasons == {started: FailureReason.SHIM_LOST, unstarted: FailureReason.NOT_STARTED}
    (stop,) = await told(log, Stopping)
    assert isinstance(stop.event, Stopping)
    assert (stop.event.run_id, stop.event.attempt, stop.event.reason) == ("gone", 7, "ended")


async def test_rule_8_a_grant_that_crossed_with_a_leave_is_ended_also_after_another_took_the_name(
    nats_server: NatsServer, log: EventLog
) -> None:
    """The dispatcher dies between the grant and its end; the next one finds another machine under the name."""
    one = await new_dispatcher(nats_server, "d1")
    joined_seq = await agent_says(log, joined())
    async with dispatching(one):
        run_id = await submit(log)
        await told(log, Dispatched)
    await agent_says(log, NodeLeft(node="gpu01", incarnation="a", upto=joined_seq))
    await agent_says(log, joined(incarnation="b"))
    two = await new_dispatcher(nats_server, "d2")
    async with dispatching(two):
        (end,) = await told(log, Failed)
        assert isinstance(end.event, Failed) and end.event.failure_reason is FailureReason.NOT_STARTED
        second = (await told(log, Dispatched, many=2))[1]
        assert isinstance(second.event, Dispatched)
        assert (second.event.run_id, second.event.incarnation) == (run_id, "b")
    assert await _of(log, Stopping) == []


async def test_debts_are_found_by_a_dispatcher_that_starts_later(
    nats_server: NatsServer, log: EventLog
) -> None:
    await agent_says(log, joined())
    run_id = await submit(log)
    await say(log, Role.GATEWAY, CancelRequested(run_id=run_id))
    late = await new_dispatcher(nats_server, "late")
    async with dispatching(late):
        (end,) = await told(log, Cancelled)
        assert end.subject.id == run_id
    assert await _of(log, Dispatched) == []


# --- rule 6: silence --------------------------------------------------------------------------------------


async def test_rule_6_a_node_that_falls_silent_is_lost_once_and_gets_nothing_until_it_joins_again(
    nats_server: NatsServer, log: EventLog
) -> None:
    one = await new_dispatcher(nats_server, "d1", node_lost_s=1.0)
    async with dispatching(one):
        await one.service.ready.wait()
        await agent_says(log, joined())
        await agent_says(log, joined("gpu02", slots=0), "gpu02")
        beating = asyncio.create_task(_beat_for_ever(log, "gpu02"))
        try:
            (lost,) = await told(log, NodeLost, within=20)
            assert isinstance(lost.event, NodeLost)
            assert (lost.event.node, lost.subject.node) == ("gpu01", "gpu01")
            assert lost.event.silent_s > 1.0
            run_id = await submit(log, resources=needs(1))
            assert (await _state(log)).nodes["gpu02"].status is NodeStatus.UP
            await agent_says(log, joined())
            (grant,) = await told(log, Dispatched)
            assert grant.subject.id == run_id
        finally:
            beating.cancel()


async def test_rule_6_silence_is_not_counted_while_nothing_could_be_heard(
    nats_server: NatsServer, log: EventLog
) -> None:
    """The server stands still for longer than the limit, and so does everybody's word."""
    one = await new_dispatcher(nats_server, "d1", node_lost_s=2.5)
    async with dispatching(one):
        await one.service.ready.wait()
        await agent_says(log, joined())
        beating = asyncio.create_task(_beat_for_ever(log, "gpu01"))
        try:
            await eventually(lambda: "gpu01" in one.service._silence._heard)
            with stopped(nats_server.pid):
                await asyncio.sleep(3.5)  # the length of the silence is what is tested
            await submit(log)
            await told(log, Dispatched, within=20)
        finally:
            beating.cancel()
    assert await _of(log, NodeLost) == []


# --- rule 10: consumers -----------------------------------------------------------------------------------


async def consumer(log: EventLog, node: str) -> dict[str, Any] | None:
    try:
        return dict((await api_call(log.nc, f"CONSUMER.INFO.{subjects.EVENTS_STREAM}.{node}"))["config"])
    except ApiError:
        return None


async def test_rule_10_a_joined_node_has_a_durable_push_consumer_and_one_that_left_has_none(
    log: EventLog, active: Active
) -> None:
    await submit(log, 1, resources=needs(99))
    seq = await agent_says(log, joined())

    async def made() -> dict[str, Any] | None:
        return await consumer(log, "gpu01")

    async def gone() -> bool:
        return await consumer(log, "gpu01") is None

    settings = await eventually(made)
    for field, value in {
        "durable_name": "gpu01",
        "deliver_subject": "trainshed.push.gpu01.events",
        "filter_subject": "trainshed.events.*.*.dispatcher.*.gpu01",
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": seq,
        "ack_policy": "explicit",
        "ack_wait": 1_000_000_000,
        "max_deliver": -1,
        "max_ack_pending": 1,
    }.items():
        assert settings[field] == value, field
    assert not settings.get("inactive_threshold") and not settings.get("mem_storage")
    run_id = await submit(log, 2)
    await told(log, Dispatched)
    await agent_says(log, NodeLeft(node="gpu01", incarnation="a", upto=99, attempts=(AttemptRef(run_id, 1),)))
    await submit(log, 3)
    await active.fold.reached(await log.end())
    assert await consumer(log, "gpu01") is not None, "its attempt may have to be stopped"
    await say(log, Role.GATEWAY, NodeRemoved(node="gpu01", incarnation="a"))
    await eventually(gone)
    await agent_says(log, joined(incarnation="b"))
    await eventually(made)


async def test_rule_10_a_decision_is_pushed_again_until_it_is_acknowledged(
    log: EventLog, active: Active
) -> None:
    pushed = await log.nc.subscribe(subjects.push_delivery("gpu01"))
    await agent_says(log, joined())
    run_id = await submit(log)
    first = await pushed.next_msg(timeout=5)
    again = await pushed.next_msg(timeout=5)
    assert first.subject == again.subject == f"trainshed.events.run.{run_id}.dispatcher.dispatched.gpu01"
    await again.respond(b"+ACK")
    await say(log, Role.GATEWAY, CancelRequested(run_id=run_id))
    async with asyncio.timeout(10):
        while (message := await pushed.next_msg(timeout=5)).subject == first.subject:
            await message.respond(b"+ACK")
    assert message.subject == f"trainshed.events.run.{run_id}.dispatcher.stopping.gpu01"


async def test_rule_10_a_consumer_that_somebody_removed_is_made_again(log: EventLog, active: Active) -> None:
    """A dispatcher that does not know yet that it was deposed may do that."""
    await agent_says(log, joined())

    async def made() -> bool:
        return await consumer(log, "gpu01") is not None

    await eventually(made)
    await api_call(log.nc, f"CONSUMER.DELETE.{subjects.EVENTS_STREAM}.gpu01")
    await eventually(made)


async def test_rule_10_a_consumer_left_over_from_another_dispatchers_time_is_removed(
    nats_server: NatsServer, log: EventLog
) -> None:
    await agent_says(log, joined())
    one = await new_dispatcher(nats_server, "d1")
    async with dispatching(one):

        async def made() -> bool:
            return await consumer(log, "gpu01") is not None

        await eventually(made)
    await agent_says(log, NodeLeft(node="gpu01", incarnation="a", upto=99))
    two = await new_dispatcher(nats_server, "d2")
    async with dispatching(two):

        async def gone() -> bool:
            return await consumer(log, "gpu01") is None

        await eventually(gone)


async def test_rule_18_a_forgotten_nodes_consumer_goes_also_where_no_dispatcher_saw_it_leave(
    nats_server: NatsServer, log: EventLog
) -> None:
    async def gone(name: str) -> bool:
        return await consumer(log, name) is None

    async def made(name: str) -> bool:
        return await consumer(log, name) is not None

    await agent_says(log, joined("away", borrowed=True), "away")
    await agent_says(log, joined("back", borrowed=True), "back")
    one = await new_dispatcher(nats_server, "d1")
    async with dispatching(one):
        await agent_says(log, joined("gpu01", borrowed=True))
        for name in ("away", "back", "gpu01"):
            await eventually(partial(made, name))
        await agent_says(log, NodeLeft(node="gpu01", incarnation="a", upto=99))
        await eventually(partial(gone, "gpu01"))
        assert "gpu01" not in one.fold.state.nodes
    async with log.follow(1) as feed:  # a reader's consumer, which is none of these
        for name in ("away", "back"):
            await agent_says(log, NodeLeft(node=name, incarnation="a", upto=99), name)
        await agent_says(log, joined("back", borrowed=True), "back")
        two = await new_dispatcher(nats_server, "d2")
        async with dispatching(two):
            await eventually(partial(gone, "away"))
            assert set(two.fold.state.nodes) == {"back"}
            assert await made("back")
            listed = await api_call(log.nc, f"CONSUMER.NAMES.{subjects.EVENTS_STREAM}")
            assert feed._consumer in listed["consumers"]


async def test_a_node_whose_consumer_cannot_be_made_holds_up_no_other(log: EventLog, active: Active) -> None:
    await agent_says(log, joined("bad\\name"), "bad\\name")
    await agent_says(log, joined())

    async def made() -> bool:
        return await consumer(log, "gpu01") is not None

    await eventually(made)


# --- elections --------------------------------------------------------------------------------------------


async def test_of_several_dispatchers_one_is_active(nats_server: NatsServer, log: EventLog) -> None:
    several = [await new_dispatcher(nats_server, f"d{number}", at_once=number == 0) for number in range(3)]
    async with dispatching(*several):
        await asyncio.wait_for(several[0].service.ready.wait(), 10)
        await agent_says(log, joined(slots=4))
        for number in range(4):
            await submit(log, number, resources=needs(1))
        await told(log, Dispatched, many=4)
        # longer than the silence after which another would stand
        heard = await log.nc.subscribe(subjects.ALIVE_DISPATCHER)
        words = [(await heard.next_msg(timeout=5)).data for _ in range(5)]
        assert set(words) == {b"d0"}
        assert len(await told(log, Elected)) == 1
        assert [one.is_active for one in several] == [True, False, False]


async def test_rule_1_standing_together_one_is_elected_and_does_not_depose_the_other_for_ever(
    nats_server: NatsServer, log: EventLog
) -> None:
    several = [await new_dispatcher(nats_server, f"d{number}") for number in range(3)]
    async with dispatching(*several):
        await eventually(lambda: any(one.service.ready.is_set() for one in several))
        await agent_says(log, joined())
        await submit(log)
        await told(log, Dispatched)
        elected = await _of(log, Elected)
        heard = await log.nc.subscribe(subjects.ALIVE_DISPATCHER)
        words = [(await heard.next_msg(timeout=5)).data for _ in range(4)]
        assert len(set(words)) == 1
        assert await _of(log, Elected) == elected
        assert len(elected) <= 3


async def test_one_that_loses_an_election_stands_back(nats_server: NatsServer, log: EventLog) -> None:
    """To stand against the winner at once would only depose it; its own Elected, stored late, is no winner."""
    one = await new_dispatcher(nats_server, "d1")
    real, first = one.log.last_id, True

    async def with_a_rival(subject: str) -> tuple[int, str | None]:
        nonlocal first
        read = await real(subject)
        if first:
            first = False
            name = rivals.pop()
            await say(log, Role.DISPATCHER, Elected(name=name, scheduler=SCHEDULER))
        return read

    one.log.last_id = with_a_rival  # type: ignore[method-assign]
    rivals = ["d1", "rival"]
    async with running(one.fold):
        with pytest.raises(elections.NotActive):
            await one.service._election.stand()
        assert len(await _of(log, Elected)) == 1
        first = True
        assert await one.service._election.stand() == 3


async def test_rule_17_one_that_does_not_know_the_rules_in_force_does_not_stand(
    nats_server: NatsServer, log: EventLog, capsys: pytest.CaptureFixture[str]
) -> None:
    """It learns of them at its start, or after years in office; it deposes nobody, and says so once."""
    newer = Elected(name="newer", scheduler=SCHEDULER, rules=rules.KNOWN + 1)
    one, two = await new_dispatcher(nats_server, "d1"), await new_dispatcher(nats_server, "d2", at_once=False)
    async with dispatching(one):
        await asyncio.wait_for(one.service.ready.wait(), 10)
        seq = await say(log, Role.DISPATCHER, newer)
        async with dispatching(two):
            await two.fold.reached(seq)
            await asyncio.sleep(2 * elections.SILENCE_S)
            assert not two.service.ready.is_set()
        assert (await _of(log, Elected))[-1].seq == seq
    assert capsys.readouterr().out.count("rules of a newer release") == 2


async def test_rule_17_the_one_dispatcher_of_a_stack_that_does_not_know_the_rules_ends(
    nats_server: NatsServer, log: EventLog
) -> None:
    """`up` would never be ready, and nobody would know why."""
    await say(log, Role.DISPATCHER, Elected(name="newer", scheduler=SCHEDULER, rules=rules.KNOWN + 1))
    one = await new_dispatcher(nats_server, "d1")
    async with running(one.fold):
        with pytest.raises(TrainshedError, match="rules of a newer release") as refused:
            await asyncio.wait_for(one.service.run(), 10)
    assert refused.value.exit_code is ExitCode.BAD_INPUT


async def test_rule_17_what_was_elected_is_folded_before_standing(
    nats_server: NatsServer, log: EventLog
) -> None:
    one = await new_dispatcher(nats_server, "d1")
    await say(log, Role.DISPATCHER, Elected(name="newer", scheduler=SCHEDULER, rules=rules.KNOWN + 1))
    async with running(one.fold):
        with pytest.raises(elections.NotActive):
            await one.service._election.stand()
    assert len(await _of(log, Elected)) == 1


async def test_rule_1_the_guard_refuses_a_deposed_dispatcher(nats_server: NatsServer, log: EventLog) -> None:
    one = await new_dispatcher(nats_server, "d1")
    async with dispatching(one):
        await asyncio.wait_for(one.service.ready.wait(), 10)
        epoch = one.fold.state.epoch
        other = writer(Role.DISPATCHER).new(Elected(name="other", scheduler=SCHEDULER))
        await log.append(other, Guard(subjects.ELECTED, epoch))
        stale = writer(Role.DISPATCHER).new(
            NodeLost(node="gpu01", incarnation="a", epoch=epoch, silent_s=15.0)
        )
        with pytest.raises(Conflict):
            await log.append(stale, Guard(subjects.ELECTED, epoch))
        with pytest.raises(Conflict):
            await log.append_batch([stale, stale], [Guard(subjects.ELECTED, epoch)] * 2)
        # the other says nothing more, so after a silence the first stands again, and decides under its new epoch
        await told(log, Elected, many=3)
        await agent_says(log, joined())
        await submit(log)
        (grant,) = await told(log, Dispatched)
        assert isinstance(grant.event, Dispatched) and grant.event.epoch > epoch


@pytest.mark.parametrize("how", ["stopped", "killed"])
async def test_rule_16_another_takes_over_when_the_active_one_is_gone(
    nats_server: NatsServer, log: EventLog, how: str
) -> None:
    standby = await new_dispatcher(nats_server, "standby", at_once=False)
    process = _dispatcher_process(nats_server, "first")
    try:
        await told(log, Elected, within=20)
        async with dispatching(standby):
            await standby.fold.ready.wait()
            await agent_says(log, joined())
            await submit(log, 1)
            await told(log, Dispatched)
            assert not standby.service.ready.is_set()
            os.kill(process.pid, signal.SIGKILL if how == "killed" else signal.SIGSTOP)
            await submit(log, 2)
            grants = await told(log, Dispatched, many=2, within=10)
            assert standby.is_active
            if how == "stopped":
                os.kill(process.pid, signal.SIGCONT)
                await agent_says(log, joined("gpu02", slots=0), "gpu02")
                for number in range(3, 8):
                    await submit(log, number)
                grants = await told(log, Dispatched, many=7)
            assert max(Counter(one.subject.id for one in grants).values()) == 1
            assert standby.is_active, "the one that was deposed stands back"
    finally:
        process.kill()
        process.wait()


async def test_a_dispatcher_waits_out_a_killed_server_and_goes_on(
    nats_server: NatsServer, log: EventLog, active: Active
) -> None:
    await agent_says(log, joined())
    await submit(log, 1)
    await told(log, Dispatched)
    await kill_and_start_again(nats_server)
    await eventually(lambda: log.nc.is_connected and active.log.nc.is_connected, within=10)
    await submit(log, 2)
    grants = await told(log, Dispatched, many=2, within=20)
    assert len(grants) == 2


async def test_rule_1_without_an_answer_it_stands_again_and_carries_nothing_over(
    nats_server: NatsServer, log: EventLog
) -> None:
    """The grant was stored, its answer lost: the next epoch finds it in the log and does not grant again."""
    one = await new_dispatcher(nats_server, "d1", timeout_s=0.5)
    async with dispatching(one):
        await one.service.ready.wait()
        await agent_says(log, joined(slots=1))
        real = one.log.append_batch
        lost = False

        async def losing(events: Any, guards: Any) -> Any:
            nonlocal lost
            if not lost and isinstance(events[0].event, Dispatched):
                lost = True
                with stopped(nats_server.pid):
                    return await real(events, guards)
            return await real(events, guards)

        one.log.append_batch = losing  # type: ignore[method-assign]
        first = await submit(log, 1, resources=needs(1))
        await told(log, Elected, many=2, within=20)
        await submit(log, 2, resources=needs(1))
        (grant,) = await told(log, Dispatched)
        assert grant.subject.id == first
        await agent_says(log, Completed(run_id=first, attempt=1))
        grants = await told(log, Dispatched, many=2)
        assert max(Counter(one.subject.id for one in grants).values()) == 1


async def test_a_log_that_takes_nothing_is_waited_for_and_not_the_end(
    nats_server: NatsServer, log: EventLog, active: Active
) -> None:
    """Storage is full for a while: grants and elections are refused, until there is room again."""
    await agent_says(log, joined())
    await submit(log, 1)
    await told(log, Dispatched)
    info = await api_call(log.nc, f"STREAM.INFO.{subjects.EVENTS_STREAM}")
    settings, full = info["config"], info["state"]["bytes"] + 900
    await api_call(log.nc, f"STREAM.UPDATE.{subjects.EVENTS_STREAM}", {**settings, "max_bytes": full})
    refused = 0
    real = active.log.append_batch

    async def counting(events: Any, guards: Any) -> Any:
        nonlocal refused
        try:
            return await real(events, guards)
        except Refused:
            refused += 1
            raise

    active.log.append_batch = counting  # type: ignore[method-assign]
    await submit(log, 2)
    await eventually(lambda: refused > 0)
    await api_call(log.nc, f"STREAM.UPDATE.{subjects.EVENTS_STREAM}", settings)
    assert len(await told(log, Dispatched, many=2, within=20)) == 2
    assert len(await _of(log, Elected)) <= 3


async def test_a_run_that_no_gateway_would_have_taken_holds_up_no_other(
    log: EventLog, active: Active
) -> None:
    """A raw writer's config that is larger than an event with its launch could be."""
    await agent_says(log, joined())
    await submit(log, 1, arguments=["y" * 270_000], environment={"A": "z" * 250_000})
    small = await submit(log, 2)
    (grant,) = await told(log, Dispatched)
    assert grant.subject.id == small


async def test_rule_1_races_of_three_dispatchers_for_one_slot_never_grant_it_twice(
    nats_server: NatsServer, log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All three stand for election again and again, at any moment; over two hundred grants of one slot."""
    several = [await new_dispatcher(nats_server, f"d{number}") for number in range(3)]
    await agent_says(log, joined(slots=1, cpus=1))
    dice = random.Random(1)
    wanted = 220

    async def rival(one: Active) -> None:
        """Deposes whoever is active, under the guard as ever."""
        while True:
            await asyncio.sleep(dice.uniform(0.005, 0.05))
            event = one.service._writer.new(Elected(name="rival", scheduler=SCHEDULER))
            seq, _ = await one.log.last_id(subjects.ELECTED)
            with contextlib.suppress(Conflict):
                await one.log.append(event, Guard(subjects.ELECTED, seq))

    async def worker() -> int:
        """Ends each grant at once."""
        done = 0
        async with log.follow(1, (subjects.pushed_to("gpu01"),)) as feed:
            while done < wanted:
                for message in await feed.batch():
                    _, _, _, run_id, *_ = message.subject.split(".")
                    event = msgspec.json.decode(message.body)["data"]
                    await agent_says(log, Completed(run_id=run_id, attempt=event["attempt"]))
                    done += 1
        return done

    # the silence that keeps standbys from standing is shortened: every one of them stands all the time
    monkeypatch.setattr(elections, "SILENCE_S", 0.002)
    events = [
        writer(Role.GATEWAY).new(Submitted(run_id=f"r{number}", config=config(resources=needs(1)), digest=""))
        for number in range(wanted)
    ]
    await log.append_batch(events, [None] * wanted)
    async with dispatching(*several):
        rivals = [asyncio.create_task(rival(one)) for one in several[:1]]
        try:
            assert await asyncio.wait_for(worker(), 100) == wanted
        finally:
            for task in rivals:
                task.cancel()
    everything_ = await everything(log)
    grants = [one for one in everything_ if isinstance(one.event, Dispatched)]
    assert max(Counter(one.subject.id for one in grants).values()) == 1
    assert len([one for one in everything_ if isinstance(one.event, Elected)]) > 20
    await _state(log)


# --- helpers ----------------------------------------------------------------------------------------------


async def _of(log: EventLog, kind: type[Event]) -> list[StoredEvent]:
    return [one for one in await everything(log) if isinstance(one.event, kind)]


async def _state(log: EventLog) -> State:
    """The fold of the whole log, with invariant I2 and the node's capacity checked at every sequence."""
    state = State()
    past: dict[str, Run] = {}
    for one in await everything(log):
        wanted = ended_runs_needed(state, one)
        for change in evolve(state, one, {r: past[r] for r in wanted if r in past}).runs:
            past[change.after.run_id] = change.after
        for name, usage in state.usage.items():
            assert all(len(refs) == 1 for refs in usage.slots.values()), f"seq {one.seq}: a slot held twice"
            assert usage.cpus <= state.nodes[name].cpus
        assert all(run.status is not RunStatus.UNSPECIFIED for run in state.runs.values())
    return state


async def _beat_for_ever(log: EventLog, node: str) -> None:
    while True:
        await beat(log, node)
        await asyncio.sleep(0.2)


def _dispatcher_process(server: NatsServer, name: str) -> subprocess.Popen[bytes]:
    """A dispatcher in a process of its own, to be stopped or killed."""
    code = f"""
import asyncio
from events.log import EventLog
from services.dispatcher.dispatcher import Dispatcher
from services.fold import SharedFold
from services.lifecycle import run_services, stop_on_signals
from trainshed_client.endpoint import Endpoint
from trainshed_client.nats_client import connect

async def main():
    nc = await connect(Endpoint({server.endpoint.url!r}, {server.endpoint.user!r}, {server.endpoint.password!r}), name={name!r})
    log = EventLog(nc)
    fold = SharedFold(log, await log.log_id())
    dispatcher = Dispatcher(log, fold, who={name!r}, stand_at_once=True, node_lost_s=60.0)
    await run_services([dispatcher, fold], stop_on_signals())

asyncio.run(main())
"""
    root = Path(__file__).parents[3]
    return subprocess.Popen([sys.executable, "-c", code], cwd=root)
