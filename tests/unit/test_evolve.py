"""The run state machine, rule by rule of docs/protocol.md: what counts, what does not, and what each end makes of a run."""

from __future__ import annotations

from typing import Any

import pytest

from events import rules
from events.change import NOTHING, EndedAttempt
from events.state import Session
from events.types import (
    AttemptRef,
    Cancelled,
    Failed,
    SlotHealthy,
    SlotUnhealthy,
)
from tests.support.builders import SECOND_NS, START_NS, Story
from trainshed_client.statuses import AtFault, FailureReason, NodeStatus, RunStatus
from trainshed_client.subjects import Role

RETRIED: dict[str, Any] = {"retry": {"max_attempts": 3, "backoff_s": 10}}


def a_story(**fields: Any) -> Story:
    """A node that is up, an epoch, and run r1 submitted."""
    story = Story()
    story.elect()
    story.join()
    story.submit(**fields)
    return story


def dispatched(**fields: Any) -> Story:
    """The same with r1's first attempt granted slot 0."""
    story = a_story(**fields)
    story.dispatch(slots=(0,))
    return story


def running(**fields: Any) -> Story:
    """The same with its worker running."""
    story = dispatched(**fields)
    story.start()
    return story


# --- the plain life of a run ------------------------------------------------------------------------------


def test_a_run_goes_from_pending_to_completed() -> None:
    story = a_story()
    assert story.status() is RunStatus.PENDING
    assert (story.run().attempt, story.run().submit_seq) == (1, 3)
    seq = story.dispatch(slots=(1,), cpus=2, memory_mb=5)
    assert story.status() is RunStatus.DISPATCHING
    (held,) = story.active().placements
    assert (held.node, held.incarnation, held.slots, held.cpus, held.memory_mb) == (
        "gpu01",
        "a",
        (1,),
        2,
        5,
    )
    assert story.active().dispatched_seq == seq
    story.start()
    assert story.status() is RunStatus.RUNNING
    story.complete()
    assert story.status() is RunStatus.COMPLETED
    assert story.change.ended[0].status is RunStatus.COMPLETED
    assert "r1" not in story.state.runs


def test_a_run_may_end_without_its_start_having_been_told() -> None:
    story = dispatched()
    story.complete()
    assert story.status() is RunStatus.COMPLETED


@pytest.mark.parametrize(
    ("reason", "timed_out"),
    [
        (FailureReason.EXIT_CODE, False),
        (FailureReason.SIGNAL, False),
        (FailureReason.SPAWN_ERROR, False),
        (FailureReason.SHIM_LOST, False),
        (FailureReason.NODE_RECLAIMED, False),
        (FailureReason.WORKER_TIMEOUT, True),
        (FailureReason.TIME_LIMIT, True),
        (FailureReason.UNSPECIFIED, False),
    ],
)
def test_without_a_retry_policy_each_failure_ends_the_run_with_its_reason(
    reason: FailureReason, timed_out: bool
) -> None:
    story = running()
    (story.time_out if timed_out else story.fail)(reason=reason)
    assert (story.status(), story.ended().reason) == (RunStatus.FAILED, reason)
    assert story.run().tries == 1


def test_an_event_of_an_unknown_run_changes_nothing() -> None:
    story = Story()
    story.elect()
    for tell in (story.cancel, story.retry, story.dispatch, story.start, story.cancelled_unstarted):
        tell("r9")
        assert story.change == NOTHING
    assert story.state.runs == {}


def test_a_second_submitted_of_a_live_run_changes_nothing() -> None:
    story = running()
    story.submit(priority=5)
    assert story.change == NOTHING
    assert story.status() is RunStatus.RUNNING


@pytest.mark.parametrize(
    "broken",
    [
        {"priority": "high"},
        {"retry": []},
        {"resources": {"cpus": None}},
        {"priority": 2**60},
        {"metadata": {"x": "y" * 262_144}},
    ],
)
def test_a_config_that_cannot_be_read_is_unreadable_and_makes_no_run(broken: dict[str, Any]) -> None:
    story = Story()
    story.submit(**broken)
    assert story.change.unreadable
    assert story.state.runs == {}


# --- rule 1 and 15: epochs, positions, who may speak ---------------------------------------------------------


def test_rule_15_an_event_at_or_below_the_position_is_ignored() -> None:
    story = dispatched()
    for one in story.log:
        assert story.fold(one) == NOTHING
    assert story.state.seq == story.seq
    assert story.status() is RunStatus.DISPATCHING


def test_rule_15_sequences_may_have_gaps() -> None:
    story = a_story()
    story.seq += 1_000
    story.dispatch()
    assert story.status() is RunStatus.DISPATCHING


