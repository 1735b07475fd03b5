"""The rows at hand with the fold that they follow, and which of them changed since the last batch.

Owns what is kept in memory, the state hash and a batch's form; knows no event's meaning, no SQL and no NATS. What is not
live it asks of a ``Past``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

import msgspec

from events.codec import StoredEvent
from events.state import Ended, Node, Run, State
from projections.read_model.rows import (
    MODULUS,
    AttemptRow,
    NodeRow,
    RunRow,
    SlotRow,
    TimelineRow,
    digest,
    digest_of_entry,
)

R = TypeVar("R", RunRow, AttemptRow, SlotRow, NodeRow)


class Entry(Generic[R]):
    """A row at hand. ``row`` None: it is to be deleted. ``digest``: of the committed row, 0 if none, None: not known."""

    __slots__ = ("digest", "dirty", "row")

    def __init__(self, row: R, digest: int | None = 0) -> None:
        self.row: R | None = row
        self.digest = digest
        self.dirty = False


class RunEntry(Entry[RunRow]):
    """A run's row with its fold. ``fresh``: its Submitted is not committed yet."""

    __slots__ = ("fresh", "run")

    def __init__(self, row: RunRow, run: Run, digest: int | None = 0) -> None:
        self.row, self.digest, self.dirty = row, digest, False  # not by super(): there are very many
        self.run, self.fresh = run, False


class Past(Protocol):
    """What was committed: asked for runs that are no longer live."""

    def runs(self, run_ids: Iterable[str]) -> list[tuple[RunRow, Run]]:
        """Those of the named runs that exist, with their folds."""
        ...

    def attempts(self, submit_seq: int) -> list[AttemptRow]:
        """All attempts of the run with this Submitted."""
        ...


class Quarantined(msgspec.Struct, frozen=True):
    """A message that is kept aside: no event that we know, or one with an unknown word in it."""

    seq: int
    time: str
    subject: str
    reason: str
    body: bytes


class Batch(msgspec.Struct):
    """The rows that a batch of events changed, each in its last form, and where the projection stands after it."""

    seq: int
    state_hash: int
    epoch: int
    epoch_of: str
    fresh_runs: list[RunEntry]
    runs: list[RunEntry]
    attempts: list[tuple[int, AttemptRow]]
    """With their runs' ``submit_seq``, as the timeline."""
    slots: list[SlotRow]
    nodes: list[tuple[NodeRow, Node]]
    gone_attempts: list[tuple[int, int]]
    """(``submit_seq``, attempt)."""
    gone_slots: list[tuple[str, int]]
    timeline: list[tuple[int, TimelineRow]]
    quarantine: list[Quarantined]


