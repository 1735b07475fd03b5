"""The scheduler: what fits, which node, priority before submission, and a large run that small ones do not starve."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from events.state import State
from events.types import AttemptRef, Device, Dispatched, NodeJoined, SlotUnhealthy
from services.dispatcher.decisions import Decisions
from services.scheduling import scheduler
from services.scheduling.offers import Claims, Offer
from services.scheduling.queue import PendingQueue
from services.scheduling.scheduler import Grant, schedule
from tests.support.builders import START_NS, Story, needs
from trainshed_client.subjects import Role


def a_story() -> Story:
    story = Story()
    story.elect()
    return story


def decided(story: Story, taken: Claims | None = None, limit: int = 100) -> list[Grant]:
    """What the scheduler grants now."""
    queue = PendingQueue()
    for run in story.state.runs.values():
        queue.update(run)
    queue.promote(2**62)
    return schedule(story.state, queue, taken or Claims(), limit, START_NS)


def granted(story: Story, limit: int = 100) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The same as run → (node, slots), and appended to the story."""
    out = {}
    for grant in decided(story, limit=limit):
        run = grant.run
        out[run.run_id] = (grant.node, grant.slots)
        story.dispatch(
            run.run_id,
            run.attempt,
            node=grant.node,
            incarnation=grant.incarnation,
            slots=grant.slots,
            cpus=run.needs.cpus,
            memory_mb=run.needs.memory_mb,
        )
    return out


def submit(
    story: Story, run_id: str, gpus: int = 0, cpus: int = 1, memory_mb: int = 0, **fields: object
) -> None:
    mandatory = fields.pop("mandatory", True)
    assert isinstance(mandatory, bool)
    story.submit(run_id, resources=needs(gpus, cpus, memory_mb, mandatory=mandatory), **fields)


# --- fit ----------------------------------------------------------------------------------------------------


def test_a_run_gets_exactly_the_slots_that_it_asked_for() -> None:
    story = a_story()
    story.join(slots=4)
    submit(story, "r1", 2)
    submit(story, "r2", 1)
    submit(story, "r3", 2)
    assert granted(story) == {"r1": ("gpu01", (0, 1)), "r2": ("gpu01", (2,))}
    story.complete("r1")
    assert granted(story) == {"r3": ("gpu01", (0, 1))}


@pytest.mark.parametrize(
    "resources",
    [{"gpus": 3}, {"cpus": 5}, {"memory_mb": 1_001}, {"gpus": 1, "cpus": 5}],
)
def test_what_does_not_fit_waits(resources: dict[str, int]) -> None:
    story = a_story()
    story.join(slots=2, cpus=4, memory_mb=1_000)
    submit(story, "r1", **resources)
    assert granted(story) == {}


def test_cpus_and_memory_are_accounted_for_without_gpus_too() -> None:
    story = a_story()
    story.join(slots=0, cpus=4, memory_mb=1_000)
    for number, (cpus, memory_mb) in enumerate([(2, 600), (1, 600), (1, 0), (1, 400), (1, 0)]):
        submit(story, f"r{number}", 0, cpus, memory_mb, priority=-number)
    assert set(granted(story)) == {"r0", "r2", "r3"}, "r1 waits for r0's memory; then the CPUs are used up"


def test_memory_that_is_not_accounted_for_is_not_asked_for() -> None:
    """A node that joined again with less memory than its attempts hold still takes runs that name none."""
    story = a_story()
    story.join(cpus=4, memory_mb=1_000)
    submit(story, "r1", memory_mb=800)
    assert granted(story)
    story.join(cpus=4, memory_mb=500, attempts=[("r1", 1)])
    submit(story, "r2")
    assert set(granted(story)) == {"r2"}


@pytest.mark.parametrize("state", ["drained", "lost", "left", "removed"])
def test_a_node_that_is_not_up_or_is_drained_is_granted_nothing(state: str) -> None:
    story = a_story()
    story.join()
    submit(story, "r1")
    match state:
        case "drained":
            story.drain()
        case "left":
            story.leave(upto=2)
        case _:
            story.lose()
            if state == "removed":
                story.remove()
    assert granted(story) == {}


def test_an_unhealthy_slot_is_granted_to_nobody() -> None:
    story = a_story()
    story.join(slots=2)
    story.put(Role.AGENT, SlotUnhealthy(node="gpu01", incarnation="a", index=0), "gpu01")
    submit(story, "r1", 1)
    submit(story, "r2", 2)
    assert granted(story) == {"r1": ("gpu01", (1,))}