@pytest.mark.parametrize(
    "tell", ["dispatch", "stop", "lose", "verdict", "cancelled_unstarted", "dispatch_future"]
)
def test_rule_1_a_decision_of_another_epoch_changes_nothing(tell: str) -> None:
    story = a_story()
    old = story.state.epoch
    story.submit("r2")
    story.dispatch("r2")
    story.elect("box/2")
    match tell:
        case "dispatch":
            story.dispatch(epoch=old)
        case "dispatch_future":
            story.dispatch(epoch=story.state.epoch + 1)
        case "stop":
            story.stop("r2", epoch=old)
        case "lose":
            story.lose(epoch=old)
        case "verdict":
            story.leave(upto=2)
            story.verdict(FailureReason.NOT_STARTED, "r2", epoch=old)
        case "cancelled_unstarted":
            story.cancel()
            story.cancelled_unstarted(epoch=old)
    assert story.change == NOTHING
    assert story.status() is RunStatus.PENDING
    assert story.status("r2") is RunStatus.DISPATCHING


def test_rule_1_before_the_first_election_no_decision_counts() -> None:
    story = Story()
    story.join()
    story.submit()
    story.dispatch(epoch=1)
    assert story.change == NOTHING
    assert story.status() is RunStatus.PENDING


def test_rule_1_the_epoch_is_the_sequence_of_the_last_elected() -> None:
    story = Story()
    assert (story.elect("box/1"), story.state.epoch, story.state.epoch_of) == (1, 1, "box/1")
    assert (story.elect("box/2"), story.state.epoch, story.state.epoch_of) == (2, 2, "box/2")


@pytest.mark.parametrize("tell", ["start", "complete", "fail", "stopped", "time_out"])
def test_rule_15_an_agents_word_counts_only_of_the_attempts_own_node(tell: str) -> None:
    story = dispatched()
    story.join("gpu02", "z")
    getattr(story, tell)(node="gpu02")
    assert not story.change.runs and not story.change.ended
    assert story.status() is RunStatus.DISPATCHING


# --- rule 3: cancel -------------------------------------------------------------------------------------------


def test_rule_3_a_cancel_survives_the_dispatched_that_did_not_see_it() -> None:
    story = a_story()
    story.cancel()
    story.dispatch()
    assert story.status() is RunStatus.DISPATCHING
    assert story.run().cancel_requested
    story.start()
    assert story.run().cancel_requested


@pytest.mark.parametrize(
    "reason",
    [r for r in FailureReason if r is not FailureReason.DEPENDENCY_FAILED],
)
def test_rule_3_once_cancel_is_requested_no_failure_requeues(reason: FailureReason) -> None:
    story = running(retry={"max_attempts": 9, "on": [str(r) for r in FailureReason]})
    story.cancel()
    story.fail(reason=reason)
    assert (story.status(), story.ended().reason) == (RunStatus.CANCELLED, None)
    assert story.change.ended[0].status is RunStatus.FAILED, "the attempt itself failed"
    started = {FailureReason.NOT_STARTED: FailureReason.SHIM_LOST}
    assert story.change.ended[0].reason is started.get(reason, reason)


def test_rule_3_a_completed_that_was_first_stays_completed_under_a_cancel() -> None:
    story = running()
    story.cancel()
    story.stop()
    story.complete()
    assert story.status() is RunStatus.COMPLETED
    story.stopped()
    assert story.status() is RunStatus.COMPLETED


def test_rule_3_an_agents_cancelled_ends_the_run_also_where_it_would_retry() -> None:
    story = running(**RETRIED)
    story.cancel()
    story.stop()
    story.stopped()
    assert story.status() is RunStatus.CANCELLED


def test_rule_3_node_removed_and_a_verdict_under_a_cancel_end_the_run_cancelled() -> None:
    for verdict in (True, False):
        story = running(**RETRIED)
        story.cancel()
        if verdict:
            story.join()
            story.verdict(FailureReason.SHIM_LOST)
        else:
            story.lose()
            story.remove()
        assert story.status() is RunStatus.CANCELLED


def test_rule_3_a_cancel_of_an_ended_run_changes_nothing_and_is_forgotten_by_a_retry() -> None:
    story = running()
    story.complete()
    story.cancel()
    assert story.change == NOTHING
    story.retry()
    assert not story.run().cancel_requested


def test_a_second_cancel_changes_nothing() -> None:
    story = running()
    story.cancel()
    story.cancel()
    assert story.change == NOTHING


# --- rule 4: retry ------------------------------------------------------------------------------------------


def test_rule_4_a_failed_attempt_is_queued_again_without_passing_through_failed() -> None:
    story = running(**RETRIED)
    seq = story.fail()
    statuses = [change.after.status for change in story.change.runs]
    assert statuses == [RunStatus.PENDING]
    assert story.pending().attempt == 2
    assert story.pending().not_before_ns == START_NS + seq * SECOND_NS + 10 * SECOND_NS
    assert story.change.ended[0].attempt.attempt == 1


