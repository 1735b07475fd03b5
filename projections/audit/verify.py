"""Audit: replay the log with the projector's own core, compare the live tables with it, check what must always hold.

Owns the order of that and the verdict; appends nothing and changes no read model.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from events.change import Change
from events.codec import StoredEvent
from events.state import Run
from events.stored_log import StoredLog
from projections.audit.acknowledged import SubmitAnswer
from projections.audit.against import Against
from projections.audit.comparison import Head, LiveRows, Unlike, unavailable
from projections.audit.invariants import Invariants
from projections.audit.legality import Acceptance, Legality, NotCounted
from projections.audit.replay import Progress, Replay, unseen
from projections.audit.setters import Setters
from projections.audit.violation import MAX_VIOLATIONS, Violation, of_row
from projections.read_model.core import Projection
from projections.read_model.database import Database
from trainshed_client import subjects
from trainshed_client.direct_get import Message
from trainshed_client.nats_client import SafeClient

PART_TIMEOUT_S = 10.0


class AuditCheck(Protocol):
    """What a caller has checked besides while the log is read: by rules, or of things, that no read model knows."""

    def take(self, stored: StoredEvent, history: Mapping[str, Run]) -> None:
        """The next event that can be read, with the ended runs that it refers to as they were before it."""
        ...

    async def violations(self) -> Sequence[Violation]:
        """All that was found, the log having been read whole."""
        ...


class Verdict(msgspec.Struct, frozen=True):
    """What ``audit verify`` found: the log's ``events`` were checked, up to ``end``, and the tables compared as of ``seq``, with
    ``state_hash``. At most 100 violations are named.

    Of the events ``late`` are ends after their attempt's first, and ``unreadable`` are in quarantine.
    """

    ok: bool
    seq: int
    end: int
    events: int
    state_hash: str
    violations: tuple[Violation, ...]
    late: int
    unreadable: int
    not_counted: tuple[NotCounted, ...]
    accepted: tuple[Acceptance, ...]


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
                raise unavailable("the projector's rows stopped coming; ask again") from None
            if (message.headers or {}).get("Status") == "503":
                raise unavailable("no projector answers. Start one: trainshed up")
            if not message.data:
                return
            yield message.data
    finally:
        await answers.unsubscribe()


async def verify(
    log: StoredLog,
    rows: AsyncIterator[bytes],
    acks: Iterable[SubmitAnswer] = (),
    against: Against | None = None,
    checks: Sequence[AuditCheck] = (),
    progress: Progress = unseen,
) -> Verdict:
    """Read the log to its present end, and compare row for row and by state hash where the rows are.

    ``rows`` are the messages of ``audit.rows``, ``acks`` answers whose events must be in the log, ``against`` what must
    fit its tree. The replay and the rows lie in temporary files, not in memory. Raises TrainshedError where the rows do not come whole.
    """
    with tempfile.TemporaryDirectory(prefix="trainshed-audit-") as folder:
        live = LiveRows(Path(folder))
        try:
            head = await live.take(rows)
            return await _verdict(log, live, head, Path(folder), Invariants(acks), against, checks, progress)
        finally:
            live.close()


async def _verdict(
    log: StoredLog,
    live: LiveRows,
    head: Head,
    folder: Path,
    invariants: Invariants,
    against: Against | None,
    checks: Sequence[AuditCheck],
    progress: Progress,
) -> Verdict:
    legality = Legality()

    def arrived(messages: Sequence[Message]) -> None:
        for message in messages:
            legality.message(message.seq)
        if against is not None:
            against.take(messages)

    def observe(stored: StoredEvent, change: Change, projection: Projection) -> None:
        invariants.observe(stored, change)
        legality.observe(stored, change)
        for check in checks:
            check.take(stored, projection.history)

    database = Database(folder / "replay.db")
    try:
        end = await log.end()  # no answer, checkpoint or row that was given before is of anything later
        async with Replay(log, database, end, progress) as replay:
            await replay.to(min(end, head.seq), observe, arrived)
            state_hash = replay.state_hash
            unlike = live.differences(head, database, state_hash)
            await replay.to(end, observe, arrived)
        legality.close(end)
    finally:
        database.close()
    found = invariants.at_the_end() + legality.violations
    if against is not None:
        found += [Violation("I8", misfit.seq, misfit.message) for misfit in against.misfits()]
    if (log_id := await log.log_id()) != head.log_id:
        found.append(
            Violation("I4", head.seq, f"the tables are of another log ({head.log_id}, not {log_id})")
        )
    if end < head.seq:
        text = f"the tables say that they are at {head.seq}, and the log ends at {end}: one of them was cut or made up"
        found.append(Violation("I4", head.seq, text))
    found += await _of_rows(log, unlike, min(end, head.seq), folder, progress)
    for check in checks:
        found += await check.violations()
    return Verdict(
        ok=not found,
        seq=head.seq,
        end=end,
        events=replay.events,
        state_hash=f"{state_hash:064x}",
        violations=tuple(found[:MAX_VIOLATIONS]),
        late=legality.late,
        unreadable=legality.unreadable,
        not_counted=legality.not_counted,
        accepted=tuple(legality.accepted),
    )


async def _of_rows(
    log: StoredLog, unlike: Sequence[Unlike], seq: int, folder: Path, progress: Progress
) -> list[Violation]:
    """What is not as the log says, with the events that made it so: the log is folded once more where rows differ."""
    of_events = [one for one in unlike if one.table != "timeline" or one.replayed is not None]
    rows = [(one.table, one.key) for one in of_events if one.table is not None]
    setters = Setters(rows)
    if rows:
        database = Database(folder / "again.db")
        try:
            async with Replay(log, database, seq, progress) as replay:
                await replay.to(seq, setters.observe)
        finally:
            database.close()
    return [
        of_row(seq, one, None if one.table is None else setters.of(one.table, one.key, one.column))
        for one in unlike
    ]
