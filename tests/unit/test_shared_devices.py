"""A GPU for several runs: what is a device, who gets which slots of it, who holds it alone, and that no run waits for ever."""

from __future__ import annotations

import pytest

from events.config import stored_config
from events.decide import could_run_on, refuse_impossible
from events.types import AttemptRef, SlotHealthy, SlotUnhealthy
from projections.audit.invariants import Invariants
from services.dispatcher.decisions import Decisions
from services.scheduling.explain import Explainer
from services.scheduling.offers import Claims
from services.scheduling.queue import PendingQueue
from services.scheduling.scheduler import Grant, schedule
from tests.support.builders import START_NS, Story, config, needs
from trainshed_client.errors import TrainshedError
from trainshed_client.rendering import waiting
from trainshed_client.statuses import WaitReason
from trainshed_client.subjects import Role


def a_story(gpus: int = 2, each: int = 2) -> Story:
    story = Story()
    story.elect()
    story.join(slots=gpus, slots_per_gpu=each, cpus=99)
    return story


def submit(story: Story, run_id: str, gpus: int = 1, *, whole: bool = False, **fields: object) -> None:
    story.submit(run_id, **{"resources": needs(gpus, whole=whole), **fields})


def grants(story: Story) -> dict[str, Grant]:
    queue = PendingQueue()
    for run in story.state.runs.values():
        queue.update(run)
    queue.promote(START_NS)
    return {grant.run.run_id: grant for grant in schedule(story.state, queue, Claims(), 100, START_NS)}


def give(story: Story) -> dict[str, tuple[int, ...]]:
    """Decide, and have the grants in the log."""
    found = grants(story)
    for run_id, grant in found.items():
        story.dispatch(run_id, grant.run.attempt, node=grant.node, slots=grant.slots)
    return {run_id: grant.slots for run_id, grant in found.items()}


def hold(story: Story, run_id: str, *slots: int, node: str = "gpu01", priority: int = 0) -> None:
    submit(story, run_id, len(slots), priority=priority)
    story.dispatch(run_id, node=node, slots=slots)


def test_each_device_is_so_many_slots_that_bear_its_uuid() -> None:
    story = a_story()
    assert [(d.index, d.place, d.uuid) for d in story.node().gpus] == [
        (0, 0, "GPU-gpu01-0"),
        (1, 0, "GPU-gpu01-0"),
        (2, 1, "GPU-gpu01-1"),
        (3, 1, "GPU-gpu01-1"),
    ]


def test_the_device_that_fewest_are_on_is_granted_first() -> None:
    story = a_story()
    for number in range(5):
        submit(story, f"r{number}")
    assert give(story) == {"r0": (0,), "r1": (2,), "r2": (1,), "r3": (3,)}


def test_of_two_nodes_the_one_whose_device_fewest_are_on_is_taken() -> None:
    story = a_story(gpus=1)
    story.join("gpu02", slots=1, slots_per_gpu=2, cpus=999)
    for number in range(4):
        submit(story, f"r{number}")
    assert [grant.node for grant in grants(story).values()] == ["gpu01", "gpu02", "gpu01", "gpu02"]


def test_a_runs_slots_lie_on_so_many_different_devices() -> None:
    story = a_story()
    submit(story, "two", 2)
    assert give(story) == {"two": (0, 2)}
    submit(story, "two more", 2)
    assert give(story) == {"two more": (1, 3)}


def test_what_counts_is_devices_and_not_slots_in_a_refusal_a_dry_run_and_a_reason() -> None:
    story = a_story()
    three = stored_config(config(resources=needs(3)))
    assert could_run_on(story.state, three) == []
    with pytest.raises(TrainshedError, match="3 GPUs asked for, but no node has more than 2"):
        refuse_impossible(story.state, three)
    assert could_run_on(story.state, stored_config(config(resources=needs(2, whole=True)))) == ["gpu01"]
    hold(story, "holder", 0)
    hold(story, "other", 1)
    submit(story, "waits", 2)
    wait = Explainer(story.state, START_NS).wait_of(story.run("waits"))
    assert (wait.reason, wait.numbers) == (WaitReason.GPUS, {"gpus": 2, "free": 1, "total": 2})


