"""Decisions that are not folded: what they hold stays taken until the own fold has passed them."""

from __future__ import annotations

from events.types import Cancelled, Dispatched, Event, NodeLost, Stopping
from services.dispatcher.in_flight import InFlight
from tests.support.builders import EXAMPLES, Story


def a_story() -> Story:
    story = Story()
    story.elect()
    story.join()
    story.submit()
    return story


def grant() -> Event:
    _, event = EXAMPLES["dispatched"]
    assert isinstance(event, Dispatched)
    return event


def test_rule_1_a_grant_takes_its_run_slots_devices_cpus_and_memory() -> None:
    story, in_flight = a_story(), InFlight()
    in_flight.add(grant())
    taken = in_flight.taken(story.state)
    assert taken.runs == {"r1"}
    assert taken.slots == {("gpu01", 0), ("gpu01", 1)}
    assert taken.uuids == {"GPU-gpu01-0": "gpu01", "GPU-gpu01-1": "gpu01"}
    assert (taken.cpus, taken.memory_mb) == ({"gpu01": 2}, {"gpu01": 512})
    assert taken.grants == [grant()]


def test_rule_1_an_acknowledgement_releases_nothing_the_fold_does() -> None:
    story, in_flight = a_story(), InFlight()
    decision = in_flight.add(grant())
    in_flight.folded(10**9)
    assert in_flight.taken(story.state).runs == {"r1"}, "without an answer it may be stored anywhere"
    decision.seq = 7
    in_flight.folded(6)
    assert in_flight.taken(story.state).runs == {"r1"}
    in_flight.folded(7)
    assert len(in_flight) == 0
    assert in_flight.taken(story.state).slots == set()


def test_rule_1_after_a_node_lost_all_of_its_node_stays_taken() -> None:
    story, in_flight = a_story(), InFlight()
    in_flight.add(NodeLost(node="gpu01", incarnation="a", epoch=1, silent_s=15.0))
    assert in_flight.taken(story.state).nodes == {"gpu01"}


def test_rule_1_a_stop_and_an_end_take_their_run() -> None:
    story, in_flight = a_story(), InFlight()
    in_flight.add(Stopping(run_id="r1", attempt=1, epoch=1, node="gpu01", incarnation="a", reason="cancel"))
    in_flight.add(Cancelled(run_id="r2", attempt=1, epoch=1))
    assert in_flight.taken(story.state).runs == {"r1", "r2"}


def test_rule_1_a_new_epoch_carries_no_older_decision_over() -> None:
    story, in_flight = a_story(), InFlight()
    in_flight.add(grant())
    in_flight.clear()
    assert in_flight.taken(story.state).runs == set()


def test_grants_to_a_node_that_is_not_known_are_counted_all_the_same() -> None:
    in_flight = InFlight()
    in_flight.add(grant())
    in_flight.add(grant())
    taken = in_flight.taken(Story().state)
    assert (taken.cpus, taken.uuids) == ({"gpu01": 4}, {})
