"""What a run's timeline bears of each event, as the JSON that its rows keep.

Owns which facts of an event go into its entry; the sentence is made of them by whoever shows it. They are part of the
state hash: a change here raises SCHEMA_VERSION.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from events.change import EndedAttempt, RunChange
from events.state import Pending, Run
from events.types import (
    ArtifactsHashed,
    AttemptEnd,
    Cancelled,
    CancelRequested,
    Dispatched,
    Event,
    Failed,
    NodeRemoved,
    RetryRequested,
    Started,
    Stopping,
    Submitted,
    TimedOut,
)
from projections.read_model.rows import fitting
from trainshed_client.provenance import Provenance
from trainshed_client.rendering.timeline import (
    ArtifactsHashedData,
    CancelRequestedData,
    DispatchedData,
    EndData,
    LateEnd,
    NextAttempt,
    RetryRequestedData,
    StartedData,
    StoppingData,
    SubmittedData,
    TimelineData,
)
from trainshed_client.statuses import FailureReason, RunStatus

MAX_TEXT = 300
MAX_NAMED = 3
_ENCODER = msgspec.json.Encoder()
_CANCELLED = RunStatus.CANCELLED  # up to Python 3.11 an enum looks its members up slowly


class _After(msgspec.Struct, frozen=True):
    """What is read of a run config here."""

    after: tuple[str, ...] = ()


def encoded(data: TimelineData) -> msgspec.Raw:
    """An entry's data as its row has it; made once, for the table, the state hash and every answer."""
    return msgspec.Raw(_ENCODER.encode(data))


def submitted(run: Run, event: Submitted) -> TimelineData:
    """By whom, with which PATH, after which runs, and from which folder and commit."""
    provenance = event.provenance or Provenance()
    return SubmittedData(
        after=run.after[:MAX_NAMED],
        after_total=len(run.after),
        by=event.submitted_by,
        caller_path=cut(event.caller_path),
        commit=cut(provenance.commit),
        dirty=provenance.dirty,
        folder=cut(provenance.folder),
    )


def of_event(event: Event, change: RunChange) -> TimelineData | None:
    """Of an event that counted and ended no attempt; None where it has nothing for a reader."""
    match event:
        case Cancelled(failure_reason=FailureReason.DEPENDENCY_FAILED as reason):
            before = change.before
            phase = before.phase if before is not None else None
            failed = phase.failed_dependency if isinstance(phase, Pending) else None
            return EndData(dependency=failed, failure_reason=reason)
        case Dispatched() | Started() | CancelRequested() | RetryRequested() | Stopping() | Cancelled():
            return of_event_alone(event)
        case _:
            return None


def of_event_alone(event: Event) -> TimelineData | None:
    """Of an event about a run as it stands in the log, whatever it did; None for any other.

    Raises msgspec.MsgspecError where a Submitted's config is none.
    """
    match event:
        case Submitted(submitted_by=by):
            after = msgspec.json.decode(event.config, type=_After).after
            return SubmittedData(after=after[:MAX_NAMED], after_total=len(after), by=by)
        case Dispatched(node=node, slots=slots):
            return DispatchedData(node=node, slots=slots)
        case Started(host=host, pid=pid, threads=threads):
            return StartedData(host=host, pid=fitting(pid), threads=threads)
        case CancelRequested(requested_by=who, reason=reason):
            return CancelRequestedData(by=who, reason=cut(reason))
        case RetryRequested(attempt=ended, requested_by=who, reason=reason):
            return RetryRequestedData(attempt=ended + 1, by=who, reason=cut(reason))
        case Stopping(reason=reason, node=node):
            return StoppingData(node=node, reason=cut(reason) or "")
        case Cancelled(failure_reason=FailureReason.DEPENDENCY_FAILED as reason):
            return EndData(failure_reason=reason)
        case AttemptEnd():
            return _how(event)
        case ArtifactsHashed():
            return of_artifacts(event)
        case _:
            return None


def of_end(event: Event, ended: EndedAttempt, change: RunChange, stored_ns: int) -> TimelineData:
    """Of the end of an attempt, with what follows."""
    how, after = _how(event), change.after
    if isinstance(
        event, Failed
    ):  # of which `evolve` may know more than who wrote it (docs/protocol.md rule 9)
        how = replace(how, failure_reason=ended.reason)
    match after.phase:
        case Pending(attempt=attempt, not_before_ns=not_before_ns):
            wait_s = max(0.0, (not_before_ns - stored_ns) / 1e9)
            return replace(how, next=NextAttempt(attempt=attempt, wait_s=wait_s))
        case _ if after.status is _CANCELLED and ended.status is not _CANCELLED:
            return replace(how, cancelled=True)
        case _:
            return how


def of_late(event: AttemptEnd, node: str) -> TimelineData:
    """Of an end that came after the attempt's first."""
    return replace(_how(event), late=LateEnd(attempt=event.attempt, node=node))


def of_artifacts(event: ArtifactsHashed) -> TimelineData:
    """Of what a completed attempt left."""
    found = event.artifacts
    if found is None:
        return ArtifactsHashedData()
    return ArtifactsHashedData(bytes=fitting(found.bytes), count=fitting(found.count))


def _how(event: Event) -> EndData:
    match event:
        case Failed(failure_reason=reason):
            explained = reason in (
                FailureReason.NOT_STARTED,
                FailureReason.SPAWN_ERROR,
                FailureReason.OUT_OF_MEMORY,
            )
            return EndData(
                exit_code=fitting(event.exit_code),
                failure_reason=reason,
                message=cut(event.message) if explained else None,
                signal=fitting(event.signal),
            )
        case TimedOut(failure_reason=reason, timeout_s=timeout_s):
            return EndData(failure_reason=reason, timeout_s=timeout_s)
        case Cancelled(reason=text):
            return EndData(reason=cut(text))
        case NodeRemoved(node=node):
            return EndData(node=node)
        case _:
            return EndData()


def late_result(status: RunStatus, event: AttemptEnd) -> str:
    """What an attempt's ``late_result`` reads: ``COMPLETED``, ``FAILED exit_code 3``."""
    parts: list[str] = [status.value]
    reason: FailureReason | None = getattr(event, "failure_reason", None)
    exit_code: int | None = getattr(event, "exit_code", None)
    number: int | None = getattr(event, "signal", None)
    if reason is not None:
        parts.append(reason.value)
    if number is not None:
        parts.append(str(number) if reason is FailureReason.SIGNAL else f"signal {number}")
    elif exit_code is not None and status is not RunStatus.COMPLETED:
        parts.append(str(exit_code) if reason is FailureReason.EXIT_CODE else f"exit_code {exit_code}")
    return " ".join(parts)


def cut(text: str | None) -> str | None:
    """A text of anybody's, as long as an entry bears it; None for an empty one."""
    if not text:
        return None
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…"
