"""A recorded log: who waited and ran when, what happens in it whatever is decided, and each of its grants decided again.

Owns the one reading of it, which lags behind as each decision's view did; knows no file, no node that was never there. Pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from events.change import Change
from events.codec import StoredEvent, Unreadable
from events.config import stored_config
from events.evolve import ended_runs_needed, evolve
from events.state import Ended, Run, State
from events.times import nanoseconds
from events.types import (
    Cancelled,
    Completed,
    Dispatched,
    Elected,
    Event,
    Failed,
    NodeEvent,
    NodeJoined,
    RetryRequested,
    SchedulerInfo,
    Submitted,
    TimedOut,
)
from services.dispatcher.decisions import Decisions
from services.dispatcher.in_flight import Decision
from services.scheduling.scheduler import SCHEDULER
from services.simulation.timetable import Job, Span, Timetable
from services.simulation.world import Given, Outcome
from trainshed_client.statuses import AtFault, FailureReason
from trainshed_client.subjects import Role


class Difference(NamedTuple):
    """A recorded grant that is decided otherwise now (None: not at all)."""

    seq: int
    recorded: Dispatched
    decided: Event | None


class DecidedAgain(msgspec.Struct):
    """How many grants were decided again and came out the same or otherwise, and how many could not be, because another
    scheduler had made them."""

    same: int = 0
    different: int = 0
    unchecked: int = 0
    first: Difference | None = None


class Recording:
    """Give it each message of a log in order (`take`), then `close` it."""

    def __init__(self) -> None:
        self.timetable = Timetable()
        self.given: list[Given] = []
        self.joined: list[NodeJoined] = []
        self.again = DecidedAgain()
        self._state = State()
        self._past: dict[str, Run] = {}
        self._position = 0
        self._behind: deque[StoredEvent | Unreadable] = deque()
        self._schedulers: dict[int, SchedulerInfo] = {}
        self._decisions: Decisions | None = None
        self._epoch = 0
        self._view: tuple[int, int, str] | None = None
        self._decided: deque[Event] = deque()

    def take(self, stored: StoredEvent | Unreadable) -> None:
        """The next message. What is not folded yet when a grant comes was not seen by the decision for it."""
        if isinstance(stored, StoredEvent):
            match stored.event:
                case Elected(scheduler=scheduler):
                    self._schedulers[stored.seq] = scheduler
                case Dispatched() as grant:
                    self._decide_again(stored.seq, grant)
                case _:
                    pass
        self._behind.append(stored)

    def close(self) -> None:
        """That was the last message."""
        while self._behind:
            self._fold(self._behind.popleft())

    def _decide_again(self, seq: int, grant: Dispatched) -> None:
        view = (grant.epoch, grant.view.seq, grant.view.now)
        if view != self._view:
            self._view, self._decided = view, deque()
            while self._behind and self._behind[0].seq <= grant.view.seq:
                self._fold(self._behind.popleft())
            if self._checkable(grant):
                self._decided.extend(self._decisions_of(grant))
        if not self._checkable(grant):
            self.again.unchecked += 1
            return
        decided = self._decided.popleft() if self._decided else None
        if isinstance(decided, Dispatched) and _alike(decided, grant):
            self.again.same += 1
            return
        self.again.different += 1
        self.again.first = self.again.first or Difference(seq, grant, decided)

    def _checkable(self, grant: Dispatched) -> bool:
        """Whether this scheduler made it, with the view that it names: no later than the log was read here."""
        known = self._schedulers.get(grant.epoch) == SCHEDULER
        return known and self._position <= grant.view.seq and self._state.epoch == grant.epoch

    def _decisions_of(self, grant: Dispatched) -> list[Event]:
        if self._decisions is None or self._epoch != grant.epoch:
            self._decisions, self._epoch = Decisions(), grant.epoch
            self._decisions.rebuild(self._state)
        in_flight = self._decisions.in_flight
        in_flight.clear()
        for stored in self._behind:
            if isinstance(stored, StoredEvent) and getattr(stored.event, "epoch", None) == grant.epoch:
                decision: Decision = in_flight.add(stored.event)
                decision.seq = stored.seq
        now_ns = nanoseconds(grant.view.now)
        return self._decisions.decide(self._state, grant.view.seq, grant.epoch, now_ns, {})

    def _fold(self, stored: StoredEvent | Unreadable) -> None:
        self._position = stored.seq
        if isinstance(stored, Unreadable):
            return
        needed = ended_runs_needed(self._state, stored)
        change = evolve(self._state, stored, {one: self._past[one] for one in needed if one in self._past})
        if self._decisions is not None:
            self._decisions.note(self._state, stored, change)
        first = isinstance(stored.event, Submitted) and stored.event.run_id not in self.timetable.jobs
        self.timetable.observe(self._state, stored, change)
        for run_change in change.runs:
            if isinstance(run_change.after.phase, Ended):
                self._past[run_change.after.run_id] = run_change.after
        self._keep(stored, change, first=first)

    def _keep(self, stored: StoredEvent, change: Change, *, first: bool) -> None:
        """What happened from outside; grants, starts and ends are the simulation's to make."""
        event, counts = stored.event, bool(change.runs or change.nodes)
        if isinstance(event, NodeJoined):
            self.joined.append(event)
        if counts and (first or isinstance(event, NodeEvent | RetryRequested)):
            role = Role(stored.subject.role)
            node = stored.subject.node if role is Role.AGENT else None
            self.given.append(Given(stored.stored_ns, role, event, node))