def test_rule_4_tries_are_counted_up_to_max_attempts() -> None:
    story = a_story(**RETRIED)
    for attempt in (1, 2, 3):
        assert story.status() is RunStatus.PENDING
        story.dispatch(attempt=attempt)
        story.fail(attempt=attempt)
    assert (story.status(), story.ended().attempt, story.run().tries) == (RunStatus.FAILED, 3, 3)


def test_rule_4_a_reason_that_the_policy_does_not_name_ends_the_run() -> None:
    story = running(**RETRIED)
    story.time_out(reason=FailureReason.TIME_LIMIT)
    assert (story.status(), story.ended().reason) == (RunStatus.FAILED, FailureReason.TIME_LIMIT)
    story = running(retry={"max_attempts": 3, "on": ["time_limit"]})
    story.time_out(reason=FailureReason.TIME_LIMIT)
    assert story.status() is RunStatus.PENDING


@pytest.mark.parametrize(
    ("on", "status"),
    [
        (None, RunStatus.PENDING),
        (["signal"], RunStatus.PENDING),
        (["out_of_memory"], RunStatus.PENDING),
        (["exit_code"], RunStatus.FAILED),
    ],
)
def test_rule_4_the_kernels_kill_for_memory_is_retried_as_a_signal(
    on: list[str] | None, status: RunStatus
) -> None:
    story = running(retry={"max_attempts": 3, **({} if on is None else {"on": on})})
    story.fail(reason=FailureReason.OUT_OF_MEMORY)
    assert story.status() is status


def test_rule_4_a_completed_attempt_is_never_retried() -> None:
    story = running(retry={"max_attempts": 3, "on": ["exit_code", "UNSPECIFIED"]})
    story.complete()
    assert story.status() is RunStatus.COMPLETED


def test_rule_4_a_back_off_beyond_every_calendar_is_a_time_all_the_same() -> None:
    story = running(retry={"max_attempts": 2, "backoff_s": 1e308})
    story.fail()
    assert story.pending().not_before_ns < 2**63


def test_rule_4_dispatched_counts_only_for_a_pending_run_whose_next_attempt_it_names() -> None:
    story = a_story(**RETRIED)
    for attempt in (0, 2, -1):
        story.dispatch(attempt=attempt)
        assert story.change == NOTHING
    story.dispatch()
    story.dispatch()
    assert story.change == NOTHING, "a second grant of an active attempt"
    story.dispatch(attempt=2)
    assert story.change == NOTHING
    story.fail()
    story.dispatch(attempt=1)
    assert story.change == NOTHING
    story.dispatch(attempt=2)
    assert story.active().attempt == 2


def test_rule_4_a_decision_written_after_an_unseen_completed_does_not_reopen() -> None:
    story = running(**RETRIED)
    story.complete()
    story.dispatch(attempt=2)
    assert story.change == NOTHING
    story.cancelled_unstarted(attempt=1)
    assert story.change == NOTHING
    story.verdict(FailureReason.SHIM_LOST)
    assert story.change == NOTHING
    assert story.status() is RunStatus.COMPLETED


def test_rule_4_the_dispatchers_cancelled_counts_only_for_the_pending_attempt_that_it_names() -> None:
    story = a_story(**RETRIED)
    story.cancelled_unstarted(attempt=2)
    assert story.change == NOTHING
    story.dispatch()
    story.cancelled_unstarted(attempt=1)
    assert story.change == NOTHING
    assert story.status() is RunStatus.DISPATCHING
    story.fail()
    story.cancelled_unstarted(attempt=2, reason=FailureReason.DEPENDENCY_FAILED)
    assert (story.status(), story.ended().reason) == (
        RunStatus.CANCELLED,
        FailureReason.DEPENDENCY_FAILED,
    )
    assert story.ended().attempt == 2


def test_rule_4_retry_requested_reopens_the_run_that_ended_with_the_attempt_it_names() -> None:
    story = running(**RETRIED)
    story.cancel()
    story.fail()
    assert story.status() is RunStatus.CANCELLED
    for attempt in (0, 2):
        story.retry(attempt=attempt)
        assert story.change == NOTHING
    story.retry(attempt=1)
    run = story.run()
    assert (run.status, run.attempt, run.tries, run.unstarted, run.cancel_requested) == (
        RunStatus.PENDING,
        2,
        0,
        0,
        False,
    )
    assert story.pending().not_before_ns == 0
    story.retry(attempt=1)
    assert story.change == NOTHING, "the same retry twice"


