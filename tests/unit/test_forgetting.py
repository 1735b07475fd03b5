"""Nodes that are gone are forgotten (docs/protocol.md rule 18), runs go on as if they were not; rules by number (rule 17)."""

from __future__ import annotations

from collections.abc import Iterable
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from events import evolve as evolving
from events import node_machine, rules
from events.codec import StoredEvent, decode
from events.history import asks_for_others, last_value, nodes_of
from events.state import Ended, Run
from events.types import AttemptRef
from services.dispatcher.obligations import owed_to_run
from tests.support.builders import Story
from tests.support.random_log import ComingAndGoing
from trainshed_client.statuses import FailureReason, NodeStatus, RunStatus
from trainshed_client.subjects import Scope


def on_loan() -> Story:
    """A node on loan, with a run that waits."""
    story = Story()
    story.elect()
    story.join(borrowed=True)
    story.submit(retry={"max_attempts": 3, "backoff_s": 0})
    return story


# --- the moment ---------------------------------------------------------------------------------------------


def test_a_node_on_loan_that_left_and_holds_nothing_is_forgotten() -> None:
    story = on_loan()
    story.leave(upto=story.seq)
    assert story.state.nodes == {}
    assert story.change.nodes == ("gpu01",)


def test_a_node_that_left_with_attempts_is_forgotten_with_the_last_ones_end() -> None:
    story = on_loan()
    story.dispatch(slots=(0,))
    story.start()
    story.leave(upto=story.seq, attempts=[("r1", 1)])
    assert story.node().status is NodeStatus.LEFT
    story.complete()
    assert story.state.nodes == {}
    assert story.status() is RunStatus.COMPLETED


def test_a_node_that_was_removed_is_forgotten_with_what_its_removal_ends() -> None:
    story = on_loan()
    story.dispatch(slots=(0,))
    story.start()
    story.lose()
    assert story.node().status is NodeStatus.LOST
    story.remove()
    assert story.state.nodes == {}
    assert story.pending().attempt == 2


def test_a_node_that_is_owed_a_stopping_is_kept_until_it_has_it() -> None:
    story = on_loan()
    story.join(attempts=[("r9", 1)], borrowed=True)
    story.leave(upto=story.seq, attempts=[("r9", 1)])
    assert story.node().to_stop == {AttemptRef("r9", 1)}
    story.stop("r9", reason="ended")
    assert story.state.nodes == {}


def test_a_node_that_is_neither_on_loan_nor_removed_is_kept() -> None:
    story = on_loan()
    story.join(borrowed=False)
    story.leave(upto=story.seq)
    assert story.node().status is NodeStatus.LEFT
    story.remove()
    assert story.state.nodes == {}


@pytest.mark.parametrize("removed", [False, True])
def test_a_drained_node_is_kept_and_is_drained_when_it_is_back(removed: bool) -> None:
    story = on_loan()
    story.drain()
    story.leave(upto=story.seq)
    if removed:
        story.remove()
    assert story.node().drained
    story.join(borrowed=True)
    assert story.node().drained
    assert not story.node().takes_work
    story.resume()
    story.leave(upto=story.seq)
    assert story.state.nodes == {}


def test_a_node_that_left_drained_is_forgotten_once_it_is_resumed() -> None:
    story = on_loan()
    story.drain()
    story.leave(upto=story.seq)
    story.resume()
    assert story.state.nodes == {}


def test_a_node_is_kept_while_an_earlier_incarnation_of_its_name_holds_a_grant() -> None:
    story = on_loan()
    story.dispatch(slots=(0,))
    story.leave(upto=story.seq, attempts=[("r1", 1)])
    story.join(incarnation="b", borrowed=True)
    story.leave(incarnation="b", upto=story.seq)
    assert story.node().session_of("a") is not None
    assert owed_to_run(story.state, story.run(), story.state.epoch) is None, "its worker may run"
    story.complete()
    assert story.state.nodes == {}


def test_a_name_that_was_forgotten_joins_as_a_new_one() -> None:
    story = on_loan()
    story.leave(upto=story.seq)
    seq = story.join(incarnation="b", borrowed=True)
    node = story.node()
    assert (node.incarnation, node.joined_seq, node.earlier, node.drained) == ("b", seq, (), False)


# --- grants on their way ------------------------------------------------------------------------------------


@pytest.mark.parametrize("drained", [False, True])
@pytest.mark.parametrize("how", ["left", "removed", "another", "never"])
def test_a_grant_to_an_incarnation_that_is_gone_is_owed_its_end_whether_its_node_is_known_or_not(
    how: str, drained: bool
) -> None:
    story = on_loan()
    if drained:
        story.drain()
    match how:
        case "left":
            story.leave(upto=story.seq)
        case "removed":
            story.lose()
            story.remove()
        case "another":
            story.lose()
            story.remove()
            story.join(incarnation="b")
        case _:
            pass
    story.dispatch(slots=(0,), incarnation="z" if how == "never" else "a")
    owed = owed_to_run(story.state, story.run(), story.state.epoch)
    assert getattr(owed, "failure_reason", None) is FailureReason.NOT_STARTED
    story.verdict(FailureReason.NOT_STARTED)
    assert story.pending().attempt == 2
    assert story.run().tries == 0
    assert story.state.usage == {}
    assert ("gpu01" in story.state.nodes) is (drained or how in ("another", "never"))


