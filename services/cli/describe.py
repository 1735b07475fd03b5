"""A run's record in words: where it runs, how long it waited and ran, and what it told last or how it ended.

Owns those words and a run's exit code; reads no clock and prints nothing.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from services.cli.text import count, format_bytes, metric, seconds_between
from trainshed_client.errors import ExitCode
from trainshed_client.provenance import Provenance
from trainshed_client.records import (
    AttemptRecord,
    AttemptUsage,
    QueuedRunRecord,
    RunRecord,
    TimelineEntry,
    WaitsFor,
)
from trainshed_client.rendering.durations import MINUTE_S, format_duration
from trainshed_client.rendering.progress import shown_metric, shown_progress, time_left_s
from trainshed_client.rendering.timeline import (
    CancelRequestedData,
    EndData,
    RetryRequestedData,
    SubmittedData,
    by_whom,
    data_of,
    failed_dependency,
)
from trainshed_client.rendering.waiting import brief
from trainshed_client.statuses import CodeSeen, FailureReason, RunStatus, WaitReason

NOTHING = "-"
CODE_CHANGED = "code changed"
_NEVER_STARTED = (FailureReason.SPAWN_ERROR, FailureReason.NOT_STARTED)
_DIGEST_SHOWN = 10

_CLASS = re.compile(r"\A(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:\(\w+\))?: ")
_ERRNO = re.compile(r"\A\[Errno \d+\] ")
_PLACE = re.compile(r"\A(?:[\w./-]+: (?:line )?\d+: |/\S*/(?=[^\s/]+: ))")
_WITHOUT_CODE = frozenset(
    {
        FailureReason.WORKER_TIMEOUT,
        FailureReason.TIME_LIMIT,
        FailureReason.SPAWN_ERROR,
        FailureReason.SHIM_LOST,
        FailureReason.NODE_LOST,
        FailureReason.NODE_RECLAIMED,
        FailureReason.DEPENDENCY_FAILED,
    }
)


def exit_code_of(record: RunRecord) -> int:
    """The exit code of a command that stood for this ended run: the worker's own, else 125."""
    if record.status is RunStatus.COMPLETED:
        return ExitCode.OK
    if record.status is not RunStatus.FAILED or record.failure_reason in _WITHOUT_CODE:
        return ExitCode.ENDED_WITHOUT_CODE
    if record.exit_code:
        return record.exit_code
    if record.signal:
        return 128 + record.signal
    return ExitCode.ENDED_WITHOUT_CODE


def style_of(status: RunStatus) -> str | None:
    """The colour of a status."""
    match status:
        case RunStatus.RUNNING | RunStatus.DISPATCHING:
            return "cyan"
        case RunStatus.COMPLETED:
            return "green"
        case RunStatus.FAILED:
            return "red"
        case RunStatus.CANCELLED:
            return "yellow"
        case _:
            return None


def where(record: RunRecord | AttemptRecord) -> str:
    """Node and slots, as in ``gpu01:0,1``."""
    if record.node is None:
        return NOTHING
    return f"{record.node}:{','.join(map(str, record.slots))}" if record.slots else record.node


def since(record: RunRecord) -> datetime | None:
    """Since when it is what its status says: when it was queued, granted, started, or ended."""
    match record.status:
        case RunStatus.PENDING:
            return record.queued_at or record.submitted_at
        case RunStatus.DISPATCHING | RunStatus.RUNNING:
            return record.started_at or record.dispatched_at
        case _:
            return record.ended_at


def away(record: RunRecord) -> str:
    """That the node where it runs does not answer: ``node lost``; empty where it does."""
    status = record.node_status if isinstance(record, QueuedRunRecord) else None
    return "" if status is None else f"node {status}"


def waited(record: RunRecord, now: str) -> str:
    """All of its time in the queue; none of it while an attempt had it."""
    return format_duration(record.waited_s + (seconds_between(record.queued_at, now) or 0.0))


