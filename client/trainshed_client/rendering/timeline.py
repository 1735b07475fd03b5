"""A run's timeline in words: the one place that makes a sentence of what an entry bears.

Owns the data of each type of entry and its sentence; knows neither how an entry comes about nor who shows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Optional, Union

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
    caller_path: Optional[str] = None
    commit: Optional[str] = None
    dirty: Optional[bool] = None
    folder: Optional[str] = None


class DispatchedData(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Where the attempt was granted."""

    node: str
    slots: tuple[int, ...] = ()


class StartedData(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Where the worker runs, and how many threads its libraries were told to start."""

    host: str
    pid: Optional[int] = None
    threads: Optional[int] = None


class CancelRequestedData(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Who asked for the run's end, and why."""

    by: str
    reason: Optional[str] = None


class RetryRequestedData(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Who asked for another attempt, and why; ``attempt`` is its number."""

    attempt: int
    by: str
    reason: Optional[str] = None


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
    dependency: Optional[str] = None
    exit_code: Optional[int] = None
    failure_reason: Optional[FailureReason] = None
    late: Optional[LateEnd] = None
    message: Optional[str] = None
    next: Optional[NextAttempt] = None
    node: Optional[str] = None
    reason: Optional[str] = None
    signal: Optional[int] = None
    timeout_s: Optional[float] = None


class ArtifactsHashedData(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """How many artifacts a completed attempt left, and their bytes; None: they were gone."""

    bytes: Optional[int] = None
    count: Optional[int] = None


TimelineData = Union[
    SubmittedData,
    DispatchedData,
    StartedData,
    CancelRequestedData,
    RetryRequestedData,
    StoppingData,
    EndData,
    ArtifactsHashedData,
]
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
    if isinstance(data, SubmittedData):
        return (
            f"submitted by {data.by}{f', after {_runs(data.after, data.after_total)}' if data.after else ''}"
        )
    if isinstance(data, DispatchedData):
        slots = ",".join(map(str, data.slots))
        where = f", slot{'' if len(data.slots) == 1 else 's'} {slots}" if slots else ""
        return f"dispatched to {data.node}{where}"
    if isinstance(data, StartedData):
        return f"started on {data.host}{'' if data.pid is None else f', pid {data.pid}'}"
    if isinstance(data, CancelRequestedData):
        return f"cancel requested {by_whom(data)}"
    if isinstance(data, RetryRequestedData):
        return f"retry requested {by_whom(data)}: attempt {data.attempt} is queued"
    if isinstance(data, StoppingData):
        return f"{data.node} is told to stop it ({data.reason})"
    if isinstance(data, ArtifactsHashedData):
        if data.count is None:
            return "its artifacts are gone"
        return f"{data.count} artifact{'' if data.count == 1 else 's'} hashed, {data.bytes} bytes"
    return _ended(type_, data)


def _ended(type_: str, end: EndData) -> str:
    if end.late is not None:
        return f"too late to count: {end.late.node} reported attempt {end.late.attempt} as {_how(type_, end)}"
    if end.next is not None:
        wait = f" in {in_a_sentence(end.next.wait_s)}" if end.next.wait_s else ""
        return f"{_how(type_, end)}, queued again: attempt {end.next.attempt}{wait}"
    return f"{_how(type_, end)}{', cancelled as requested' if end.cancelled else ''}"


def by_whom(data: CancelRequestedData | RetryRequestedData) -> str:
    """``by ada: no need``."""
    return f"by {data.by}{_because(data.reason)}"


def failed_dependency(end: EndData) -> str:
    """Why a queued run was given up: ``run abc did not complete``."""
    return f"run {end.dependency} did not complete" if end.dependency else "a dependency failed"


def _how(type_: str, end: EndData) -> str:
    """``exit 3``, ``killed by signal 9``, ``silent for 300 s`` ..."""
    reason = end.failure_reason
    if type_ == "completed":
        return "completed"
    if type_ == "node_removed":
        return f"node {end.node} was removed"
    if type_ == "cancelled":
        if reason is FailureReason.DEPENDENCY_FAILED:
            return f"cancelled: {failed_dependency(end)}"
        return f"cancelled{_because(end.reason)}"
    if type_ == "timed_out" and reason is FailureReason.TIME_LIMIT:
        limit = "" if end.timeout_s is None else f" of {in_a_sentence(end.timeout_s)}"
        return f"stopped at its time limit{limit}"
    if type_ == "timed_out" and reason is FailureReason.WORKER_TIMEOUT:
        return f"silent for {'too long' if end.timeout_s is None else in_a_sentence(end.timeout_s)}"
    if type_ == "failed":
        if reason is FailureReason.NOT_STARTED:
            return f"not started{_because(end.message)}"
        if reason is FailureReason.SPAWN_ERROR:
            return f"could not be started{_because(end.message)}"
        if reason is FailureReason.OUT_OF_MEMORY:
            return f"out of memory{_because(end.message)}"
        if reason is FailureReason.SHIM_LOST:
            return "its shim was lost"
        if reason is FailureReason.NODE_RECLAIMED:
            return "its node was taken back"
        if end.signal is not None:
            return f"killed by signal {end.signal}"
        if end.exit_code is not None:
            return f"exit {end.exit_code}"
    return "ended" if reason is None else f"failed ({reason.value})"


def _runs(run_ids: tuple[str, ...], total: int) -> str:
    if len(run_ids) == 1:
        return f"run {run_ids[0]}"
    more = f" and {total - len(run_ids)} more" if total > len(run_ids) else ""
    return f"runs {', '.join(run_ids)}{more}"


def _because(reason: str | None) -> str:
    return f": {reason}" if reason else ""