def _alike(decided: Dispatched, recorded: Dispatched) -> bool:
    """Of one run and attempt, on one node, with the same slots."""
    return _placed(decided) == _placed(recorded)


def _placed(grant: Dispatched) -> tuple[object, ...]:
    return (
        grant.run_id,
        grant.attempt,
        grant.node,
        grant.incarnation,
        grant.slots,
        grant.cpus,
        grant.memory_mb,
    )


class Lasting(NamedTuple):
    """How a run's attempts end, in order; ``censored``: others ended one of them, or it has not ended."""

    outcomes: list[Outcome]
    censored: bool


def lasting(job: Job, end_ns: int) -> Lasting | None:
    """What is known of how long a run lasts, ``end_ns`` being the end of its log; None where it never began.

    An attempt that ended for its node's sake tells nothing of that, unless there is no other.
    """
    own = [span for span in job.spans if span.end_ns is None or _of_its_own(span)]
    spans = own or job.spans[-1:]
    if not spans:
        return None
    outcomes = [_outcome(job.run_id, span, end_ns) for span in spans]
    return Lasting(outcomes, not own or any(map(_censored, spans)))


def _of_its_own(span: Span) -> bool:
    match span.end:
        case None:
            return False
        case Failed(failure_reason=reason, at_fault=at_fault, epoch=epoch):
            return epoch is None and reason is not FailureReason.NOT_STARTED and at_fault is not AtFault.NODE
        case _:
            return True


def _censored(span: Span) -> bool:
    match span.end:
        case None | Cancelled() | TimedOut():
            return True
        case Failed(signal=signal):
            return signal is not None or span.cancelled
        case _:
            return False


def _outcome(run_id: str, span: Span, end_ns: int) -> Outcome:
    duration_ns = (end_ns if span.end_ns is None else span.end_ns) - span.begin_ns
    end = span.end if span.end is not None else Completed(run_id=run_id, attempt=1)
    return Outcome(max(0, duration_ns), end, span.cancelled)


def without_priority(given: Sequence[Given]) -> list[Given]:
    """The same submissions, none of which comes before another but by its time."""
    return [
        one._replace(event=msgspec.structs.replace(one.event, config=_level(one.event.config)))
        if isinstance(one.event, Submitted)
        else one
        for one in given
    ]


def _level(config: msgspec.Raw) -> msgspec.Raw:
    fields = stored_config(config).normalised()
    fields.pop("priority", None)
    return msgspec.Raw(msgspec.json.encode(fields))
