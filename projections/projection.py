"""The read model's core: what each event makes of the rows of runs, attempts, slots, nodes and timeline.

Owns the meaning of every column; knows no SQL, clock or NATS. What is not live it asks of a ``Past``.

``seq`` of a row is the sequence of the event that last changed one of its columns (heartbeat columns apart): an event
that changes none leaves it. A grant or an end moves a node's ``seq`` because it moves what is used of the node. A
slot has a row while its node's last inventory names it and the node is not removed, or while an attempt holds it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Generic, NamedTuple, Protocol, TypeVar

import msgspec
from msgspec import Raw

from events.codec import StoredEvent, Unreadable
from events.config import stored_config
from events.evolve import Change, EndedAttempt, RunChange, ended_runs_needed, evolve, outcome
from events.state import Ended, Node, Run, State
from events.types import (
    AttemptEnd,
    AttemptRef,
    Cancelled,
    CancelRequested,
    Device,
    Dispatched,
    Event,
    LastHeartbeat,
    NodeEvent,
    RetryRequested,
    RunEvent,
    Started,
    Submitted,
)
from projections import wording
from projections.rows import (
    EMPTY_LIST,
    EMPTY_OBJECT,
    MODULUS,
    AttemptRow,
    NodeRow,
    RunRow,
    SlotRow,
    TimelineRow,
    digest,
    digest_of_entry,
    fitting,
    plain_number,
    sorted_json,
)
from projections.stored_time import stored_time
from trainshed_client.statuses import FailureReason, NodeStatus, RunStatus

R = TypeVar("R", RunRow, AttemptRow, SlotRow, NodeRow)

_STATUS = {status: status.value for status in RunStatus}
_REASON: Mapping[FailureReason | None, str | None] = {None: None, **{r: r.value for r in FailureReason}}
_NONE_ENDED: dict[str, EndedAttempt] = {}


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


class Projection:
    """The fold and the rows of what is live. Feed it in order: ``begin``, ``apply`` each, ``finish``.

    Rows depend on the log alone, never on how it was cut into batches.
    """

    def __init__(self, past: Past, state: State | None = None, state_hash: int = 0, seq: int = 0) -> None:
        self.state = state or State()
        self.seq = seq
        self.state_hash = state_hash
        self.runs: dict[str, RunEntry] = {}
        self.attempts: dict[tuple[int, int], Entry[AttemptRow]] = {}
        """(``submit_seq`` of the run, attempt) → its row."""
        self.slots: dict[str, dict[int, Entry[SlotRow]]] = {}
        self.nodes: dict[str, Entry[NodeRow]] = {}
        self._past = past
        self._absent: set[str] = set()
        self._held: dict[str, int] = {}
        self._dirty_runs: list[RunEntry] = []
        self._loaded: list[str] = []
        self._dirty_attempts: list[tuple[tuple[int, int], Entry[AttemptRow]]] = []
        self._dirty_slots: list[tuple[str, int, Entry[SlotRow]]] = []
        self._dirty_nodes: list[str] = []
        self._timeline: list[tuple[int, TimelineRow]] = []
        self._quarantine: list[Quarantined] = []
        self._handlers = {
            Dispatched: self._dispatched,
            Started: self._started,
            CancelRequested: self._cancel_requested,
            RetryRequested: self._retried,
            Cancelled: self._cancelled_while_queued,
        }

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
                self._held[slot.node] = self._held.get(slot.node, 0) + 1
        for node in nodes:
            self.nodes[node.node] = Entry(node, None)

    # --- one batch ----------------------------------------------------------------------------------------

    def begin(self, run_ids: set[str]) -> None:
        """Load the ended runs that a batch speaks of, in one go."""
        self._load(run_ids - self.runs.keys())

    def apply(self, stored: StoredEvent, body: bytes) -> Change:
        """Fold one event into the state and the rows. Total: no event stops it."""
        self.seq = stored.seq
        event = stored.event
        needed = ended_runs_needed(self.state, stored)
        change = evolve(self.state, stored, self._history(needed)) if needed else evolve(self.state, stored)
        if isinstance(event, AttemptEnd):
            if getattr(event, "failure_reason", None) is FailureReason.UNSPECIFIED:
                self._set_aside(stored, "an unknown failure_reason, taken as UNSPECIFIED", body)
            if change.late is not None:
                self._late(stored, event, change.late)
        elif change.unreadable is not None:
            self._set_aside(stored, change.unreadable, body)
        if change.runs:
            self._runs_changed(stored, event, change)
        if change.nodes:
            if isinstance(event, NodeEvent):
                self._node_changed(stored, event.node)
            else:
                moves = bool(change.ended) or isinstance(event, Dispatched)
                for name in change.nodes:
                    self._use_changed(name, moves)
        return change

    def quarantine(self, message: Unreadable) -> None:
        """Keep a message aside that is no event we know."""
        self.seq = message.seq
        self._quarantine.append(
            Quarantined(
                message.seq, stored_time(message.stored_ns), message.subject, message.reason, message.body
            )
        )

    def finish(self) -> Batch:
        """The rows that changed since ``begin``; what is no longer live is let go of."""
        total = self.state_hash
        batch = Batch(0, 0, 0, "", [], [], [], [], [], [], [], self._timeline, self._quarantine)
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
        for name in self._dirty_nodes:
            node_entry = self.nodes[name]
            assert node_entry.row is not None
            self._set_use(node_entry.row)
            total += self._settle(node_entry)
            batch.nodes.append((node_entry.row, self.state.nodes[name]))
        for _, row in self._timeline:
            total += digest_of_entry(row)
        self.state_hash = total % MODULUS
        batch.seq, batch.state_hash = self.seq, self.state_hash
        batch.epoch, batch.epoch_of = self.state.epoch, self.state.epoch_of
        self._dirty_runs, self._dirty_attempts, self._dirty_slots, self._dirty_nodes = [], [], [], []
        self._timeline, self._quarantine, self._loaded = [], [], []
        self._absent.clear()
        return batch

    def _settle(self, entry: Entry[R]) -> int:
        """What the entry's row adds to the state hash beyond its committed form."""
        new = digest(entry.row) if entry.row is not None else 0
        added = new - (entry.digest or 0)
        entry.digest, entry.dirty = new, False
        return added

    # --- the past -----------------------------------------------------------------------------------------

    def _load(self, run_ids: set[str]) -> None:
        wanted = run_ids - self._absent
        if not wanted:
            return
        for row, run in self._past.runs(wanted):
            self.runs[row.run_id] = RunEntry(row, run, None)
            self._loaded.append(row.run_id)
        self._absent |= wanted - self.runs.keys()

    def _history(self, run_ids: Iterable[str]) -> dict[str, Run]:
        self._load(set(run_ids) - self.runs.keys())
        return {run_id: self.runs[run_id].run for run_id in run_ids if run_id in self.runs}

    def _attempt(self, submit_seq: int, number: int) -> Entry[AttemptRow] | None:
        entry = self.attempts.get((submit_seq, number))
        if entry is None:
            for row in self._past.attempts(submit_seq):
                if row.attempt == number:
                    entry = Entry(row, None)
        return entry if entry is not None and entry.row is not None else None

    # --- touching -----------------------------------------------------------------------------------------

    def _touch_run(self, entry: RunEntry) -> RunRow:
        assert entry.row is not None
        if not entry.dirty:
            entry.dirty = True
            self._dirty_runs.append(entry)
            if entry.digest is None:
                entry.digest = digest(entry.row)
        return entry.row

    def _touch_attempt(self, key: tuple[int, int], entry: Entry[AttemptRow]) -> None:
        if not entry.dirty:
            entry.dirty = True
            self._dirty_attempts.append((key, entry))
            self.attempts[key] = entry
            if entry.digest is None and entry.row is not None:
                entry.digest = digest(entry.row)

    def _touch_slot(self, node: str, index: int, entry: Entry[SlotRow]) -> None:
        if not entry.dirty:
            entry.dirty = True
            self._dirty_slots.append((node, index, entry))
            if entry.digest is None and entry.row is not None:
                entry.digest = digest(entry.row)

    def _touch_node(self, entry: Entry[NodeRow]) -> NodeRow:
        assert entry.row is not None
        if not entry.dirty:
            entry.dirty = True
            self._dirty_nodes.append(entry.row.node)
            if entry.digest is None:
                entry.digest = digest(entry.row)
        return entry.row

    def _tell(self, row: RunRow, stored: StoredEvent, time: str, text: str | None) -> None:
        if text is not None:
            entry = TimelineRow(row.run_id, stored.seq, text, time, stored.subject.type)
            self._timeline.append((row.submit_seq, entry))

    def _set_aside(self, stored: StoredEvent, reason: str, body: bytes) -> None:
        self._quarantine.append(
            Quarantined(stored.seq, stored_time(stored.stored_ns), str(stored.subject), reason, body)
        )

    # --- runs ---------------------------------------------------------------------------------------------

    def _runs_changed(self, stored: StoredEvent, event: Event, change: Change) -> None:
        time = stored_time(stored.stored_ns)
        ended = {end.run_id: end for end in change.ended} if change.ended else _NONE_ENDED
        own = stored.subject.id if isinstance(event, RunEvent) else None
        for run_change in change.runs:
            run = run_change.after
            run_id = run.run_id
            if isinstance(event, Submitted) and run_id == own:
                self._submitted(stored, event, run, time)
                continue
            entry = self.runs[run_id]
            entry.run = run
            row = self._touch_run(entry)
            end = ended.get(run_id)
            if end is not None:
                self._attempt_ended(stored, event, end, run_change, row, time)
            elif run_id == own:
                handler = self._handlers.get(type(event))
                if handler is not None:
                    handler(event, row, run, time)
                    row.seq, row.updated_at = stored.seq, time
                self._tell(row, stored, time, wording.of_event(event, run_change))
            # else: a run that waited for the one that ended. Its columns say nothing of that

    def _submitted(self, stored: StoredEvent, event: Submitted, run: Run, time: str) -> None:
        run_id = run.run_id
        config = stored_config(event.config)
        needs = run.needs
        row = RunRow(
            attempt=1,
            command=sorted_json(config.command),
            cpus=fitting(needs.cpus),
            digest=event.digest,
            gpus=fitting(needs.gpus),
            labels=sorted_json(config.labels),
            name=run.name,
            priority=fitting(run.priority),
            run_id=run_id,
            seq=stored.seq,
            status="PENDING",
            submit_seq=stored.seq,
            submitted_at=time,
            submitted_by=event.submitted_by,
            updated_at=time,
        )
        entry = self.runs.get(run_id)
        if entry is None:
            entry = self.runs[run_id] = RunEntry(row, run)
            self._touch_run(entry)
        else:  # no guarded writer does this: a run of the same id ended before. It begins afresh
            self._forget_attempts(self._touch_run(entry).submit_seq)
            entry.row, entry.run = row, run
        entry.fresh = True
        self._tell(row, stored, time, wording.submitted(run, event.submitted_by))

    def _forget_attempts(self, submit_seq: int) -> None:
        for row in self._past.attempts(submit_seq):
            self.attempts.setdefault((submit_seq, row.attempt), Entry(row, None))
        for key, entry in list(self.attempts.items()):
            if key[0] == submit_seq:
                self._touch_attempt(key, entry)
                entry.row = None

    def _dispatched(self, event: Event, row: RunRow, run: Run, time: str) -> None:
        assert isinstance(event, Dispatched)
        slots = sorted_json(event.slots)
        row.status, row.node, row.slots, row.dispatched_at = "DISPATCHING", event.node, slots, time
        attempt = AttemptRow(
            attempt=event.attempt,
            dispatched_at=time,
            node=event.node,
            run_id=event.run_id,
            slots=slots,
            status="DISPATCHING",
        )
        self._touch_attempt((row.submit_seq, event.attempt), Entry(attempt))
        for index in event.slots:
            self._hold(event.node, index, event, time)

    def _started(self, event: Event, row: RunRow, run: Run, time: str) -> None:
        assert isinstance(event, Started)
        pid = fitting(event.pid)
        row.status, row.host, row.pid, row.started_at = "RUNNING", event.host, pid, time
        entry = self._attempt(row.submit_seq, event.attempt)
        assert entry is not None and entry.row is not None
        self._touch_attempt((row.submit_seq, event.attempt), entry)
        attempt = entry.row
        attempt.status, attempt.host, attempt.pid, attempt.started_at = "RUNNING", event.host, pid, time

    def _cancel_requested(self, event: Event, row: RunRow, run: Run, time: str) -> None:
        row.cancel_requested = True

    def _retried(self, event: Event, row: RunRow, run: Run, time: str) -> None:
        row.cancel_requested = False
        self._queued(row, run)

    def _cancelled_while_queued(self, event: Event, row: RunRow, run: Run, time: str) -> None:
        assert isinstance(run.phase, Ended)
        row.status, row.ended_at = "CANCELLED", time
        row.failure_reason = _REASON[run.phase.reason]

    def _queued(self, row: RunRow, run: Run) -> None:
        """PENDING with the next attempt: the columns of the attempt before are cleared."""
        row.status, row.attempt = "PENDING", run.phase.attempt
        row.node = row.host = row.pid = row.dispatched_at = row.started_at = row.ended_at = None
        row.exit_code = row.signal = row.failure_reason = None
        row.slots = EMPTY_LIST
        _told(row, _NOTHING_TOLD)

    def _attempt_ended(
        self,
        stored: StoredEvent,
        event: Event,
        end: EndedAttempt,
        change: RunChange,
        row: RunRow,
        time: str,
    ) -> None:
        run, number = change.after, end.attempt.attempt
        heartbeat = getattr(event, "last_heartbeat", None)
        told = _NOTHING_TOLD if heartbeat is None else Told.of(heartbeat)
        exit_code = fitting(getattr(event, "exit_code", None))
        signal = fitting(getattr(event, "signal", None))
        entry = self._attempt(row.submit_seq, number)
        assert entry is not None and entry.row is not None
        self._touch_attempt((row.submit_seq, number), entry)
        attempt = entry.row
        attempt.status, attempt.failure_reason = _STATUS[end.status], _REASON[end.reason]
        attempt.ended_at, attempt.exit_code, attempt.signal = time, exit_code, signal
        _told(attempt, told)
        if isinstance(run.phase, Ended):
            row.status, row.failure_reason = _STATUS[run.phase.status], _REASON[run.phase.reason]
            row.ended_at, row.exit_code, row.signal = time, exit_code, signal
            _told(row, told)
        else:
            self._queued(row, run)
        row.seq, row.updated_at = stored.seq, time
        for index in end.attempt.slots:
            self._let_go(end.attempt.node, index, run.run_id, number, time)
        text = wording.end_of_attempt(event, end, change, stored.stored_ns)
        self._tell(row, stored, time, text)

    def _late(self, stored: StoredEvent, event: AttemptEnd, ref: AttemptRef) -> None:
        """An end after the attempt's first: kept with it, and told, if it is of the node that had the attempt."""
        run = self.runs.get(ref.run_id)
        if run is None or run.row is None:
            return
        entry = self._attempt(run.row.submit_seq, ref.attempt)
        if entry is None or entry.row is None or entry.row.node != stored.subject.node:
            return
        self._touch_attempt((run.row.submit_seq, ref.attempt), entry)
        entry.row.late_result = wording.late_result(outcome(event)[0], event)
        time = stored_time(stored.stored_ns)
        self._tell(run.row, stored, time, wording.late(event, stored.subject.node))

    # --- nodes and slots ----------------------------------------------------------------------------------

    def _hold(self, node: str, index: int, ref: Dispatched, time: str) -> None:
        if fitting(index) is None:
            return
        entry = self._slot(node, index)
        row = entry.row
        assert row is not None
        if row.run_id is None:
            self._held[node] = self._held.get(node, 0) + 1
        row.run_id, row.attempt, row.seq, row.updated_at = ref.run_id, ref.attempt, self.seq, time

    def _let_go(self, node: str, index: int, run_id: str, attempt: int, time: str) -> None:
        entry = self.slots.get(node, {}).get(index)
        row = entry.row if entry is not None else None
        if entry is None or row is None or row.run_id != run_id or row.attempt != attempt:
            return
        self._touch_slot(node, index, entry)
        self._held[node] -= 1
        row.run_id = row.attempt = None
        row.seq, row.updated_at = self.seq, time
        if self._device(node, index) is None:
            entry.row = None

    def _slot(self, node: str, index: int) -> Entry[SlotRow]:
        """The slot's entry, made if there is none, and touched."""
        of_node = self.slots.setdefault(node, {})
        entry = of_node.get(index)
        if entry is None or entry.row is None:
            row = SlotRow(index=index, node=node, seq=self.seq)
            if entry is None:
                entry = of_node[index] = Entry(row)
            else:
                entry.row = row
        self._touch_slot(node, index, entry)
        return entry

    def _device(self, name: str, index: int) -> Device | None:
        node = self.state.nodes.get(name)
        if node is None or node.status is NodeStatus.REMOVED:
            return None
        return next((device for device in node.gpus if device.index == index), None)

    def _use_changed(self, name: str, moves: bool) -> None:
        """A grant or an end (``moves``) changed what is used of a node; a Stopping changes its fold alone."""
        entry = self.nodes.get(name)
        if entry is not None:  # a grant may name a node that never joined
            row = self._touch_node(entry)
            if moves:
                row.seq = self.seq

    def _node_changed(self, stored: StoredEvent, name: str) -> None:
        node = self.state.nodes[name]
        self._inventory(node, stored.seq, stored_time(stored.stored_ns))
        row = _node_row(node)
        entry = self.nodes.get(name)
        if entry is None or entry.row is None:
            entry = self.nodes[name] = Entry(row)
            self._touch_node(entry)
            return
        before = self._touch_node(entry)  # its fold may have changed where its columns did not
        row.seq, row.last_heartbeat_at, row.disk_free_mb = (
            before.seq,
            before.last_heartbeat_at,
            before.disk_free_mb,
        )
        row.cpus_used, row.memory_used_mb, row.slots_used = (
            before.cpus_used,
            before.memory_used_mb,
            before.slots_used,
        )
        if row != before or node.status is NodeStatus.REMOVED:
            row.seq = stored.seq
            entry.row = row

    def _set_use(self, row: NodeRow) -> None:
        usage = self.state.usage_of(row.node)
        row.cpus_used, row.memory_used_mb = fitting(usage.cpus), fitting(usage.memory_mb)
        row.slots_used = self._held.get(row.node, 0)

    def _inventory(self, node: Node, seq: int, time: str) -> None:
        """Make the node's slots those of its inventory; one that an attempt holds stays in any case."""
        devices = {} if node.status is NodeStatus.REMOVED else {d.index: d for d in reversed(node.gpus)}
        for index in sorted(self.slots.get(node.name, {}).keys() - devices.keys()):
            entry = self.slots[node.name][index]
            if entry.row is not None and entry.row.run_id is None:
                self._touch_slot(node.name, index, entry)
                entry.row = None
        for index in sorted(devices):
            if fitting(index) is None:
                continue
            device, healthy = devices[index], index not in node.unhealthy
            there = self.slots.get(node.name, {}).get(index)
            wanted = (device.uuid, device.name, fitting(device.memory_mb), healthy)
            row = there.row if there is not None else None
            if row is not None and (row.uuid, row.device, row.memory_mb, row.healthy) == wanted:
                continue
            entry = self._slot(node.name, index)
            assert entry.row is not None
            row = entry.row
            row.uuid, row.device, row.memory_mb, row.healthy = wanted
            row.seq, row.updated_at = seq, time