def test_rule_4_a_retry_waits_again_for_what_it_comes_after_and_is_live() -> None:
    story = running()
    story.submit("r2", after=["r1"])
    story.fail()
    story.by_dispatcher(
        Cancelled(
            run_id="r2",
            attempt=1,
            epoch=story.state.epoch,
            failure_reason=FailureReason.DEPENDENCY_FAILED,
        )
    )
    assert story.status("r2") is RunStatus.CANCELLED
    story.retry("r1")
    story.retry("r2")
    assert story.pending("r2").waiting_for == {"r1"}
    story.dispatch("r1", 2)
    story.start("r1", 2)
    story.complete("r1", 2)
    assert (story.pending("r2").waiting_for, story.pending("r2").failed_dependency) == (frozenset(), None)


def test_rule_4_after_a_retry_tries_are_counted_anew() -> None:
    story = running(retry={"max_attempts": 2, "backoff_s": 0})
    story.fail()
    story.dispatch(attempt=2)
    story.fail(attempt=2)
    assert story.status() is RunStatus.FAILED
    story.retry(attempt=2)
    story.dispatch(attempt=3)
    story.fail(attempt=3)
    assert story.status() is RunStatus.PENDING
    story.dispatch(attempt=4)
    story.fail(attempt=4)
    assert (story.status(), story.ended().attempt) == (RunStatus.FAILED, 4)


@pytest.mark.parametrize("tell", ["retry", "cancel"])
def test_rule_4_a_retry_of_a_live_run_changes_nothing(tell: str) -> None:
    story = running()
    story.retry()
    assert story.change == NOTHING
    assert story.status() is RunStatus.RUNNING


# --- not_started --------------------------------------------------------------------------------------------


def test_rule_8_not_started_always_requeues_after_1_s_doubling_to_60_s() -> None:
    story = a_story()
    waits = []
    for attempt in range(1, 10):
        story.dispatch(attempt=attempt)
        seq = story.fail(attempt=attempt, reason=FailureReason.NOT_STARTED)
        waits.append((story.pending().not_before_ns - START_NS) / SECOND_NS - seq)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert story.run().tries == 0, "it does not count against max_attempts"


def test_rule_8_a_start_sets_the_not_started_back_off_back() -> None:
    story = a_story(**RETRIED)
    for attempt in (1, 2, 3):
        story.dispatch(attempt=attempt)
        story.fail(attempt=attempt, reason=FailureReason.NOT_STARTED)
    assert story.run().unstarted == 3
    story.dispatch(attempt=4)
    story.start(attempt=4)
    assert story.run().unstarted == 0
    story.fail(attempt=4)
    story.dispatch(attempt=5)
    seq = story.fail(attempt=5, reason=FailureReason.NOT_STARTED)
    assert story.pending().not_before_ns == START_NS + (seq + 1) * SECOND_NS


def test_rule_8_not_started_and_failures_are_counted_apart() -> None:
    story = a_story(retry={"max_attempts": 2, "backoff_s": 0})
    story.dispatch(attempt=1)
    story.fail(attempt=1)
    story.dispatch(attempt=2)
    story.fail(attempt=2, reason=FailureReason.NOT_STARTED)
    assert story.run().tries == 1
    story.dispatch(attempt=3)
    story.fail(attempt=3)
    assert (story.status(), story.run().tries) == (RunStatus.FAILED, 2)


def test_not_started_ends_an_attempt_never_a_run() -> None:
    story = a_story(retry={"max_attempts": 1, "on": []})
    for attempt in range(1, 2_000):
        story.dispatch(attempt=attempt)
        story.fail(attempt=attempt, reason=FailureReason.NOT_STARTED)
    assert story.status() is RunStatus.PENDING


@pytest.mark.parametrize("tries", [1, 2])
def test_rule_9_not_started_never_counts_after_a_stored_started(tries: int) -> None:
    story = a_story(retry={"max_attempts": tries, "backoff_s": 0})
    story.dispatch()
    story.start()
    story.fail(reason=FailureReason.NOT_STARTED, at_fault=AtFault.NODE)
    assert story.run().tries == 1
    assert [end.reason for end in story.change.ended] == [FailureReason.SHIM_LOST]
    assert (story.node().failed_starts, story.run().tried) == ((), ()), "what started blames no node"
    if tries == 1:
        assert story.ended().reason is FailureReason.SHIM_LOST
    else:
        assert story.pending().attempt == 2


def test_before_the_rules_that_brought_it_not_started_requeues_whatever_is_stored() -> None:
    story = Story()
    story.elect(rules=rules.FORGETTING)
    story.join()
    story.submit()
    story.dispatch()
    story.start()
    story.fail(reason=FailureReason.NOT_STARTED)
    assert (story.status(), story.run().tries) == (RunStatus.PENDING, 0)


