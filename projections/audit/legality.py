"""Whether the log is whole and each event has its ground (I9), and which of them counted for nothing.

Owns these checks and what they remember of a long log (one entry an attempt); knows no slot, no table and no I/O.
"""

from __future__ import annotations

import msgspec

from events.canonical import digest_of_json
from events.change import NOTHING, Change
from events.codec import StoredEvent
from events.times import rfc3339
from events.types import (
    ArtifactsHashed,
    AttemptEnd,
    Cancelled,
    Dispatched,
    Elected,
    LogAccepted,
    RunEvent,
    Started,
    Submitted,
)
from projections.audit.violation import MAX_VIOLATIONS, Violation
from trainshed_client.errors import TrainshedError
from trainshed_client.subjects import Role


class NotCounted(msgspec.Struct, frozen=True):
    """Events of one type that changed nothing: how many, and the first one's sequence."""

    type: str
    count: int
    first: int


class Acceptance(msgspec.Struct, frozen=True):
    """Somebody answered for it that the log is not what was signed before: when that was stored, why, and who."""

    seq: int
    time: str
    reason: str
    by: str


class _Attempt(msgspec.Struct, frozen=True):
    """The nodes that an attempt was granted to, and whether an end of it counted; one value for all that are alike."""

    nodes: tuple[str, ...] = ()
    ended: bool = False


class Legality:
    """Feed it the sequence of every message, and every event that can be read with what it did, in order."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []
        self.accepted: list[Acceptance] = []
        self.late = 0
        self.unreadable = 0
        self._last = 0
        self._not_counted: dict[str, NotCounted] = {}
        self._attempts: dict[int, _Attempt] = {}
        """By the hash of run and attempt: a million events are to fit."""
        self._alike: dict[_Attempt, _Attempt] = {}
        self._last_end: dict[int, int] = {}
        """By the hash of run and node: of which attempt that agent told an end last."""

    @property
    def not_counted(self) -> tuple[NotCounted, ...]:
        """By type, the most frequent first."""
        return tuple(sorted(self._not_counted.values(), key=lambda one: (-one.count, one.type)))

    def message(self, seq: int) -> None:
        """The next message of the log, readable or not."""
        self._whole_up_to(seq - 1)
        self._last = seq
        self.unreadable += 1  # until it is observed

    def close(self, end: int) -> None:
        """That was the last message; the log's last sequence is ``end``."""
        self._whole_up_to(end)

    def observe(self, stored: StoredEvent, change: Change) -> None:
        """What the last message was, and what it did."""
        if change.unreadable is not None:
            return
        self.unreadable -= 1
        event = stored.event
        if isinstance(event, Submitted):
            self._named(stored.seq, event)
        elif isinstance(event, Dispatched):
            self._granted(event)
        elif isinstance(event, LogAccepted):
            time = rfc3339(stored.stored_ns)
            self.accepted.append(Acceptance(stored.seq, time, event.reason, event.accepted_by))
        elif isinstance(event, Started | AttemptEnd | ArtifactsHashed):
            self._grounded(stored, event, event.attempt)
        for end in change.ended:
            self._ended(stored.seq, end.run_id, end.attempt.attempt)
        if change.late is not None:
            self.late += 1
        elif change == NOTHING and not isinstance(event, Elected | LogAccepted | ArtifactsHashed):
            name = stored.subject.type
            before = self._not_counted.get(name) or NotCounted(name, 0, stored.seq)
            self._not_counted[name] = NotCounted(name, before.count + 1, before.first)

    def _whole_up_to(self, seq: int) -> None:
        first = self._last + 1
        if first <= seq:
            missing = f"{first}" if first == seq else f"{first} to {seq}"
            self._violated(first, f"the log has no sequence {missing}: what was stored there is gone")

    def _named(self, seq: int, event: Submitted) -> None:
        """A run is called what its config is, and nothing else."""
        try:
            digest = digest_of_json(msgspec.json.decode(event.config))
        except (TrainshedError, ValueError, RecursionError) as error:
            self._violated(seq, f"run {event.run_id}: its config has no digest: {error}")
            return
        for field, stated, made in (
            ("digest", event.digest, digest.hex),
            ("run_id", event.run_id, digest.run_id),
        ):
            if stated != made:
                self._violated(
                    seq, f"run {event.run_id}: {field} is {stated!r:.80}, its config makes it {made!r}"
                )

    def _granted(self, event: Dispatched) -> None:
        """Also a grant that does not count: its node may have acted on it before it could know."""
        key = hash((event.run_id, event.attempt))
        known = self._attempts.get(key, _Attempt())
        if event.node not in known.nodes:
            self._keep(key, msgspec.structs.replace(known, nodes=(*known.nodes, event.node)))

    def _grounded(self, stored: StoredEvent, event: RunEvent, attempt: int) -> None:
        """An agent speaks of what its node was granted, and tells one end of it (docs/protocol.md rule 13); the dispatcher
        ends what was granted, or cancels what waits."""
        key = hash((event.run_id, attempt))
        known = self._attempts.get(key, _Attempt())
        nodes, node, name = known.nodes, stored.subject.node, stored.subject.type
        if stored.subject.role == Role.AGENT:
            if node in nodes and isinstance(event, AttemptEnd):
                self._end_of_agent(stored, event, node)
            if node in nodes:
                return
            who = f"{name} from {node}"
        elif nodes or isinstance(event, Cancelled):
            return
        else:
            who = f"{name} from the dispatcher"
        to = f"it was granted to {', '.join(nodes)}" if nodes else "it was never granted"
        self._violated(stored.seq, f"{who} on run {event.run_id} attempt {attempt}: {to}")

    def _end_of_agent(self, stored: StoredEvent, event: AttemptEnd, node: str) -> None:
        """An agent tells no end twice in a row: it looks at its last words of the run before. (One that has lost its folders
        may tell those of several attempts anew, each of which the one after it has hidden.)"""
        of_run = hash((event.run_id, node))
        if self._last_end.get(of_run) == event.attempt:
            on = f"run {event.run_id} attempt {event.attempt}"
            text = f"{stored.subject.type} from {node} on {on}: its agent had told an end before"
            self._violated(stored.seq, text)
        self._last_end[of_run] = event.attempt

    def _ended(self, seq: int, run_id: str, attempt: int) -> None:
        key = hash((run_id, attempt))
        known = self._attempts.get(key, _Attempt())
        if known.ended:
            self._violated(seq, f"run {run_id} attempt {attempt} ended twice, and both ends counted")
        else:
            self._keep(key, msgspec.structs.replace(known, ended=True))

    def _keep(self, key: int, attempt: _Attempt) -> None:
        self._attempts[key] = self._alike.setdefault(attempt, attempt)

    def _violated(self, seq: int, message: str) -> None:
        if len(self.violations) < MAX_VIOLATIONS:
            self.violations.append(Violation("I9", seq, message))
