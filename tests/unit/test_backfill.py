"""Back-filling by time limits: who passes the run that waits, and that its start is never put off by it."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from events.times import nanoseconds
from events.types import Dispatched
from services.dispatcher.decisions import Decisions
from services.dispatcher.in_flight import Decision
from services.scheduling.offers import MARGIN_S, Claims, offers_of
from services.scheduling.queue import PendingQueue, shape_of
from services.scheduling.reservation import ENDING_S, STARTING_S, reserve
from services.scheduling.scheduler import Grant, schedule
from tests.support.builders import SECOND_NS, START_NS, Story, needs

HOUR = 3_600


def at(seconds: float) -> int:
    """That many seconds after the story's beginning, as the scheduler takes it."""
    return START_NS + int(seconds * SECOND_NS)


def submit(
    story: Story, run_id: str, gpus: int, limit: float | None = None, *, grace: float = 0, **fields: object
) -> None:
    schedule_ = {} if limit is None else {"schedule": {"max_duration_seconds": limit}}
    fields = {"resources": needs(gpus), "stop": {"grace_s": grace}, **schedule_, **fields}
    story.submit(run_id, **fields)


def hold(
    story: Story, run_id: str, slots: tuple[int, ...], limit: float | None, *, node: str = "gpu01"
) -> None:
    """A run that has these slots, and whose worker was up at once."""
    submit(story, run_id, len(slots), limit, priority=9)
    story.dispatch(run_id, node=node, slots=slots)
    story.start(run_id, node=node)


def grants_of(story: Story, now_s: float = 0, taken: Claims | None = None) -> list[Grant]:
    """What is granted now."""
    queue = PendingQueue()
    for run in story.state.runs.values():
        queue.update(run)
    return schedule(story.state, queue, taken or Claims(), 100, at(now_s))


def passing(story: Story, now_s: float = 0, taken: Claims | None = None) -> list[str]:
    """Who is granted now."""
    return [grant.run.run_id for grant in grants_of(story, now_s, taken)]


def a_story(*, slots: int = 2) -> Story:
    """A node, at time 0."""
    story = Story()
    story.at_s = 0
    story.elect()
    story.join(slots=slots, cpus=99)
    return story


def waiting_for_an_hour() -> Story:
    """A node of two, one held for an hour at most, and a run that waits for both."""
    story = a_story()
    hold(story, "holder", (0,), HOUR)
    submit(story, "head", 2)
    return story


@pytest.mark.parametrize(
    ("limit", "grace", "passes"),
    [
        (None, 0, False),
        (HOUR / 2, 0, True),
        (2 * HOUR, 0, False),
        (HOUR, 0, False),
        (HOUR / 2, HOUR, False),
    ],
)
def test_a_run_passes_if_limit_and_grace_end_it_before_the_one_that_waits_can_start(
    limit: float | None, grace: float, passes: bool
) -> None:
    story = waiting_for_an_hour()
    submit(story, "small", 1, limit, grace=grace)
    assert passing(story) == (["small"] if passes else [])


def test_the_last_moment_to_pass_is_counted_with_launch_and_end() -> None:
    story = waiting_for_an_hour()
    submit(story, "small", 1, 64)  # no rounding: a power of two
    last = HOUR + ENDING_S - 64 - MARGIN_S
    assert passing(story, last) == ["small"]
    assert passing(story, last + 0.001) == []


def test_limits_are_rounded_up_so_that_many_of_them_are_few_shapes() -> None:
    story = a_story()
    limits = [1 + 0.37 * number for number in range(5_000)]
    for number, limit in enumerate(limits):
        submit(story, f"r{number}", 1, limit)
    shapes = {shape_of(run) for run in story.state.runs.values()}
    assert len(shapes) < 100
    for run in story.state.runs.values():
        longest, exact = shape_of(run).longest_s, run.max_duration_s
        assert longest is not None and exact is not None
        assert exact <= longest <= exact * 1.125


@pytest.mark.parametrize("limit", [1e300, 5e-324, 0.0, -5.0])
def test_a_limit_that_no_clock_knows_is_none(limit: float) -> None:
    story = waiting_for_an_hour()
    submit(story, "small", 1, limit)
    assert passing(story) in ([], ["small"])