# --- rule 5: free -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["never joined", "lost", "left", "removed", "drained", "unhealthy"])
def test_rule_5_no_state_of_a_node_makes_a_dispatched_not_count(state: str) -> None:
    story = a_story()
    match state:
        case "never joined":
            story = Story()
            story.elect()
            story.submit()
        case "lost":
            story.lose()
        case "left":
            story.leave(upto=2)
        case "removed":
            story.lose()
            story.remove()
        case "drained":
            story.drain()
        case "unhealthy":
            story.put(Role.AGENT, SlotUnhealthy(node="gpu01", incarnation="a", index=0), "gpu01")
    story.dispatch(slots=(0,))
    assert story.status() is RunStatus.DISPATCHING
    assert story.state.usage_of("gpu01").slots == {0: {AttemptRef("r1", 1)}}


@pytest.mark.parametrize("tell", ["start", "complete", "fail", "stopped", "time_out"])
def test_rule_5_no_agents_event_takes_a_slot_or_ends_or_renumbers_a_pending_run(tell: str) -> None:
    story = a_story()
    before = story.run()
    for attempt in (0, 1, 2):
        getattr(story, tell)(attempt=attempt)
        assert not story.change.runs
    assert story.state.runs["r1"] == before
    assert story.state.usage == {}


def test_rule_5_no_gateways_event_ends_or_renumbers_a_pending_run() -> None:
    story = a_story()
    story.cancel()
    story.drain()
    story.lose()
    story.remove()
    assert (story.status(), story.run().attempt) == (RunStatus.PENDING, 1)


def test_a_node_that_joins_again_with_other_devices_lets_go_of_nothing() -> None:
    story = dispatched()
    story.join(slots=0, attempts=[("r1", 1)])
    assert 0 in story.state.usage_of("gpu01").slots
    assert "GPU-gpu01-0" in story.state.held_uuids


# --- rule 6: lost -------------------------------------------------------------------------------------------


def test_rule_6_lost_is_a_verdict_and_not_an_end() -> None:
    story = running()
    story.lose()
    assert story.node().status is NodeStatus.LOST
    assert not story.node().takes_work
    assert story.status() is RunStatus.RUNNING
    assert story.state.usage_of("gpu01").slots
    story.complete()
    assert story.status() is RunStatus.COMPLETED, "its worker may well have been running"


def test_rule_6_a_node_that_joins_again_is_up() -> None:
    story = running()
    story.lose()
    story.join(attempts=[("r1", 1)])
    assert story.node().status is NodeStatus.UP
    assert story.status() is RunStatus.RUNNING


@pytest.mark.parametrize("first", ["lose", "leave"])
def test_rule_6_only_a_node_that_is_up_is_lost(first: str) -> None:
    story = a_story()
    if first == "lose":
        story.lose()
    else:
        story.leave(upto=2)
    before = story.node()
    story.lose()
    assert story.change == NOTHING
    assert story.node() == before


# --- rule 7: late results -------------------------------------------------------------------------------------


@pytest.mark.parametrize("late", ["complete", "fail", "stopped", "time_out"])
@pytest.mark.parametrize("first", ["complete", "fail", "stopped", "time_out"])
def test_rule_7_the_first_end_counts_and_a_later_one_is_late(first: str, late: str) -> None:
    story = running()
    getattr(story, first)()
    status = story.status()
    getattr(story, late)()
    assert story.change.late == AttemptRef("r1", 1)
    assert not story.change.runs and not story.change.ended
    assert story.status() is status


def test_rule_7_a_late_completed_of_the_attempt_before_does_not_touch_the_next() -> None:
    story = running(**RETRIED)
    story.fail()
    story.complete()
    assert story.change.late == AttemptRef("r1", 1)
    story.dispatch(attempt=2)
    story.complete(attempt=1)
    assert story.change.late == AttemptRef("r1", 1)
    assert story.status() is RunStatus.DISPATCHING
    story.start(attempt=1)
    assert story.change == NOTHING
    story.complete(attempt=2)
    assert story.status() is RunStatus.COMPLETED


def test_rule_7_a_start_after_the_end_changes_nothing() -> None:
    story = dispatched()
    story.complete()
    story.start()
    assert story.change == NOTHING


# --- rule 8: the session fence ----------------------------------------------------------------------------------


def test_rule_8_an_attempt_that_the_join_does_not_list_may_be_ended_shim_lost_if_it_had_started() -> None:
    story = running()
    story.verdict(FailureReason.SHIM_LOST)
    assert story.change == NOTHING, "not before a join that lacks it"
    story.join()
    for reason in (FailureReason.NOT_STARTED, FailureReason.EXIT_CODE, FailureReason.NODE_LOST):
        story.verdict(reason)
        assert story.change == NOTHING
    story.verdict(FailureReason.SHIM_LOST)
    assert (story.status(), story.ended().reason) == (RunStatus.FAILED, FailureReason.SHIM_LOST)