def ran(record: RunRecord | AttemptRecord, now: str) -> str:
    """As long as its worker ran, by the node's clock; of one that runs, since its start."""
    seconds = record.duration_s if record.ended_at else seconds_between(record.started_at, now)
    return NOTHING if seconds is None else format_duration(seconds)


def reported(
    record: RunRecord | AttemptRecord, *, of: RunRecord | None = None, now: str | None = None
) -> str:
    """What the worker told last: ``24% reward 195.2, 3h left``, ``step 120k reward 195.2``, else its status text.

    ``of``: the run of an attempt. ``now``: tell the time left of what runs.
    """
    run = record if isinstance(record, RunRecord) else of
    done = shown_progress(record, run.max_steps if run else None)
    if record.status is RunStatus.COMPLETED and record.step is not None:
        done = None  # it is done, whatever it said last
    shown = [] if done is None else [f"{int(done * 100)}%"]
    if done is None and record.step is not None:
        shown.append(f"step {count(record.step)}")
    name = shown_metric(record.metrics, record.primary_metric, run.labels if run else None)
    if name is not None:
        shown.append(f"{name} {metric(record.metrics[name])}")
    elif record.status_text:
        shown.append(record.status_text)
    left_s = (
        time_left_s(run, datetime.fromisoformat(now))
        if run is record and now and record.status is RunStatus.RUNNING
        else None
    )
    return " ".join(shown) + ("" if left_s is None else f", {format_duration(left_s)} left")


def reported_whole(record: RunRecord, now: str) -> str:
    """All that the worker told last: ``step 120k of 1M (12%), 7h17m left, reward 195.2, entropy 0.7``."""
    done, gone = shown_progress(record), away(record) or record.status is not RunStatus.RUNNING
    shown = []
    if record.step is not None:
        shown.append(
            f"step {count(record.step)}" + (f" of {count(record.max_steps)}" if record.max_steps else "")
        )
    if done is not None:
        shown.append(f"{int(done * 100)}%")
    if not gone and (left_s := time_left_s(record, datetime.fromisoformat(now))) is not None:
        shown.append(f"{format_duration(left_s)} left")
    first = shown_metric(record.metrics, record.primary_metric, record.labels)
    names = sorted(record.metrics, key=lambda name: name != first)
    shown += [f"{name} {metric(record.metrics[name])}" for name in names]
    shown += [record.status_text] if record.status_text else []
    return ", ".join(shown)


def memory_limit(enforced: bool | None) -> str:
    """Whether a `memory_mb` is kept; empty where nobody says so."""
    return "" if enforced is None else "enforced" if enforced else "accounted only"


def used(usage: AttemptUsage) -> str:
    """What an attempt used of time: ``3m20s of CPU, 1m of GPU``; empty where nothing is known."""
    parts = []
    if usage.cpu_s is not None:
        parts.append(f"{format_duration(usage.cpu_s)} of CPU")
    if usage.gpu_busy_s is not None:
        parts.append(f"{format_duration(usage.gpu_busy_s)} of GPU")
    return ", ".join(parts)


def memory_used(usage: AttemptUsage) -> str:
    """The most memory that an attempt used: ``1.2 GB used at most, 23 GB of GPU memory``; empty where nothing is known."""
    parts = []
    if usage.memory_peak_mb is not None:
        parts.append(f"{format_bytes(usage.memory_peak_mb << 20)} used at most")
    if usage.gpu_memory_peak_mb is not None:
        parts.append(f"{format_bytes(usage.gpu_memory_peak_mb << 20)} of GPU memory")
    return ", ".join(parts)


def ending(record: RunRecord | AttemptRecord) -> str:
    """Why an attempt or a run did not complete: ``exit 1: KeyError: 'lr'``, ``SIGKILL``, ``silent for 5m``."""
    how = _how(record)
    return f"{how}: {record.error}" if how and record.error else how


