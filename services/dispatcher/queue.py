"""The runs that wait, in the order in which they are considered: an index kept from each change of the fold.

Owns the order (priority, then submission) by what runs need; knows no node and no clock of its own.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import NamedTuple

from sortedcontainers import SortedList

from events.state import Pending, Run

Order = tuple[int, int, str]
"""(minus priority, sequence of Submitted, run id): smaller is considered earlier."""


class Shape(NamedTuple):
    """All that a decision looks at in a waiting run: runs of one shape fit or do not fit alike."""

    cpus: int
    memory_mb: int
    gpus: int
    mandatory: bool
    max_duration_s: float | None


def order_of(run: Run) -> Order:
    """Where a run stands in the queue."""
    return (-run.priority, run.submit_seq, run.run_id)


def shape_of(run: Run) -> Shape:
    """What a run needs."""
    needs = run.needs
    return Shape(needs.cpus, needs.memory_mb, needs.gpus, needs.mandatory, run.max_duration_s)


class PendingQueue:
    """Waiting runs by shape. An update costs the logarithm of the queue, a decision goes by shapes, not by runs."""

    def __init__(self) -> None:
        self._shapes: dict[Shape, SortedList[Order]] = {}
        self._delayed: SortedList[tuple[int, str]] = SortedList()
        self._places: dict[str, tuple[Shape, Order] | tuple[int, str]] = {}
        self._runs: dict[str, Run] = {}

    def __len__(self) -> int:
        return len(self._places)

    def update(self, run: Run) -> None:
        """Take in a run's new value: it waits here only while it could be granted."""
        self._remove(run.run_id)
        phase = run.phase
        if not isinstance(phase, Pending) or run.cancel_requested:
            return
        if phase.waiting_for or phase.failed_dependency is not None:
            return
        self._runs[run.run_id] = run
        if phase.not_before_ns:
            delayed = (phase.not_before_ns, run.run_id)
            self._delayed.add(delayed)
            self._places[run.run_id] = delayed
        else:
            self._enqueue(run)

    def promote(self, now_ns: int) -> None:
        """Move the runs whose back-off is over into the queue proper."""
        while self._delayed and self._delayed[0][0] <= now_ns:
            _, run_id = self._delayed.pop(0)
            self._enqueue(self._runs[run_id])

    def next_due_ns(self) -> int | None:
        """When the next back-off is over; None where none is running."""
        return self._delayed[0][0] if self._delayed else None

    def heads(self) -> Heads:
        """Walk the queue in order; see Heads."""
        return Heads(self._shapes, self._runs)

    def _enqueue(self, run: Run) -> None:
        shape, order = shape_of(run), order_of(run)
        if shape not in self._shapes:
            self._shapes[shape] = SortedList()
        self._shapes[shape].add(order)
        self._places[run.run_id] = (shape, order)

    def _remove(self, run_id: str) -> None:
        place = self._places.pop(run_id, None)
        self._runs.pop(run_id, None)
        match place:
            case (Shape() as shape, tuple() as order):
                waiting = self._shapes[shape]
                waiting.remove(order)
                if not waiting:
                    del self._shapes[shape]
            case (int(), str()):
                self._delayed.remove(place)
            case _:
                pass


class Heads:
    """One walk over the queue in order, in which a shape that does not fit is skipped as a whole."""

    def __init__(self, shapes: dict[Shape, SortedList[Order]], runs: dict[str, Run]) -> None:
        self._shapes = shapes
        self._runs = runs
        self._heap: list[tuple[Order, Shape, int]] = [
            (waiting[0], shape, 0) for shape, waiting in shapes.items()
        ]
        heapq.heapify(self._heap)
        self._blocked: list[tuple[Shape, int]] = []
        self._present: tuple[Order, Shape, int] | None = None

    def __iter__(self) -> Iterator[Run]:
        return self

    def __next__(self) -> Run:
        self._advance()
        if not self._heap:
            raise StopIteration
        self._present = heapq.heappop(self._heap)
        return self._runs[self._present[0][2]]

    def block(self) -> None:
        """The run just given does not fit: neither do those of its shape behind it."""
        assert self._present is not None
        _, shape, place = self._present
        self._blocked.append((shape, place))
        self._present = None

    def passed_over(self, run: Run, most: int = 10) -> tuple[tuple[str, ...], int]:
        """The runs ahead of ``run`` that do not fit: the first ``most`` and how many there are."""
        if not self._blocked:
            return (), 0
        order = order_of(run)
        count = 0
        first: list[Order] = []
        for shape, place in self._blocked:
            waiting = self._shapes[shape]
            end = waiting.bisect_left(order)
            count += end - place
            first += waiting[place : min(end, place + most)]
        return tuple(run_id for _, _, run_id in heapq.nsmallest(most, first)), count

    def _advance(self) -> None:
        if self._present is None:
            return
        _, shape, place = self._present
        waiting = self._shapes[shape]
        if place + 1 < len(waiting):
            heapq.heappush(self._heap, (waiting[place + 1], shape, place + 1))
        self._present = None