def test_a_device_that_another_node_holds_is_not_granted_again() -> None:
    story = a_story()
    story.join("n1", uuids=("GPU-x", "GPU-y"))
    story.join("n2", uuids=("GPU-y", "GPU-z"))
    for run_id in ("r1", "r2", "r3", "r4"):
        submit(story, run_id, 1)
    devices = [story.node(node).gpus[slots[0]].uuid for node, slots in granted(story).values()]
    assert sorted(map(str, devices)) == ["GPU-x", "GPU-y", "GPU-z"]


def test_gpus_that_are_not_mandatory_are_had_as_far_as_there_are() -> None:
    story = a_story()
    story.join(slots=2, cpus=8)
    for run_id in ("r1", "r2", "r3"):
        submit(story, run_id, {"r1": 1, "r2": 4, "r3": 1}[run_id], mandatory=False)
    assert {run_id: len(slots) for run_id, (_, slots) in granted(story).items()} == {
        "r1": 1,
        "r2": 1,
        "r3": 0,
    }


def test_gpus_that_are_not_mandatory_are_not_waited_for_behind_a_reservation_either() -> None:
    story = a_story()
    story.join(slots=2, cpus=8)
    submit(story, "r1", 1)
    granted(story)
    submit(story, "big", 2)
    submit(story, "r2", 1, mandatory=False)
    assert granted(story) == {"r2": ("gpu01", ())}


def test_a_grant_tells_what_was_free_and_whom_it_passed() -> None:
    story = a_story()
    story.join(slots=3, cpus=8)
    submit(story, "big", 4)
    submit(story, "r1", 1)
    (grant,) = decided(story)
    assert (grant.free, grant.passed_over, grant.passed_over_count) == (3, ("big",), 1)


def test_no_more_than_the_limit_is_granted_at_once() -> None:
    story = a_story()
    story.join(cpus=8)
    for number in range(8):
        submit(story, f"r{number}")
    assert list(granted(story, limit=3)) == ["r0", "r1", "r2"]


# --- choice of node -----------------------------------------------------------------------------------------


def test_a_run_without_gpus_goes_where_there_are_fewest() -> None:
    story = a_story()
    story.join("n1", slots=4)
    story.join("n2", slots=0, cpus=1)
    submit(story, "r1")
    submit(story, "r2")
    assert granted(story) == {"r1": ("n2", ()), "r2": ("n1", ())}


def test_gpus_are_taken_where_they_fit_tightest() -> None:
    story = a_story()
    story.join("n1", slots=4)
    story.join("n2", slots=2)
    submit(story, "r1", 2)
    submit(story, "r2", 3)
    assert granted(story) == {"r1": ("n2", (0, 1)), "r2": ("n1", (0, 1, 2))}


# --- order --------------------------------------------------------------------------------------------------


def test_priority_goes_first_then_submission() -> None:
    story = a_story()
    story.join(cpus=1)
    for run_id, priority in (("low", -1), ("first", 0), ("second", 0), ("high", 1)):
        submit(story, run_id, priority=priority)
    order = []
    for _ in range(4):
        (run_id,) = granted(story)
        order.append(run_id)
        story.complete(run_id)
    assert order == ["high", "first", "second", "low"]


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3), st.integers(-1, 1)), min_size=1, max_size=12),
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), min_size=1, max_size=3),
)
def test_no_run_is_granted_while_one_ahead_of_it_that_fits_is_not(
    runs: list[tuple[int, int, int]], nodes: list[tuple[int, int]]
) -> None:
    story = a_story()
    for number, (slots, cpus) in enumerate(nodes):
        story.join(f"n{number}", slots=slots, cpus=cpus)
    for number, (gpus, cpus, priority) in enumerate(runs):
        submit(story, f"r{number}", gpus, cpus, priority=priority)
    free = {name: [n.cpus, len(n.gpus)] for name, n in story.state.nodes.items()}
    placed = granted(story)
    for run_id, (node, taken) in placed.items():
        free[node][0] -= story.run(run_id).needs.cpus
        free[node][1] -= len(taken)
    assert all(cpus >= 0 and slots >= 0 for cpus, slots in free.values())
    waiting = [run for run in story.state.runs.values() if run.run_id not in placed]
    for run in waiting:
        ahead = [r for r in waiting if (-r.priority, r.submit_seq) < (-run.priority, run.submit_seq)]
        if not ahead:  # the first that waits: nothing left over would hold it
            assert not any(
                cpus >= run.needs.cpus and slots >= run.needs.gpus for cpus, slots in free.values()
            )


