"""Heartbeats into the read model: what workers tell and what nodes measure, outside the state hash.

Owns which columns a heartbeat sets and whose heartbeats count; knows neither NATS nor how a run got where it is.
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
from projections.read_model.rows import (
    AttemptRow,
    NodeRow,
    RunRow,
    SlotRow,
    fitting,
    plain_number,
    sorted_json,
)
from projections.read_model.times import stored_time
from projections.read_model.working_set import RunEntry
from trainshed_client.subjects import parse_heartbeat_subject


class Changed(msgspec.Struct):
    """The rows that heartbeats changed."""

    runs: list[RunEntry]
    attempts: list[tuple[int, AttemptRow]]
    slots: list[SlotRow]
    nodes: list[NodeRow]


def apply_heartbeats(projector: Projector, messages: Iterable[Message]) -> Applied:
    """Set the heartbeat columns of live attempts, nodes and slots, in one short transaction.

    One that is not for a live attempt, or of another incarnation, changes nothing: hand them in when all events that
    were stored before them are folded. ``seq`` of a record stays, ``updated_at`` moves.
    """
    projection = projector.projection
    changed = Changed([], [], [], [])
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
        tuple(changed_run(entry.row) for entry in changed.runs if entry.row is not None),
        tuple(changed_slot(slot) for slot in changed.slots),
    )


def _run(projection: Projection, heartbeat: RunHeartbeat, node: str, time: str, changed: Changed) -> None:
    entry = projection.entries.runs.get(heartbeat.run_id)
    row = entry.row if entry is not None else None
    if entry is None or row is None or not _is_of(entry.run, heartbeat.attempt, node):
        return
    attempt = projection.entries.attempts.get((row.submit_seq, heartbeat.attempt))
    if attempt is None or attempt.row is None:
        return
    for told in (row, attempt.row):
        _tell(told, heartbeat, time)
    row.updated_at = max(row.updated_at or "", time)
    changed.runs.append(entry)
    changed.attempts.append((row.submit_seq, attempt.row))


def _is_of(run: Run, attempt: int, node: str) -> bool:
    phase = run.phase
    return isinstance(phase, Active) and phase.attempt == attempt and phase.node == node


def _tell(row: RunRow | AttemptRow, heartbeat: RunHeartbeat, time: str) -> None:
    row.ready_at = heartbeat.ready_at
    row.last_heartbeat_at = heartbeat.last_heartbeat_at or time
    row.step = plain_number(heartbeat.step)
    row.progress = heartbeat.progress
    row.status_text = heartbeat.status_text
    row.metrics = sorted_json(heartbeat.metrics)


def _node(projection: Projection, heartbeat: NodeHeartbeat, time: str, changed: Changed) -> None:
    entry = projection.entries.nodes.get(heartbeat.node)
    if entry is None or entry.row is None or entry.row.incarnation != heartbeat.incarnation:
        return
    entry.row.last_heartbeat_at, entry.row.disk_free_mb = time, fitting(heartbeat.disk_free_mb)
    changed.nodes.append(entry.row)
    slots = projection.entries.slots.get(heartbeat.node, {})
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
