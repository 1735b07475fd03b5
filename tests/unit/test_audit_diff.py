"""What `audit diff` finds between two moments, against every run of both compared; and what counts as a change."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import msgspec
import pytest

from bench.log_maker import LogMaker
from events.types import CancelRequested, Completed, Failed, NodeDrained, NodeLeft, NodeLost, RetryRequested
from services.cli import audit_diff
from services.cli.as_of import PastMoment, asked
from services.cli.changes import counted, of_run
from services.cli.table import PLAIN
from tests.support.past_stack import PastStack
from tests.support.random_log import ComingAndGoing, RandomLog
from trainshed_client import queries
from trainshed_client.client import Trainshed
from trainshed_client.records import QueuedRunRecord
from trainshed_client.statuses import FailureReason


async def _diff(stack: PastStack, first: int, last: int, monkeypatch: pytest.MonkeyPatch) -> audit_diff.Diff:
    async def retried(_: Trainshed, begin: int, end: int) -> set[str]:
        between = stack.messages[begin:end]
        return {one.subject.split(".")[3] for one in between if ".retry_requested." in one.subject}

    monkeypatch.setattr(audit_diff, "_retried", retried)
    monkeypatch.setattr(audit_diff, "connected", stack.connected)
    a, b = asked(str(first)), asked(str(last))
    assert a is not None
    assert b is not None
    return await audit_diff._read(a, b)


def _all(stack: PastStack, seq: int) -> dict[str, QueuedRunRecord]:
    runs = stack.at(seq).runs()["runs"]
    return {one["run_id"]: msgspec.convert(one, QueuedRunRecord) for one in runs}


@pytest.mark.parametrize("seed", range(3))
async def test_it_finds_every_run_that_changed_and_no_other(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RandomLog(seed) if seed % 2 else ComingAndGoing(seed)
    while log.seq < 150:
        log.grow()
    stack, chooser, ways = PastStack(log.messages), random.Random(seed), set[str]()
    again = _submitted_again(log)
    for _ in range(20):
        first, last = sorted(chooser.choices(range(1, log.seq + 1), k=2))
        found = await _diff(stack, first, last, monkeypatch)
        before, after = _all(stack, first), _all(stack, last)
        expected = {run_id: tuple(of_run(before.get(run_id), record)) for run_id, record in after.items()}
        told = {one.after.record.run_id: one.how for one in found.runs if one.after is not None}
        assert told.keys() == {run_id for run_id, how in expected.items() if how}
        assert [one.after.record.seq for one in found.runs if one.after] == sorted(
            after[run_id].seq for run_id in told
        )
        for one in found.runs:
            assert one.after is not None
            run_id = one.after.record.run_id
            assert one.after.record == after[run_id]
            if run_id not in again:
                assert one.how == expected[run_id]
                assert (None if one.before is None else one.before.record) == before.get(run_id)
        ways |= set(counted(found.runs)) | set(counted(found.slots)) | set(counted(found.nodes))
    assert {"submitted", "granted", "started", "ended", "taken", "freed"} <= ways


async def test_a_queue_that_ended_meanwhile_is_read_in_pages_and_not_run_by_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = LogMaker()
    log.elect()
    log.join()
    monkeypatch.setattr(queries, "PAGE", 20)
    old = log.submit()
    for _ in range(100):  # that had ended long before
        _run_to_its_end(log, log.submit())
    queued = [old, *(log.submit() for _ in range(60))]
    first = log.seq
    for run_id in queued:
        _run_to_its_end(log, run_id)
    stack = PastStack(log.messages)
    found = await _diff(stack, first, log.seq, monkeypatch)
    assert counted(found.runs) == {"granted": 61, "started": 61, "ended": 61}
    assert [asked["run_id"] for call, asked in stack.asked if call == "run.get"] == [old]


def _run_to_its_end(log: LogMaker, run_id: str) -> None:
    log.dispatch(run_id)
    log.start(run_id)
    log.complete(run_id)


def _submitted_again(log: RandomLog) -> set[str]:
    """Runs that have two Submitted, which no gateway writes: they count as new where the second is in between."""
    of = Counter(one.subject.split(".")[3] for one in log.messages if ".gateway.submitted." in one.subject)
    return {run_id for run_id, count in of.items() if count > 1}


class _History:
    """A log that is told in ways, and what changed in each part of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log = LogMaker()
        self.log.elect()
        self.log.join()
        self._monkeypatch = monkeypatch

    async def since(self, seq: int) -> audit_diff.Diff:
        return await _diff(PastStack(self.log.messages), seq, self.log.seq, self._monkeypatch)

    def fail(self, run_id: str, attempt: int = 1) -> None:
        reason = FailureReason.EXIT_CODE
        self.log.by_agent(Failed(run_id=run_id, attempt=attempt, failure_reason=reason, exit_code=3), "gpu01")


