"""The index over the fold: always what its runs and nodes say, also in a log that breaks every rule."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from events import state as state_module
from events.state import SNAPSHOT_VERSION, Snapshot, State, restore, snapshot
from events.types import AttemptRef
from tests.support.builders import Story, facts, needs, recomputed


def test_a_new_state_is_empty() -> None:
    state = State()
    assert facts(state) == recomputed(state)
    assert not state.usage_of("gpu01").slots


def test_a_grant_holds_slots_cpus_memory_and_devices_until_its_attempt_ends() -> None:
    story = Story()
    story.elect()
    story.join()
    story.submit(resources=needs(1, 3, 100))
    story.dispatch(slots=(1,), cpus=3, memory_mb=100)
    ref = AttemptRef("r1", 1)
    usage = story.state.usage_of("gpu01")
    assert (usage.slots, usage.attempts, usage.cpus, usage.memory_mb) == ({1: {ref}}, {ref}, 3, 100)
    assert story.state.held_uuids == {"GPU-gpu01-1": {ref}}
    assert [(run.run_id, held.slots) for run, _, held in story.state.attempts_of("gpu01")] == [("r1", (1,))]
    story.complete()
    assert story.state.usage == {}
    assert story.state.held_uuids == {}
    assert story.state.runs == {}, "an ended run leaves the index"


def test_an_attempt_holds_the_device_it_was_granted_also_where_a_later_inventory_numbers_them_otherwise() -> (
    None
):
    story = Story()
    story.elect()
    story.join(uuids=("GPU-x", "GPU-y"))
    story.submit()
    story.dispatch(slots=(0,))
    story.join(uuids=("GPU-y", "GPU-x"), attempts=[("r1", 1)])
    assert set(story.state.held_uuids) == {"GPU-x"}
    assert facts(story.state) == recomputed(story.state)
    story.complete()
    assert story.state.held_uuids == {}


def test_two_holders_of_one_slot_are_both_counted_and_each_lets_go_of_its_own() -> None:
    story = Story()
    story.elect()
    story.join()
    for run_id in ("r1", "r2"):
        story.submit(run_id)
        story.dispatch(run_id, slots=(0,))
    assert story.state.usage_of("gpu01").slots == {0: {AttemptRef("r1", 1), AttemptRef("r2", 1)}}
    story.complete("r2")
    assert story.state.usage_of("gpu01").slots == {0: {AttemptRef("r1", 1)}}
    assert set(story.state.held_uuids) == {"GPU-gpu01-0"}
    assert facts(story.state) == recomputed(story.state)


def test_runs_that_wait_for_another_are_found_by_it() -> None:
    story = Story()
    story.submit("r1")
    story.submit("r2", after=["r1", "r0"])
    assert story.state.waiting == {"r1": {"r2"}, "r0": {"r2"}}
    assert facts(story.state) == recomputed(story.state)


def test_a_snapshot_survives_msgpack_and_restores_the_same_state() -> None:
    story = Story()
    story.elect()
    story.join()
    story.submit(resources=needs(2), labels={"team": "ä"})
    story.dispatch(slots=(0, 1))
    story.submit("r2", after=["r1"])
    story.leave(upto=story.seq)
    story.join(incarnation="b")
    kept = msgspec.msgpack.decode(msgspec.msgpack.encode(snapshot(story.state)), type=Snapshot)
    assert kept.v == SNAPSHOT_VERSION
    assert facts(restore(kept)) == facts(story.state)


@pytest.mark.parametrize("node", ["gpu01", "never-heard-of"])
def test_what_is_held_of_a_node_can_always_be_asked(node: str) -> None:
    assert State().usage_of(node).cpus == 0
    assert list(State().attempts_of(node)) == []


def test_nothing_but_evolve_moves_a_states_sequence() -> None:
    """What is passed over moves a reader's own position, and never the state's."""
    moves = re.compile(r"\bstate\.seq(, state\.\w+)* (\+)?= ")
    root = Path(state_module.__file__).parents[1]
    movers = {
        str(path.relative_to(root))
        for folder in ("events", "projections", "services")
        for path in (root / folder).rglob("*.py")
        if moves.search(path.read_text())
    }
    assert movers == {"events/evolve.py", "events/state.py"}  # the latter: restoring one