# --- in flight ----------------------------------------------------------------------------------------------


def test_rule_1_what_is_in_flight_is_neither_granted_again_nor_counted_as_free() -> None:
    story = a_story()
    story.join(slots=2, cpus=3)
    submit(story, "r1", 1)
    submit(story, "r2", 1, 2)
    submit(story, "r3", 0, 2)
    taken = Claims(
        runs={"r1"},
        slots={("gpu01", 0)},
        uuids={"GPU-gpu01-0": "gpu01"},
        cpus={"gpu01": 1},
        memory_mb={"gpu01": 0},
    )
    assert [(g.run.run_id, g.slots) for g in decided(story, taken)] == [("r2", (1,))]


def test_rule_1_a_slot_in_flight_is_taken_also_where_its_device_has_no_uuid() -> None:
    story = a_story()
    story.put(
        Role.AGENT,
        NodeJoined(
            node="gpu01",
            incarnation="a",
            host="h",
            cpus=8,
            memory_mb=0,
            gpus=(Device(index=0), Device(index=1)),
        ),
        "gpu01",
    )
    submit(story, "r1", 1)
    assert [grant.slots for grant in decided(story, Claims(slots={("gpu01", 0)}))] == [(1,)]


def test_rule_1_a_node_whose_loss_is_in_flight_is_granted_nothing() -> None:
    story = a_story()
    story.join()
    submit(story, "r1")
    assert decided(story, Claims(nodes={"gpu01"})) == []


# --- starvation -----------------------------------------------------------------------------------------------


def test_a_run_that_no_node_could_hold_keeps_nothing_from_the_next_that_waits() -> None:
    story = a_story()
    story.join(slots=2, cpus=8)
    submit(story, "r1", 1)
    granted(story)
    submit(story, "impossible", 9, priority=5)
    submit(story, "big", 2)
    submit(story, "r2", 1)
    assert granted(story) == {}


def test_the_first_run_that_does_not_fit_keeps_a_node_against_those_behind_it() -> None:
    story = a_story()
    story.join(slots=2, cpus=8)
    submit(story, "r1", 1)
    granted(story)
    submit(story, "big", 2)
    submit(story, "r2", 1)
    assert granted(story) == {}
    story.complete("r1")
    assert granted(story) == {"big": ("gpu01", (0, 1))}


def test_runs_behind_get_what_would_be_left_beside_the_one_that_waits() -> None:
    story = a_story()
    story.join(slots=4, cpus=8)
    submit(story, "r1", 3)
    granted(story)
    submit(story, "big", 3)
    submit(story, "r2", 1)
    submit(story, "r3", 1)
    assert set(granted(story)) == {"r2"}


def test_a_run_without_gpus_is_not_held_up_by_slots_that_are_short() -> None:
    story = a_story()
    story.join(slots=2, cpus=8)
    submit(story, "r1", 1)
    granted(story)
    submit(story, "big", 2, priority=1)
    submit(story, "r2", 0)
    assert set(granted(story)) == {"r2"}


def test_a_run_whose_gpus_are_not_mandatory_is_not_starved_of_cpus() -> None:
    story = a_story()
    story.join(slots=1, cpus=4)
    submit(story, "r1", 0, 1)
    granted(story)
    submit(story, "big", 8, 4, mandatory=False)
    submit(story, "r2", 0, 1)
    assert granted(story) == {}
    story.complete("r1")
    assert list(granted(story)) == ["big"]


def test_rule_1_grants_in_flight_count_against_what_is_left_beside_the_one_that_waits() -> None:
    """Decided faster than folded, small runs would else take the same rest again and again."""
    story = a_story()
    story.join(slots=4, cpus=99)
    submit(story, "r1", 1)
    granted(story)
    submit(story, "big", 3)
    # free: 3 slots of which big needs 3: it is granted. Hold one more, so that it waits beside a rest of 1.
    submit(story, "r2", 1, priority=1)
    granted(story, limit=1)
    for number in range(5):
        submit(story, f"s{number}", 1)
    decisions = Decisions()
    decisions.rebuild(story.state)
    sent: list[str] = []
    for _ in range(4):
        for event in decisions.decide(story.state, story.seq, story.state.epoch, START_NS, {}):
            assert isinstance(event, Dispatched)
            decisions.in_flight.add(event)
            sent.append(event.run_id)
    assert sent == ["s0"]


