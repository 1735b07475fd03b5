"""The queue as a whole, as who watches it has it: the first runs in their order, each with its place and why it waits.

Owns what is in that message and when another one is news; who waits for what, and where, is the scheduler's. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from sortedcontainers import SortedList

from events.state import Pending, Run, State
from services.scheduling.explain import Explainer
from services.scheduling.order import Order, could_be_granted, order_of
from services.scheduling.queue import PendingQueue
from trainshed_client.records import QueuePlace, QueueRecord, Wait
from trainshed_client.times import moment

MOST_RUNS = 500
COUNTED_DOWN = ("seconds", "probe_in_s", "starts_in_s")
"""Numbers of a wait that time alone changes: who has the message counts on from its ``at``."""


class WholeQueue:
    """Follows one state after the other, at the cost of what changed between them. For one thread at a time."""

    def __init__(self) -> None:
        self._queue = PendingQueue()
        self._runs: Mapping[str, Run] = {}
        self._others: SortedList[Order] = SortedList()
        """The runs that wait and could not be granted when they were looked at."""

    def at(self, state: State, seq: int, now_ns: int) -> QueueRecord:
        """The queue of ``state``, which is after the event ``seq`` and must never change any more."""
        self._follow(state.runs, now_ns)
        first = self._queue.first(MOST_RUNS)
        others = [self._runs[order[2]] for order in self._others.islice(0, MOST_RUNS - len(first))]
        runs: list[QueuePlace] = []
        if first or others:
            explainer = Explainer(state, now_ns, queue=self._queue, most_granted=MOST_RUNS)
            runs = [
                *(
                    QueuePlace(run_id=run.run_id, place=place, waiting=explainer.wait_of(run))
                    for place, run in enumerate(first, 1)
                ),
                *(QueuePlace(run_id=run.run_id, waiting=explainer.wait_of(run)) for run in others),
            ]
        total = self._queue.queued + len(self._others)
        return QueueRecord(seq=seq, at=moment(now_ns), total=total, runs=runs)

    def next_due_ns(self) -> int | None:
        """When (ns since 1970) time alone gives another run a place; None: it does not."""
        return self._queue.next_due_ns()

    def _follow(self, runs: Mapping[str, Run], now_ns: int) -> None:
        before, self._runs = self._runs, runs
        promoted = self._queue.follow(before, self._runs, now_ns)
        for run_id in before.keys() - runs.keys():
            self._others.discard(order_of(before[run_id]))
        for run_id, run in runs.items():
            known = before.get(run_id)
            if known is run:
                continue
            order = order_of(run)
            self._others.discard(order if known is None else order_of(known))
            if isinstance(run.phase, Pending) and not could_be_granted(run, now_ns):
                self._others.add(order)
        for run in promoted:
            self._others.discard(order_of(run))


def is_news(before: QueueRecord, after: QueueRecord) -> bool:
    """Whether the second says more than the first does, of whose numbers some are counted down meanwhile."""
    if (before.total, len(before.runs)) != (after.total, len(after.runs)):
        return True
    seconds = (after.at - before.at).total_seconds()
    return any(
        (old.run_id, old.place) != (new.run_id, new.place) or _differ(old.waiting, new.waiting, seconds)
        for old, new in zip(before.runs, after.runs, strict=True)
    )


def _differ(old: Wait | None, new: Wait | None, seconds: float) -> bool:
    if old is None or new is None:
        return old is not new
    if msgspec.structs.replace(old, numbers={}) != msgspec.structs.replace(new, numbers={}):
        return True
    if old.numbers.keys() != new.numbers.keys():
        return True
    return any(
        abs(max(0.0, number - seconds) - new.numbers[name]) > 1
        if name in COUNTED_DOWN
        else number != new.numbers[name]
        for name, number in old.numbers.items()
    )
