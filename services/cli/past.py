"""What became of one run, from the log alone: what it waited for and when that changed, where it was placed, how it ended.

Owns which moments are looked at and what is kept of each; the reasons are the scheduler's own, and text is the edge's. Pure.
"""

from __future__ import annotations

import msgspec

from events.codec import StoredEvent, Unreadable
from events.evolve import ended_runs_needed, evolve
from events.run_machine import SECOND_NS
from events.state import Active, Ended, Pending, Run, State
from events.times import rfc3339
from events.types import Dispatched, Event, Failed, Started
from projections.read_model.timeline import of_event_alone
from services.scheduling.explain import Explainer
from trainshed_client.answers import Waiting
from trainshed_client.rendering.timeline import EndData

MOST_LOOKS = 300
"""So many moments of a wait are looked at; where there were more, ``partial`` says so."""


class Stretch(msgspec.Struct, kw_only=True):
    """A part of a wait in which the reason and the holders stayed: ``waiting`` as it was when that began.

    ``last_place``: its place in the queue when it was looked at last.
    """

    since: str
    seconds: float = 0.0
    waiting: Waiting
    last_place: int | None = None


class PastGrant(msgspec.Struct, frozen=True, kw_only=True):
    """Where an attempt was placed: ``free`` slots of that node before it, and who was ahead and could not start."""

    seq: int
    time: str
    node: str
    slots: tuple[int, ...]
    free: int
    passed_over: tuple[str, ...]
    passed_over_count: int


class PastEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How an attempt, or a run in the queue, ended; ``output_tail`` is the last that it wrote, to ``output_of``."""

    seq: int
    time: str
    type: str
    how: EndData
    output_of: str | None = None
    output_tail: str | None = None


class PastAttempt(msgspec.Struct, kw_only=True):
    """One attempt from the queue to its end. Seconds are between times of storing; null: it never came so far."""

    attempt: int
    queued: str
    waits: list[Stretch] = msgspec.field(default_factory=list)
    partial: bool = False
    waited_s: float | None = None
    grant: PastGrant | None = None
    started: str | None = None
    starting_s: float | None = None
    ran_s: float | None = None
    end: PastEnd | None = None


class RunPast:
    """Give it each message of the log in order (`take`) up to the run's end; ``attempts`` is then what became of it."""

    def __init__(self, run_id: str) -> None:
        self.attempts: list[PastAttempt] = []
        self._run_id = run_id
        self._state = State()
        self._past: dict[str, Run] = {}
        self._looks = 0
        self._since_ns = self._queued_ns = self._stretch_ns = 0

    def take(self, stored: StoredEvent | Unreadable) -> None:
        """The next message."""
        if isinstance(stored, Unreadable):
            return
        state, event = self._state, stored.event
        needed = ended_runs_needed(state, stored)
        change = evolve(state, stored, {one: self._past[one] for one in needed if one in self._past})
        own = None
        for one in change.runs:
            if isinstance(one.after.phase, Ended):
                self._past[one.after.run_id] = one.after
            if one.after.run_id == self._run_id:
                own = one.after
        if own is not None:
            self._own(own, stored)
        if own is not None or change.ended or change.nodes or isinstance(event, Dispatched):
            self._look(stored.stored_ns)

    def _own(self, run: Run, stored: StoredEvent) -> None:
        """What its own event, or the removal of its node, did to the run."""
        event, at_ns = stored.event, stored.stored_ns
        last = self.attempts[-1] if self.attempts else None
        if last is not None and last.end is None:
            if isinstance(run.phase, Active) and isinstance(event, Dispatched):
                self._waited(last, at_ns)
                last.grant = _grant(event, stored)
                self._since_ns = at_ns
            elif isinstance(run.phase, Active) and isinstance(event, Started):
                last.started, last.starting_s = rfc3339(at_ns), (at_ns - self._since_ns) / SECOND_NS
                self._since_ns = at_ns
            elif isinstance(run.phase, Ended) or run.attempt != last.attempt:
                if last.grant is None:
                    self._waited(last, at_ns)
                elif last.started is not None:
                    last.ran_s = (at_ns - self._since_ns) / SECOND_NS
                last.end = _end(event, stored)
        if isinstance(run.phase, Pending) and (last is None or run.attempt != last.attempt):
            self.attempts.append(PastAttempt(attempt=run.attempt, queued=rfc3339(at_ns)))
            self._queued_ns, self._looks = at_ns, 0

    def _waited(self, last: PastAttempt, at_ns: int) -> None:
        last.waited_s = (at_ns - self._queued_ns) / SECOND_NS
        self._close_stretch(last, at_ns)

    def _close_stretch(self, last: PastAttempt, at_ns: int) -> None:
        if last.waits and not last.partial:  # of what was not looked at nothing is known
            last.waits[-1].seconds = (at_ns - self._stretch_ns) / SECOND_NS

    def _look(self, at_ns: int) -> None:
        """Why it waits now, where it does."""
        run = self._state.runs.get(self._run_id)
        if run is None or not isinstance(run.phase, Pending):
            return
        last = self.attempts[-1]
        if self._looks == MOST_LOOKS:
            self._close_stretch(last, at_ns)
            last.partial = True
            return
        self._looks += 1
        waiting = Explainer(self._state, at_ns).explain(run)
        if last.waits and _alike(last.waits[-1].waiting, waiting):
            last.waits[-1].last_place = waiting.place
            return
        self._close_stretch(last, at_ns)
        self._stretch_ns = at_ns
        last.waits.append(Stretch(since=rfc3339(at_ns), waiting=waiting, last_place=waiting.place))


def _alike(before: Waiting, now: Waiting) -> bool:
    """Whether it waited for the same of the same holders."""
    return _for_what(before) == _for_what(now)


def _for_what(waiting: Waiting) -> tuple[object, ...]:
    holders = [(one.run_id, one.node, one.slots) for one in waiting.holders]
    return waiting.reason, waiting.runs, waiting.nodes, holders, waiting.holders_total


def _grant(event: Dispatched, stored: StoredEvent) -> PastGrant:
    return PastGrant(
        seq=stored.seq,
        time=rfc3339(stored.stored_ns),
        node=event.node,
        slots=event.slots,
        free=event.why.free,
        passed_over=event.why.passed_over,
        passed_over_count=event.why.passed_over_count,
    )


def _end(event: Event, stored: StoredEvent) -> PastEnd:
    how = of_event_alone(event)
    if not isinstance(how, EndData):  # its node was removed
        how = EndData(node=getattr(event, "node", None))
    failed = event if isinstance(event, Failed) else None
    return PastEnd(
        seq=stored.seq,
        time=rfc3339(stored.stored_ns),
        type=stored.subject.type,
        how=how,
        output_of=None if failed is None else failed.output_of,
        output_tail=None if failed is None else failed.output_tail,
    )
