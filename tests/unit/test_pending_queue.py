"""The queue of waiting runs: in order of priority, then submission; a shape that does not fit is skipped as a whole."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.state import Active, Ended, Pending, Placement, Run
from services.scheduling.order import order_of
from services.scheduling.queue import PendingQueue
from tests.support.builders import Story, needs
from trainshed_client.statuses import RunStatus


def run(number: int, *, gpus: int = 0, priority: int = 0, not_before_ns: int = 0) -> Run:
    story = Story()
    story.seq = number
    story.submit(f"r{number}", resources=needs(gpus), priority=priority)
    one = story.run(f"r{number}")
    return msgspec.structs.replace(one, phase=Pending(attempt=1, not_before_ns=not_before_ns))


def walk(queue: PendingQueue) -> list[str]:
    return [one.run_id for one in queue.heads()]


def test_priority_goes_first_then_the_order_of_submission() -> None:
    queue = PendingQueue()
    for one in (run(3), run(1), run(4, priority=-1), run(2, gpus=1), run(5, priority=2, gpus=1)):
        queue.update(one)
    assert walk(queue) == ["r5", "r1", "r2", "r3", "r4"]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-2, 2)), max_size=30))
def test_a_walk_gives_every_waiting_run_once_and_in_order(kinds: list[tuple[int, int]]) -> None:
    queue = PendingQueue()
    runs = [run(number, gpus=gpus, priority=priority) for number, (gpus, priority) in enumerate(kinds)]
    for one in reversed(runs):
        queue.update(one)
    assert walk(queue) == [one.run_id for one in sorted(runs, key=order_of)]
    assert len(queue) == len(runs)


@pytest.mark.parametrize(
    "changes",
    [
        {"phase": Pending(attempt=1, waiting_for=frozenset({"r0"}))},
        {"phase": Pending(attempt=1, failed_dependency="r0")},
        {"cancel_requested": True},
        {
            "phase": Active(
                attempt=1,
                placements=(Placement(node="n", incarnation="a", slots=(), cpus=1, memory_mb=0),),
                dispatched_seq=1,
            )
        },
        {"phase": Ended(attempt=1, status=RunStatus.FAILED)},
    ],
)
def test_only_a_run_that_could_be_granted_waits_here(changes: dict[str, object]) -> None:
    queue = PendingQueue()
    queue.update(run(1))
    queue.update(msgspec.structs.replace(run(1), **changes))
    assert walk(queue) == []
    assert len(queue) == 0
    queue.update(run(1))
    assert walk(queue) == ["r1"]


def test_a_run_in_its_back_off_waits_until_it_is_over() -> None:
    queue = PendingQueue()
    queue.update(run(1, not_before_ns=100))
    queue.update(run(2, not_before_ns=50))
    assert walk(queue) == []
    assert queue.next_due_ns() == 50
    queue.promote(49)
    assert walk(queue) == []
    queue.promote(50)
    assert walk(queue) == ["r2"]
    assert queue.next_due_ns() == 100
    queue.promote(1_000)
    assert walk(queue) == ["r1", "r2"]
    assert queue.next_due_ns() is None


def test_a_run_that_ends_in_its_back_off_is_gone() -> None:
    queue = PendingQueue()
    queue.update(run(1, not_before_ns=100))
    queue.update(msgspec.structs.replace(run(1), cancel_requested=True))
    queue.promote(1_000)
    assert walk(queue) == []
    assert queue.next_due_ns() is None


def test_a_change_of_what_a_run_needs_moves_it() -> None:
    queue = PendingQueue()
    queue.update(run(1))
    queue.update(run(1, gpus=2, priority=5))
    assert walk(queue) == ["r1"]


def test_a_blocked_shape_is_not_walked_on_and_counts_as_passed_over() -> None:
    queue = PendingQueue()
    for number in range(1, 31):
        queue.update(run(number, gpus=2 if number <= 20 else 1))
    heads = queue.heads()
    seen = []
    for one in heads:
        seen.append(one.run_id)
        if one.needs.gpus == 2:
            heads.block()
    assert seen == ["r1", *(f"r{number}" for number in range(21, 31))]


def test_passed_over_are_the_runs_ahead_that_do_not_fit_the_first_ten_and_how_many() -> None:
    queue = PendingQueue()
    for number in range(1, 41):
        queue.update(run(number, gpus=1 + number % 3))
    heads = queue.heads()
    for one in heads:
        if one.needs.gpus > 1:
            heads.block()
        elif one.run_id == "r30":
            ahead = [f"r{number}" for number in range(1, 30) if number % 3]
            assert heads.passed_over() == (tuple(ahead[:10]), len(ahead))
            break
    else:
        raise AssertionError("r30 was never given")


def test_nothing_is_passed_over_while_everything_fits() -> None:
    queue = PendingQueue()
    queue.update(run(1))
    heads = queue.heads()
    next(heads)
    assert heads.passed_over() == ((), 0)
