"""How events change the rows of runs and attempts, and what they add to a run's timeline.

Owns the meaning of these rows' columns; knows no SQL, and of slots only that an attempt holds or lets go of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import Raw

from events.change import Change, EndedAttempt, RunChange
from events.codec import StoredEvent
from events.config import RunConfig
from events.run_machine import outcome
from events.state import Ended, Run
from events.types import (
    Artifacts,
    ArtifactsHashed,
    AttemptEnd,
    Cancelled,
    CancelRequested,
    Completed,
    Dispatched,
    Event,
    RetryRequested,
    RunEvent,
    Started,
    Submitted,
)
from projections.read_model import timeline
from projections.read_model.error_line import error_of
from projections.read_model.nodes import hold, let_go
from projections.read_model.reports import NO_REPORT, ReportColumns
from projections.read_model.rows import (
    EMPTY_LIST,
    EMPTY_OBJECT,
    NULL,
    AttemptRow,
    RunRow,
    fitting,
    sorted_json,
)
from projections.read_model.times import stored_ns, stored_time
from projections.read_model.working_set import WorkingAttempt, WorkingRun, WorkingSet
from trainshed_client.provenance import Provenance
from trainshed_client.records import ArtifactsLeft, AttemptUsage, SubmittedCode
from trainshed_client.statuses import FailureReason, RunStatus

_STATUS = {status: status.value for status in RunStatus}
_REASON: Mapping[FailureReason | None, str | None] = {None: None, **{r: r.value for r in FailureReason}}
_NONE_ENDED: dict[str, EndedAttempt] = {}


def runs_changed(working: WorkingSet, stored: StoredEvent, event: Event, change: Change) -> None:
    """Change the rows of the runs that an event changed, and of the attempt that it is of, and add to timelines."""
    time = stored_time(stored.stored_ns)
    ended = {end.run_id: end for end in change.ended} if change.ended else _NONE_ENDED
    own = stored.subject.id if isinstance(event, RunEvent) else None
    for run_change in change.runs:
        run = run_change.after
        run_id = run.run_id
        if isinstance(event, Submitted) and run_id == own:
            _submitted(working, stored, event, change.config, run, time)
            continue
        item = working.runs[run_id]
        row = working.touch_run(item)
        item.run = run
        end = ended.get(run_id)
        if end is not None:
            _attempt_ended(working, stored, event, end, run_change, row, time)
        elif run_id == own:
            handler = _HANDLERS.get(type(event))
            if handler is not None:
                handler(working, event, row, run, time)
                row.seq, row.updated_at = stored.seq, time
            working.add_to_timeline(row, stored, time, timeline.of_event(event, run_change))
        # else: a run that waited for the one that ended. None of its columns changes


def _submitted(
    working: WorkingSet, stored: StoredEvent, event: Submitted, config: RunConfig | None, run: Run, time: str
) -> None:
    assert config is not None
    run_id = run.run_id
    needs = run.needs
    row = RunRow(
        attempt=1,
        command=sorted_json(config.command),
        cpus=fitting(needs.cpus),
        digest=event.digest,
        gpus=fitting(needs.gpus),
        labels=sorted_json(config.labels),
        max_steps=fitting(config.schedule.max_steps),
        name=run.name,
        named=event.named if event.named is not None else config.run_name is not None,
        priority=fitting(run.priority),
        queued_at=time,
        run_id=run_id,
        seq=stored.seq,
        status="PENDING",
        submit_seq=stored.seq,
        submitted_at=time,
        submitted_by=event.submitted_by,
        submitted_code=_code(config, event),
        updated_at=time,
    )
    item = working.runs.get(run_id)
    if item is None:
        item = working.runs[run_id] = WorkingRun(row, run)
        working.touch_run(item)
    else:  # no guarded writer does this: a run of the same id ended before. It begins afresh
        _forget_attempts(working, working.touch_run(item).submit_seq)
        item.row, item.run = row, run
    item.fresh = True
    working.add_to_timeline(row, stored, time, timeline.submitted(run, event))


def _forget_attempts(working: WorkingSet, submit_seq: int) -> None:
    for row, since in working.committed.attempts(submit_seq):
        working.attempts.setdefault((submit_seq, row.attempt), WorkingAttempt(row, since, None))
    for key, item in list(working.attempts.items()):
        if key[0] == submit_seq:
            working.touch_attempt(key, item)
            item.row = None


def _dispatched(working: WorkingSet, event: Event, row: RunRow, run: Run, time: str) -> None:
    assert isinstance(event, Dispatched)
    slots = sorted_json(event.slots)
    _leave_queue(row, time)
    row.status, row.node, row.slots, row.dispatched_at = "DISPATCHING", event.node, slots, time
    attempt = AttemptRow(
        attempt=event.attempt,
        dispatched_at=time,
        node=event.node,
        run_id=event.run_id,
        slots=slots,
        status="DISPATCHING",
    )
    working.touch_attempt((row.submit_seq, event.attempt), WorkingAttempt(attempt))
    for index in event.slots:
        hold(working, event.node, index, event, time)


def _started(working: WorkingSet, event: Event, row: RunRow, run: Run, time: str) -> None:
    assert isinstance(event, Started)
    pid = fitting(event.pid)
    row.status, row.host, row.pid, row.started_at = "RUNNING", event.host, pid, time
    item = working.attempt(row.submit_seq, event.attempt)
    assert item is not None and item.row is not None
    working.touch_attempt((row.submit_seq, event.attempt), item)
    attempt = item.row
    attempt.status, attempt.host, attempt.pid, attempt.started_at = "RUNNING", event.host, pid, time
    row.folder = attempt.folder = event.folder
    row.memory_enforced = attempt.memory_enforced = event.memory_enforced


def _cancel_requested(working: WorkingSet, event: Event, row: RunRow, run: Run, time: str) -> None:
    row.cancel_requested = True


def _retried(working: WorkingSet, event: Event, row: RunRow, run: Run, time: str) -> None:
    row.cancel_requested = False
    _queued(row, run, time)


def _cancelled_while_queued(working: WorkingSet, event: Event, row: RunRow, run: Run, time: str) -> None:
    assert isinstance(run.phase, Ended)
    _leave_queue(row, time)
    row.status, row.ended_at = "CANCELLED", time
    row.failure_reason = _REASON[run.phase.reason]


def _queued(row: RunRow, run: Run, time: str) -> None:
    """PENDING with the next attempt: the columns of the attempt before are cleared."""
    row.status, row.attempt, row.queued_at = "PENDING", run.phase.attempt, time
    row.node = row.host = row.pid = row.dispatched_at = row.started_at = row.ended_at = None
    row.duration_s = row.exit_code = row.signal = row.failure_reason = row.error = row.code = None
    row.memory_enforced = row.folder = None
    row.artifacts = NULL
    row.slots, row.usage = EMPTY_LIST, EMPTY_OBJECT
    NO_REPORT.set_in(row)


def _leave_queue(row: RunRow, time: str) -> None:
    if row.queued_at is not None:
        waited_ns = stored_ns(time) - stored_ns(row.queued_at)
        row.waited_s = round(row.waited_s + max(0, waited_ns) / 1e9, 6)
        row.queued_at = None


def _attempt_ended(
    working: WorkingSet,
    stored: StoredEvent,
    event: Event,
    end: EndedAttempt,
    change: RunChange,
    row: RunRow,
    time: str,
) -> None:
    run, number = change.after, end.attempt.attempt
    heartbeat = getattr(event, "last_heartbeat", None)
    report = NO_REPORT if heartbeat is None else ReportColumns.of(heartbeat)
    usage = _usage(event)
    exit_code = fitting(getattr(event, "exit_code", None))
    signal = fitting(getattr(event, "signal", None))
    duration_s = getattr(event, "duration_s", None)
    code = event.code if isinstance(event, AttemptEnd) else None
    artifacts = _left(event.artifacts) if isinstance(event, Completed) else NULL
    error = error_of(event)
    item = working.attempt(row.submit_seq, number)
    assert item is not None and item.row is not None
    working.touch_attempt((row.submit_seq, number), item)
    attempt = item.row
    attempt.status, attempt.failure_reason = _STATUS[end.status], _REASON[end.reason]
    attempt.ended_at, attempt.exit_code, attempt.signal = time, exit_code, signal
    attempt.error = error
    attempt.gpu_memory_mb = None
    attempt.duration_s = duration_s
    attempt.usage = usage
    attempt.at_fault = getattr(event, "at_fault", None)
    attempt.code = code
    attempt.artifacts = artifacts
    report.set_in(attempt)
    if isinstance(run.phase, Ended):
        row.status, row.failure_reason = _STATUS[run.phase.status], _REASON[run.phase.reason]
        row.ended_at, row.exit_code, row.signal = time, exit_code, signal
        row.error = error
        row.duration_s = duration_s
        row.usage = usage
        row.code = code
        row.artifacts = artifacts
        report.set_in(row)
    else:
        _queued(row, run, time)
    row.seq, row.updated_at = stored.seq, time
    for placement in end.attempt.placements:
        for index in placement.slots:
            let_go(working, placement.node, index, run.run_id, number, time)
    working.add_to_timeline(row, stored, time, timeline.of_end(event, end, change, stored.stored_ns))


def _usage(event: Event) -> Raw:
    """What an end says that was used, each number one that every database holds."""
    used = event.usage if isinstance(event, AttemptEnd) else None
    if used is None:
        return EMPTY_OBJECT
    return sorted_json(
        AttemptUsage(
            cpu_s=used.cpu_s,
            gpu_busy_s=used.gpu_busy_s,
            gpu_memory_peak_mb=fitting(used.gpu_memory_peak_mb),
            memory_peak_mb=fitting(used.memory_peak_mb),
        )
    )


def late(working: WorkingSet, stored: StoredEvent, event: AttemptEnd) -> None:
    """An end after the attempt's first: kept with it and in the timeline, if it is of the node that had the attempt."""
    found = _had(working, stored, event)
    if found is None:
        return
    run, item = found
    assert item.row is not None
    working.touch_attempt((run.submit_seq, event.attempt), item)
    item.row.late_result = timeline.late_result(outcome(event)[0], event)
    time = stored_time(stored.stored_ns)
    working.add_to_timeline(run, stored, time, timeline.of_late(event, stored.subject.node))