def test_rule_8_an_attempt_that_the_join_does_not_list_and_that_never_started_is_not_started() -> None:
    story = dispatched()
    story.join()
    story.verdict(FailureReason.SHIM_LOST)
    assert story.change == NOTHING
    seq = story.verdict(FailureReason.NOT_STARTED)
    assert (story.pending().attempt, story.run().tries) == (2, 0)
    assert story.pending().not_before_ns == START_NS + (seq + 1) * SECOND_NS


def test_rule_8_an_attempt_that_the_join_lists_is_the_agents_to_end() -> None:
    story = running()
    story.join(attempts=[("r1", 1)])
    for reason in FailureReason:
        story.verdict(reason)
        assert story.change == NOTHING
    assert story.node().to_stop == frozenset()


def test_rule_8_a_grant_above_the_join_is_not_ended_for_want_of_being_listed() -> None:
    story = a_story()
    story.join()
    story.dispatch()
    story.verdict(FailureReason.NOT_STARTED)
    assert story.change == NOTHING


def test_rule_8_another_attempt_number_in_the_list_is_another_attempt() -> None:
    story = running()
    story.join(attempts=[("r1", 2), ("r2", 1)])
    story.verdict(FailureReason.SHIM_LOST)
    assert story.status() is RunStatus.FAILED


def test_rule_8_a_grant_above_upto_of_a_node_that_left_is_not_started() -> None:
    story = a_story()
    taken = story.dispatch()
    story.submit("r2")
    story.dispatch("r2")
    story.leave(upto=taken, attempts=[("r1", 1)])
    assert (story.node().status, story.node().left_upto) == (NodeStatus.LEFT, taken)
    story.verdict(FailureReason.NOT_STARTED, "r1")
    assert story.change == NOTHING, "it was written down: it keeps its slots"
    story.verdict(FailureReason.NOT_STARTED, "r2")
    assert story.pending("r2").attempt == 2


def test_rule_8_a_grant_that_is_stored_after_the_leave_is_not_started_too() -> None:
    story = a_story()
    story.leave(upto=2)
    story.dispatch()
    story.verdict(FailureReason.NOT_STARTED)
    assert story.pending().attempt == 2


def test_rule_8_after_a_join_of_that_incarnation_upto_no_longer_speaks() -> None:
    story = a_story()
    story.leave(upto=2)
    story.join()
    story.dispatch()
    story.verdict(FailureReason.NOT_STARTED)
    assert story.change == NOTHING
    assert story.node().left_upto is None


def test_rule_8_a_grant_to_an_incarnation_that_left_is_not_started_also_once_another_has_the_name() -> None:
    """Rule 11 lets another machine take the name after a leave without attempts; a grant was on its way."""
    story = a_story()
    story.dispatch()
    story.leave(upto=2)
    story.join(incarnation="b")
    assert story.node().session_of("a") == Session("a", 2, frozenset(), 2)
    story.verdict(FailureReason.NOT_STARTED)
    assert story.pending().attempt == 2
    assert story.state.usage == {}


def test_rule_8_the_same_holds_for_a_grant_that_is_stored_after_the_other_has_joined() -> None:
    story = a_story()
    story.leave(upto=2)
    story.join(incarnation="b")
    story.dispatch(incarnation="a")
    story.verdict(FailureReason.NOT_STARTED)
    assert story.pending().attempt == 2
    story.join(incarnation="a")
    assert story.node().earlier == (), "a session that holds nothing need not be known"


def test_rule_8_an_attempt_that_the_earlier_incarnations_last_join_lacked_can_be_ended_after_it_too() -> None:
    """Granted, never delivered; its agent restarts, leaves without attempts, and another takes the name."""
    for started, reason in ((False, FailureReason.NOT_STARTED), (True, FailureReason.SHIM_LOST)):
        story = running(**RETRIED) if started else dispatched(**RETRIED)
        upto = story.join()
        story.leave(upto=upto)
        story.join(incarnation="b")
        story.verdict(reason)
        assert story.pending().attempt == 2


def test_rule_8_an_attempt_that_an_earlier_incarnation_took_is_not_the_dispatchers_to_end() -> None:
    story = running()
    story.leave(upto=story.seq, attempts=[("r1", 1)])
    story.join(incarnation="b")
    for reason in FailureReason:
        story.verdict(reason)
        assert story.change == NOTHING


def test_rule_8_listed_attempts_that_the_log_has_ended_await_a_stopping() -> None:
    story = running(**RETRIED)
    story.fail()
    story.join(attempts=[("r1", 1), ("r9", 4)])
    assert story.node().to_stop == {AttemptRef("r1", 1), AttemptRef("r9", 4)}
    story.stop(reason="ended")
    assert story.node().to_stop == {AttemptRef("r9", 4)}
    assert story.change.nodes == ("gpu01",)
    assert story.status() is RunStatus.PENDING
    story.fail("r9", 4)
    assert story.node().to_stop == frozenset(), "the agent's own word ends the need too"


