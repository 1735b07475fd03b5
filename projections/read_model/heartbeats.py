"""Heartbeats into the read model: what workers report and what nodes measure, outside the state hash.

Owns whose heartbeats count; knows neither NATS nor how a run got where it is.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from events.codec import decode_heartbeat
from events.state import Active, Run
from events.types import AttemptRef, NodeHeartbeat, RunHeartbeat
from projections.read_model import reports
from projections.read_model.changed import Applied, changed_node, changed_run, changed_slot
from projections.read_model.core import Projection
from projections.read_model.projector import Projector
from projections.read_model.reports import ReportColumns, WitnessColumns
from projections.read_model.rows import (
    AttemptRow,
    NodeRow,
    SlotRow,
    fitting,
    sorted_json,
)
from projections.read_model.times import stored_time
from projections.read_model.working_set import R, WorkingRow, WorkingRun
from trainshed_client.direct_get import Message
from trainshed_client.subjects import parse_heartbeat_subject


class ChangedRows(msgspec.Struct):
    """The rows that heartbeats changed."""

    runs: list[WorkingRun]
    attempts: list[tuple[int, AttemptRow]]
    slots: list[SlotRow]
    nodes: list[NodeRow]
    shown: list[NodeRow]
    """The nodes whose records are put."""


def apply_heartbeats(projector: Projector, messages: Iterable[Message]) -> Applied:
    """Set the heartbeat columns of live attempts, nodes and slots, in one short transaction.

    One that is not for a live attempt, or of another incarnation, changes nothing: hand them in when all events that
    were stored before them are folded. ``seq`` of a record stays, ``updated_at`` moves. A node's record is put once in each
    ten seconds of the clock at the most, and when the node begins or ceases to object to the log.
    """
    projection = projector.projection
    changed = ChangedRows([], [], [], [], [])
    for message in messages:
        heartbeat = decode_heartbeat(message.subject, message.body)
        time = stored_time(message.stored_ns)
        match heartbeat:
            case RunHeartbeat():
                where = parse_heartbeat_subject(message.subject)
                if where is not None:
                    _run(projection, heartbeat, where[2], time, changed)
            case NodeHeartbeat():
                _node(projection, heartbeat, time, changed)
            case None:
                pass
    _put(projector, changed)
    state = projection.working.state
    shown = (changed_node(row, state) for row in changed.shown)
    slots = (changed_slot(row, state) for row in changed.slots)
    return Applied(
        projector.seq,
        tuple(changed_run(item.row) for item in changed.runs if item.row is not None),
        tuple(slot for slot in slots if slot.record is not None),
        tuple(node for node in shown if node.record is not None),
    )


def carry_over(old: Projector, new: Projector) -> None:
    """Set the heartbeat columns of ``new``, which has the same events, to those of ``old``: a record then has the heartbeat
    that it had, also one that is no longer stored."""
    before, after = old.projection.working, new.projection.working
    changed = ChangedRows([], [], [], [], [])
    for run_id, run in after.runs.items():
        if _carried(before.runs.get(run_id), run, reports.OF_RUN):
            changed.runs.append(run)
    for key, attempt in after.attempts.items():
        if _carried(before.attempts.get(key), attempt, reports.OF_ATTEMPT) and attempt.row is not None:
            changed.attempts.append((key[0], attempt.row))
    for name, slots in after.slots.items():
        for index, slot in slots.items():
            known = before.slots.get(name, {}).get(index)
            if _carried(known, slot, reports.OF_SLOT) and slot.row is not None:
                changed.slots.append(slot.row)
    for name, node in after.nodes.items():
        if _carried(before.nodes.get(name), node, reports.OF_NODE) and node.row is not None:
            changed.nodes.append(node.row)
    _put(new, changed)


def _carried(old: WorkingRow[R] | None, new: WorkingRow[R], names: Iterable[str]) -> bool:
    """Whether there was anything to carry over."""
    if old is None or old.row is None or new.row is None:
        return False
    differing = [name for name in names if getattr(new.row, name) != getattr(old.row, name)]
    for name in differing:
        setattr(new.row, name, getattr(old.row, name))
    return bool(differing)


def _put(projector: Projector, changed: ChangedRows) -> None:
    if not (changed.runs or changed.attempts or changed.slots or changed.nodes):
        return
    store = projector.store
    with store.connection.begin():
        store.put_runs(changed.runs)
        store.put_attempts(changed.attempts)
        store.put_slots(changed.slots)
        store.put_last_heartbeats(changed.nodes)


def _run(projection: Projection, heartbeat: RunHeartbeat, node: str, time: str, changed: ChangedRows) -> None:
    item = projection.working.runs.get(heartbeat.run_id)
    row = item.row if item is not None else None
    if item is None or row is None or not _is_of(item.run, heartbeat.attempt, node):
        return
    attempt = projection.working.attempts.get((row.submit_seq, heartbeat.attempt))
    if attempt is None or attempt.row is None:
        return
    report = ReportColumns.of(heartbeat, time)
    report.set_in(row)
    report.set_in(attempt.row)
    row.updated_at = max(row.updated_at or "", time)
    changed.runs.append(item)
    changed.attempts.append((row.submit_seq, attempt.row))


def _is_of(run: Run, attempt: int, node: str) -> bool:
    phase = run.phase
    return isinstance(phase, Active) and phase.attempt == attempt and phase.on(node) is not None


def _node(projection: Projection, heartbeat: NodeHeartbeat, time: str, changed: ChangedRows) -> None:
    item = projection.working.nodes.get(heartbeat.node)
    if item is None or item.row is None or item.row.incarnation != heartbeat.incarnation:
        return
    row = item.row
    last, objection = row.last_heartbeat_at, row.witness_objection
    row.last_heartbeat_at, row.disk_free_mb = time, fitting(heartbeat.disk_free_mb)
    row.updated_at = max(row.updated_at or "", time)
    WitnessColumns.of(heartbeat).set_in(row)
    changed.nodes.append(row)
    if _stretch(last) != _stretch(time) or row.witness_objection != objection:
        changed.shown.append(row)
    if heartbeat.gpus:
        _slots(projection, heartbeat, time, changed)
        _memory_of_attempts(projection, heartbeat, changed)


def _stretch(time: str | None) -> str:
    """The ten seconds in which a time lies: up to the tens of its seconds."""
    return "" if time is None else time[: len("2026-11-24T08:00:0")]


def _slots(projection: Projection, heartbeat: NodeHeartbeat, time: str, changed: ChangedRows) -> None:
    """What was read of a device, in the rows of all its slots."""
    rows = {
        index: item.row
        for index, item in projection.working.slots.get(heartbeat.node, {}).items()
        if item.row is not None
    }
    for reading in heartbeat.gpus:
        first = rows.get(reading.index)
        if first is None:
            continue
        memory = {(one.run_id, one.attempt): fitting(one.memory_mb) for one in reading.attempts}
        of_device = (
            fitting(reading.memory_used_mb),
            fitting(reading.utilisation),
            sorted_json(reading.other_pids),
        )
        for row in rows.values():
            if row is not first and (row.gpu is None or row.gpu != first.gpu):
                continue
            held = None if row.run_id is None else memory.get((row.run_id, row.attempt or 0))
            if (*of_device, held) == (
                row.memory_used_mb,
                row.utilisation,
                row.other_pids,
                row.attempt_memory_mb,
            ):
                continue
            row.memory_used_mb, row.utilisation, row.other_pids = of_device
            row.attempt_memory_mb = held
            row.updated_at = max(row.updated_at or "", time)
            changed.slots.append(row)


def _memory_of_attempts(projection: Projection, heartbeat: NodeHeartbeat, changed: ChangedRows) -> None:
    """What each live attempt of the node uses of its devices' memory, all together."""
    used: dict[AttemptRef, int] = {}
    for reading in heartbeat.gpus:
        for one in reading.attempts:
            ref = AttemptRef(one.run_id, one.attempt)
            used[ref] = used.get(ref, 0) + one.memory_mb
    working = projection.working
    for run, active, placement in working.state.attempts_of(heartbeat.node):
        item = working.attempts.get((run.submit_seq, active.attempt)) if placement.slots else None
        memory = fitting(used.get(run.ref))
        if item is not None and item.row is not None and item.row.gpu_memory_mb != memory:
            item.row.gpu_memory_mb = memory
            changed.attempts.append((run.submit_seq, item.row))
