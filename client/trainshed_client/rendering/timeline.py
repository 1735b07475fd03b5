"""A run's timeline in words: the one place that makes a sentence of what an entry bears.

Owns the data of each type of entry and its sentence; knows neither how an entry comes about nor who shows it.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from trainshed_client.records import TimelineEntry
from trainshed_client.rendering.durations import in_a_sentence
from trainshed_client.statuses import FailureReason

# Fields stand in alphabetical order: an encoder writes them as one that sorts would, and the state hash is made of that.


class SubmittedData(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Who submitted the run with which PATH, the first of the runs that it comes after, and where its code stood in git."""

    after: tuple[str, ...] = ()
    after_total: int = 0
    by: str
    caller_path: str | None = None
    commit: str | None = None
    dirty: bool | None = None
    folder: str | None = None


class DispatchedData(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Where the attempt was granted."""

    node: str
    slots: tuple[int, ...] = ()


class StartedData(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Where the worker runs, and how many threads its libraries were told to start."""

    host: str
    pid: int | None = None
    threads: int | None = None


class CancelRequestedData(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Who asked for the run's end, and why."""

    by: str
    reason: str | None = None


class RetryRequestedData(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Who asked for another attempt, and why; ``attempt`` is its number."""

    attempt: int
    by: str
    reason: str | None = None


class StoppingData(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Which node is to stop the attempt, and why."""

    node: str
    reason: str


class NextAttempt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What follows an end where the run was queued again."""

    attempt: int
    wait_s: float = 0.0


class LateEnd(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """That an end came after the attempt's first and did not count: of which attempt, reported by which node."""

    attempt: int
    node: str


class EndData(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """How an attempt ended, or a run that was queued; the entry's type is the way (``failed``, ``timed_out`` ...).

    ``cancelled``: its run ends CANCELLED, as was asked for, however the attempt ended. ``dependency``: the run that did
    not complete. ``node``: the one that was removed.
    """

    cancelled: bool = False
    dependency: str | None = None
    exit_code: int | None = None
    failure_reason: FailureReason | None = None
    late: LateEnd | None = None
    message: str | None = None
    next: NextAttempt | None = None
    node: str | None = None
    reason: str | None = None
    signal: int | None = None
    timeout_s: float | None = None


class ArtifactsHashedData(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """How many artifacts a completed attempt left, and their bytes; None: they were gone."""

    bytes: int | None = None
    count: int | None = None


TimelineData = (
    SubmittedData
    | DispatchedData
    | StartedData
    | CancelRequestedData
    | RetryRequestedData
    | StoppingData
    | EndData
    | ArtifactsHashedData
)
DATA_TYPES: Mapping[str, type[TimelineData]] = {
    "submitted": SubmittedData,
    "dispatched": DispatchedData,
    "started": StartedData,
    "cancel_requested": CancelRequestedData,
    "retry_requested": RetryRequestedData,
    "stopping": StoppingData,
    "completed": EndData,
    "failed": EndData,
    "cancelled": EndData,
    "timed_out": EndData,
    "node_removed": EndData,
    "artifacts_hashed": ArtifactsHashedData,
}
"""Type of an entry → what its data is."""
_DECODERS: Mapping[str, msgspec.json.Decoder[TimelineData]] = {
    name: msgspec.json.Decoder(kind) for name, kind in DATA_TYPES.items()
}


def data_of(entry: TimelineEntry) -> TimelineData | None:
    """What an entry bears; None where this release does not know its type, or the projector that sent it none."""
    kind = DATA_TYPES.get(entry.type)
    try:
        return None if kind is None else msgspec.convert(entry.data, kind)
    except msgspec.ValidationError:
        return None


def text_of_stored(type_: str, data: str) -> str:
    """The sentence for an entry as a table keeps it. Raises msgspec.MsgspecError where it cannot be read."""
    decoder = _DECODERS.get(type_)
    return type_ if decoder is None else text(type_, decoder.decode(data))


def text(type_: str, data: TimelineData) -> str:
    """The sentence for an entry: ``exit 3, queued again: attempt 2 in 10 s``."""
    match data:
        case SubmittedData(after=after, by=by):
            return f"submitted by {by}{f', after {_runs(after, data.after_total)}' if after else ''}"
        case DispatchedData(node=node, slots=()):
            return f"dispatched to {node}"
        case DispatchedData(node=node, slots=slots):
            return f"dispatched to {node}, slot{'' if len(slots) == 1 else 's'} {','.join(map(str, slots))}"
        case StartedData(host=host, pid=pid):
            return f"started on {host}{'' if pid is None else f', pid {pid}'}"
        case CancelRequestedData():
            return f"cancel requested {by_whom(data)}"
        case RetryRequestedData(attempt=attempt):
            return f"retry requested {by_whom(data)}: attempt {attempt} is queued"
        case StoppingData(node=node, reason=reason):
            return f"{node} is told to stop it ({reason})"
        case ArtifactsHashedData(count=None):
            return "its artifacts are gone"
        case ArtifactsHashedData(count=count):
            return f"{count} artifact{'' if count == 1 else 's'} hashed, {data.bytes} bytes"
        case EndData(late=LateEnd(attempt=attempt, node=node)):
            return f"too late to count: {node} reported attempt {attempt} as {_how(type_, data)}"
        case EndData(next=NextAttempt(attempt=attempt, wait_s=wait_s)):
            wait = f" in {in_a_sentence(wait_s)}" if wait_s else ""
            return f"{_how(type_, data)}, queued again: attempt {attempt}{wait}"
        case EndData(cancelled=True):
            return f"{_how(type_, data)}, cancelled as requested"
        case EndData():
            return _how(type_, data)


def by_whom(data: CancelRequestedData | RetryRequestedData) -> str:
    """``by ada: no need``."""
    return f"by {data.by}{_because(data.reason)}"


def failed_dependency(end: EndData) -> str:
    """Why a queued run was given up: ``run abc did not complete``."""
    return f"run {end.dependency} did not complete" if end.dependency else "a dependency failed"


def _how(type_: str, end: EndData) -> str:
    """``exit 3``, ``killed by signal 9``, ``silent for 300 s`` ..."""
    match type_, end.failure_reason:
        case "completed", _:
            return "completed"
        case "node_removed", _:
            return f"node {end.node} was removed"
        case "cancelled", FailureReason.DEPENDENCY_FAILED:
            return f"cancelled: {failed_dependency(end)}"
        case "cancelled", _:
            return f"cancelled{_because(end.reason)}"
        case "timed_out", FailureReason.TIME_LIMIT:
            limit = "" if end.timeout_s is None else f" of {in_a_sentence(end.timeout_s)}"
            return f"stopped at its time limit{limit}"
        case "timed_out", FailureReason.WORKER_TIMEOUT:
            return (
                "silent for too long"
                if end.timeout_s is None
                else f"silent for {in_a_sentence(end.timeout_s)}"
            )
        case "failed", FailureReason.NOT_STARTED:
            return f"not started{_because(end.message)}"
        case "failed", FailureReason.SPAWN_ERROR:
            return f"could not be started{_because(end.message)}"
        case "failed", FailureReason.OUT_OF_MEMORY:
            return f"out of memory{_because(end.message)}"
        case "failed", FailureReason.SHIM_LOST:
            return "its shim was lost"
        case "failed", FailureReason.NODE_RECLAIMED:
            return "its node was taken back"
        case "failed", _ if end.signal is not None:
            return f"killed by signal {end.signal}"
        case "failed", _ if end.exit_code is not None:
            return f"exit {end.exit_code}"
        case _, FailureReason() as reason:
            return f"failed ({reason.value})"
        case _:
            return "ended"


def _runs(run_ids: tuple[str, ...], total: int) -> str:
    if len(run_ids) == 1:
        return f"run {run_ids[0]}"
    more = f" and {total - len(run_ids)} more" if total > len(run_ids) else ""
    return f"runs {', '.join(run_ids)}{more}"


def _because(reason: str | None) -> str:
    return f": {reason}" if reason else ""
