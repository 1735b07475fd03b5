"""The working set: the rows at hand with the fold that they follow, and which of them changed since the last batch.

Owns what is kept in memory, the state hash and a batch's form; knows no event's meaning, no SQL and no NATS. What is not
live it asks of the committed rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from typing import Generic, NamedTuple, Protocol, TypeVar

import msgspec

from events import rules
from events.codec import StoredEvent
from events.state import Ended, Node, Run, State
from projections.read_model.rows import AttemptRow, NodeRow, RunRow, SlotRow, TimelineRow
from projections.read_model.state_hash import MODULUS, digest, digest_of_entry
from projections.read_model.timeline import encoded
from trainshed_client.rendering.timeline import TimelineData

R = TypeVar("R", RunRow, AttemptRow, SlotRow, NodeRow)


class WorkingRow(Generic[R]):
    """A row at hand. ``row`` None: it is to be deleted. ``digest``: of the committed row, 0 if none, None: not known."""

    __slots__ = ("digest", "dirty", "row")

    def __init__(self, row: R, digest: int | None = 0) -> None:
        self.row: R | None = row
        self.digest = digest
        self.dirty = False


class WorkingRun(WorkingRow[RunRow]):
    """A run's row with its fold. ``fresh``: its Submitted is not committed yet."""

    __slots__ = ("fresh", "run")

    def __init__(self, row: RunRow, run: Run, digest: int | None = 0) -> None:
        self.row, self.digest, self.dirty = row, digest, False  # not by super(): there are very many
        self.run, self.fresh = run, False


class WorkingAttempt(WorkingRow[AttemptRow]):
    """An attempt's row. ``since``: the event that gave it its form, once it has ended."""

    __slots__ = ("since",)

    def __init__(self, row: AttemptRow, since: int = 0, digest: int | None = 0) -> None:
        super().__init__(row, digest)
        self.since = since


class CommittedRows(Protocol):
    """What was committed: asked for runs that are no longer live."""

    def runs(self, run_ids: Iterable[str]) -> list[tuple[RunRow, Run]]:
        """Those of the named runs that exist, with their folds."""
        ...

    def attempts(self, submit_seq: int) -> list[tuple[AttemptRow, int]]:
        """All attempts of the run with this Submitted, each with the event that gave it its form."""
        ...


class Quarantined(msgspec.Struct, frozen=True):
    """A message that is kept aside: no event that we know, or one with an unknown value in it."""

    seq: int
    time: str
    subject: str
    reason: str
    body: bytes


class RunBefore(NamedTuple):
    """The form that the row of an ended run had, from its ``seq`` on, before the event ``until_seq`` changed it."""

    row: RunRow
    run: Run
    until_seq: int


class AttemptBefore(NamedTuple):
    """The form that the row of an ended attempt had from ``since_seq`` on, before ``until_seq``."""

    submit_seq: int
    row: AttemptRow
    since_seq: int
    until_seq: int


class Changes(NamedTuple):
    """What changed in one stretch of the log; ``past_runs``: what had ended before."""

    past_runs: list[RunBefore]
    runs: list[WorkingRun]
    slots: list[tuple[str, int, WorkingRow[SlotRow]]]
    nodes: list[str]


class LiveSet(msgspec.Struct, kw_only=True):
    """What is live after the event ``seq``, as rows and folds, and where the projection stands."""

    seq: int = 0
    state_hash: int = 0
    epoch: int = 0
    epoch_of: str = ""
    rules: int = rules.FIRST
    runs: list[tuple[RunRow, Run]] = []
    attempts: list[AttemptRow] = []
    slots: list[SlotRow] = []
    nodes: list[tuple[NodeRow, Node]] = []


class Batch(msgspec.Struct):
    """The rows that a batch of events changed, each in its last form, and where the projection stands after it."""

    seq: int
    state_hash: int
    epoch: int
    epoch_of: str
    rules: int
    fresh_runs: list[WorkingRun]
    runs: list[WorkingRun]
    attempts: list[tuple[int, int, AttemptRow]]
    """(``submit_seq`` of the run, ``since_seq``, row)."""
    slots: list[SlotRow]
    nodes: list[tuple[NodeRow, Node]]
    gone_attempts: list[tuple[int, int]]
    """(``submit_seq``, attempt)."""
    gone_slots: list[tuple[str, int]]
    gone_nodes: list[str]
    timeline: list[tuple[int, TimelineRow]]
    """With their runs' ``submit_seq``."""
    quarantine: list[Quarantined]
    past_runs: list[RunBefore]
    past_attempts: list[AttemptBefore]


