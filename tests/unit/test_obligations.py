"""What the dispatcher owes: it follows from state, is told once, and is the same for one that starts anew."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from events.codec import StoredEvent
from events.types import AttemptRef, Cancelled, Dispatched, Event, Failed, Stopping
from services.dispatcher.decisions import BATCH_LIMIT, Decisions
from services.dispatcher.obligations import Obligations, owed_to_run
from tests.support.builders import START_NS, Story
from tests.unit.test_evolve_properties import logs
from trainshed_client.statuses import FailureReason, RunStatus

RETRIED: dict[str, Any] = {"retry": {"max_attempts": 3, "backoff_s": 0}}


def dispatched(**fields: Any) -> Story:
    story = Story()
    story.elect()
    story.join()
    story.submit(**fields)
    story.dispatch(slots=(0,))
    return story


def owed(story: Story) -> list[Event]:
    """What a dispatcher that has just folded all of it owes."""
    obligations = Obligations()
    obligations.rebuild(story.state)
    return [event for _, event in obligations.events(story.state, story.state.epoch)]


def append_owed(story: Story) -> list[Event]:
    """Append what is owed until nothing is."""
    told: list[Event] = []
    while events := owed(story):
        assert len(told) < 100, f"owed again and again: {events}"
        for event in events:
            told.append(event)
            story.by_dispatcher(event)
    return told


def test_a_plain_run_is_owed_nothing() -> None:
    story = dispatched()
    assert owed(story) == []
    story.start()
    assert owed(story) == []
    story.complete()
    assert owed(story) == []


def test_rule_3_a_queued_run_whose_cancel_is_requested_is_cancelled() -> None:
    story = Story()
    story.elect()
    story.submit()
    story.cancel()
    (event,) = append_owed(story)
    assert isinstance(event, Cancelled)
    assert (event.attempt, event.epoch, event.failure_reason) == (1, story.state.epoch, None)
    assert story.status() is RunStatus.CANCELLED


@pytest.mark.parametrize("started", [True, False])
def test_rule_3_an_active_run_whose_cancel_is_requested_is_stopped_once(started: bool) -> None:
    story = dispatched()
    if started:
        story.start()
    story.cancel()
    (event,) = append_owed(story)
    assert isinstance(event, Stopping)
    assert (event.reason, event.node, event.incarnation, event.attempt) == ("cancel", "gpu01", "a", 1)
    story.cancel()
    assert owed(story) == []


def test_rule_3_a_cancel_that_the_grant_did_not_see_is_not_lost() -> None:
    """CancelRequested first, then a Dispatched decided without it; and a cancel that outlives a retry."""
    story = Story()
    story.elect()
    story.join()
    story.submit(**RETRIED)
    story.cancel()
    story.dispatch()
    assert [type(event) for event in append_owed(story)] == [Stopping]
    story.fail()
    assert story.status() is RunStatus.CANCELLED


def test_rule_3_a_dispatcher_that_is_elected_later_owes_the_same() -> None:
    story = dispatched()
    story.cancel()
    story.elect("box/2")
    (event,) = owed(story)
    assert isinstance(event, Stopping)
    assert event.epoch == story.state.epoch == story.seq


@pytest.mark.parametrize(
    ("started", "reason"), [(False, FailureReason.NOT_STARTED), (True, FailureReason.SHIM_LOST)]
)
def test_rule_8_an_attempt_that_the_last_join_lacks_is_ended(started: bool, reason: FailureReason) -> None:
    story = dispatched(**RETRIED)
    if started:
        story.start()
    story.join()
    (event,) = append_owed(story)
    assert isinstance(event, Failed)
    assert (event.failure_reason, event.epoch) == (reason, story.state.epoch)
    assert story.pending().attempt == 2


def test_rule_8_a_grant_on_its_way_to_an_agent_that_left_is_ended() -> None:
    story = Story()
    story.elect()
    joined = story.join()
    story.submit()
    story.leave(upto=joined)
    story.dispatch()
    (event,) = append_owed(story)
    assert isinstance(event, Failed) and event.failure_reason is FailureReason.NOT_STARTED


@pytest.mark.parametrize("cancelled", [True, False])
def test_rule_8_and_also_once_another_machine_has_taken_the_name(cancelled: bool) -> None:
    """A Stopping that names the old incarnation would make the new agent exit (rule 11)."""
    story = Story()
    story.elect()
    joined = story.join()
    story.submit()
    story.dispatch()
    story.leave(upto=joined)
    story.join(incarnation="b")
    if cancelled:
        story.cancel()
    (event,) = append_owed(story)
    assert isinstance(event, Failed) and event.failure_reason is FailureReason.NOT_STARTED
    assert story.status() is (RunStatus.CANCELLED if cancelled else RunStatus.PENDING)


def test_rule_8_listed_attempts_that_ended_are_stopped_one_stopping_each() -> None:
    story = dispatched(**RETRIED)
    story.fail()
    story.join(attempts=[("r1", 1), ("r0", 3)])
    told = append_owed(story)
    assert [(event.run_id, event.attempt, event.reason) for event in told if isinstance(event, Stopping)] == [
        ("r0", 3, "ended"),
        ("r1", 1, "ended"),
    ]
    assert len(told) == 2
    assert story.node().to_stop == frozenset()


def test_rule_8_a_node_that_was_removed_is_sent_nothing_until_it_joins_again() -> None:
    story = dispatched(**RETRIED)
    story.fail()
    story.join(attempts=[("r1", 1)])
    story.lose()
    story.remove()
    assert owed(story) == []
    story.join(attempts=[("r1", 1)])
    assert len(append_owed(story)) == 1


def test_a_run_whose_dependency_did_not_complete_is_cancelled_with_that_reason() -> None:
    story = dispatched()
    story.submit("r2", after=["r1"])
    story.submit("r3", after=["r2"])
    story.fail()
    told = append_owed(story)
    assert [(event.run_id, event.failure_reason) for event in told if isinstance(event, Cancelled)] == [
        ("r2", FailureReason.DEPENDENCY_FAILED),
        ("r3", FailureReason.DEPENDENCY_FAILED),
    ]
    assert story.ended("r3").status is RunStatus.CANCELLED


@given(logs())
def test_debts_kept_from_changes_are_those_that_a_look_at_everything_finds(log: list[StoredEvent]) -> None:
    story, kept = Story(), Obligations()
    for one in log:
        kept.note(story.state, one, story.fold(one))
        mine = {_key(event) for _, event in kept.events(story.state, 0)}
        anew = Obligations()
        anew.rebuild(story.state)
        assert mine == {_key(event) for _, event in anew.events(story.state, 0)}
        assert mine == {
            _key(event) for run in story.state.runs.values() if (event := owed_to_run(story.state, run, 0))
        } | {
            _key(event) for _, event in kept.events(story.state, 0) if getattr(event, "reason", "") == "ended"
        }


@given(logs())
def test_what_is_owed_is_settled_by_telling_it(log: list[StoredEvent]) -> None:
    """No debt stays owed once told: else the dispatcher would write the same for ever."""
    story = Story()
    for one in log:
        story.fold(one)
    story.seq = story.state.seq
    if story.state.epoch == 0:
        story.elect()
    append_owed(story)


def test_debts_are_told_in_the_order_in_which_they_arose_and_so_many_at_a_time() -> None:
    story = Story()
    story.elect()
    decisions = Decisions()
    for number in range(BATCH_LIMIT + 50):
        story.submit(f"r{number}")
    for number in reversed(range(BATCH_LIMIT + 50)):
        story.cancel(f"r{number}")
        decisions.note(story.state, story.log[-1], story.change)
    events = decisions.decide(story.state, story.seq, story.state.epoch, START_NS, {})
    assert [event.run_id for event in events if isinstance(event, Cancelled)] == [
        f"r{number}" for number in reversed(range(50, BATCH_LIMIT + 50))
    ]


def test_rule_1_what_is_owed_is_not_told_again_while_it_is_in_flight() -> None:
    story = dispatched()
    story.cancel()
    decisions = Decisions()
    decisions.rebuild(story.state)

    def decide() -> list[Event]:
        return decisions.decide(story.state, story.seq, story.state.epoch, START_NS, {})

    (event,) = decide()
    decisions.in_flight.add(event)
    assert decide() == []


def test_rule_6_silence_makes_a_node_lost_once_and_no_grant_is_made_beside_it() -> None:
    story = Story()
    story.elect()
    story.join("n1")
    story.join("n2")
    story.submit()
    decisions = Decisions()
    decisions.rebuild(story.state)

    def decide(**silent: float) -> list[Event]:
        return decisions.decide(story.state, story.seq, story.state.epoch, START_NS, silent)

    assert [type(event) for event in decide(gone=99.0)] == [Dispatched]
    (event,) = decide(n1=15.2)
    assert (type(event).__name__, getattr(event, "node", None)) == ("NodeLost", "n1")
    decision = decisions.in_flight.add(event)
    grants = decide(n1=15.3)
    assert {getattr(grant, "node", None) for grant in grants} == {"n2"}
    decision.seq = story.by_dispatcher(event)
    decisions.note(story.state, story.log[-1], story.change)
    assert {getattr(grant, "node", None) for grant in decide(n1=99.0)} == {"n2"}


def test_many_nodes_that_fall_silent_together_are_lost_a_batch_at_a_time() -> None:
    story = Story()
    story.elect()
    for number in range(BATCH_LIMIT + 1):
        story.join(f"n{number}", slots=0)
    decisions = Decisions()
    silent = dict.fromkeys(story.state.nodes, 99.0)
    events = decisions.decide(story.state, story.seq, story.state.epoch, START_NS, silent)
    assert len(events) == BATCH_LIMIT


def test_the_clock_given_to_the_scheduler_never_goes_backwards() -> None:
    story = Story()
    story.elect()
    story.join()
    decisions = Decisions()
    decisions.rebuild(story.state)

    def view(now_ns: int) -> str:
        story.submit(f"r{story.seq}")
        decisions.note(story.state, story.log[-1], story.change)
        (event, *_) = decisions.decide(story.state, story.seq, story.state.epoch, now_ns, {})
        assert isinstance(event, Dispatched)
        return event.view.now

    later, earlier = view(START_NS + 5_000), view(START_NS)
    assert earlier == later


def _key(event: Event) -> tuple[str, AttemptRef]:
    return type(event).__name__, AttemptRef(getattr(event, "run_id", ""), getattr(event, "attempt", 0))
