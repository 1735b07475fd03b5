"""Audit: replay the log with the projector's own core, compare the live tables with it, check what must always hold.

Owns the replay and the verdict; appends nothing and changes no read model.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

import msgspec

from events.change import Change
from events.codec import StoredEvent
from events.log import EventLog
from projections.audit.acknowledged import SubmitAnswer
from projections.audit.against import Against
from projections.audit.comparison import LiveRows, unavailable
from projections.audit.invariants import Invariants
from projections.audit.legality import Acceptance, Legality, NotCounted
from projections.audit.violation import MAX_VIOLATIONS, Violation
from projections.read_model.database import Database
from projections.read_model.projector import Projector
from trainshed_client import subjects
from trainshed_client.nats_client import SafeClient

PART_TIMEOUT_S = 10.0
Progress = Callable[[int, int], None]
"""Is told the sequence that a replay has come to, and the one where it ends."""


def unseen(seq: int, end: int) -> None:
    """Nobody looks how far it is."""


class Verdict(msgspec.Struct, frozen=True):
    """What ``audit verify`` found. ``events`` were replayed, up to ``seq``; at most 100 violations are named.

    Of the events ``late`` are ends after their attempt's first, and ``unreadable`` are in quarantine.
    """

    ok: bool
    seq: int
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
    log: EventLog,
    rows: AsyncIterator[bytes],
    acks: Iterable[SubmitAnswer] = (),
    against: Against | None = None,
    progress: Progress = unseen,
) -> Verdict:
    """Replay the log as far as the rows are, and compare row for row and by state hash.

    ``rows`` are the messages of ``audit.rows``, ``acks`` answers whose events must be in the log, ``against`` what must
    fit its tree. The replay and the rows lie in temporary files, not in memory. Raises TrainshedError where the rows do not come whole.
    """
    with tempfile.TemporaryDirectory(prefix="trainshed-audit-") as folder:
        live = LiveRows(Path(folder))
        try:
            head = await live.take(rows)
            if against is not None:
                against.of_log(await log.log_id())
            invariants, legality = Invariants(acks), Legality()
            database = Database(Path(folder) / "replay.db")
            try:
                replayed = await replay(log, database, head.seq, (invariants, legality), against, progress)
                violations = invariants.at_the_end() + legality.violations
                if against is not None:
                    violations += await _misfits(log, against, replayed.seq)
                if await log.log_id() != head.log_id:
                    violations.append(
                        Violation("I4", head.seq, f"the tables are of another log ({head.log_id})")
                    )
                if replayed.seq < head.seq:
                    violations.append(
                        Violation(
                            "I4",
                            head.seq,
                            f"the tables are at {head.seq}, the log ends at {replayed.seq}: the log was cut",
                        )
                    )
                violations += [
                    Violation("I4", head.seq, text)
                    for text in live.differences(head, database, replayed.state_hash)
                ]
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
        late=legality.late,
        unreadable=legality.unreadable,
        not_counted=legality.not_counted,
        accepted=tuple(legality.accepted),
    )


async def _misfits(log: EventLog, against: Against, seq: int) -> list[Violation]:
    """What does not fit, once what the checkpoints speak of was fed: the read model may be behind them."""
    if against.folded < against.size:
        async for message in log.read_raw(start_seq=seq + 1):
            against.take([message])
            if against.folded >= against.size:
                break
    return [Violation("I8", misfit.seq, misfit.message) for misfit in against.misfits()]


class Replayed(msgspec.Struct, frozen=True):
    """Where a replay ended."""

    seq: int
    events: int
    state_hash: int


async def replay(
    log: EventLog,
    database: Database,
    up_to_seq: int,
    checks: tuple[Invariants, Legality],
    against: Against | None = None,
    progress: Progress = unseen,
) -> Replayed:
    """Build the read model of the log up to and with ``up_to_seq`` in an empty ``database``; feed checks and ``against``."""
    invariants, legality = checks

    def observe(stored: StoredEvent, change: Change) -> None:
        invariants.observe(stored, change)
        legality.observe(stored, change)

    projector = Projector.open(database, "replay", up_to_seq)
    events = 0
    try:
        end = min(up_to_seq, await log.end())
        if end > 0:
            async with log.follow(1) as feed:
                while projector.seq < end:
                    messages = [message for message in await feed.batch() if message.seq <= end]
                    events += len(messages)
                    for message in messages:
                        legality.message(message.seq)
                    projector.apply(messages, observe, with_records=False)
                    if against is not None:
                        against.take(messages)
                    progress(projector.seq, end)
                    if not messages:
                        break
        return Replayed(projector.seq, events, projector.projection.working.state_hash)
    finally:
        projector.close()
