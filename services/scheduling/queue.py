"""The runs that wait, in the order in which they are considered: an index kept from each change of the fold.

Owns the waiting runs by what they need, in the order of services/scheduling/order.py; knows no node and no clock of its own.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from sortedcontainers import SortedList

from events.run_machine import MAX_BACKOFF_S
from events.state import Run
from services.scheduling.order import Order, due_ns, order_of

_STEPS = 16
MOST_NAMED = 10
"""So many of the runs that a grant passed over are named; the others are counted."""


class Shape(NamedTuple):
    """All that a decision looks at in a waiting run: runs of one shape fit or do not fit alike.

    ``longest_s`` is the longest that an attempt lasts by its time limit and grace, rounded up to one of eight steps for
    each doubling, so that a queue of many limits has few shapes; None without a limit. ``tried``: the nodes that could not
    start it.
    """

    cpus: int
    memory_mb: int
    gpus: int
    mandatory: bool
    whole: bool
    longest_s: float | None
    tried: tuple[str, ...] = ()


def shape_of(run: Run) -> Shape:
    """What a run needs."""
    needs = run.needs
    longest = _rounded_up(longest_s(run))
    return Shape(needs.cpus, needs.memory_mb, needs.gpus, needs.mandatory, needs.whole, longest, run.tried)


def longest_s(run: Run) -> float | None:
    """Seconds from exec after which an attempt has ended by its time limit and grace; None without a limit."""
    if run.max_duration_s is None:
        return None
    seconds = run.max_duration_s + run.grace_s
    return seconds if 0 < seconds <= MAX_BACKOFF_S else None


def _rounded_up(seconds: float | None) -> float | None:
    if seconds is None:
        return None
    mantissa, exponent = math.frexp(seconds)
    return math.ldexp(math.ceil(mantissa * _STEPS) / _STEPS, exponent)


class PendingQueue:
    """Waiting runs by shape. An update costs the logarithm of the queue, a decision goes by shapes, not by runs."""

    def __init__(self) -> None:
        self._shapes: dict[Shape, SortedList[Order]] = {}
        self._all: SortedList[Order] = SortedList()
        self._delayed: SortedList[tuple[int, str]] = SortedList()
        self._places: dict[str, tuple[Shape, Order] | tuple[int, str]] = {}
        self._runs: dict[str, Run] = {}

    def __len__(self) -> int:
        return len(self._places)

    def copy(self) -> PendingQueue:
        """The same runs in a queue of its own."""
        other = PendingQueue()
        other._shapes = {shape: waiting.copy() for shape, waiting in self._shapes.items()}
        other._all, other._delayed = self._all.copy(), self._delayed.copy()
        other._places, other._runs = self._places.copy(), self._runs.copy()
        return other

    def update(self, run: Run) -> None:
        """Take in a run's new value: it waits here only while it could be granted."""
        self.remove(run.run_id)
        due = due_ns(run)
        if due is None:
            return
        self._runs[run.run_id] = run
        if due:
            delayed = (due, run.run_id)
            self._delayed.add(delayed)
            self._places[run.run_id] = delayed
        else:
            self._enqueue(run)

    def remove(self, run_id: str) -> None:
        """Forget a run, if it waits here."""
        place = self._places.pop(run_id, None)
        self._runs.pop(run_id, None)
        match place:
            case (Shape() as shape, tuple() as order):
                self._all.remove(order)
                waiting = self._shapes[shape]
                waiting.remove(order)
                if not waiting:
                    del self._shapes[shape]
            case (int(), str()):
                self._delayed.remove(place)
            case _:
                pass

    def follow(self, before: Mapping[str, Run], runs: Mapping[str, Run], now_ns: int) -> list[Run]:
        """Take in all that is not as it was ``before``, when this queue was that of those runs; see `promote`."""
        for run_id in before.keys() - runs.keys():
            self.remove(run_id)
        for run_id, run in runs.items():
            if before.get(run_id) is not run:
                self.update(run)
        return self.promote(now_ns)

    def promote(self, now_ns: int) -> list[Run]:
        """Move the runs whose back-off is over into the queue proper, and return them."""
        promoted = []
        while self._delayed and self._delayed[0][0] <= now_ns:
            _, run_id = self._delayed.pop(0)
            self._enqueue(self._runs[run_id])
            promoted.append(self._runs[run_id])
        return promoted

    def next_due_ns(self) -> int | None:
        """When the next back-off is over; None where none is running."""
        return self._delayed[0][0] if self._delayed else None

    @property
    def queued(self) -> int:
        """How many runs could be granted: those that wait for a back-off are not among them."""
        return len(self._all)

    def place_of(self, run: Run) -> int | None:
        """A run's place in the order, from 1 on; None where it could not be granted."""
        order = order_of(run)
        before = self._all.bisect_left(order)
        return before + 1 if before < len(self._all) and self._all[before] == order else None

    def first(self, count: int) -> list[Run]:
        """So many of the runs that could be granted, in their order: the first has place 1."""
        return [self._runs[order[2]] for order in self._all.islice(0, count)]

    def heads(self) -> Heads:
        """Walk the queue in order; see Heads."""
        return Heads(self._shapes, self._all, self._runs)

    def _enqueue(self, run: Run) -> None:
        shape, order = shape_of(run), order_of(run)
        if shape not in self._shapes:
            self._shapes[shape] = SortedList()
        self._shapes[shape].add(order)
        self._all.add(order)
        self._places[run.run_id] = (shape, order)


class Heads:
    """One walk over the queue in order, in which a shape that does not fit is skipped as a whole."""

    def __init__(
        self, shapes: dict[Shape, SortedList[Order]], every: SortedList[Order], runs: dict[str, Run]
    ) -> None:
        self._shapes = shapes
        self._every = every
        self._runs = runs
        self._heap: list[tuple[Order, Shape, int]] = [
            (waiting[0], shape, 0) for shape, waiting in shapes.items()
        ]
        heapq.heapify(self._heap)
        self._present: tuple[Order, Shape, int] | None = None
        self._given: set[str] = set()
        self._blocked = False
        self._passed: list[str] = []
        self._looked_at = 0

    def __iter__(self) -> Iterator[Run]:
        return self

    def __next__(self) -> Run:
        if self._present is not None:
            self._advance(*self._present)
        if not self._heap:
            raise StopIteration
        self._present = heapq.heappop(self._heap)
        return self._runs[self._present[0][2]]

    def block(self) -> None:
        """The run just given does not fit: neither do those of its shape behind it."""
        assert self._present is not None
        self._present = None
        self._blocked = True

    def passed_over(self) -> tuple[tuple[str, ...], int]:
        """The runs ahead of the one just given that do not fit: the first ten and how many there are.

        All that were given before and not blocked are no longer waited for; the others were passed over.
        """
        assert self._present is not None
        if not self._blocked:
            return (), 0
        ahead = self._every.bisect_left(self._present[0])
        while self._looked_at < ahead and len(self._passed) < MOST_NAMED:
            run_id = self._every[self._looked_at][2]
            if run_id not in self._given:
                self._passed.append(run_id)
            self._looked_at += 1
        return tuple(self._passed), ahead - len(self._given)

    def _advance(self, order: Order, shape: Shape, place: int) -> None:
        self._given.add(order[2])
        waiting = self._shapes[shape]
        if place + 1 < len(waiting):
            heapq.heappush(self._heap, (waiting[place + 1], shape, place + 1))