def test_whole_takes_all_slots_of_each_and_waits_for_devices_that_nobody_is_on() -> None:
    story = a_story()
    hold(story, "holder", 0)
    submit(story, "whole", whole=True)
    assert give(story) == {"whole": (2, 3)}
    submit(story, "another", whole=True)
    assert give(story) == {}
    wait = Explainer(story.state, START_NS).wait_of(story.run("another"))
    assert (wait.reason, wait.numbers) == (
        WaitReason.GPUS,
        {"gpus": 1, "free": 0, "total": 2, "whole": 1},
    )
    assert waiting.text(wait) == "waiting for 1 whole GPU (0 of 2 free)"


def test_where_gpus_are_optional_a_whole_run_has_those_that_nobody_is_on() -> None:
    story = a_story()
    hold(story, "holder", 0)
    submit(story, "whole", resources=needs(2, whole=True, mandatory=False))
    assert give(story) == {"whole": (2, 3)}


def test_a_whole_run_is_not_starved_by_those_that_share_however_many_come() -> None:
    """The reservation keeps devices: who comes later gets no slot of the one that is emptied for it."""
    story = a_story()
    for number in range(4):
        submit(story, f"small {number}")
    give(story)
    submit(story, "whole", whole=True)
    for number in range(4, 40):
        submit(story, f"small {number}")
        oldest = min(
            (
                run
                for run in story.state.runs.values()
                if run.run_id != "whole" and run.status == "DISPATCHING"
            ),
            key=lambda run: run.submit_seq,
        )
        story.complete(oldest.run_id)
        if "whole" in give(story):
            break
    assert story.status("whole") == "DISPATCHING"
    assert number < 10


@pytest.mark.parametrize(
    ("priority", "granted"),
    [
        (
            0,
            {"small 0": (4,), "small 1": (5,)},
        ),  # it waits for what was there before it: two of three come free
        (-1, {"small 0": (4,)}),  # who holds these is behind it: a slot of the third is kept
    ],
)
def test_beside_a_device_that_is_kept_the_rest_of_its_slots_and_the_other_devices_are_granted(
    priority: int, granted: dict[str, tuple[int, ...]]
) -> None:
    story = a_story(gpus=3)
    hold(story, "a", 0, 2, priority=priority)
    hold(story, "b", 1, 3, priority=priority)
    submit(story, "two", 2)
    for number in range(3):
        submit(story, f"small {number}")
    assert give(story) == granted


# --- who holds it ---------------------------------------------------------------------------------------------


def test_a_device_that_is_shared_on_one_node_is_granted_on_no_other() -> None:
    story = Story()
    story.elect()
    story.join("n1", uuids=["GPU-x"], slots_per_gpu=2, cpus=9)
    story.join("n2", uuids=["GPU-x"], slots_per_gpu=4, cpus=99)
    hold(story, "holder", 0, node="n1")
    assert story.state.held_uuids == {"GPU-x": {AttemptRef("holder", 1)}}
    for number in range(3):
        submit(story, f"r{number}")
    assert {run_id: grant.node for run_id, grant in grants(story).items()} == {"r0": "n1"}
    assert give(story) == {"r0": (1,)}
    story.complete("holder", node="n1")
    assert {run_id: grant.node for run_id, grant in grants(story).items()} == {"r1": "n1"}