def _how(record: RunRecord | AttemptRecord) -> str:
    match record.failure_reason:
        case FailureReason.EXIT_CODE:
            return f"exit {record.exit_code}" if record.exit_code is not None else "exit code unknown"
        case FailureReason.SIGNAL:
            return signal_name(record.signal) if record.signal else "ended by a signal"
        case FailureReason.WORKER_TIMEOUT:
            since = record.last_heartbeat_at or record.started_at
            silent = seconds_between(since, record.ended_at)
            return "silent for too long" if silent is None else f"silent for {_whole(silent)}"
        case FailureReason.TIME_LIMIT:
            span = seconds_between(record.started_at, record.ended_at)
            return "time limit" if span is None else f"time limit, after {_whole(span)}"
        case FailureReason.OUT_OF_MEMORY:
            return "out of memory"
        case FailureReason.SPAWN_ERROR:
            return "could not be started"
        case FailureReason.SHIM_LOST:
            return "its shim was lost"
        case FailureReason.NODE_LOST:
            return f"{record.node or 'its node'} was removed"
        case FailureReason.NODE_RECLAIMED:
            return f"{record.node or 'its node'} was taken back"
        case FailureReason.DEPENDENCY_FAILED:
            return "a run it comes after did not complete"
        case FailureReason.NOT_STARTED:
            return "not started"
        case FailureReason.UNSPECIFIED:
            return "for a reason that this release does not know"
        case None:
            return "exit 0" if record.status is RunStatus.COMPLETED else ""


def _whole(seconds: float) -> str:
    """A limit that was reached: the seconds that ending the worker took are no part of it."""
    return format_duration(seconds - seconds % MINUTE_S if seconds > 2 * MINUTE_S else seconds)


