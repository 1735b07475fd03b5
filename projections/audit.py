"""Audit: replay the log with the projector's own core, compare the live tables with it, check what must always hold.

Owns the comparison and the checks along the way; appends nothing and changes no read model.
"""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from events.codec import StoredEvent
from events.evolve import Change
from events.log import EventLog
from events.state import Active, Ended
from events.types import RetryRequested, Submitted
from projections import tables
from projections.acknowledged import Ack, Acknowledged
from projections.database import Database
from projections.projector import Observer, Projector
from projections.rows import MODULUS, Row, digest, hashed_fields, key_of, row_from
from trainshed_client import subjects
from trainshed_client.answers import error_in
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.nats_client import SafeClient

MAX_VIOLATIONS = 100
PART_TIMEOUT_S = 10.0


class Violation(msgspec.Struct, frozen=True):
    """An invariant (I1, I2, I4, I6) that does not hold, at which sequence, and what is wrong."""

    invariant: str
    seq: int
    message: str


class Verdict(msgspec.Struct, frozen=True):
    """What ``audit verify`` found. ``events`` were replayed, up to ``seq``; at most 100 violations are named."""

    ok: bool
    seq: int
    events: int
    state_hash: str
    violations: tuple[Violation, ...]


class Head(msgspec.Struct, frozen=True):
    """The first message of ``audit.rows``."""

    seq: int
    state_hash: str
    log_id: str
    counts: dict[str, int]
    v: int = 1


class Part(msgspec.Struct, frozen=True):
    """Each other message of ``audit.rows``."""

    part: int
    table: str
    rows: list[dict[str, Any]]


async def rows_from(nc: SafeClient) -> AsyncIterator[bytes]:
    """The messages of ``audit.rows`` but the empty last one. Raises TrainshedError (unavailable), or what is answered."""
    inbox = nc.new_inbox()
    answers = await nc.subscribe(inbox, pending_msgs_limit=-1, pending_bytes_limit=-1)
    try:
        await nc.publish(subjects.api("audit.rows"), b"{}", reply=inbox)
        while True:
            try:
                message = await answers.next_msg(timeout=PART_TIMEOUT_S)
            except TimeoutError:
                raise _unavailable("the projector's rows stopped coming; ask again") from None
            if (message.headers or {}).get("Status") == "503":
                raise _unavailable("no projector answers. Start one: trainshed up")
            if not message.data:
                return
            yield message.data
    finally:
        await answers.unsubscribe()


async def verify(log: EventLog, rows: AsyncIterator[bytes], acks: Iterable[Ack] = ()) -> Verdict:
    """Replay the log as far as the rows are, and compare row for row and by state hash.

    ``rows`` are the messages of ``audit.rows``, ``acks`` answers whose events must be in the log. The replay and the rows lie in temporary files, not in memory. Raises TrainshedError where the rows do not come whole.
    """
    with tempfile.TemporaryDirectory(prefix="trainshed-audit-") as folder:
        live = LiveRows(Path(folder) / "live.db")
        try:
            head = await live.take(rows)
            invariants = Invariants(acks)
            database = Database(Path(folder) / "replay.db")
            try:
                replayed = await replay(log, database, head.seq, invariants.observe)
                violations = invariants.at_the_end()
                if await log.log_id() != head.log_id:
                    violations.append(
                        Violation("I4", head.seq, f"the tables are of another log ({head.log_id})")
                    )
                violations += compare(live, head, replayed, database)
            finally:
                database.close()
        finally:
            live.close()
    return Verdict(
        ok=not violations,
        seq=head.seq,
        events=replayed.events,
        state_hash=f"{replayed.state_hash:064x}",
        violations=tuple(violations[:MAX_VIOLATIONS]),
    )


class Replayed(msgspec.Struct, frozen=True):
    """Where a replay ended."""

    seq: int
    events: int
    state_hash: int


async def replay(
    log: EventLog, database: Database, up_to_seq: int, observe: Observer | None = None
) -> Replayed:
    """Build the read model of the log up to and with ``up_to_seq`` in an empty ``database``."""
    projector = Projector.open(database, "replay", up_to_seq)
    events = 0
    try:
        end = min(up_to_seq, await log.end())
        if end > 0:
            async with log.follow(1) as feed:
                while projector.seq < end:
                    messages = [message for message in await feed.batch() if message.seq <= end]
                    events += len(messages)
                    projector.apply(messages, observe, tell=False)
                    if not messages:
                        break
        return Replayed(projector.seq, events, projector.projection.state_hash)
    finally:
        projector.close()


