"""How events change the rows of runs and attempts, and what they add to a run's timeline.

Owns the meaning of these rows' columns; knows no SQL, and of slots only that an attempt holds or lets go of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from msgspec import Raw

from events.change import Change, EndedAttempt, RunChange
from events.codec import StoredEvent
from events.config import stored_config
from events.run_machine import outcome
from events.state import Ended, Run
from events.types import (
    AttemptEnd,
    AttemptRef,
    Cancelled,
    CancelRequested,
    Dispatched,
    Event,
    LastHeartbeat,
    RetryRequested,
    RunEvent,
    Started,
    Submitted,
)
from projections import wording
from projections.read_model.nodes import hold, let_go
from projections.read_model.rows import (
    EMPTY_LIST,
    EMPTY_OBJECT,
    AttemptRow,
    RunRow,
    fitting,
    plain_number,
    sorted_json,
)
from projections.read_model.times import stored_time
from projections.read_model.working_set import Entries, Entry, RunEntry
from trainshed_client.statuses import FailureReason, RunStatus

_STATUS = {status: status.value for status in RunStatus}
_REASON: Mapping[FailureReason | None, str | None] = {None: None, **{r: r.value for r in FailureReason}}
_NONE_ENDED: dict[str, EndedAttempt] = {}


def runs_changed(entries: Entries, stored: StoredEvent, event: Event, change: Change) -> None:
    """Change the rows of the runs that an event changed, and of the attempt that it is of; tell it."""
    time = stored_time(stored.stored_ns)
    ended = {end.run_id: end for end in change.ended} if change.ended else _NONE_ENDED
    own = stored.subject.id if isinstance(event, RunEvent) else None
    for run_change in change.runs:
        run = run_change.after
        run_id = run.run_id
        if isinstance(event, Submitted) and run_id == own:
            _submitted(entries, stored, event, run, time)
            continue
        entry = entries.runs[run_id]
        entry.run = run
        row = entries.touch_run(entry)
        end = ended.get(run_id)
        if end is not None:
            _attempt_ended(entries, stored, event, end, run_change, row, time)
        elif run_id == own:
            handler = _HANDLERS.get(type(event))
            if handler is not None:
                handler(entries, event, row, run, time)
                row.seq, row.updated_at = stored.seq, time
            entries.tell(row, stored, time, wording.of_event(event, run_change))
        # else: a run that waited for the one that ended. Its columns say nothing of that


def _submitted(entries: Entries, stored: StoredEvent, event: Submitted, run: Run, time: str) -> None:
    run_id = run.run_id
    config = stored_config(event.config)
    needs = run.needs
    row = RunRow(
        attempt=1,
        command=sorted_json(config.command),
        cpus=fitting(needs.cpus),
        digest=event.digest,
        gpus=fitting(needs.gpus),
        labels=sorted_json(config.labels),
        name=run.name,
        priority=fitting(run.priority),
        run_id=run_id,
        seq=stored.seq,
        status="PENDING",
        submit_seq=stored.seq,
        submitted_at=time,
        submitted_by=event.submitted_by,
        updated_at=time,
    )
    entry = entries.runs.get(run_id)
    if entry is None:
        entry = entries.runs[run_id] = RunEntry(row, run)
        entries.touch_run(entry)
    else:  # no guarded writer does this: a run of the same id ended before. It begins afresh
        _forget_attempts(entries, entries.touch_run(entry).submit_seq)
        entry.row, entry.run = row, run
    entry.fresh = True
    entries.tell(row, stored, time, wording.submitted(run, event.submitted_by))


def _forget_attempts(entries: Entries, submit_seq: int) -> None:
    for row in entries.past.attempts(submit_seq):
        entries.attempts.setdefault((submit_seq, row.attempt), Entry(row, None))
    for key, entry in list(entries.attempts.items()):
        if key[0] == submit_seq:
            entries.touch_attempt(key, entry)
            entry.row = None


def _dispatched(entries: Entries, event: Event, row: RunRow, run: Run, time: str) -> None:
    assert isinstance(event, Dispatched)
    slots = sorted_json(event.slots)
    row.status, row.node, row.slots, row.dispatched_at = "DISPATCHING", event.node, slots, time
    attempt = AttemptRow(
        attempt=event.attempt,
        dispatched_at=time,
        node=event.node,
        run_id=event.run_id,
        slots=slots,
        status="DISPATCHING",
    )
    entries.touch_attempt((row.submit_seq, event.attempt), Entry(attempt))
    for index in event.slots:
        hold(entries, event.node, index, event, time)


def _started(entries: Entries, event: Event, row: RunRow, run: Run, time: str) -> None:
    assert isinstance(event, Started)
    pid = fitting(event.pid)
    row.status, row.host, row.pid, row.started_at = "RUNNING", event.host, pid, time
    entry = entries.attempt(row.submit_seq, event.attempt)
    assert entry is not None and entry.row is not None
    entries.touch_attempt((row.submit_seq, event.attempt), entry)
    attempt = entry.row
    attempt.status, attempt.host, attempt.pid, attempt.started_at = "RUNNING", event.host, pid, time


def _cancel_requested(entries: Entries, event: Event, row: RunRow, run: Run, time: str) -> None:
    row.cancel_requested = True


def _retried(entries: Entries, event: Event, row: RunRow, run: Run, time: str) -> None:
    row.cancel_requested = False
    _queued(row, run)


def _cancelled_while_queued(entries: Entries, event: Event, row: RunRow, run: Run, time: str) -> None:
    assert isinstance(run.phase, Ended)
    row.status, row.ended_at = "CANCELLED", time
    row.failure_reason = _REASON[run.phase.reason]


def _queued(row: RunRow, run: Run) -> None:
    """PENDING with the next attempt: the columns of the attempt before are cleared."""
    row.status, row.attempt = "PENDING", run.phase.attempt
    row.node = row.host = row.pid = row.dispatched_at = row.started_at = row.ended_at = None
    row.exit_code = row.signal = row.failure_reason = None
    row.slots = EMPTY_LIST
    _told(row, _NOTHING_TOLD)


def _attempt_ended(
    entries: Entries,
    stored: StoredEvent,
    event: Event,
    end: EndedAttempt,
    change: RunChange,
    row: RunRow,
    time: str,
) -> None:
    run, number = change.after, end.attempt.attempt
    heartbeat = getattr(event, "last_heartbeat", None)
    told = _NOTHING_TOLD if heartbeat is None else Told.of(heartbeat)
    exit_code = fitting(getattr(event, "exit_code", None))
    signal = fitting(getattr(event, "signal", None))
    entry = entries.attempt(row.submit_seq, number)
    assert entry is not None and entry.row is not None
    entries.touch_attempt((row.submit_seq, number), entry)
    attempt = entry.row
    attempt.status, attempt.failure_reason = _STATUS[end.status], _REASON[end.reason]
    attempt.ended_at, attempt.exit_code, attempt.signal = time, exit_code, signal
    _told(attempt, told)
    if isinstance(run.phase, Ended):
        row.status, row.failure_reason = _STATUS[run.phase.status], _REASON[run.phase.reason]
        row.ended_at, row.exit_code, row.signal = time, exit_code, signal
        _told(row, told)
    else:
        _queued(row, run)
    row.seq, row.updated_at = stored.seq, time
    for index in end.attempt.slots:
        let_go(entries, end.attempt.node, index, run.run_id, number, time)
    text = wording.end_of_attempt(event, end, change, stored.stored_ns)
    entries.tell(row, stored, time, text)


def late(entries: Entries, stored: StoredEvent, event: AttemptEnd, ref: AttemptRef) -> None:
    """An end after the attempt's first: kept with it, and told, if it is of the node that had the attempt."""
    run = entries.runs.get(ref.run_id)
    if run is None or run.row is None:
        return
    entry = entries.attempt(run.row.submit_seq, ref.attempt)
    if entry is None or entry.row is None or entry.row.node != stored.subject.node:
        return
    entries.touch_attempt((run.row.submit_seq, ref.attempt), entry)
    entry.row.late_result = wording.late_result(outcome(event)[0], event)
    time = stored_time(stored.stored_ns)
    entries.tell(run.row, stored, time, wording.late(event, stored.subject.node))


_HANDLERS: Mapping[type[Event], Callable[[Entries, Event, RunRow, Run, str], None]] = {
    Dispatched: _dispatched,
    Started: _started,
    CancelRequested: _cancel_requested,
    RetryRequested: _retried,
    Cancelled: _cancelled_while_queued,
}


class Told(NamedTuple):
    """A worker's last words as columns have them."""

    ready_at: str | None
    last_heartbeat_at: str | None
    status_text: str | None
    step: int | float | None
    progress: float | None
    metrics: Raw

    @classmethod
    def of(cls, last: LastHeartbeat) -> Told:
        """What an end carries."""
        progress = (
            None if last.progress is None else last.progress + 0.0
        )  # no database keeps the sign of -0.0
        return cls(
            last.ready_at,
            last.last_heartbeat_at,
            last.status_text,
            plain_number(last.step),
            progress,
            sorted_json(last.metrics),
        )


_NOTHING_TOLD = Told(None, None, None, None, None, EMPTY_OBJECT)


def _told(row: RunRow | AttemptRow, told: Told) -> None:
    """Set for good what the worker told last (nothing: cleared)."""
    row.ready_at, row.last_heartbeat_at, row.status_text, row.step, row.progress, row.metrics = told