def test_where_something_needed_is_held_without_a_limit_no_time_limit_helps() -> None:
    story = a_story()
    hold(story, "holder", (0,), None)
    submit(story, "head", 2)
    submit(story, "small", 1, 1)
    assert passing(story) == []


def test_a_holder_without_a_limit_that_is_not_in_the_way_changes_nothing() -> None:
    story = a_story(slots=3)
    hold(story, "for ever", (2,), None)
    hold(story, "holder", (0,), HOUR)
    submit(story, "head", 2)
    submit(story, "small", 1, 60)
    assert passing(story) == ["small"]


def test_beside_the_one_that_waits_is_what_is_left_when_it_starts_and_not_when_all_have_ended() -> None:
    story = a_story(slots=4)
    hold(story, "ten hours", (0,), 10 * HOUR)
    hold(story, "one hour", (1, 2), HOUR)
    submit(story, "head", 3)
    submit(story, "small", 1)
    assert passing(story) == [], "in an hour it would be in the way"


def test_a_grant_whose_worker_is_not_up_yet_ends_later_than_its_limit() -> None:
    story = a_story()
    submit(story, "holder", 1, HOUR, priority=9)
    story.dispatch("holder", slots=(0,))
    submit(story, "head", 2)

    def forecast(now_s: float) -> int | None:
        found = reserve(story.state, Claims(), story.run("head"), offers_of(story.state, Claims()), at(now_s))
        assert found is not None
        return found.until_ns

    assert forecast(0) == forecast(STARTING_S) == at(STARTING_S + HOUR + ENDING_S)
    assert forecast(100) == at(100 + HOUR + ENDING_S), "it counts from exec, and that is still to come"
    story.at_s = 200
    story.start("holder")
    assert forecast(900) == at(200 + HOUR + ENDING_S)


def test_a_holder_that_is_overdue_may_end_at_any_moment() -> None:
    story = waiting_for_an_hour()
    submit(story, "small", 1, 0.001)
    assert passing(story, 2 * HOUR) == []


def test_of_two_nodes_the_one_where_it_starts_first_is_kept() -> None:
    story = a_story()
    story.join("gpu02", slots=2, cpus=99)
    hold(story, "two hours", (0, 1), 2 * HOUR)
    hold(story, "an hour", (0, 1), HOUR, node="gpu02")
    submit(story, "head", 2)
    found = reserve(story.state, Claims(), story.run("head"), offers_of(story.state, Claims()), at(0))
    assert found is not None
    assert (found.node, found.until_ns) == ("gpu02", at(HOUR + ENDING_S))


def test_rule_1_a_back_filled_grant_in_flight_puts_the_start_off_no_more_than_a_folded_one() -> None:
    story = a_story(slots=3)
    hold(story, "holder", (0,), HOUR)
    submit(story, "head", 3)
    for number in range(4):
        submit(story, f"s{number}", 1, HOUR / 2)
    decisions = Decisions()
    decisions.rebuild(story.state)
    sent: list[str] = []
    for _ in range(3):
        for event in decide(story, decisions, 0):
            decisions.in_flight.add(event)
            sent.append(event.run_id)
    assert sent == ["s0", "s1"]
    taken = decisions.in_flight.taken(story.state)
    found = reserve(story.state, taken, story.run("head"), offers_of(story.state, taken), at(0))
    assert found is not None
    assert found.until_ns == at(HOUR + ENDING_S)


def decide(story: Story, decisions: Decisions, now_s: float) -> list[Dispatched]:
    events = decisions.decide(story.state, story.seq, story.state.epoch, at(now_s), {})
    return [event for event in events if isinstance(event, Dispatched)]


# --- devices that several nodes were given -------------------------------------------------------------------


def sharing(*uuids: str) -> Story:
    """A node with these devices, each of which a node of its own was given too, and held there without a limit."""
    story = a_story(slots=0)
    story.join("whole", cpus=99, uuids=uuids)
    for uuid in uuids:
        story.join(uuid, cpus=99, uuids=[uuid])
        hold(story, f"on {uuid}", (0,), None, node=uuid)
    return story


