"""Whether an event that stands in the log in this node's name is one that this node said (docs/protocol.md rule 20).

Owns what is remembered of an attempt for that, and the judgement; knows no file and no NATS.
"""

from __future__ import annotations

from typing import assert_never

import msgspec

from events.codec import NewEvent, StoredEvent
from events.types import ArtifactsHashed, AttemptEnd, Cancelled, Completed, Event, Failed, Started, TimedOut
from trainshed_client.statuses import FailureReason

RUN_EVENTS = ("started", "completed", "failed", "cancelled", "timed_out", "artifacts_hashed")
"""What an agent may append of a run: its guard covers these six literal subjects."""
AttemptEvent = Started | AttemptEnd | ArtifactsHashed


class StrangeEvent(msgspec.Struct, frozen=True):
    """An event in this node's name that this node did not say; ``text``: that for people."""

    seq: int
    stored_ns: int
    text: str


class OwnReports:
    """What this process knows of what the node appended of one attempt.

    ``launched``: this process handed it to a shim, so that no process before it said a word on it. ``running``: its shim
    answers, so that no process of this node can have told its end.
    """

    __slots__ = ("end", "ids", "launched", "pid", "running")

    def __init__(self) -> None:
        self.launched = False
        self.running = False
        self.ids: tuple[str, ...] = ()
        """The ids of the events that this process said, or is about to."""
        self.pid: int | None = None
        self.end: AttemptEnd | None = None

    def appends(self, new: NewEvent) -> None:
        """This process is about to append it."""
        self.ids = (*self.ids, new.id)
        match new.event:
            case Started(pid=pid):
                self.pid = pid
            case AttemptEnd() as end:
                self.end = end
            case _:
                pass


def is_own(stored: StoredEvent, reports: OwnReports) -> bool:
    """Whether this node said it, as far as is known: False only where it certainly did not. It is of that attempt."""
    if stored.id in reports.ids:
        return True
    event = stored.event
    if not isinstance(event, AttemptEvent):
        return True
    if reports.launched:
        return False
    match event:
        case Started(pid=pid):
            return not reports.running or reports.pid is None or pid == reports.pid
        case ArtifactsHashed():
            return not reports.running
        case AttemptEnd():
            return not reports.running and (reports.end is None or _may_be_the_same(event, reports.end))
        case _:
            assert_never(event)


def strange(stored: StoredEvent, reports: OwnReports) -> StrangeEvent:
    """An event that this node did not say, and what it knows instead."""
    event = stored.event
    assert isinstance(event, AttemptEvent)
    if reports.running:
        how = "its worker still runs"
    elif reports.end is not None:
        how = f"by this node's word it ended as {_how(reports.end)}"
    else:
        how = "this node knows no such thing of it"
    text = (
        f"event {stored.seq} ({stored.subject.type} of run {event.run_id} attempt {event.attempt}) stands in this node's "
        f"name, and this node never said it: {how}"
    )
    return StrangeEvent(stored.seq, stored.stored_ns, text)


def is_report_on(event: Event, run_id: str, attempt: int) -> bool:
    """Whether it is an agent's word on that attempt."""
    return isinstance(event, AttemptEvent) and (event.run_id, event.attempt) == (run_id, attempt)


def _may_be_the_same(stored: AttemptEnd, own: AttemptEnd) -> bool:
    """Whether a process before this one may have said the one where this one says the other: exit.json is written once, and
    both read their facts there; from a guess on either side nothing follows."""
    if own.duration_s is None or _is_guess(own) or _is_guess(stored):
        return True
    return _facts(stored) == _facts(own)


def _is_guess(end: AttemptEnd) -> bool:
    """What an agent says where it finds no exit.json, or writes one itself: a cleaner may have taken the folder."""
    match end:
        case Failed(failure_reason=FailureReason.NODE_RECLAIMED, duration_s=None):
            return True
        case Failed(failure_reason=reason):
            return reason in (FailureReason.NOT_STARTED, FailureReason.SHIM_LOST)
        case Cancelled(duration_s=duration_s):
            return duration_s is None
        case _:
            return False


def _facts(end: AttemptEnd) -> tuple[object, ...]:
    """What exit.json says of it, and no release says otherwise."""
    match end:
        case Completed():
            return Completed, end.duration_s
        case Failed(failure_reason=reason) | TimedOut(failure_reason=reason):
            return type(end), end.duration_s, reason, end.exit_code, end.signal
        case Cancelled():
            return Cancelled, end.duration_s, end.exit_code, end.signal
        case _:
            return type(end), end.duration_s


def _how(end: AttemptEnd) -> str:
    """``Failed (exit_code 3)``."""
    name = type(end).__name__
    match end:
        case Failed(failure_reason=reason, exit_code=code, signal=signal):
            number = code if code is not None else signal
            return f"{name} ({reason}{'' if number is None else f' {number}'})"
        case TimedOut(failure_reason=reason):
            return f"{name} ({reason})"
        case _:
            return name
