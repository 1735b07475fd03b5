"""What a run's timeline says of each event, in plain words.

Owns the sentences; knows neither rows nor SQL. They are part of the state hash: a change here raises SCHEMA_VERSION.
"""

from __future__ import annotations

from events.change import EndedAttempt, RunChange
from events.state import Pending, Run
from events.types import (
    AttemptEnd,
    Cancelled,
    CancelRequested,
    Completed,
    Dispatched,
    Event,
    Failed,
    NodeRemoved,
    RetryRequested,
    Started,
    Stopping,
    TimedOut,
)
from trainshed_client.statuses import FailureReason, RunStatus

MAX_TEXT = 300


def submitted(run: Run, submitted_by: str) -> str:
    """``submitted by local, after run abc``."""
    after = f", after {_runs(run.after)}" if run.after else ""
    return f"submitted by {submitted_by}{after}"


def of_event(event: Event, change: RunChange) -> str | None:
    """The sentence for an event that counted and ended no attempt; None where it tells a reader nothing."""
    match event:
        case Dispatched(node=node, slots=slots):
            if not slots:
                return f"dispatched to {node}"
            word = "slot" if len(slots) == 1 else "slots"
            return f"dispatched to {node}, {word} {','.join(map(str, slots))}"
        case Started(host=host, pid=pid):
            return f"started on {host}, pid {pid}"
        case CancelRequested(requested_by=who, reason=reason):
            return f"cancel requested by {who}{_because(reason)}"
        case RetryRequested(requested_by=who, reason=reason):
            return f"retry requested by {who}{_because(reason)}: attempt {change.after.attempt} is queued"
        case Stopping(reason=reason, node=node):
            return f"{node} is told to stop it ({_cut(reason)})"
        case Cancelled(failure_reason=FailureReason.DEPENDENCY_FAILED):
            before = change.before
            phase = before.phase if before is not None else None
            failed = phase.failed_dependency if isinstance(phase, Pending) else None
            return (
                f"cancelled: {_run(failed)} did not complete" if failed else "cancelled: a dependency failed"
            )
        case Cancelled(reason=reason):
            return f"cancelled{_because(reason)}"
        case _:
            return None


def end_of_attempt(event: Event, ended: EndedAttempt, change: RunChange, stored_ns: int) -> str:
    """The sentence for the end of an attempt, with what follows: ``exit 3, queued again: attempt 2 in 10 s``."""
    text = f"node {event.node} was removed" if isinstance(event, NodeRemoved) else how_it_ended(event)
    match change.after.phase:
        case Pending(attempt=attempt, not_before_ns=not_before_ns):
            wait_s = (not_before_ns - stored_ns) / 1e9
            return f"{text}, queued again: attempt {attempt}{f' in {wait_s:g} s' if wait_s > 0 else ''}"
        case _ if change.after.status is RunStatus.CANCELLED and ended.status is not RunStatus.CANCELLED:
            return f"{text}, cancelled as requested"
        case _:
            return text


def how_it_ended(event: Event) -> str:
    """``exit 3``, ``killed by signal 9``, ``silent for 300 s`` ..."""
    match event:
        case Completed():
            return "completed"
        case TimedOut(failure_reason=FailureReason.TIME_LIMIT, timeout_s=limit):
            return f"stopped at its time limit{_of_seconds(limit)}"
        case TimedOut(failure_reason=FailureReason.WORKER_TIMEOUT, timeout_s=limit):
            return "silent for too long" if limit is None else f"silent for {limit:g} s"
        case Failed(failure_reason=FailureReason.NOT_STARTED, message=message):
            return f"not started{_because(message)}"
        case Failed(failure_reason=FailureReason.SPAWN_ERROR, message=message):
            return f"could not be started{_because(message)}"
        case Failed(failure_reason=FailureReason.SHIM_LOST):
            return "its shim was lost"
        case Failed(failure_reason=FailureReason.NODE_RECLAIMED):
            return "its node was taken back"
        case Failed(signal=int() as number):
            return f"killed by signal {number}"
        case Failed(exit_code=int() as code):
            return f"exit {code}"
        case Cancelled(reason=reason):
            return f"cancelled{_because(reason)}"
        case Failed(failure_reason=reason) | TimedOut(failure_reason=reason):
            return f"failed ({reason.value})"
        case _:
            return "ended"


def late(event: AttemptEnd, node: str) -> str:
    """The sentence for an end that came after the attempt's first."""
    return f"too late to count: {node} reported attempt {event.attempt} as {how_it_ended(event)}"


def late_result(status: RunStatus, event: AttemptEnd) -> str:
    """What an attempt's ``late_result`` says: ``COMPLETED``, ``FAILED exit_code 3``."""
    words: list[str] = [status.value]
    reason: FailureReason | None = getattr(event, "failure_reason", None)
    exit_code: int | None = getattr(event, "exit_code", None)
    number: int | None = getattr(event, "signal", None)
    if reason is not None:
        words.append(reason.value)
    if number is not None:
        words.append(str(number) if reason is FailureReason.SIGNAL else f"signal {number}")
    elif exit_code is not None and status is not RunStatus.COMPLETED:
        words.append(str(exit_code) if reason is FailureReason.EXIT_CODE else f"exit_code {exit_code}")
    return " ".join(words)


def _run(run_id: str | None) -> str:
    return f"run {run_id}"


def _runs(run_ids: tuple[str, ...]) -> str:
    return (
        _run(run_ids[0]) if len(run_ids) == 1 else f"runs {', '.join(run_ids[:3])}{_more(len(run_ids) - 3)}"
    )


def _more(count: int) -> str:
    return f" and {count} more" if count > 0 else ""


def _because(reason: str | None) -> str:
    return f": {_cut(reason)}" if reason else ""


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…"


def _of_seconds(seconds: float | None) -> str:
    return "" if seconds is None else f" of {seconds:g} s"