def test_a_run_is_not_starved_of_devices_that_runs_behind_it_get_through_other_nodes() -> None:
    story = sharing("u0", "u1")
    submit(story, "head", 2)
    for number in range(9):
        submit(story, f"s{number}", 1)
    assert passing(story) == []
    story.complete("on u0", node="u0")
    assert passing(story) == [], "the first device that is free is kept"
    story.complete("on u1", node="u1")
    assert passing(story) == ["head"]


def test_devices_beside_the_one_that_waits_are_had_through_other_nodes_but_no_more() -> None:
    story = sharing("u0", "u1", "u2", "u3")
    submit(story, "head", 2)
    for number in range(9):
        submit(story, f"s{number}", 1)
    for uuid, passes in (("u0", ["s0"]), ("u1", ["s1"]), ("u2", []), ("u3", ["head"])):
        story.complete(f"on {uuid}", node=uuid)
        assert passing(story) == passes
        if passes:
            story.dispatch(passes[0], node=uuid, slots=(0,))


def test_devices_beside_the_one_that_waits_are_counted_over_the_grants_of_one_decision() -> None:
    story = sharing("u0", "u1", "u2", "u3")
    submit(story, "head", 3)
    for number in range(9):
        submit(story, f"s{number}", 1)
    story.complete("on u0", node="u0")
    story.complete("on u1", node="u1")
    assert passing(story) == ["s0"]


def test_of_a_device_on_another_node_only_the_device_is_kept_and_not_that_nodes_cpus() -> None:
    story = sharing("u0", "u1", "u2", "u3", "u4")
    submit(story, "head", 3)
    submit(story, "s0", 1, resources=needs(1, 99))
    submit(story, "s1", 1, resources=needs(1, 60))
    story.complete("on u0", node="u0")
    story.complete("on u1", node="u1")
    story.drain("u1")
    assert [(grant.run.run_id, grant.node) for grant in grants_of(story)] == [("s0", "u0"), ("s1", "whole")]


def test_of_a_node_that_shares_some_devices_with_the_one_that_is_kept_its_own_are_granted() -> None:
    story = sharing("u0", "u1", "u2")
    story.join("mixed", cpus=99, uuids=["u0", "own"])
    submit(story, "head", 3)
    submit(story, "small", 1)
    story.complete("on u0", node="u0")
    (grant,) = grants_of(story)
    assert (grant.run.run_id, grant.node, grant.slots) == ("small", "mixed", (1,))


def held_through_another(small: float | None) -> Story:
    """A run that waits for two devices, one of which is held through another node; one behind it fits beside none."""
    story = a_story(slots=0)
    story.join("whole", cpus=2, uuids=["u0", "u1"])
    story.join("one", cpus=99, uuids=["u0"])
    story.join("two", cpus=99, uuids=["u1"])
    hold(story, "holder", (0,), HOUR, node="one")
    submit(story, "head", 2)
    submit(story, "small", 1, small, resources=needs(1, 9))
    return story


@pytest.mark.parametrize(("limit", "passes"), [(HOUR / 2, True), (2 * HOUR, False), (None, False)])
def test_who_is_over_in_time_passes_on_a_device_that_is_kept_too(limit: float | None, passes: bool) -> None:
    story = held_through_another(limit)
    found = reserve(story.state, Claims(), story.run("head"), offers_of(story.state, Claims()), at(0))
    assert found is not None
    assert (found.node, found.until_ns) == ("whole", at(HOUR + ENDING_S))
    assert passing(story) == (["small"] if passes else [])


def test_rule_1_a_grant_in_flight_on_another_node_holds_the_device_as_a_folded_one_does() -> None:
    story = held_through_another(HOUR / 2)
    decisions = Decisions()
    decisions.rebuild(story.state)
    (event,) = decide(story, decisions, 0)
    assert event.node == "two"
    decisions.in_flight.add(event)
    taken = decisions.in_flight.taken(story.state)
    found = reserve(story.state, taken, story.run("head"), offers_of(story.state, taken), at(0))
    assert found is not None
    assert (found.node, found.until_ns) == ("whole", at(HOUR + ENDING_S))