def test_rule_1_a_grant_in_flight_shares_its_device_on_its_own_node_alone() -> None:
    story = Story()
    story.elect()
    story.join("n1", uuids=["GPU-x"], slots_per_gpu=2, cpus=9)
    story.join("n2", uuids=["GPU-x"], slots_per_gpu=2, cpus=99)
    for number in range(3):
        submit(story, f"r{number}")
    decisions = Decisions()
    decisions.rebuild(story.state)
    first, second = decisions.decide(story.state, story.seq, 1, START_NS, {})
    decisions.in_flight.add(first)
    taken = decisions.in_flight.taken(story.state)
    assert taken.uuids == {"GPU-x": "n1"}
    (again,) = decisions.decide(story.state, story.seq, 1, START_NS, {})
    assert (again.node, again.slots) == (second.node, second.slots) == ("n1", (1,))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("before", "slots", "shared"), [(1, (0,), ()), (2, (0, 1), ()), (2, (0,), ("GPU-gpu01-0",))]
)
def test_who_was_granted_a_device_alone_keeps_it_alone_when_its_node_cuts_it_anew(
    before: int, slots: tuple[int, ...], shared: tuple[str, ...]
) -> None:
    story = a_story(gpus=1, each=before)
    submit(story, "holder", whole=len(slots) > 1)
    story.dispatch("holder", slots=slots)
    assert story.active("holder").placements[0].shared == shared
    story.join(slots=1, slots_per_gpu=4, attempts=[("holder", 1)])
    submit(story, "small")
    assert give(story) == ({"small": (1,)} if shared else {})
    story.complete("holder")
    assert give(story) == ({} if shared else {"small": (0,)})


def test_a_device_with_an_unhealthy_slot_is_not_granted() -> None:
    story = a_story(gpus=1)
    story.put(Role.AGENT, SlotUnhealthy(node="gpu01", incarnation="a", index=1, reason="external"), "gpu01")
    submit(story, "small")
    assert give(story) == {}
    story.put(Role.AGENT, SlotHealthy(node="gpu01", incarnation="a", index=1), "gpu01")
    assert give(story) == {"small": (0,)}


def test_declared_devices_without_uuids_are_told_apart_too() -> None:
    story = Story()
    story.elect()
    story.join(uuids=[None, None], slots_per_gpu=2)  # type: ignore[list-item]
    submit(story, "two", 2)
    submit(story, "whole", whole=True)
    assert give(story) == {"two": (0, 2)}


def test_rule_1_a_whole_grant_in_flight_shares_nothing_though_its_node_cuts_the_device_anew() -> None:
    story = a_story(gpus=1, each=1)
    submit(story, "whole", whole=True)
    decisions = Decisions()
    decisions.rebuild(story.state)
    (grant,) = decisions.decide(story.state, story.seq, 1, START_NS, {})
    decisions.in_flight.add(grant)
    story.join(slots=1, slots_per_gpu=2)
    submit(story, "small")
    decisions.rebuild(story.state)
    assert decisions.decide(story.state, story.seq, 1, START_NS, {}) == []


@pytest.mark.parametrize(
    ("second", "violated"),
    [
        (("n1", (1,), False), False),
        (("n2", (0,), False), True),
        (("n1", (1,), True), True),
    ],
    ids=["a share of the rest", "on another node", "whole"],
)
def test_audit_misses_a_device_that_one_holds_and_another_does_not_share(
    second: tuple[str, tuple[int, ...], bool], violated: bool
) -> None:
    node, slots, whole = second
    story, seen = Story(), Invariants()
    story.elect()
    for name in ("n1", "n2"):
        story.join(name, uuids=["GPU-x"], slots_per_gpu=3)
    hold(story, "first", 0, node="n1")
    submit(story, "second", whole=whole)
    story.dispatch("second", node=node, slots=slots)
    story.complete("second", node=node)
    submit(story, "third")
    story.dispatch("third", node="n1", slots=(1,))
    again = Story()
    for one in story.log:
        seen.observe(one, again.fold(one))
    found = seen.at_the_end()
    assert [(one.invariant, one.seq) for one in found] == ([("I2", 7)] if violated else [])


@pytest.mark.parametrize("started", [False, True])
def test_audit_counts_a_device_that_an_older_inventory_chose_once_a_worker_is_there(started: bool) -> None:
    story, seen = Story(), Invariants()
    story.elect()
    story.join(uuids=["GPU-x", "GPU-y"])
    hold(story, "first", 0)
    view_seq = story.seq
    story.join(uuids=["GPU-y", "GPU-x"], attempts=[("first", 1)])
    submit(story, "second")
    story.dispatch("second", slots=(1,), view_seq=view_seq)
    if started:
        story.start("second")
    again = Story()
    for one in story.log:
        seen.observe(one, again.fold(one))
    found = [(one.invariant, one.seq) for one in seen.at_the_end()]
    assert found == ([("I2", story.seq)] if started else [])
