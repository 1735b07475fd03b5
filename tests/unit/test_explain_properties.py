"""On any state, what is said of a waiting run and what the scheduler does agree: in ls, show, explain and --dry-run."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import event, given, settings
from hypothesis import strategies as st

from events.config import stored_config
from events.decide import could_run_on
from events.resources import could_hold
from events.state import Pending, Run, State, restore, snapshot
from events.types import SlotUnhealthy
from services.scheduling.explain import Explainer
from services.scheduling.offers import Claims
from services.scheduling.queue import PendingQueue
from services.scheduling.scheduler import Grant, Plan, plan, schedule
from services.scheduling.suspects import avoided
from tests.support.builders import SECOND_NS, START_NS, Story, config, needs
from trainshed_client.statuses import AtFault, FailureReason, WaitReason
from trainshed_client.subjects import Role

NODES = ("n1", "n2", "n3")
DEVICES = ("GPU-a", "GPU-b", "GPU-c", "GPU-d")
NO_ROOM = {WaitReason.GPUS, WaitReason.CPUS, WaitReason.MEMORY}
NOT_YET = {WaitReason.CANCEL, WaitReason.DEPENDENCY, WaitReason.BACKOFF}
EVERYTHING = 10_000

a_node = st.fixed_dictionaries(
    {
        "uuids": st.sampled_from([DEVICES[:3], DEVICES[2:], DEVICES[:1], DEVICES, ()]),
        "slots_per_gpu": st.sampled_from([1, 1, 2, 3]),
        "cpus": st.integers(2, 8),
        "memory_mb": st.sampled_from([0, 80, 120]),
        "unhealthy": st.sampled_from([(), (), (0,), (1, 2)]),
        "end": st.sampled_from(["up"] * 6 + ["drained", "lost", "left"]),
        "suspect": st.sampled_from([False, False, False, True]),
    }
)
a_run = st.fixed_dictionaries(
    {
        "gpus": st.sampled_from([0, 1, 1, 2, 2, 3]),
        "cpus": st.integers(1, 3),
        "memory_mb": st.sampled_from([0, 0, 40, 80]),
        "mandatory": st.sampled_from([True, True, False]),
        "whole": st.sampled_from([False, False, True]),
        "priority": st.integers(-1, 1),
        "limit": st.sampled_from([None, None, 10, 60, 3_600]),
        "does": st.sampled_from(
            ["waits"] * 6 + ["runs"] * 6 + ["fails", "cannot start", "cancelled", "after"]
        ),
        "starts": st.booleans(),
    }
)


def resources_of(one: dict[str, Any]) -> dict[str, object]:
    return needs(one["gpus"], one["cpus"], one["memory_mb"], mandatory=one["mandatory"], whole=one["whole"])


def a_story(nodes: list[dict[str, Any]], runs: list[dict[str, Any]]) -> Story:
    """What the scheduler itself granted runs; then runs wait, and the nodes change."""
    story = Story()
    story.elect()
    for name, one in zip(NODES, nodes, strict=False):
        story.join(
            name,
            cpus=one["cpus"],
            memory_mb=one["memory_mb"],
            uuids=one["uuids"],
            slots_per_gpu=one["slots_per_gpu"],
        )
    for number, one in enumerate(runs):
        run_id = f"r{number}"
        story.submit(
            run_id,
            resources=resources_of(one),
            priority=one["priority"],
            retry={"max_attempts": 2, "backoff_s": 30},
            after=["r0"] if one["does"] == "after" and number else [],
            **({} if one["limit"] is None else {"schedule": {"max_duration_seconds": one["limit"]}}),
        )
        if one["does"] in ("runs", "fails", "cannot start"):
            granted = alone(story.state, story.run(run_id), story.at_s)
            for grant in granted:
                give(story, grant)
                if one["does"] == "fails":
                    story.fail(run_id, node=grant.node)
                elif one["does"] == "cannot start":
                    cannot_start(story, run_id, grant.node)
                elif one["starts"]:
                    story.start(run_id, node=grant.node)
        if one["does"] == "cancelled":
            story.cancel(run_id)
    for name, one in zip(NODES, nodes, strict=False):
        for number in range(3 if one["suspect"] else 0):
            gone = f"{name}-{number}"
            story.submit(gone)
            story.dispatch(gone, node=name, cpus=0)
            cannot_start(story, gone, name)
            story.cancel(gone)
            story.cancelled_unstarted(gone, 2)
        for index in sorted(one["unhealthy"]):
            if index < len(one["uuids"]) * one["slots_per_gpu"]:
                unhealthy = SlotUnhealthy(node=name, incarnation="a", index=index, reason="lost")
                story.put(Role.AGENT, unhealthy, name)
        match one["end"]:
            case "drained":
                story.drain(name)
            case "lost":
                story.lose(name)
            case "left":
                story.leave(name, upto=story.seq)
    return story


def cannot_start(story: Story, run_id: str, node: str) -> None:
    story.fail(run_id, node=node, reason=FailureReason.NOT_STARTED, at_fault=AtFault.NODE, message="full")


def give(story: Story, grant: Grant) -> None:
    run = grant.run
    story.dispatch(
        run.run_id,
        run.attempt,
        node=grant.node,
        slots=grant.slots,
        cpus=run.needs.cpus,
        memory_mb=run.needs.memory_mb,
    )


def queue_of(*runs: Run, now_ns: int) -> PendingQueue:
    queue = PendingQueue()
    for run in runs:
        queue.update(run)
    queue.promote(now_ns)
    return queue


def alone(state: State, run: Run, at_s: float | None) -> list[Grant]:
    """What the scheduler grants this run if nobody else waits, and so nothing is kept for anybody."""
    now_ns = START_NS + int((at_s or 0) * SECOND_NS)
    return schedule(state, queue_of(run, now_ns=now_ns), Claims(), 1, now_ns)


def emptied(state: State, name: str) -> State:
    """One node of a state, with nothing granted anywhere."""
    kept = snapshot(state)
    return restore(
        msgspec.structs.replace(kept, runs=(), nodes=tuple(n for n in kept.nodes if n.name == name))
    )


def decided(story: Story, now_ns: int, limit: int = EVERYTHING) -> Plan:
    return plan(story.state, queue_of(*story.state.runs.values(), now_ns=now_ns), Claims(), limit, now_ns)


@settings(max_examples=300)
@given(
    nodes=st.lists(a_node, min_size=1, max_size=3),
    runs=st.lists(a_run, min_size=4, max_size=10),
    later_s=st.sampled_from([0, 5, 31, 4_000]),
)
def test_what_is_said_of_a_run_is_what_the_scheduler_does(
    nodes: list[dict[str, Any]], runs: list[dict[str, Any]], later_s: int
) -> None:
    story = a_story(nodes, runs)
    now_ns = START_NS + int((story.seq + later_s) * SECOND_NS)
    explainer = Explainer(story.state, now_ns)
    waiting = [run for run in story.state.runs.values() if isinstance(run.phase, Pending)]
    decision = decided(story, now_ns)
    granted = {grant.run.run_id for grant in decision.grants}
    queued = queue_of(*waiting, now_ns=now_ns)
    holds = [node for node in story.state.nodes.values() if node.takes_work]

    after = Story()  # the same, once these grants are in the log
    for one in story.log:
        after.seq = one.seq
        after.fold(one)
    for grant in decision.grants:
        give(after, grant)

    for run in waiting:
        wait, whole = explainer.wait_of(run), explainer.explain(run)
        event(str(wait.reason))
        assert (whole.reason, whole.numbers, whole.runs, whole.nodes) == (
            wait.reason,
            wait.numbers,
            wait.runs,
            wait.nodes,
        )
        could = [node.name for node in holds if could_hold(node, run.needs, unhealthy_too=False)]
        avoid = avoided(story.state, run.needs, run.tried)
        suspects = {name for name in could if story.state.nodes[name].suspect} - avoid
        room = bool(alone(after.state, run, (now_ns - START_NS) / SECOND_NS))
        assert (wait.reason is WaitReason.TURN) == (run.run_id in granted)
        assert (wait.reason in NOT_YET) == (queued.place_of(run) is None) == (whole.place is None)
        if wait.reason in NOT_YET or wait.reason is WaitReason.TURN:
            continue
        if wait.reason is WaitReason.SUSPECT:
            assert set(wait.nodes) == suspects and wait.numbers["suspect"] == len(suspects) > 0
            assert [one.node for one in whole.suspects] == wait.nodes
            continue
        assert (wait.reason is WaitReason.RESERVATION) == room
        assert (wait.reason in NO_ROOM) == (bool(could) and not room)
        assert wait.reason not in NO_ROOM or set(could) - suspects - avoid
        assert (wait.reason is WaitReason.TOO_LARGE) == (bool(holds) and not could)
        assert (wait.reason is WaitReason.NO_NODE) == (not holds)
        if wait.reason is WaitReason.RESERVATION:
            assert decision.reservation is not None and whole.reservation is not None
            assert wait.runs == [decision.reservation.run.run_id] == [whole.reservation.run_id]
            assert wait.nodes[-1] == decision.reservation.node == whole.reservation.node


@given(
    nodes=st.lists(a_node, min_size=1, max_size=3),
    runs=st.lists(a_run, min_size=2, max_size=10),
    at_s=st.sampled_from([0, 60]),
    later_s=st.sampled_from([-50, 0, 31]),
)
def test_one_that_goes_on_from_an_earlier_moment_says_what_one_made_anew_says(
    nodes: list[dict[str, Any]], runs: list[dict[str, Any]], at_s: int, later_s: int
) -> None:
    story = a_story(nodes, runs)
    now_ns = START_NS + (story.seq + at_s) * SECOND_NS
    before = Explainer(restore(snapshot(story.state)), now_ns)
    for number, grant in enumerate(decided(story, now_ns).grants):
        give(story, grant)
        if number % 2 == 0:
            story.complete(grant.run.run_id, grant.run.attempt, node=grant.node)
    story.submit("late")
    story.cancel(next(iter(story.state.runs)))
    now_ns += later_s * SECOND_NS
    one, other = Explainer(story.state, now_ns, before), Explainer(story.state, now_ns)
    for run in story.state.runs.values():
        if isinstance(run.phase, Pending):
            assert one.explain(run) == other.explain(run)


@given(nodes=st.lists(a_node, min_size=1, max_size=3), one=a_run)
def test_dry_run_names_the_nodes_on_which_an_empty_cluster_would_place_it(
    nodes: list[dict[str, Any]], one: dict[str, Any]
) -> None:
    story = a_story(nodes, [])
    story.submit("r1", resources=resources_of(one))
    run = story.run("r1")
    placed = [name for name in story.state.nodes if alone(emptied(story.state, name), run, 10_000)]
    assert could_run_on(story.state, stored_config(config(**msgspec.json.decode(run.config)))) == sorted(
        placed
    )


@given(runs=st.lists(a_run, min_size=3, max_size=9))
def test_who_has_room_beside_the_grants_that_are_looked_at_has_its_turn_too(
    runs: list[dict[str, Any]],
) -> None:
    story = Story()
    story.elect()
    story.join("n1", cpus=99, slots=0)
    for number, _ in enumerate(runs):
        story.submit(f"r{number}")
    explainer = Explainer(story.state, START_NS, most_granted=1)
    assert {explainer.wait_of(run).reason for run in story.state.runs.values()} == {WaitReason.TURN}
