"""A made-up log, event by event: the dispatcher's own decisions over the one fold, with a clock that jumps.

Owns the clock, and when what was granted ends; what is decided is the dispatcher's, what it means evolve's. Pure.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from events import rules
from events.codec import StoredEvent, event_subject
from events.evolve import ended_runs_needed, evolve
from events.state import Active, Ended, Run, State
from events.types import (
    AttemptEnd,
    CancelRequested,
    Dispatched,
    Elected,
    Event,
    NodeJoined,
    NodeLeft,
    NodeLost,
    RetryRequested,
    Started,
)
from services.dispatcher.decisions import Decisions
from services.scheduling.kept_offers import KeptOffers
from services.scheduling.scheduler import SCHEDULER
from services.simulation.timetable import Timetable
from trainshed_client.subjects import Role

_TICK_NS = 1_000
"""Decisions have a clock of microseconds: every moment here is a whole one."""


class Given(NamedTuple):
    """What happens whatever is decided: a submission, a node that comes or goes. ``node``: whose agent's event it is."""

    at_ns: int
    role: Role
    event: Event
    node: str | None = None


class Outcome(NamedTuple):
    """How an attempt ends, however it is placed, and so long after its grant. ``cancelled``: its run with it."""

    duration_ns: int
    end: AttemptEnd
    cancelled: bool = False


def simulate(
    given: Iterable[Given], outcomes: Mapping[str, Sequence[Outcome]], *, strict: bool = False
) -> Timetable:
    """What comes of it, until nothing more can happen. ``outcomes``: of each run its attempts' in order, at least one; a
    run with more attempts than that has the last one again. ``strict``: see `plan`."""
    return _World(given, outcomes, strict=strict).run()


class _World:
    def __init__(
        self, given: Iterable[Given], outcomes: Mapping[str, Sequence[Outcome]], *, strict: bool
    ) -> None:
        self._given = deque(sorted(given, key=lambda one: one.at_ns))
        self._outcomes = outcomes
        self._had: dict[str, int] = {}
        self._state = State()
        self._past: dict[str, Run] = {}
        self._decisions = Decisions(strict=strict, kept=KeptOffers())
        self._timetable = Timetable()
        self._ends: list[tuple[int, int, str, int]] = []
        self._again: dict[str, RetryRequested] = {}
        self._now_ns = 0
        self._seq = 0

    def run(self) -> Timetable:
        if self._given:
            self._now_ns = self._given[0].at_ns
        elected = Elected(name="simulation", scheduler=SCHEDULER, rules=rules.KNOWN)
        self._append(Role.DISPATCHER, elected)
        while (at_ns := self._next_ns()) is not None:
            self._now_ns = max(self._now_ns, -(-at_ns // _TICK_NS) * _TICK_NS)
            while self._ends and self._ends[0][0] <= self._now_ns:
                _, _, run_id, attempt = heapq.heappop(self._ends)
                self._end(run_id, attempt)
            while self._given and self._given[0].at_ns <= self._now_ns:
                self._give(self._given.popleft())
            self._decide()
        return self._timetable

    def _next_ns(self) -> int | None:
        """When something happens next; None: never again."""
        times = (
            self._ends[0][0] if self._ends else None,
            self._given[0].at_ns if self._given else None,
            self._decisions.next_due_ns(),
        )
        return min((at_ns for at_ns in times if at_ns is not None), default=None)

    def _decide(self) -> None:
        epoch = self._state.epoch
        while decided := self._decisions.decide(self._state, self._seq, epoch, self._now_ns, {}):
            for event in decided:
                self._append(Role.DISPATCHER, event)
                if isinstance(event, Dispatched):
                    self._begin(event)

    def _begin(self, grant: Dispatched) -> None:
        started = Started(run_id=grant.run_id, attempt=grant.attempt, pid=0, host=grant.node)
        self._append(Role.AGENT, started, grant.node)
        end_ns = self._now_ns + self._outcome(grant.run_id).duration_ns
        heapq.heappush(self._ends, (end_ns, self._seq, grant.run_id, grant.attempt))

    def _outcome(self, run_id: str) -> Outcome:
        outcomes = self._outcomes[run_id]
        return outcomes[min(self._had.get(run_id, 0), len(outcomes) - 1)]

    def _end(self, run_id: str, attempt: int) -> None:
        run = self._state.runs.get(run_id)
        if run is None or not isinstance(run.phase, Active) or run.phase.attempt != attempt:
            return  # it ended with its node
        outcome = self._outcome(run_id)
        end = msgspec.structs.replace(outcome.end, run_id=run_id, attempt=attempt)
        if outcome.cancelled:
            self._append(Role.GATEWAY, CancelRequested(run_id=run_id))
        self._had[run_id] = self._had.get(run_id, 0) + 1
        self._append(Role.AGENT, end, run.phase.placements[0].node)

    def _give(self, given: Given) -> None:
        """As it would have been: a node lists the attempts that it has here, a retry is of the attempt that ended here."""
        event = given.event
        match event:
            case NodeJoined(node=name, incarnation=incarnation):
                event = msgspec.structs.replace(event, attempts=self._attempts_of(name, incarnation))
            case NodeLeft(node=name, incarnation=incarnation):
                attempts = self._attempts_of(name, incarnation)
                event = msgspec.structs.replace(event, attempts=attempts, upto=self._seq)
            case NodeLost():
                event = msgspec.structs.replace(event, epoch=self._state.epoch)
            case RetryRequested(run_id=run_id):
                self._again[run_id] = event
                self._retry(run_id)
                return
            case _:
                pass
        self._append(given.role, event, given.node)

    def _attempts_of(self, name: str, incarnation: str) -> tuple[object, ...]:
        return tuple(
            run.ref
            for run, _, placement in self._state.attempts_of(name)
            if placement.incarnation == incarnation
        )

    def _retry(self, run_id: str) -> None:
        """At once where the run has ended, else when it has."""
        past = self._past.get(run_id)
        if run_id not in self._state.runs and past is not None and run_id in self._again:
            again = msgspec.structs.replace(self._again.pop(run_id), attempt=past.attempt)
            self._append(Role.GATEWAY, again)

    def _append(self, role: Role, event: Event, node: str | None = None) -> None:
        self._seq += 1
        stored = StoredEvent(self._seq, self._now_ns, event_subject(event, role, node), "", f"{role}", event)
        needed = ended_runs_needed(self._state, stored)
        change = evolve(self._state, stored, {one: self._past[one] for one in needed if one in self._past})
        self._decisions.note(self._state, stored, change)
        self._timetable.observe(self._state, stored, change)
        for run_change in change.runs:
            if isinstance(run_change.after.phase, Ended):
                self._past[run_change.after.run_id] = run_change.after
                self._retry(run_change.after.run_id)