def test_a_device_that_a_lost_node_holds_is_not_waited_for_where_another_node_could_hold_the_run() -> None:
    story = a_story(slots=0)
    story.join("before", cpus=99, uuids=["u0"])
    hold(story, "for ever", (0,), HOUR, node="before")
    story.lose("before")
    story.join("after", cpus=99, uuids=["u0", "u1"])
    story.join("other", slots=2, cpus=99)
    hold(story, "holder", (0,), None, node="other")
    submit(story, "head", 2)
    submit(story, "small", 1)

    def kept() -> str | None:
        found = reserve(story.state, Claims(), story.run("head"), offers_of(story.state, Claims()), at(0))
        return None if found is None else found.node

    assert kept() == "other"
    story.drain("other")
    assert kept() is None
    story.join("before", cpus=99, uuids=["u0"], attempts=[("for ever", 1)])
    assert kept() == "after"


# --- a stream without end -------------------------------------------------------------------------------------


Nodes = list[list[str]]
"""The devices of each."""


def apart(counts: list[int]) -> Nodes:
    """Nodes with so many devices each, none of which another was given."""
    return [[f"{number}-{index}" for index in range(count)] for number, count in enumerate(counts)]


unshared = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(apart)
slots_per_gpu = st.sampled_from([1, 1, 2, 3])
devices_of_one = st.lists(st.sampled_from("abcd"), min_size=1, max_size=4, unique=True)
shared = st.lists(devices_of_one, min_size=2, max_size=4)


class Lab:
    """Nodes under a stream of small runs; time passes from event to event, as in the real loop.

    A decision is folded up to 2 s after it was made, a worker is up up to 2 s after that, and ended at the latest when
    limit and grace are over.
    """

    def __init__(self, nodes: Nodes, data: st.DataObject, slots_per_gpu: int = 1) -> None:
        self.story = Story()
        self.story.at_s = 0
        self.story.elect()
        for number, uuids in enumerate(nodes):
            self.story.join(f"n{number}", uuids=uuids, cpus=99, slots_per_gpu=slots_per_gpu)
        self.decisions = Decisions()
        self.decisions.rebuild(self.story.state)
        self.now_s = 0.0
        self.data = data
        self._order = itertools.count()
        self._due: list[tuple[float, int, str, object]] = []

    def later(self, seconds: float, what: str, of: object) -> None:
        heapq.heappush(self._due, (self.now_s + seconds, next(self._order), what, of))

    def note(self) -> None:
        self.decisions.note(self.story.state, self.story.log[-1], self.story.change)

    def submit(
        self, run_id: str, gpus: int, limit: float | None, priority: int = 0, *, whole: bool = False
    ) -> None:
        submit(self.story, run_id, gpus, limit, priority=priority, resources=needs(gpus, whole=whole))
        self.note()

    def start_of(self, head: str) -> int | None:
        """When the head starts at the latest, as things stand."""
        state, taken = self.story.state, self.decisions.in_flight.taken(self.story.state)
        found = reserve(state, taken, self.story.run(head), offers_of(state, taken), at(self.now_s))
        return None if found is None else found.until_ns

    def turn(self) -> list[Dispatched]:
        """Decide once, and send."""
        granted = decide(self.story, self.decisions, self.now_s)
        for event in granted:
            self.later(self.draw(0, 2), "fold", (self.decisions.in_flight.add(event), event))
        return granted

    def draw(self, least: float, most: float) -> float:
        return least + (most - least) * self.data.draw(st.integers(0, 4)) / 4

    def stream(self, small: Iterator[tuple[str, int, float | None]], every_s: float) -> None:
        """From now on one of these is submitted every so many seconds, without end."""
        self._small, self._every_s = small, every_s
        self.later(every_s, "submit", None)

    def step(self) -> None:
        """Let the next thing happen."""
        self.now_s, _, what, of = heapq.heappop(self._due)
        self.story.at_s = self.now_s
        match what, of:
            case "fold", (Decision() as decision, Dispatched() as event):
                decision.seq = self.story.by_dispatcher(event)
                self.note()
                self.decisions.in_flight.folded(self.story.seq)
                self.later(self.draw(0, 2), "up", event)
            case "up", Dispatched() as event:
                self.story.start(event.run_id, node=event.node)
                self.note()
                limit = self.story.run(event.run_id).max_duration_s
                self.later(self.draw(1, 200) if limit is None else self.draw(0, limit), "end", event)
            case "end", Dispatched() as event:
                self.story.complete(event.run_id, node=event.node)
                self.note()
            case "submit", _:
                self.submit(*next(self._small))
                self.later(self._every_s, what, of)
            case _:
                raise AssertionError(what)