class LiveRows:
    """The rows of a live read model, in a file of their own while they are compared."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=OFF")
        self._db.execute("PRAGMA synchronous=OFF")
        self._db.execute(
            "CREATE TABLE live (tbl TEXT, key TEXT, row BLOB, PRIMARY KEY (tbl, key)) WITHOUT ROWID"
        )
        self.state_hash = 0
        self.twice: list[tuple[str, str]] = []

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    async def take(self, messages: AsyncIterator[bytes]) -> Head:
        """Take all rows in. Raises TrainshedError where some are missing."""
        head: Head | None = None
        counts: dict[str, int] = {}
        expected = 1
        async for message in messages:
            if head is None:
                head = _decoded(message, Head)
                continue
            part = _decoded(message, Part)
            if part.part != expected:
                raise _unavailable(f"part {expected} of the rows was lost; ask again")
            expected += 1
            counts[part.table] = counts.get(part.table, 0) + len(part.rows)
            self._db.execute("BEGIN")
            for record in part.rows:
                self._put(row_from(part.table, record))
            self._db.execute("COMMIT")
        if head is None or any(counts.get(name, 0) != count for name, count in head.counts.items()):
            raise _unavailable("the projector's rows did not come whole; ask again")
        return head

    def _put(self, row: Row) -> None:
        self.state_hash = (self.state_hash + digest(row)) % MODULUS
        key = _key(row)
        try:
            fields = msgspec.json.encode(hashed_fields(row))
            self._db.execute("INSERT INTO live VALUES (?, ?, ?)", (row.table, key, fields))
        except sqlite3.IntegrityError:
            self.twice.append((row.table, key))

    def pop(self, table: str, key: str) -> dict[str, Any] | None:
        """Take a row out: what remains at the end is in no replay."""
        found = self._db.execute("SELECT row FROM live WHERE tbl = ? AND key = ?", (table, key)).fetchone()
        if found is None:
            return None
        self._db.execute("DELETE FROM live WHERE tbl = ? AND key = ?", (table, key))
        row: dict[str, Any] = json.loads(found[0])
        return row

    def rest(self) -> list[tuple[str, str]]:
        """The rows that nobody took out (at most as many as are named)."""
        return [
            (table, key)
            for table, key in self._db.execute("SELECT tbl, key FROM live LIMIT ?", (MAX_VIOLATIONS,))
        ]


def compare(live: LiveRows, head: Head, replayed: Replayed, database: Database) -> list[Violation]:
    """Where the live rows are not those of the replay in ``database`` (I4). Empties ``live``."""
    seq = head.seq
    found: list[Violation] = []
    if replayed.seq < seq:
        found.append(
            Violation("I4", seq, f"the tables are at {seq}, the log ends at {replayed.seq}: the log was cut")
        )
    with database.reading() as connection:
        for name, table in tables.HASHED.items():
            for columns in connection.execute(table.select()).yield_per(500).mappings():
                row = row_from(name, columns)
                there, expected = live.pop(name, _key(row)), hashed_fields(row)
                if there == expected or len(found) >= MAX_VIOLATIONS:
                    continue
                message = "is missing" if there is None else _difference(there, expected)
                found.append(Violation("I4", seq, f"{name} {_key(row)}: {message}"))
    found += [
        Violation("I4", seq, f"{table} {key}: the log knows nothing of it") for table, key in live.rest()
    ]
    found += [Violation("I4", seq, f"{table} {key}: is there twice") for table, key in live.twice]
    if head.state_hash != f"{live.state_hash:064x}":
        found.append(Violation("I4", seq, "the kept state hash is not that of the tables' rows"))
    if live.state_hash != replayed.state_hash and not found:
        found.append(Violation("I4", seq, "the state hash is not that of the replay"))
    return found


class Invariants:
    """What must hold at every sequence: observed event by event while replaying."""

    def __init__(self, acks: Iterable[Ack] = ()) -> None:
        self._violations: list[Violation] = []
        self._acknowledged = Acknowledged(acks)
        self._holders: dict[tuple[str, int], tuple[str, int]] = {}
        self._ended: set[str] = set()

    def observe(self, stored: StoredEvent, change: Change) -> None:
        """Check one event and what it did."""
        self._acknowledged.observe(stored)
        for end in change.ended:
            for index in end.attempt.slots:
                slot = (end.attempt.node, index)
                if self._holders.get(slot) == (end.run_id, end.attempt.attempt):
                    del self._holders[slot]
        for run_change in change.runs:
            run, phase = run_change.after, run_change.after.phase
            if isinstance(phase, Active) and phase.dispatched_seq == stored.seq:
                self._granted(stored.seq, run.run_id, phase)
            if isinstance(phase, Ended):
                self._ended.add(run.run_id)
            elif run.run_id in self._ended:
                self._ended.discard(run.run_id)
                if not isinstance(stored.event, RetryRequested):
                    what = "submitted again" if isinstance(stored.event, Submitted) else stored.subject.type
                    self._say("I1", stored.seq, f"run {run.run_id} had ended and was {what} without a retry")

    def at_the_end(self) -> list[Violation]:
        """All that was found, the log having been observed whole."""
        for seq, run_id in self._acknowledged.missing():
            self._say("I6", seq, f"run {run_id} was acknowledged and its Submitted is not there")
        return self._violations

    def _granted(self, seq: int, run_id: str, phase: Active) -> None:
        for index in phase.slots:
            holder = self._holders.get((phase.node, index))
            if holder is not None:
                text = (
                    f"slot {phase.node}.{index} was granted to run {run_id} attempt {phase.attempt} "
                    f"while run {holder[0]} attempt {holder[1]} held it"
                )
                self._say("I2", seq, text)
            self._holders[phase.node, index] = (run_id, phase.attempt)

    def _say(self, invariant: str, seq: int, message: str) -> None:
        if len(self._violations) < MAX_VIOLATIONS:
            self._violations.append(Violation(invariant, seq, message))


def _key(row: Row) -> str:
    return " ".join(map(str, key_of(row)))


def _difference(there: dict[str, Any], expected: dict[str, Any]) -> str:
    names = [name for name in expected if there.get(name) != expected[name]]
    return ", ".join(
        f"{name} is {there.get(name)!r:.80}, the log says {expected[name]!r:.80}" for name in names
    )


_T = TypeVar("_T")


def _decoded(message: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(message, type=kind)
    except msgspec.MsgspecError as error:
        raise error_in(message) or _unavailable(f"the projector's answer cannot be read: {error}") from None


def _unavailable(message: str) -> TrainshedError:
    return TrainshedError(ErrorCode.UNAVAILABLE, message)