@pytest.mark.parametrize("where", ["other node", "other incarnation"])
def test_rule_8_a_listed_attempt_that_another_holds_now_is_to_be_stopped_here(where: str) -> None:
    story = a_story()
    if where == "other node":
        story.join("gpu02", "z")
        story.dispatch(node="gpu02", incarnation="z")
    else:
        story.dispatch(incarnation="b")
    story.join(attempts=[("r1", 1)])
    assert story.node().to_stop == {AttemptRef("r1", 1)}


def test_stopping_is_noted_once_and_does_not_end_anything() -> None:
    story = running()
    story.cancel()
    story.stop()
    assert story.active().placements[0].stopping
    assert story.status() is RunStatus.RUNNING
    story.stop()
    assert not story.change.runs
    story.stop(attempt=2)
    assert not story.change.runs
    story.stop(node="gpu02")
    assert not story.change.runs


# --- rule 11 and 12: incarnations and removal ---------------------------------------------------------------------


@pytest.mark.parametrize("tell", ["leave", "lose", "drain", "resume", "remove", "unhealthy", "healthy"])
def test_rule_11_a_word_about_another_incarnation_changes_nothing(tell: str) -> None:
    story = running()
    story.lose()
    before = story.node()
    match tell:
        case "leave":
            story.leave(incarnation="b", upto=99)
        case "unhealthy":
            story.put(Role.AGENT, SlotUnhealthy(node="gpu01", incarnation="b", index=0), "gpu01")
        case "healthy":
            story.put(Role.AGENT, SlotHealthy(node="gpu01", incarnation="b", index=0), "gpu01")
        case _:
            getattr(story, tell)(incarnation="b")
    assert story.change == NOTHING
    assert story.node() == before


@pytest.mark.parametrize(("retry", "status"), [({}, RunStatus.FAILED), (RETRIED, RunStatus.PENDING)])
def test_rule_12_removal_ends_the_live_attempts_of_that_incarnation(
    retry: dict[str, Any], status: RunStatus
) -> None:
    story = running(**retry)
    active = story.active()
    story.lose()
    story.remove()
    assert story.status() is status
    assert story.change.ended == (EndedAttempt("r1", active, RunStatus.FAILED, FailureReason.NODE_LOST),)
    assert story.state.nodes == {}
    assert story.state.usage == {}


def test_rule_12_removal_counts_for_a_node_that_left_with_attempts() -> None:
    story = running()
    story.leave(upto=story.seq, attempts=[("r1", 1)])
    story.remove()
    assert story.ended().reason is FailureReason.NODE_LOST


def test_rule_12_removal_of_a_node_that_is_up_changes_nothing() -> None:
    story = running()
    story.remove()
    assert story.change == NOTHING
    assert story.status() is RunStatus.RUNNING


def test_rule_12_removal_spares_the_attempts_of_another_incarnation() -> None:
    story = running()
    story.leave(upto=story.seq)
    story.join(incarnation="b")
    story.submit("r2")
    story.dispatch("r2", incarnation="b")
    story.lose(incarnation="b")
    story.remove(incarnation="b")
    assert story.status("r1") is RunStatus.RUNNING
    assert story.status("r2") is RunStatus.FAILED


def test_rule_12_removal_ends_attempts_in_the_order_of_their_grants_and_once() -> None:
    story = Story()
    story.elect()
    story.join(slots=8)
    for number in range(8):
        story.submit(f"r{number}")
    for number in (5, 2, 7, 0):
        story.dispatch(f"r{number}", slots=(number,))
    story.lose()
    story.remove()
    assert [one.run_id for one in story.change.ended] == ["r5", "r2", "r7", "r0"]
    story.remove()
    assert story.change == NOTHING


def test_rule_12_if_the_word_was_false_the_next_join_brings_the_worker_to_be_stopped() -> None:
    story = running(**RETRIED)
    story.lose()
    story.remove()
    story.join(attempts=[("r1", 1)])
    assert story.node().status is NodeStatus.UP
    assert story.node().to_stop == {AttemptRef("r1", 1)}
    story.complete()
    assert story.change.late == AttemptRef("r1", 1)
    assert story.status() is RunStatus.PENDING


def test_rule_12_what_is_said_of_a_removed_node_changes_nothing() -> None:
    story = a_story()
    story.drain()
    story.lose()
    story.remove()
    before = story.node()
    assert before.status is NodeStatus.REMOVED
    for tell in (story.lose, story.drain, story.resume, story.remove):
        tell()
        assert story.change == NOTHING
    story.leave(upto=9)
    assert story.change == NOTHING
    assert story.node() == before


# --- nodes --------------------------------------------------------------------------------------------------