def artifacts_hashed(working: WorkingSet, stored: StoredEvent, event: ArtifactsHashed) -> None:
    """In the timeline, if it is of the node that had the attempt; and in the rows where it is not what its end said."""
    found = _had(working, stored, event)
    if found is None:
        return
    run, item = found
    time = stored_time(stored.stored_ns)
    working.add_to_timeline(run, stored, time, timeline.of_artifacts(event))
    artifacts, attempt = _left(event.artifacts), item.row
    assert attempt is not None
    if attempt.status != "COMPLETED" or attempt.artifacts == artifacts:
        return
    working.touch_attempt((run.submit_seq, event.attempt), item)
    attempt.artifacts = artifacts
    if run.attempt == event.attempt:
        row = working.touch_run(working.runs[event.run_id])
        row.artifacts, row.seq, row.updated_at = artifacts, stored.seq, time


def _left(artifacts: Artifacts | None) -> Raw:
    """What an event says that an attempt left."""
    if artifacts is None:
        return NULL
    count, size = fitting(artifacts.count), fitting(artifacts.bytes)
    if count is None or size is None:
        return NULL
    return sorted_json(ArtifactsLeft(bytes=size, count=count, partial=artifacts.partial))


def _code(config: RunConfig, event: Submitted) -> Raw:
    """Of what code the run is."""
    if config.code is None:
        return NULL
    read = event.provenance or Provenance()
    return sorted_json(
        SubmittedCode(
            commit=timeline.cut(read.commit),
            dirty=read.dirty,
            folder=timeline.cut(read.folder),
            partial=config.code.partial,
            sha256=config.code.sha256,
        )
    )


def _had(
    working: WorkingSet, stored: StoredEvent, event: AttemptEnd | ArtifactsHashed
) -> tuple[RunRow, WorkingAttempt] | None:
    """The rows of the event's run and attempt; None where another node had it, or none."""
    run = working.runs.get(event.run_id)
    if run is None or run.row is None:
        return None
    item = working.attempt(run.row.submit_seq, event.attempt)
    if item is None or item.row is None or item.row.node != stored.subject.node:
        return None
    return run.row, item


_HANDLERS: Mapping[type[Event], Callable[[WorkingSet, Event, RunRow, Run, str], None]] = {
    Dispatched: _dispatched,
    Started: _started,
    CancelRequested: _cancel_requested,
    RetryRequested: _retried,
    Cancelled: _cancelled_while_queued,
}