def test_a_removal_leaves_a_grant_that_came_after_the_leave_to_the_dispatcher() -> None:
    """As it would be if the node had been forgotten at its leave."""
    story = on_loan()
    story.leave(upto=story.seq)
    story.join(borrowed=False)
    story.leave(upto=story.seq)
    story.dispatch(slots=(0,))
    story.remove()
    assert story.active().attempt == 1
    story.verdict(FailureReason.NOT_STARTED)
    assert story.pending().attempt == 2
    assert story.state.nodes == {}


# --- the rules in force -------------------------------------------------------------------------------------


def test_rules_are_those_of_the_newest_that_was_named_and_absent_is_the_first() -> None:
    story = Story()
    assert story.state.rules == rules.FIRST
    for named, in_force in ((1, 1), (2, 2), (1, 2), (7, 7), (-3, 7)):
        story.elect(rules=named)
        assert story.state.rules == in_force


def test_by_the_first_rules_nothing_is_forgotten_and_no_grant_after_a_removal_is_owed_an_end() -> None:
    story = Story()
    story.elect(rules=1)
    story.join(borrowed=True)
    story.submit()
    story.lose()
    story.remove()
    story.dispatch()
    assert story.node().status is NodeStatus.REMOVED
    assert owed_to_run(story.state, story.run(), story.state.epoch) is None
    story.verdict(FailureReason.NOT_STARTED)
    assert story.active().attempt == 1


def test_the_election_that_brings_the_rule_forgets_who_was_gone_and_frees_what_hung() -> None:
    story = Story()
    story.elect(rules=1)
    for name in ("left", "removed", "stays", "holds"):
        story.join(name, borrowed=True)
    story.submit()
    story.leave("left", upto=story.seq)
    story.leave("removed", upto=story.seq)
    story.remove("removed")
    story.lose("holds")
    story.remove("holds")
    story.dispatch(node="holds")
    assert set(story.state.nodes) == {"left", "removed", "stays", "holds"}
    story.elect(rules=2)
    assert set(story.state.nodes) == {"stays", "holds"}
    assert set(story.change.nodes) == {"left", "removed", "holds"}
    story.verdict(FailureReason.NOT_STARTED)
    assert set(story.state.nodes) == {"stays"}
    assert story.pending().attempt == 2


# --- no run can tell ----------------------------------------------------------------------------------------


def random_log(seed: int, events: int) -> list[StoredEvent]:
    log = ComingAndGoing(seed)
    for _ in range(events):
        log.grow()
    decoded = (decode(one.subject, one.body, one.seq, one.stored_ns) for one in log.messages)
    return [stored for stored in decoded if isinstance(stored, StoredEvent)]


def ends(log: Iterable[StoredEvent]) -> tuple[Story, list[tuple[int, Run]]]:
    """The log folded, and each end of a run with its sequence."""
    story, found = Story(), []
    for one in log:
        for change in story.fold(one).runs:
            if isinstance(change.after.phase, Ended):
                found.append((one.seq, change.after))
    return story, found


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 10**9), events=st.integers(20, 220))
def test_every_end_of_a_run_is_read_back_as_the_whole_fold_has_it(seed: int, events: int) -> None:
    """Others' attempts, and nodes that it was not on, are not read: nodes are forgotten elsewhere there."""
    log = random_log(seed, events)
    for seq, run in ends(log)[1]:
        own = [one for one in log if one.subject.scope == Scope.RUN and one.subject.id == run.run_id]
        nodes, everywhere = nodes_of(own), asks_for_others(own)
        past = [
            one
            for one in log
            if one.seq <= seq
            and (
                one in own
                or one.subject.scope == Scope.CONTROL
                or (one.subject.scope == Scope.NODE and (everywhere or one.subject.id in nodes))
            )
        ]
        assert last_value(run.run_id, past) == run


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 10**9), events=st.integers(20, 220))
def test_no_run_ends_otherwise_because_a_node_was_forgotten(seed: int, events: int) -> None:
    log = random_log(seed, events)
    forgotten, found = ends(log)
    with (
        mock.patch.object(evolving, "forget", lambda state, names: ()),
        mock.patch.object(node_machine, "forget", lambda state, names: ()),
    ):
        kept, found_so = ends(log)
    assert found == found_so
    assert forgotten.state.usage == kept.state.usage
    assert forgotten.state.waiting == kept.state.waiting