@pytest.fixture
def history(monkeypatch: pytest.MonkeyPatch) -> _History:
    return _History(monkeypatch)


def _how(found: audit_diff.Diff) -> dict[str, list[Any]]:
    return {
        "runs": [one.how for one in found.runs],
        "slots": [one.how for one in found.slots],
        "nodes": [one.how for one in found.nodes],
    }


async def test_a_run_of_which_everything_happened_in_between_is_told_once(history: _History) -> None:
    begin = history.log.seq
    run_id = history.log.submit()
    history.log.dispatch(run_id)
    history.log.start(run_id)
    history.log.by_agent(Completed(run_id=run_id, attempt=1), "gpu01")
    found = await history.since(begin)
    assert _how(found) == {"runs": [("submitted", "granted", "started", "ended")], "slots": [], "nodes": []}


async def test_a_run_that_failed_was_retried_and_failed_again_is_not_overlooked(history: _History) -> None:
    run_id = history.log.submit()
    history.log.dispatch(run_id)
    history.log.start(run_id)
    history.fail(run_id)
    begin = history.log.seq
    history.log.by_gateway(RetryRequested(run_id=run_id, attempt=1))
    history.log.dispatch(run_id, attempt=2)
    history.log.start(run_id, attempt=2)
    history.fail(run_id, attempt=2)
    assert _how(await history.since(begin))["runs"] == [("retried", "granted", "started", "ended")]


async def test_a_retry_by_its_policy_is_another_attempt_and_no_end(history: _History) -> None:
    config: dict[str, object] = {"entry_point": "/bin/x", "retry": {"max_attempts": 2, "backoff_s": 0.0}}
    run_id = history.log.submit(config)
    history.log.dispatch(run_id)
    history.log.start(run_id)
    begin = history.log.seq
    history.fail(run_id)
    assert _how(await history.since(begin))["runs"] == [("queued_again",)]
    history.log.dispatch(run_id, attempt=2)
    assert _how(await history.since(begin))["runs"] == [("queued_again", "granted")]


async def test_slots_are_taken_freed_and_passed_on(history: _History) -> None:
    first, second = history.log.submit(), history.log.submit()
    history.log.dispatch(first, slots=(0,))
    history.log.start(first, slots=(0,))
    begin = history.log.seq
    history.log.by_agent(Completed(run_id=first, attempt=1), "gpu01")
    assert _how(await history.since(begin))["slots"] == [("freed",)]
    history.log.dispatch(second, slots=(0, 1))
    assert _how(await history.since(begin))["slots"] == [("passed_on",), ("taken",)]


async def test_a_node_is_lost_comes_back_is_drained_and_leaves(history: _History) -> None:
    who: dict[str, Any] = {"node": "gpu01", "incarnation": "gpu01-a"}
    places = [history.log.seq]
    history.log.by_gateway(NodeDrained(**who))
    places.append(history.log.seq)
    history.log.by_dispatcher(NodeLost(**who, epoch=history.log.epoch, silent_s=15.0))
    places.append(history.log.seq)
    history.log.join(incarnation="gpu01-b")
    places.append(history.log.seq)
    history.log.by_agent(NodeLeft(node="gpu01", incarnation="gpu01-b", upto=history.log.seq), "gpu01")
    assert _how(await history.since(places[3]))["nodes"] == [("gone",)]
    assert _how(await history.since(places[2]))["nodes"] == [("gone",)]
    stack = PastStack(history.log.messages)
    for first, last, how in ((0, 1, ("drained",)), (1, 2, ("lost",)), (2, 3, ("joined",))):
        found = await _diff(stack, places[first], places[last], history._monkeypatch)
        assert _how(found)["nodes"] == [how]


async def test_a_cancel_that_was_asked_for_is_told(history: _History) -> None:
    run_id = history.log.submit()
    history.log.dispatch(run_id)
    history.log.start(run_id)
    begin = history.log.seq
    history.log.by_gateway(CancelRequested(run_id=run_id))
    assert _how(await history.since(begin))["runs"] == [("cancel_requested",)]


async def test_moments_in_the_other_order_are_the_same_span(monkeypatch: pytest.MonkeyPatch) -> None:
    log = LogMaker()
    log.elect()
    log.join()
    log.submit()
    stack = PastStack(log.messages)
    forth, back = await _diff(stack, 1, 3, monkeypatch), await _diff(stack, 3, 1, monkeypatch)
    assert forth == back
    assert forth.before.seq < forth.after.seq


def test_the_same_moment_says_that_nothing_changed() -> None:
    moment = PastMoment(7, "2026-11-24T10:00:00.000000Z", "0" * 64, "2026-11-24T10:00:00.000000Z")
    shown = list(audit_diff.lines(audit_diff.Diff(moment, moment, [], [], []), PLAIN))
    assert shown[-1] == "the same event: nothing changed"
