"""Heartbeats into the read model: what workers report and what nodes measure, outside the state hash.

Owns whose heartbeats count; knows neither NATS nor how a run got where it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from events.codec import decode_heartbeat
from events.feed import Message
from events.state import Active, Run
from events.types import NodeHeartbeat, RunHeartbeat
from projections.read_model.core import Projection
from projections.read_model.projector import Applied, Projector, changed_run, changed_slot
from projections.read_model.reports import ReportColumns
from projections.read_model.rows import (
    AttemptRow,
    NodeRow,
    SlotRow,
    fitting,
    sorted_json,
)
from projections.read_model.times import stored_time
from projections.read_model.working_set import WorkingRun
from trainshed_client.subjects import parse_heartbeat_subject


class ChangedRows(msgspec.Struct):
    """The rows that heartbeats changed."""

    runs: list[WorkingRun]
    attempts: list[tuple[int, AttemptRow]]
    slots: list[SlotRow]
    nodes: list[NodeRow]


def apply_heartbeats(projector: Projector, messages: Iterable[Message]) -> Applied:
    """Set the heartbeat columns of live attempts, nodes and slots, in one short transaction.

    One that is not for a live attempt, or of another incarnation, changes nothing: hand them in when all events that
    were stored before them are folded. ``seq`` of a record stays, ``updated_at`` moves.
    """
    projection = projector.projection
    changed = ChangedRows([], [], [], [])
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
    if not (changed.runs or changed.slots or changed.nodes):
        return Applied(projector.seq)
    store = projector.store
    with store.connection.begin():
        store.put_runs(changed.runs)
        store.put_attempts(changed.attempts)
        store.put_slots(changed.slots)
        store.put_last_heartbeats(changed.nodes)
    return Applied(
        projector.seq,
        tuple(changed_run(item.row) for item in changed.runs if item.row is not None),
        tuple(changed_slot(slot) for slot in changed.slots),
    )


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
    item.row.last_heartbeat_at, item.row.disk_free_mb = time, fitting(heartbeat.disk_free_mb)
    changed.nodes.append(item.row)
    slots = projection.working.slots.get(heartbeat.node, {})
    for reading in heartbeat.gpus:
        slot = slots.get(reading.index)
        if slot is None or slot.row is None:
            continue
        row: SlotRow = slot.row
        now: tuple[Any, ...] = (
            fitting(reading.memory_used_mb),
            fitting(reading.utilisation),
            sorted_json(reading.other_pids),
        )
        if now == (row.memory_used_mb, row.utilisation, row.other_pids):
            continue
        row.memory_used_mb, row.utilisation, row.other_pids = now
        row.updated_at = max(row.updated_at or "", time)
        changed.slots.append(row)
