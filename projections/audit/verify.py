"""Audit: replay the log with the projector's own core, compare the live tables with it, check what must always hold.

Owns the replay and the checks along the way; appends nothing and changes no read model.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Collection, Iterable
from pathlib import Path

import msgspec

from events.change import Change
from events.codec import StoredEvent
from events.log import EventLog
from events.state import Active, Ended, Placement
from events.types import Dispatched, NodeJoined, RetryRequested, Started, Submitted
from projections.audit.acknowledged import SubmitAnswer, UnmetAnswers
from projections.audit.against import Against
from projections.audit.comparison import MAX_DIFFERENCES, LiveRows, unavailable
from projections.read_model.database import Database
from projections.read_model.projector import Observer, Projector
from trainshed_client import subjects
from trainshed_client.nats_client import SafeClient

MAX_VIOLATIONS = MAX_DIFFERENCES
PART_TIMEOUT_S = 10.0


class Violation(msgspec.Struct, frozen=True):
    """An invariant (I1, I2, I4, I6, I8) that does not hold, at which sequence, and what is wrong."""

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
            invariants = Invariants(acks)
            database = Database(Path(folder) / "replay.db")
            try:
                replayed = await replay(log, database, head.seq, invariants.observe, against)
                violations = invariants.at_the_end()
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
    observe: Observer | None = None,
    against: Against | None = None,
) -> Replayed:
    """Build the read model of the log up to and with ``up_to_seq`` in an empty ``database``, and feed ``against``."""
    projector = Projector.open(database, "replay", up_to_seq)
    events = 0
    try:
        end = min(up_to_seq, await log.end())
        if end > 0:
            async with log.follow(1) as feed:
                while projector.seq < end:
                    messages = [message for message in await feed.batch() if message.seq <= end]
                    events += len(messages)
                    projector.apply(messages, observe, with_records=False)
                    if against is not None:
                        against.take(messages)
                    if not messages:
                        break
        return Replayed(projector.seq, events, projector.projection.working.state_hash)
    finally:
        projector.close()


class Invariants:
    """What must hold at every sequence: observed event by event while replaying."""

    def __init__(self, acks: Iterable[SubmitAnswer] = ()) -> None:
        self._violations: list[Violation] = []
        self._unmet = UnmetAnswers(acks)
        self._holders: dict[tuple[str, int], tuple[str, int]] = {}
        self._on_device: dict[str, dict[tuple[str, int], Placement]] = {}
        self._joined: dict[str, int] = {}
        self._older: set[tuple[str, int]] = set()
        self._ended: set[str] = set()

    def observe(self, stored: StoredEvent, change: Change) -> None:
        """Check one event and what it did."""
        self._unmet.observe(stored)
        for end in change.ended:
            for slot in _slots_of(end.attempt):
                if self._holders.get(slot) == (end.run_id, end.attempt.attempt):
                    del self._holders[slot]
            for placement in end.attempt.placements:
                for uuid in placement.uuids:
                    self._on_device.get(uuid, {}).pop((end.run_id, end.attempt.attempt), None)
            self._older.discard((end.run_id, end.attempt.attempt))
        if isinstance(stored.event, NodeJoined) and change.nodes:
            self._joined[stored.subject.node] = stored.seq
        for run_change in change.runs:
            run, phase = run_change.after, run_change.after.phase
            if isinstance(phase, Active) and isinstance(stored.event, Dispatched):
                self._granted(stored.seq, run.run_id, phase, stored.event.view.seq)
            elif (
                isinstance(phase, Active)
                and isinstance(stored.event, Started)
                and (run.run_id, phase.attempt) in self._older
            ):
                self._granted_devices(stored.seq, run.run_id, phase)
            if isinstance(phase, Ended):
                self._ended.add(run.run_id)
            elif run.run_id in self._ended:
                self._ended.discard(run.run_id)
                if not isinstance(stored.event, RetryRequested):
                    what = "submitted again" if isinstance(stored.event, Submitted) else stored.subject.type
                    self._violated(
                        "I1", stored.seq, f"run {run.run_id} had ended and was {what} without a retry"
                    )

    def at_the_end(self) -> list[Violation]:
        """All that was found, the log having been observed whole."""
        for seq, run_id in self._unmet.missing():
            self._violated("I6", seq, f"run {run_id} was acknowledged and its Submitted is not there")
        return self._violations

    def _granted(self, seq: int, run_id: str, phase: Active, view_seq: int) -> None:
        """A slot is held from its grant on; a device that was chosen by what its node had before its last join only once a
        worker is started there: its index may have named another device, and the agent refuses it (protocol rule 8)."""
        twice = set[tuple[str, int]]()
        for slot in _slots_of(phase):
            holder = self._holders.get(slot)
            if holder is not None:
                twice.add(holder)
                text = (
                    f"slot {slot[0]}.{slot[1]} was granted to run {run_id} attempt {phase.attempt} "
                    f"while run {holder[0]} attempt {holder[1]} held it"
                )
                self._violated("I2", seq, text)
            self._holders[slot] = (run_id, phase.attempt)
        if any(view_seq < self._joined.get(placement.node, 0) for placement in phase.placements):
            self._older.add((run_id, phase.attempt))
        else:
            self._granted_devices(seq, run_id, phase, twice)

    def _granted_devices(
        self, seq: int, run_id: str, phase: Active, twice: Collection[tuple[str, int]] = ()
    ) -> None:
        for placement in phase.placements:
            for uuid in placement.uuids:
                self._granted_device(seq, uuid, (run_id, phase.attempt), placement, twice)

    def _granted_device(
        self,
        seq: int,
        uuid: str,
        ref: tuple[str, int],
        placement: Placement,
        twice: Collection[tuple[str, int]],
    ) -> None:
        """Several hold a device only where all of them share it, on one node; who of ``twice`` is known by a slot."""
        holders = self._on_device.setdefault(uuid, {})
        for other, held in holders.items():
            shared = held.node == placement.node and uuid in held.shared and uuid in placement.shared
            if not shared and other not in twice:
                text = (
                    f"device {uuid} was granted to run {ref[0]} attempt {ref[1]} on {placement.node} "
                    f"while run {other[0]} attempt {other[1]} held it on {held.node} and did not share it"
                )
                self._violated("I2", seq, text)
        holders[ref] = placement

    def _violated(self, invariant: str, seq: int, message: str) -> None:
        if len(self._violations) < MAX_VIOLATIONS:
            self._violations.append(Violation(invariant, seq, message))


def _slots_of(active: Active) -> list[tuple[str, int]]:
    return [(placement.node, index) for placement in active.placements for index in placement.slots]