def signal_name(number: int) -> str:
    """``SIGKILL`` for 9."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def last(record: RunRecord, now: str | None = None) -> str:
    """The last column of `ls`: what it waits for, what the worker told last, or how it ended.

    ``now``: tell the time left of what runs.
    """
    match record.status:
        case RunStatus.PENDING:
            waits_for: WaitsFor | None = record.waits_for if isinstance(record, QueuedRunRecord) else None
            if record.cancel_requested:
                return "cancel requested"
            return waits_for.text if waits_for else NOTHING
        case RunStatus.DISPATCHING | RunStatus.RUNNING:
            stopping = "stopping" if record.cancel_requested else ""
            gone = away(record)
            return (
                "; ".join(filter(None, (gone, stopping, reported(record, now=None if gone else now))))
                or NOTHING
            )
        case RunStatus.COMPLETED:
            return reported(record) or NOTHING
        case _:
            return ending(record) or NOTHING


def last_of_all(
    record: RunRecord, now: str, shown: Callable[[str], str] = str, *, brief: bool = False
) -> str:
    """`last_in_brief`, and that the code was another when it is so.

    ``brief``: without the time left, of an error what it says alone, of a metric's name the last part.
    """
    if brief and record.error:
        record = msgspec.structs.replace(record, error=gist(record.error))
    if brief and (name := shown_metric(record.metrics, record.primary_metric, record.labels)) and "/" in name:
        only = {name.rpartition("/")[2]: record.metrics[name]}
        record = msgspec.structs.replace(record, metrics=only)
    text = last_in_brief(record, None if brief else now, shown)
    if brief and record.failure_reason is FailureReason.SPAWN_ERROR:
        text = text.replace("could not be started", "not started", 1)
    if record.code is not CodeSeen.CHANGED:
        return text
    return CODE_CHANGED if text == NOTHING else f"{CODE_CHANGED}; {text}"


def gist(error: str) -> str:
    """An error without its class, the script's line or the program's folder, where a sentence is left: ``No module named 'torch'``."""
    left = _ERRNO.sub("", _CLASS.sub("", _PLACE.sub("", error)))
    return left if left.count(" ") > 1 else error


def code_named(code: Mapping[str, Any], read: SubmittedData | Provenance | None) -> str:
    """The code that a config names, and where it was ``read``: ``3f2a91c43f (a part) of commit 9d31e0b29d (dirty)``."""
    shown = str(code.get("sha256"))[:_DIGEST_SHOWN] + (" (a part)" if code.get("partial") else "")
    if read is None or not read.commit:
        return shown
    return f"{shown} of commit {read.commit[:_DIGEST_SHOWN]}{' (dirty)' if read.dirty else ''}"


def code_at_start(seen: CodeSeen | None) -> str:
    """What a node saw of a run's code beside the worker's start."""
    match seen:
        case CodeSeen.SAME:
            return "the same at the start"
        case CodeSeen.CHANGED:
            return "changed before the start"
        case CodeSeen.UNKNOWN | CodeSeen.UNSPECIFIED:
            return "not known whether it was the same at the start"
        case None:
            return ""


def last_in_brief(record: RunRecord, now: str | None, shown: Callable[[str], str] = str) -> str:
    """`last` for a column beside the status, which is narrow: ``for 2 GPUs (1 free)``, ``retry in 12 s``.

    ``shown``: how the id of another run is shown there.
    """
    text = last(record, now)
    if record.status is RunStatus.CANCELLED:
        if record.failure_reason is FailureReason.DEPENDENCY_FAILED:
            return "dependency failed"
        return "cancelled" if text == NOTHING else text
    wait = record.waiting if isinstance(record, QueuedRunRecord) and not record.cancel_requested else None
    if record.status is not RunStatus.PENDING or wait is None or wait.reason is WaitReason.UNSPECIFIED:
        return text  # of another release at most
    return brief(wait, shown)


def why_ended(record: RunRecord, timeline: Sequence[TimelineEntry]) -> str:
    """Why an ended run did not complete, where its timeline knows more than its record; else as `last`."""
    entry = _explaining_entry(record, timeline)
    match None if entry is None else data_of(entry):
        case CancelRequestedData() as asked:
            return f"cancelled {by_whom(asked)}"
        case EndData(failure_reason=FailureReason.DEPENDENCY_FAILED) as end:
            return failed_dependency(end)
        case _:
            return last(record) if entry is None else entry.text


def cancelled_by(record: RunRecord, timeline: Sequence[TimelineEntry]) -> CancelRequestedData | None:
    """The request that a run was cancelled by, if that is why it ended."""
    entry = _explaining_entry(record, timeline)
    data = None if entry is None else data_of(entry)
    return data if isinstance(data, CancelRequestedData) else None


def _explaining_entry(record: RunRecord, timeline: Sequence[TimelineEntry]) -> TimelineEntry | None:
    """The entry of a timeline that knows more of a run's end than its record does."""
    cancelled = record.status is RunStatus.CANCELLED
    by_dependency = cancelled and record.failure_reason is FailureReason.DEPENDENCY_FAILED
    for entry in reversed(timeline):
        match entry.type, data_of(entry):
            case "cancelled", EndData(failure_reason=FailureReason.DEPENDENCY_FAILED) if by_dependency:
                return entry
            case _, CancelRequestedData() if cancelled:
                return entry
            case _, RetryRequestedData():
                return None
            case _:
                pass
    return None


def never_started(attempt: AttemptRecord) -> bool:
    """Whether an attempt ended before its worker began, so that there is no output."""
    return attempt.failure_reason in _NEVER_STARTED


def summary(record: RunRecord, now: str) -> str:
    """One line about an ended run, or one still going: ``FAILED after 3m20s: exit 3``."""
    shown = str(record.status)
    if record.status.ended and record.started_at is not None:
        shown += f" after {ran(record, now)}"
    text = last(record, now)
    shown = shown if text == NOTHING else f"{shown}: {text}"
    return f"{shown}; {CODE_CHANGED}" if record.code is CodeSeen.CHANGED else shown