def test_a_join_tells_what_the_node_has() -> None:
    story = Story()
    seq = story.join(slots=2, cpus=4, memory_mb=100)
    node = story.node()
    assert (node.host, node.incarnation, node.cpus, node.memory_mb) == ("gpu01.lab", "a", 4, 100)
    assert (node.joined_seq, node.seq, node.joined_ns) == (seq, seq, START_NS + seq * SECOND_NS)
    assert [device.uuid for device in node.gpus] == ["GPU-gpu01-0", "GPU-gpu01-1"]
    assert node.takes_work


def test_drained_lasts_over_a_join_until_resumed() -> None:
    story = Story()
    story.join()
    story.drain()
    story.join()
    assert story.node().drained and not story.node().takes_work
    story.resume()
    assert story.node().takes_work


def test_slots_become_unhealthy_and_healthy() -> None:
    story = Story()
    story.join()
    story.put(Role.AGENT, SlotUnhealthy(node="gpu01", incarnation="a", index=1), "gpu01")
    assert story.node().unhealthy == {1}
    story.put(Role.AGENT, SlotHealthy(node="gpu01", incarnation="a", index=1), "gpu01")
    assert story.node().unhealthy == frozenset()


@pytest.mark.parametrize("tell", ["leave", "lose", "drain", "resume", "remove"])
def test_a_word_about_a_node_that_never_joined_changes_nothing(tell: str) -> None:
    story = Story()
    story.elect()
    if tell == "leave":
        story.leave(upto=1)
    else:
        getattr(story, tell)()
    assert story.change == NOTHING
    assert story.state.nodes == {}


# --- dependencies -------------------------------------------------------------------------------------------


def test_a_run_waits_for_those_it_names_until_each_has_completed() -> None:
    story = a_story()
    story.submit("r2")
    story.submit("r3", after=["r1", "r2"])
    assert story.pending("r3").waiting_for == {"r1", "r2"}
    story.dispatch("r1")
    story.complete("r1")
    assert {change.after.run_id for change in story.change.runs} == {"r1", "r3"}
    assert story.pending("r3").waiting_for == {"r2"}
    story.dispatch("r2")
    story.complete("r2")
    assert story.pending("r3").waiting_for == frozenset()
    assert story.pending("r3").failed_dependency is None


@pytest.mark.parametrize("end", ["failed", "cancelled", "removed"])
def test_a_dependency_that_does_not_complete_is_told(end: str) -> None:
    story = running()
    story.submit("r2", after=["r1"])
    match end:
        case "failed":
            story.fail()
        case "cancelled":
            story.cancel()
            story.stopped()
        case "removed":
            story.lose()
            story.remove()
    assert story.pending("r2").failed_dependency == "r1"
    assert story.status("r2") is RunStatus.PENDING, "the dispatcher ends it"


def test_a_dependency_that_is_queued_again_is_still_waited_for() -> None:
    story = running(**RETRIED)
    story.submit("r2", after=["r1"])
    story.fail()
    assert story.pending("r2").waiting_for == {"r1"}
    assert story.pending("r2").failed_dependency is None


@pytest.mark.parametrize(("end", "failed"), [("complete", None), ("fail", "r1")])
def test_a_dependency_that_ended_before_is_looked_up(end: str, failed: str | None) -> None:
    story = running()
    getattr(story, end)()
    story.submit("r2", after=["r1"])
    assert story.pending("r2").waiting_for == frozenset()
    assert story.pending("r2").failed_dependency == failed


def test_failed_dependencies_cascade_through_the_dispatchers_cancelled() -> None:
    story = running()
    story.submit("r2", after=["r1"])
    story.submit("r3", after=["r2"])
    story.fail()
    story.cancelled_unstarted("r2", reason=FailureReason.DEPENDENCY_FAILED)
    assert story.pending("r3").failed_dependency == "r2"


def test_a_run_that_waits_for_itself_can_be_ended() -> None:
    story = a_story(after=["r1"])
    assert story.pending().waiting_for == {"r1"}
    story.cancelled_unstarted()
    assert story.status() is RunStatus.CANCELLED
    assert story.state.waiting == {}


def test_odd_numbers_in_a_grant_are_held_and_let_go_of() -> None:
    story = a_story()
    story.dispatch(slots=(0, 0, -1, 99), cpus=-3, memory_mb=2**50)
    story.complete()
    assert story.state.usage == {}


def test_events_are_told_apart_by_role() -> None:
    """An agent's Failed may bear an epoch; it is its role that decides which rule it goes by."""
    story = running()
    story.put(
        Role.AGENT,
        Failed(run_id="r1", attempt=1, failure_reason=FailureReason.SIGNAL, epoch=999),
        "gpu01",
    )
    assert story.ended().reason is FailureReason.SIGNAL
