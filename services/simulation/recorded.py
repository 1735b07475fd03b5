"""A recorded log: who waited and ran when, what happens in it whatever is decided, and each of its grants decided again.

Owns what a simulation needs of it; knows no file, no node that was never there, and not how grants are decided again. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from events.change import Change
from events.codec import StoredEvent, Unreadable
from events.config import stored_config
from events.state import Ended, Run, State
from events.types import (
    Cancelled,
    Completed,
    Failed,
    NodeEvent,
    NodeJoined,
    RetryRequested,
    Submitted,
    TimedOut,
)
from services.dispatcher.decided_again import DecidedAgain, GrantsAgain
from services.simulation.timetable import Job, Span, Timetable
from services.simulation.world import Given, Outcome
from trainshed_client.statuses import AtFault, FailureReason
from trainshed_client.subjects import Role

_ALIKE = ("phase", "needs", "retry", "caller_path", "code_folder", "submitter")


class Recording:
    """Give it each message of a log in order (`take`), then `close` it. ``changed``: something will be, and what happens in
    any case is kept for that."""

    def __init__(self, *, changed: bool = True) -> None:
        self.timetable = Timetable()
        self.given: list[Given] = []
        self.joined: list[NodeJoined] = []
        self._changed = changed
        self._past: dict[str, Run] = {}
        self._shared: dict[object, object] = {}
        self._grants = GrantsAgain(self._folded)

    @property
    def again(self) -> DecidedAgain:
        """How the grants came out that were decided again."""
        return self._grants.result

    def take(self, stored: StoredEvent | Unreadable) -> None:
        """The next message."""
        if isinstance(stored, StoredEvent):
            self._grants.take(stored, self._past)  # which is as far as the fold is

    def close(self) -> None:
        """That was the last message."""
        self._grants.close()

    def _folded(self, state: State, stored: StoredEvent, change: Change) -> None:
        first = isinstance(stored.event, Submitted) and stored.event.run_id not in self.timetable.jobs
        self.timetable.observe(state, stored, change)
        for run_change in change.runs:
            if isinstance(run_change.after.phase, Ended):
                self._past[run_change.after.run_id] = self._slim(run_change.after)
        if self._changed:
            self._keep(stored, change, first=first)

    def _slim(self, run: Run) -> Run:
        """The same, sharing what many have alike: a long log has very many that ended."""
        kept = {name: getattr(run, name) for name in _ALIKE}
        return msgspec.structs.replace(
            run, **{name: self._shared.setdefault(value, value) for name, value in kept.items()}
        )

    def _keep(self, stored: StoredEvent, change: Change, *, first: bool) -> None:
        """What happened from outside; grants, starts and ends are the simulation's to make."""
        event, counts = stored.event, bool(change.runs or change.nodes)
        if isinstance(event, NodeJoined):
            self.joined.append(event)
        if first and isinstance(event, Submitted) and change.runs:
            # as it was decoded it holds on to the whole message
            event = msgspec.structs.replace(event, config=msgspec.Raw(change.runs[0].after.config))
        if counts and (first or isinstance(event, NodeEvent | RetryRequested)):
            role = Role(stored.subject.role)
            node = stored.subject.node if role is Role.AGENT else None
            self.given.append(Given(stored.stored_ns, role, event, node))


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