class Told(NamedTuple):
    """A worker's last words as columns have them."""

    ready_at: str | None
    last_heartbeat_at: str | None
    status_text: str | None
    step: int | float | None
    progress: float | None
    metrics: Raw

    @classmethod
    def of(cls, last: LastHeartbeat) -> Told:
        """What an end carries."""
        progress = (
            None if last.progress is None else last.progress + 0.0
        )  # no database keeps the sign of -0.0
        return cls(
            last.ready_at,
            last.last_heartbeat_at,
            last.status_text,
            plain_number(last.step),
            progress,
            sorted_json(last.metrics),
        )


_NOTHING_TOLD = Told(None, None, None, None, None, EMPTY_OBJECT)


def _told(row: RunRow | AttemptRow, told: Told) -> None:
    """Set for good what the worker told last (nothing: cleared)."""
    row.ready_at, row.last_heartbeat_at, row.status_text, row.step, row.progress, row.metrics = told


def _node_row(node: Node) -> NodeRow:
    return NodeRow(
        cpus=fitting(node.cpus),
        cpus_used=0,
        drained=node.drained,
        gpus=len(node.gpus),
        host=node.host,
        incarnation=node.incarnation,
        joined_at=stored_time(node.joined_ns),
        memory_mb=fitting(node.memory_mb),
        memory_used_mb=0,
        node=node.name,
        seq=node.seq,
        status=node.status.value,
    )