class Entries:
    """What is live, as rows and as fold. Whoever changes a row touches its entry first.

    ``seq``: the last event's that was folded. The state hash is that of the last batch.
    """

    def __init__(self, past: Past, state: State, state_hash: int, seq: int) -> None:
        self.past = past
        self.state = state
        self.seq = seq
        self.state_hash = state_hash
        self.runs: dict[str, RunEntry] = {}
        self.attempts: dict[tuple[int, int], Entry[AttemptRow]] = {}
        """(``submit_seq`` of the run, attempt) → its row."""
        self.slots: dict[str, dict[int, Entry[SlotRow]]] = {}
        self.nodes: dict[str, Entry[NodeRow]] = {}
        self.held: dict[str, int] = {}
        """Node → how many of its slots an attempt holds."""
        self.dirty_nodes: list[str] = []
        self.quarantine: list[Quarantined] = []
        self._absent: set[str] = set()
        self._dirty_runs: list[RunEntry] = []
        self._loaded: list[str] = []
        self._dirty_attempts: list[tuple[tuple[int, int], Entry[AttemptRow]]] = []
        self._dirty_slots: list[tuple[str, int, Entry[SlotRow]]] = []
        self._timeline: list[tuple[int, TimelineRow]] = []

    def restore(
        self,
        runs: Iterable[tuple[RunRow, Run]],
        attempts: Iterable[AttemptRow],
        slots: Iterable[SlotRow],
        nodes: Iterable[NodeRow],
    ) -> None:
        """Take up the committed rows of what is live."""
        for row, run in runs:
            self.runs[row.run_id] = RunEntry(row, run, None)
        for attempt in attempts:
            run_row = self.runs[attempt.run_id].row
            assert run_row is not None
            self.attempts[run_row.submit_seq, attempt.attempt] = Entry(attempt, None)
        for slot in slots:
            self.slots.setdefault(slot.node, {})[slot.index] = Entry(slot, None)
            if slot.run_id is not None:
                self.held[slot.node] = self.held.get(slot.node, 0) + 1
        for node in nodes:
            self.nodes[node.node] = Entry(node, None)

    # --- the past -----------------------------------------------------------------------------------------

    def load(self, run_ids: set[str]) -> None:
        """Take up what was committed of these runs: in one go, and once in a batch."""
        wanted = run_ids - self._absent
        if not wanted:
            return
        for row, run in self.past.runs(wanted):
            self.runs[row.run_id] = RunEntry(row, run, None)
            self._loaded.append(row.run_id)
        self._absent |= wanted - self.runs.keys()

    def history(self, run_ids: Iterable[str]) -> dict[str, Run]:
        """The last values of those of these runs that exist."""
        self.load(set(run_ids) - self.runs.keys())
        return {run_id: self.runs[run_id].run for run_id in run_ids if run_id in self.runs}

    def attempt(self, submit_seq: int, number: int) -> Entry[AttemptRow] | None:
        """The row of an attempt of this run, live or ended; None where it has none."""
        entry = self.attempts.get((submit_seq, number))
        if entry is None:
            for row in self.past.attempts(submit_seq):
                if row.attempt == number:
                    entry = Entry(row, None)
        return entry if entry is not None and entry.row is not None else None

    # --- touching -----------------------------------------------------------------------------------------

    def touch_run(self, entry: RunEntry) -> RunRow:
        """The run's row, to be changed."""
        assert entry.row is not None
        if not entry.dirty:
            entry.dirty = True
            self._dirty_runs.append(entry)
            if entry.digest is None:
                entry.digest = digest(entry.row)
        return entry.row

    def touch_attempt(self, key: tuple[int, int], entry: Entry[AttemptRow]) -> None:
        """Before an attempt's row is changed, or made."""
        if not entry.dirty:
            entry.dirty = True
            self._dirty_attempts.append((key, entry))
            self.attempts[key] = entry
            if entry.digest is None and entry.row is not None:
                entry.digest = digest(entry.row)

    def touch_slot(self, node: str, index: int, entry: Entry[SlotRow]) -> None:
        """Before a slot's row is changed, or made."""
        if not entry.dirty:
            entry.dirty = True
            self._dirty_slots.append((node, index, entry))
            if entry.digest is None and entry.row is not None:
                entry.digest = digest(entry.row)

    def touch_node(self, entry: Entry[NodeRow]) -> NodeRow:
        """The node's row, to be changed."""
        assert entry.row is not None
        if not entry.dirty:
            entry.dirty = True
            self.dirty_nodes.append(entry.row.node)
            if entry.digest is None:
                entry.digest = digest(entry.row)
        return entry.row

    def tell(self, row: RunRow, stored: StoredEvent, time: str, text: str | None) -> None:
        """Add an entry to the run's timeline; None: there is nothing to tell."""
        if text is not None:
            entry = TimelineRow(row.run_id, stored.seq, text, time, stored.subject.type)
            self._timeline.append((row.submit_seq, entry))

    # --- one batch ----------------------------------------------------------------------------------------

    def take_batch(self) -> Batch:
        """The rows that changed since the last batch; what is no longer live is let go of."""
        total = self.state_hash
        batch = Batch(0, 0, 0, "", [], [], [], [], [], [], [], self._timeline, self.quarantine)
        for entry in self._dirty_runs:
            assert entry.row is not None
            new = digest(entry.row)
            total += new - (entry.digest or 0)
            entry.digest, entry.dirty = new, False
            (batch.fresh_runs if entry.fresh else batch.runs).append(entry)
            entry.fresh = False
            if isinstance(entry.run.phase, Ended):
                self.runs.pop(entry.row.run_id, None)
        for run_id in self._loaded:
            loaded = self.runs.get(run_id)
            if loaded is not None and isinstance(loaded.run.phase, Ended):
                del self.runs[run_id]
        for key, attempt in self._dirty_attempts:
            total += self._settle(attempt)
            if attempt.row is None:
                batch.gone_attempts.append(key)
                self.attempts.pop(key, None)
            else:
                batch.attempts.append((key[0], attempt.row))
                if attempt.row.ended_at is not None:
                    self.attempts.pop(key, None)
        for node, index, slot in self._dirty_slots:
            total += self._settle(slot)
            if slot.row is None:
                batch.gone_slots.append((node, index))
                self.slots[node].pop(index, None)
            else:
                batch.slots.append(slot.row)
        for name in self.dirty_nodes:
            node_entry = self.nodes[name]
            assert node_entry.row is not None
            total += self._settle(node_entry)
            batch.nodes.append((node_entry.row, self.state.nodes[name]))
        for _, row in self._timeline:
            total += digest_of_entry(row)
        self.state_hash = total % MODULUS
        batch.seq, batch.state_hash = self.seq, self.state_hash
        batch.epoch, batch.epoch_of = self.state.epoch, self.state.epoch_of
        self._dirty_runs, self._dirty_attempts, self._dirty_slots, self.dirty_nodes = [], [], [], []
        self._timeline, self.quarantine, self._loaded = [], [], []
        self._absent.clear()
        return batch

    def _settle(self, entry: Entry[R]) -> int:
        """What the entry's row adds to the state hash beyond its committed form."""
        new = digest(entry.row) if entry.row is not None else 0
        added = new - (entry.digest or 0)
        entry.digest, entry.dirty = new, False
        return added
