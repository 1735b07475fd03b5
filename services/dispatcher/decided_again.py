"""A recorded log's grants decided again, each from the view that it names: by what its dispatcher had folded and had sent.

Owns a fold that lags behind the log as each decision's did, and what comes out otherwise; knows no clock and no table. Pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from events.change import Change
from events.codec import StoredEvent
from events.evolve import ended_runs_needed, evolve
from events.state import NO_HISTORY, Run, State
from events.times import nanoseconds
from events.types import Dispatched, Elected, Event
from services.dispatcher.decisions import Decisions
from services.scheduling.scheduler import SCHEDULER

MAX_DIFFERENCES = 100
MOST_BEHIND = 10_000
"""So many events a decision's view may lie behind its grant: these are in memory."""
UNCHECKED = "another scheduler or other settings had made them, or their view lies too far back"
"""Why grants are not decided again."""
Folded = Callable[[State, StoredEvent, Change], None]


class Difference(NamedTuple):
    """A recorded grant that is decided otherwise now, and how."""

    seq: int
    recorded: Dispatched
    otherwise: str

    def __str__(self) -> str:
        return f"{_grant(self.recorded, 'was granted')}; {self.otherwise}"


class DecidedAgain(msgspec.Struct):
    """How many grants were decided again and came out the same or otherwise, and how many could not be: another scheduler
    or other settings had made them, or their view lies too far back. The first hundred differences."""

    same: int = 0
    different: int = 0
    unchecked: int = 0
    differences: list[Difference] = msgspec.field(default_factory=list)


class GrantsAgain:
    """Give it each event of a log in order (`take`). ``folded`` is told of each as the lagging fold comes to it."""

    def __init__(self, folded: Folded | None = None) -> None:
        self.result = DecidedAgain()
        self._folded = folded
        self._state = State()
        self._behind: deque[tuple[StoredEvent, Mapping[str, Run]]] = deque()
        self._sent: deque[StoredEvent] = deque()
        """Those of them that are dispatchers'."""
        self._ours: set[int] = set()
        """The epochs of this very scheduler."""
        self._decisions: Decisions | None = None
        self._epoch = 0
        self._view = (0, 0)
        self._decided: deque[Event] = deque()

    def take(self, stored: StoredEvent, history: Mapping[str, Run] = NO_HISTORY) -> None:
        """The next event, with the ended runs that it refers to. What is not folded yet when a grant comes was not seen by
        the decision for it."""
        event = stored.event
        if isinstance(event, Elected):
            if event.scheduler == SCHEDULER:
                self._ours.add(stored.seq)
        elif isinstance(event, Dispatched):
            self._decide_again(stored.seq, event)
        self._behind.append((stored, history))
        if getattr(event, "epoch", None) is not None:
            self._sent.append(stored)
        while len(self._behind) > MOST_BEHIND:
            self._fold()

    def close(self) -> None:
        """That was the last event."""
        while self._behind:
            self._fold()

    def _decide_again(self, seq: int, grant: Dispatched) -> None:
        if grant.epoch not in self._ours:
            self.result.unchecked += 1
            return
        now_ns = _nanoseconds(grant.view.now)
        if now_ns is None or not grant.epoch <= grant.view.seq < seq:
            self._differs(
                seq, grant, f"no dispatcher of its epoch had the view that it names, {_view(grant)}"
            )
            return
        while self._behind and self._behind[0][0].seq <= grant.view.seq:
            self._fold()
        if self._state.seq > grant.view.seq:
            if self._epoch == grant.epoch and grant.view.seq < self._view[0]:
                self._differs(seq, grant, f"its view, {_view(grant)}, lies before that of a grant before it")
            else:
                self.result.unchecked += 1
            return
        if self._state.epoch != grant.epoch:
            self._differs(seq, grant, f"by its view, {_view(grant)}, another dispatcher was elected")
            return
        view = (grant.view.seq, now_ns)
        # many grants may bear one view: more than one decision makes, where the clock stands still
        if self._epoch != grant.epoch or view != self._view or not self._decided:
            self._decided = deque(self._decisions_at(view, grant.epoch))
        self._compare(seq, grant)

    def _compare(self, seq: int, grant: Dispatched) -> None:
        decided = self._decided[0] if self._decided else None
        places = [place for place, event in enumerate(self._decided) if _alike(event, grant)]
        if places:
            for _ in range(places[0] + 1):
                self._decided.popleft()
        if places[:1] == [0]:
            self.result.same += 1
        else:
            self._differs(seq, grant, f"decided again from its view {_decision_text(decided)}")

    def _differs(self, seq: int, grant: Dispatched, otherwise: str) -> None:
        self.result.different += 1
        if len(self.result.differences) < MAX_DIFFERENCES:
            self.result.differences.append(Difference(seq, grant, otherwise))

    def _decisions_at(self, view: tuple[int, int], epoch: int) -> list[Event]:
        """What is decided with a view (sequence, ns since 1970). A dispatcher's clock never goes back within an epoch: where it
        does, one of the views was made up, and those that follow are not to suffer from it."""
        seq, now_ns = view
        if self._decisions is None or self._epoch != epoch or now_ns < self._view[1]:
            self._decisions = Decisions()
            self._decisions.rebuild(self._state)
        self._epoch, self._view = epoch, view
        in_flight = self._decisions.in_flight
        in_flight.clear()
        for stored in self._sent:
            if getattr(stored.event, "epoch", None) == epoch:
                in_flight.add(stored.event).seq = stored.seq
        return self._decisions.decide(self._state, seq, epoch, now_ns, {})

    def _fold(self) -> None:
        stored, history = self._behind.popleft()
        if self._sent and self._sent[0] is stored:
            self._sent.popleft()
        needed = ended_runs_needed(self._state, stored)
        past = {one: history[one] for one in needed if one in history}
        change = evolve(self._state, stored, past)
        if self._decisions is not None:
            self._decisions.note(self._state, stored, change)
        if self._folded is not None:
            self._folded(self._state, stored, change)


def _nanoseconds(text: str) -> int | None:
    try:
        return nanoseconds(text)
    except (ValueError, OverflowError):
        return None


def _alike(decided: Event, recorded: Dispatched) -> bool:
    """Of one run and attempt, on one node, with the same slots, CPUs and memory."""
    return isinstance(decided, Dispatched) and _placed(decided) == _placed(recorded)


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


def _decision_text(decided: Event | None) -> str:
    match decided:
        case None:
            return "nothing is granted"
        case Dispatched():
            return _grant(decided, "is granted")
        case _:
            about = getattr(decided, "run_id", None) or getattr(decided, "node", "")
            return f"nothing is granted before {type(decided).__name__} of {about}"


def _view(grant: Dispatched) -> str:
    return f"{grant.view.seq} at {grant.view.now!r:.40}"


def _grant(grant: Dispatched, verb: str) -> str:
    slots = f"slots {', '.join(map(str, grant.slots))}" if grant.slots else "no slots"
    return (
        f"run {grant.run_id} attempt {grant.attempt} {verb} {slots}, {grant.cpus} CPUs and {grant.memory_mb} MB of "
        f"{grant.node} ({grant.incarnation})"
    )