@settings(max_examples=150)
@given(
    nodes=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), min_size=1, max_size=3),
    small=st.lists(
        st.tuples(st.integers(0, 2), st.integers(1, 2), st.booleans(), st.integers(1, 4)),
        min_size=1,
        max_size=4,
    ),
    data=st.data(),
)
def test_the_head_of_the_queue_is_not_starved(
    nodes: list[tuple[int, int]],
    small: list[tuple[int, int, bool, int]],
    data: st.DataObject,
) -> None:
    """A stream of smaller runs without end, each lasting a few rounds: the head starts all the same.

    Decisions are made before those in flight are folded, as in the real loop.
    """
    story = a_story()
    for number, (slots, cpus) in enumerate(nodes):
        story.join(f"n{number}", slots=slots, cpus=cpus)
    decisions = Decisions()
    decisions.rebuild(story.state)
    lasting: dict[str, int] = {}
    submitted = 0
    head = ""
    largest = data.draw(st.sampled_from(nodes))
    for round_ in range(120):
        if round_ == 3:
            head = "head"
            submit(story, head, *largest, mandatory=data.draw(st.booleans()))
            decisions.note(story.state, story.log[-1], story.change)
        for gpus, cpus, mandatory, lasts in small:
            run_id = f"s{submitted}"
            submitted += 1
            lasting[run_id] = lasts
            submit(story, run_id, gpus, cpus, mandatory=mandatory)
            decisions.note(story.state, story.log[-1], story.change)
        in_flight = []
        for _ in range(data.draw(st.integers(1, 3)) if round_ < 20 else 2):
            for event in decisions.decide(story.state, story.seq, story.state.epoch, START_NS, {}):
                assert isinstance(event, Dispatched)
                in_flight.append((decisions.in_flight.add(event), event))
        for decision, event in in_flight:
            decision.seq = story.by_dispatcher(event)
            decisions.note(story.state, story.log[-1], story.change)
        if head and story.run(head).status != "PENDING":
            return
        for name in list(story.state.nodes):
            for run, active, _ in list(story.state.attempts_of(name)):
                lasting[run.run_id] -= 1
                if lasting[run.run_id] <= 0:
                    story.complete(run.run_id, active.attempt, node=name)
                    decisions.note(story.state, story.log[-1], story.change)
    raise AssertionError(f"the head ({largest}) never started")


# --- determinism ------------------------------------------------------------------------------------------------


@given(st.permutations(range(6)))
def test_the_same_view_gives_the_same_grants_however_the_queue_came_to_it(order: list[int]) -> None:
    story = a_story()
    story.join("n1", slots=2, cpus=3)
    story.join("n2", slots=1, cpus=3)
    for number in range(6):
        submit(story, f"r{number}", number % 2, 1 + number % 3, priority=number % 2)
    queue = PendingQueue()
    for number in order:
        queue.update(story.run(f"r{number}"))
    assert schedule(story.state, queue, Claims(), 100, START_NS) == decided(story)


def test_an_attempts_slots_are_free_once_it_has_ended_and_not_before() -> None:
    story = a_story()
    story.join(slots=1)
    submit(story, "r1", 1)
    submit(story, "r2", 1)
    granted(story)

    def join_again() -> int:
        return story.join(slots=1, attempts=[("r1", 1)])

    tells: list[Callable[[], int]] = [story.cancel, story.stop, story.lose, join_again]
    for tell in tells:
        tell()
        assert granted(story) == {}
    assert story.state.usage_of("gpu01").slots == {0: {AttemptRef("r1", 1)}}
    story.stopped()
    assert set(granted(story)) == {"r2"}


@pytest.mark.parametrize("delayed", [False, True])
def test_no_node_is_looked_at_where_nothing_could_be_granted(
    delayed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def looked(state: State, taken: Claims) -> dict[str, Offer]:
        raise AssertionError("an offer was computed")

    monkeypatch.setattr(scheduler, "offers_of", looked)
    story = Story()
    story.elect()
    story.join()
    queue = PendingQueue()
    if delayed:
        story.submit(retry={"max_attempts": 2, "backoff_s": 60})
        story.dispatch()
        story.fail()
        queue.update(story.run())
        assert len(queue) == 1
    assert schedule(story.state, queue, Claims(), 10, START_NS) == []
    story.submit("r2")
    queue.update(story.run("r2"))
    with pytest.raises(AssertionError, match="an offer"):
        schedule(story.state, queue, Claims(), 10, START_NS)
