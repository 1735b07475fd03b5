"""What changed between two moments of the log: runs, slots and nodes, each with what it was and what it became.

Owns what counts as a change and what that is called; reads nothing and prints nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, NamedTuple, TypeVar

import msgspec

from trainshed_client.records import ListedSlotRecord, NodeRecord, QueuedRunRecord
from trainshed_client.statuses import GONE, NodeStatus, RunStatus

T = TypeVar("T")

WAYS = (
    *("submitted", "retried", "queued_again", "granted", "started", "cancel_requested", "ended"),
    *("added", "taken", "passed_on", "freed", "removed", "unhealthy", "healthy"),
    *("joined", "lost", "back", "left", "gone", "drained", "resumed", "suspect", "cleared"),
)
"""How a run, a slot or a node may have changed, in the order in which they are told (``removed``: a node too)."""


class SentRecord(NamedTuple, Generic[T]):
    """A record as the server sent it, and decoded."""

    raw: msgspec.Raw
    record: T


class Changed(NamedTuple, Generic[T]):
    """One thing that changed: in which ways (``how``), what it was (None: it was not there) and what it became."""

    how: tuple[str, ...]
    before: SentRecord[T] | None
    after: SentRecord[T] | None


def changes(
    before: Mapping[str, SentRecord[T]],
    after: Mapping[str, SentRecord[T]],
    how: Callable[[T | None, T | None], Iterable[str]],
) -> Iterator[Changed[T]]:
    """What is in one of these, or in both and differs in ways that ``how`` names; the order is that of the keys."""
    for key in sorted({**before, **after}):
        was, now = before.get(key), after.get(key)
        ways = tuple(how(None if was is None else was.record, None if now is None else now.record))
        if ways:
            yield Changed(ways, was, now)


def counted(changed: Iterable[Changed[T]]) -> dict[str, int]:
    """How many changed in which way, in the order of `WAYS`."""
    found = Counter(way for one in changed for way in one.how)
    return {way: found[way] for way in sorted(found, key=WAYS.index)}


def of_run(before: QueuedRunRecord | None, after: QueuedRunRecord | None) -> Iterator[str]:
    """``submitted``, ``retried`` (it had ended), ``queued_again`` (an attempt ended, the run did not), ``granted``,
    ``started``, ``cancel_requested``, ``ended``."""
    if after is None:
        return  # no event takes a run away
    first = 1 if before is None else before.attempt
    if before is None:
        yield "submitted"
    elif before.ended_at is not None and (after.ended_at != before.ended_at or after.attempt != first):
        yield "retried"
    if after.attempt > first and (before is None or before.ended_at is None):
        yield "queued_again"
    same_attempt = before is not None and first == after.attempt
    if after.dispatched_at is not None and not (same_attempt and before and before.dispatched_at):
        yield "granted"
    if after.started_at is not None and not (same_attempt and before and before.started_at):
        yield "started"
    if after.cancel_requested and not (before is not None and before.cancel_requested):
        yield "cancel_requested"
    if after.ended_at is not None and not (same_attempt and before and before.ended_at == after.ended_at):
        yield "ended"


def of_slot(before: ListedSlotRecord | None, after: ListedSlotRecord | None) -> Iterator[str]:
    """``added``, ``removed``, ``taken``, ``freed``, ``passed_on`` (to another attempt), ``unhealthy``, ``healthy``."""
    if before is None:
        yield "added"
    if after is None:
        yield "removed"
    was = None if before is None or before.run_id is None else (before.run_id, before.attempt)
    now = None if after is None or after.run_id is None else (after.run_id, after.attempt)
    if was != now:
        yield "taken" if was is None else "freed" if now is None else "passed_on"
    was_healthy = before is None or before.healthy
    if after is not None and after.healthy != was_healthy:
        yield "healthy" if after.healthy else "unhealthy"


def of_node(before: NodeRecord | None, after: NodeRecord | None) -> Iterator[str]:
    """``joined`` (also again), ``lost``, ``left``, ``removed``, ``back``, ``drained``, ``resumed``, ``suspect``, ``cleared``,
    ``gone`` (it left or was removed, and has no attempts any more).
    """
    if after is None:
        yield "gone"
        return
    gone_before = before is None or before.status in GONE
    if (
        before is None
        or before.incarnation != after.incarnation
        or (gone_before and after.status not in GONE)
    ):
        yield "joined"
    elif before.status is not after.status and after.status is NodeStatus.UP:
        yield "back"
    if after.status is not NodeStatus.UP and (before is None or before.status is not after.status):
        yield str(after.status)
    if after.drained != (before is not None and before.drained):
        yield "drained" if after.drained else "resumed"
    suspect = before is not None and before.suspect_since is not None
    if (after.suspect_since is not None) != suspect:
        yield "cleared" if suspect else "suspect"


def status_counts(changed: Iterable[Changed[QueuedRunRecord]]) -> Counter[RunStatus]:
    """Of runs, by what they became."""
    return Counter(one.after.record.status for one in changed if one.after is not None)
