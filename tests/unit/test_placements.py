"""An attempt with placements on two nodes: no event grants such a one yet, and everything that asks of a node knows it."""

from __future__ import annotations

from msgspec.structs import replace

from events.run_machine import verdict_on
from events.state import Placement
from events.types import AttemptRef, Stopping
from services.dispatcher.obligations import owed_to_run
from services.scheduling.explain import Explainer
from tests.support.builders import START_NS, Story, facts, needs, recomputed
from trainshed_client.statuses import FailureReason, RunStatus, WaitReason

REF = AttemptRef("r1", 1)


def on_two_nodes() -> Story:
    story = Story()
    story.elect()
    story.join("gpu01", cpus=4)
    story.join("gpu02", cpus=4)
    story.submit("r1", resources=needs(1))
    story.dispatch("r1", node="gpu01", slots=(0,), cpus=2)
    active = story.active()
    other = Placement(
        node="gpu02", incarnation="a", slots=(0, 1), cpus=3, memory_mb=7, uuids=("GPU-gpu02-0", "GPU-gpu02-1")
    )
    both = replace(active, placements=(*active.placements, other))
    story.past["r1"] = replace(story.run(), phase=both)
    story.state.put_run(story.past["r1"])
    return story


def test_each_node_has_its_part_and_the_end_frees_both() -> None:
    story = on_two_nodes()
    state = story.state
    assert [(name, usage.slots, usage.cpus, usage.memory_mb) for name, usage in state.usage.items()] == [
        ("gpu01", {0: {REF}}, 2, 0),
        ("gpu02", {0: {REF}, 1: {REF}}, 3, 7),
    ]
    assert [p.slots for _, _, p in state.attempts_of("gpu02")] == [(0, 1)]
    assert set(state.held_uuids) == {"GPU-gpu01-0", "GPU-gpu02-0", "GPU-gpu02-1"}
    assert facts(state) == recomputed(state)
    story.complete(node="gpu02")
    assert (state.usage, state.held_uuids) == ({}, {})
    assert set(story.change.nodes) == {"gpu01", "gpu02"}


def test_each_node_is_told_to_stop_and_again_when_it_joins_anew() -> None:
    story = on_two_nodes()
    story.cancel()

    def told() -> str | None:
        owed = owed_to_run(story.state, story.run(), story.state.epoch)
        return owed.node if isinstance(owed, Stopping) else None

    assert told() == "gpu01"
    story.stop(node="gpu01")
    assert told() == "gpu02"
    story.stop(node="gpu02")
    assert told() is None
    story.join("gpu02", cpus=4, attempts=[("r1", 1)])
    assert told() == "gpu02"


def test_the_last_word_of_either_node_decides() -> None:
    story = on_two_nodes()
    assert verdict_on(story.state, story.run(), story.active()) is None
    story.join("gpu02", cpus=4, attempts=[])
    assert verdict_on(story.state, story.run(), story.active()) is FailureReason.NOT_STARTED


def test_the_removal_of_either_node_ends_it() -> None:
    story = on_two_nodes()
    story.lose("gpu02")
    story.remove("gpu02")
    assert story.status() is RunStatus.FAILED
    assert story.state.usage == {}


def test_who_waits_is_told_of_both_parts() -> None:
    story = on_two_nodes()
    story.submit("r2", resources=needs(2))
    waiting = Explainer(story.state, START_NS).explain(story.run("r2"))
    assert waiting.reason is WaitReason.GPUS
    assert [(one.node, one.slots, one.cpus) for one in waiting.holders] == [
        ("gpu01", [0], 2),
        ("gpu02", [0, 1], 3),
    ]