def small_runs(kinds: list[tuple[int, float | None]]) -> Iterator[tuple[str, int, float | None]]:
    for number, (gpus, limit) in enumerate(itertools.cycle(kinds)):
        yield f"s{number}", gpus, limit


@settings(max_examples=60, deadline=None, phases=(Phase.reuse, Phase.generate))  # to shrink it takes minutes
@given(
    nodes=unshared | shared,
    kinds=st.lists(
        st.tuples(st.integers(1, 2), st.sampled_from([None, 8.0, 30.0, 30.0, 120.0, 500.0])),
        min_size=1,
        max_size=5,
    ),
    every_s=st.sampled_from([3.0, 10.0]),
    wanted=st.integers(1, 4),
    each=slots_per_gpu,
    whole=st.booleans(),
    data=st.data(),
)
def test_the_start_of_the_one_that_waits_is_never_put_off_and_comes(
    nodes: Nodes,
    kinds: list[tuple[int, float | None]],
    every_s: float,
    wanted: int,
    each: int,
    whole: bool,
    data: st.DataObject,
) -> None:
    lab = Lab(nodes, data, each)
    most = max(map(len, nodes))
    small = small_runs([(min(gpus, most), limit) for gpus, limit in kinds])
    for _ in range(sum(map(len, nodes)) * each):
        lab.submit(*next(small))
    lab.turn()
    lab.submit("head", min(wanted, most), 60.0, priority=1, whole=whole)
    promised: int | None = None
    lab.stream(small, every_s)
    while lab.now_s < 3_000:
        before = lab.start_of("head")
        granted = lab.turn()
        after = lab.start_of("head") if all(e.run_id != "head" for e in granted) else before
        if before is not None:
            assert after is not None and after <= before, "a grant put it off"
        if promised is not None and after is not None:
            assert after <= max(promised, at(lab.now_s)), "it was put off"
        promised = after if after is not None else promised
        if any(event.run_id == "head" for event in granted):
            assert promised is None or at(lab.now_s) <= promised + SECOND_NS
            return
        lab.step()
    raise AssertionError("it never started")


@settings(max_examples=30)
@given(data=st.data())
def test_a_replay_of_state_and_clock_decides_the_same(data: st.DataObject) -> None:
    """Every Dispatched names the sequence and the clock that it rests on: another fold of the log comes to it too."""
    lab = Lab(apart([2, 3]), data)
    small = small_runs([(1, 30.0), (1, None), (2, 120.0)])
    for _ in range(6):
        lab.submit(*next(small))
    lab.turn()
    lab.submit("head", 3, None, priority=1)
    told: list[tuple[Dispatched, list[Dispatched]]] = []
    lab.stream(small, 4.0)
    for _ in range(60):
        in_flight = [one.event for one in lab.decisions.in_flight._decisions]
        before = [event for event in in_flight if isinstance(event, Dispatched)]
        told += [(event, before) for event in lab.turn()[:1]]
        lab.step()
    for first, in_flight_then in told:
        state = Story()
        for one in lab.story.log[: first.view.seq]:
            state.fold(one)
        again = Decisions()
        again.rebuild(state.state)
        for event in in_flight_then:
            again.in_flight.add(event)
        now_ns = nanoseconds(first.view.now)
        decided = again.decide(state.state, first.view.seq, first.epoch, now_ns, {})
        assert decided[0] == first