class WorkingSet:
    """What is live, as rows and as fold. Whoever changes a row touches its item first.

    ``seq``: the last event's that was folded. The state hash is that of the last batch, or of when it was summed up.
    """

    def __init__(self, committed: CommittedRows, state: State, state_hash: int, seq: int) -> None:
        self.committed = committed
        self.state = state
        self.seq = seq
        self.state_hash = state_hash
        self.runs: dict[str, WorkingRun] = {}
        self.attempts: dict[tuple[int, int], WorkingAttempt] = {}
        """(``submit_seq`` of the run, attempt) → its row."""
        self.slots: dict[str, dict[int, WorkingRow[SlotRow]]] = {}
        self.nodes: dict[str, WorkingRow[NodeRow]] = {}
        self.held: dict[str, int] = {}
        """Node → how many of its slots an attempt holds."""
        self.dirty_nodes: list[str] = []
        self.quarantine: list[Quarantined] = []
        self._absent: set[str] = set()
        self._dirty_runs: list[WorkingRun] = []
        self._loaded: list[str] = []
        self._dirty_attempts: list[tuple[tuple[int, int], WorkingAttempt]] = []
        self._dirty_slots: list[tuple[str, int, WorkingRow[SlotRow]]] = []
        self._timeline: list[tuple[int, TimelineRow]] = []
        self._past_runs: list[RunBefore] = []
        self._past_attempts: list[AttemptBefore] = []
        # What is in the state hash already, of the changes since the last batch; what is dirty is not yet.
        self._changed_runs: dict[int, WorkingRun] = {}
        self._changed_attempts: dict[int, tuple[tuple[int, int], WorkingAttempt]] = {}
        self._changed_slots: dict[int, tuple[str, int, WorkingRow[SlotRow]]] = {}
        self._changed_nodes: dict[str, None] = {}
        self._entries_summed = self._past_runs_summed = 0

    def restore(self, live: LiveSet) -> None:
        """Take up the rows of what is live."""
        for row, run in live.runs:
            self.runs[row.run_id] = WorkingRun(row, run, None)
        for attempt in live.attempts:
            run_row = self.runs[attempt.run_id].row
            assert run_row is not None
            self.attempts[run_row.submit_seq, attempt.attempt] = WorkingAttempt(attempt, 0, None)
        for slot in live.slots:
            self.slots.setdefault(slot.node, {})[slot.index] = WorkingRow(slot, None)
            if slot.run_id is not None:
                self.held[slot.node] = self.held.get(slot.node, 0) + 1
        for node, _ in live.nodes:
            self.nodes[node.node] = WorkingRow(node, None)

    def live(self) -> LiveSet:
        """What is live, between two batches."""
        state = self.state
        return LiveSet(
            seq=self.seq,
            state_hash=self.state_hash,
            epoch=state.epoch,
            epoch_of=state.epoch_of,
            rules=state.rules,
            runs=[(item.row, item.run) for item in self.runs.values() if item.row is not None],
            attempts=[item.row for item in self.attempts.values() if item.row is not None],
            slots=[
                item.row
                for of_node in self.slots.values()
                for item in of_node.values()
                if item.row is not None
            ],
            nodes=[
                (item.row, state.nodes[name]) for name, item in self.nodes.items() if item.row is not None
            ],
        )

    # --- what is committed ----------------------------------------------------------------------------------

    def load(self, run_ids: set[str]) -> None:
        """Take up what was committed of these runs: in one go, and once in a batch."""
        wanted = run_ids - self._absent
        if not wanted:
            return
        for row, run in self.committed.runs(wanted):
            self.runs[row.run_id] = WorkingRun(row, run, None)
            self._loaded.append(row.run_id)
        self._absent |= wanted - self.runs.keys()

    def history(self, run_ids: Iterable[str]) -> dict[str, Run]:
        """The last values of those of these runs that exist."""
        self.load(set(run_ids) - self.runs.keys())
        return {run_id: self.runs[run_id].run for run_id in run_ids if run_id in self.runs}

    def attempt(self, submit_seq: int, number: int) -> WorkingAttempt | None:
        """The row of an attempt of this run, live or ended; None where it has none."""
        item = self.attempts.get((submit_seq, number))
        if item is None:
            for row, since in self.committed.attempts(submit_seq):
                if row.attempt == number:
                    item = WorkingAttempt(row, since, None)
        return item if item is not None and item.row is not None else None

    # --- touching -----------------------------------------------------------------------------------------

    def touch_run(self, item: WorkingRun) -> RunRow:
        """The run's row, to be changed; and before its fold is, of which an ended one's last value is kept too."""
        assert item.row is not None
        if item.row.ended_at is not None:
            self._past_runs.append(RunBefore(copy(item.row), item.run, self.seq))
        if not item.dirty:
            item.dirty = True
            self._dirty_runs.append(item)
            if item.digest is None:
                item.digest = digest(item.row)
        return item.row

    def touch_attempt(self, key: tuple[int, int], item: WorkingAttempt) -> None:
        """Before an attempt's row is changed, or made."""
        if item.row is not None and item.row.ended_at is not None:
            self._past_attempts.append(AttemptBefore(key[0], copy(item.row), item.since, self.seq))
        item.since = self.seq
        if not item.dirty:
            item.dirty = True
            self._dirty_attempts.append((key, item))
            self.attempts[key] = item
            if item.digest is None and item.row is not None:
                item.digest = digest(item.row)

    def touch_slot(self, node: str, index: int, item: WorkingRow[SlotRow]) -> None:
        """Before a slot's row is changed, or made."""
        if not item.dirty:
            item.dirty = True
            self._dirty_slots.append((node, index, item))
            if item.digest is None and item.row is not None:
                item.digest = digest(item.row)

    def touch_node(self, item: WorkingRow[NodeRow]) -> NodeRow:
        """The node's row, to be changed."""
        assert item.row is not None
        if not item.dirty:
            item.dirty = True
            self.dirty_nodes.append(item.row.node)
            if item.digest is None:
                item.digest = digest(item.row)
        return item.row

    def add_to_timeline(self, row: RunRow, stored: StoredEvent, time: str, data: TimelineData | None) -> None:
        """Add an entry to the run's timeline; None: there is none to add."""
        if data is not None:
            entry = TimelineRow(encoded(data), row.run_id, stored.seq, time, stored.subject.type)
            self._timeline.append((row.submit_seq, entry))

    # --- one batch ----------------------------------------------------------------------------------------

    def sum_up(self) -> Changes:
        """Bring the state hash up to what is there now, be it in the middle of a batch: what has changed since it was."""
        changes = Changes(
            self._past_runs[self._past_runs_summed :], self._dirty_runs, self._dirty_slots, self.dirty_nodes
        )
        total = self.state_hash
        for item in self._dirty_runs:
            total += self._hash_change(item)
            self._changed_runs[id(item)] = item
        for key, attempt in self._dirty_attempts:
            total += self._hash_change(attempt)
            self._changed_attempts[id(attempt)] = (key, attempt)
        for node, index, slot in self._dirty_slots:
            total += self._hash_change(slot)
            self._changed_slots[id(slot)] = (node, index, slot)
        for name in self.dirty_nodes:
            total += self._hash_change(self.nodes[name])
            self._changed_nodes[name] = None
        for _, row in self._timeline[self._entries_summed :]:
            total += digest_of_entry(row)
        self.state_hash = total % MODULUS
        self._entries_summed, self._past_runs_summed = len(self._timeline), len(self._past_runs)
        self._dirty_runs, self._dirty_attempts, self._dirty_slots, self.dirty_nodes = [], [], [], []
        return changes

    def take_batch(self) -> Batch:
        """The rows that changed since the last batch; what is no longer live is let go of."""
        self.sum_up()
        batch = Batch(
            *(0, 0, 0, "", 0),
            *([], [], [], [], [], [], [], []),
            self._timeline,
            self.quarantine,
            self._past_runs,
            self._past_attempts,
        )
        for item in self._changed_runs.values():
            assert item.row is not None
            (batch.fresh_runs if item.fresh else batch.runs).append(item)
            item.fresh = False
            if isinstance(item.run.phase, Ended):
                self.runs.pop(item.row.run_id, None)
        for run_id in self._loaded:
            loaded = self.runs.get(run_id)
            if loaded is not None and isinstance(loaded.run.phase, Ended):
                del self.runs[run_id]
        for key, attempt in self._changed_attempts.values():
            if attempt.row is None:
                batch.gone_attempts.append(key)
                self.attempts.pop(key, None)
            else:
                ended = attempt.row.ended_at is not None
                batch.attempts.append((key[0], attempt.since if ended else 0, attempt.row))
                if ended:
                    self.attempts.pop(key, None)
        for node, index, slot in self._changed_slots.values():
            if slot.row is None:
                batch.gone_slots.append((node, index))
                self.slots[node].pop(index, None)
                if not self.slots[node]:
                    del self.slots[node]
            else:
                batch.slots.append(slot.row)
        for name in self._changed_nodes:
            node_item = self.nodes[name]
            if node_item.row is None:
                batch.gone_nodes.append(name)
                del self.nodes[name]
            else:
                batch.nodes.append((node_item.row, self.state.nodes[name]))
        batch.seq, batch.state_hash = self.seq, self.state_hash
        batch.epoch, batch.epoch_of = self.state.epoch, self.state.epoch_of
        batch.rules = self.state.rules
        self._changed_runs, self._changed_attempts, self._changed_slots, self._changed_nodes = {}, {}, {}, {}
        self._timeline, self.quarantine, self._loaded = [], [], []
        self._past_runs, self._past_attempts = [], []
        self._entries_summed = self._past_runs_summed = 0
        self._absent.clear()
        return batch

    def _hash_change(self, item: WorkingRow[R]) -> int:
        """What the item's row adds to the state hash beyond its last form."""
        new = digest(item.row) if item.row is not None else 0
        added = new - (item.digest or 0)
        item.digest, item.dirty = new, False
        return added
