"""How events change the rows of nodes and slots.

Owns the meaning of these rows' columns; knows no SQL, and of an attempt only that it holds or lets go of slots.

A grant or an end moves a node's ``seq`` because it moves what is used of the node, a Started where the node was blamed. A slot has a row while its node's last
inventory names it and the node is not removed, or while an attempt holds it. A node that the fold forgets takes its rows
with it in the same event.
"""

from __future__ import annotations

from collections.abc import Mapping

from events.codec import StoredEvent
from events.resources import slots_of_devices
from events.state import Node
from events.types import Device, Dispatched, Event, NodeJoined, SlotUnhealthy
from projections.read_model import reports
from projections.read_model.rows import NodeRow, SlotRow, fitting
from projections.read_model.times import stored_time
from projections.read_model.working_set import WorkingRow, WorkingSet
from trainshed_client.statuses import GONE, NodeStatus

_REMOVED = NodeStatus.REMOVED  # up to Python 3.11 an enum looks its members up slowly
_KEPT = ("seq", "cpus_used", "memory_used_mb", "slots_used", "witness", *reports.OF_NODE)
"""The columns of a node that its own events leave as they are."""


def hold(working: WorkingSet, node: str, index: int, ref: Dispatched, time: str) -> None:
    """A grant: the attempt holds this slot, whether or not the node has it."""
    if fitting(index) is None:
        return
    item = _slot(working, node, index)
    row = item.row
    assert row is not None
    if row.run_id is None:
        working.held[node] = working.held.get(node, 0) + 1
    row.run_id, row.attempt, row.seq, row.updated_at = ref.run_id, ref.attempt, working.seq, time
    row.attempt_memory_mb = None


def let_go(working: WorkingSet, node: str, index: int, run_id: str, attempt: int, time: str) -> None:
    """An end: the slot is free, if it was this attempt that held it."""
    item = working.slots.get(node, {}).get(index)
    row = item.row if item is not None else None
    if item is None or row is None or row.run_id != run_id or row.attempt != attempt:
        return
    working.touch_slot(node, index, item)
    working.held[node] -= 1
    if not working.held[node]:
        del working.held[node]
    row.run_id = row.attempt = row.attempt_memory_mb = None
    row.seq, row.updated_at = working.seq, time
    if _device(working, node, index) is None:
        item.row = None


def _slot(working: WorkingSet, node: str, index: int) -> WorkingRow[SlotRow]:
    """The slot's item, made if there is none, and touched."""
    of_node = working.slots.setdefault(node, {})
    item = of_node.get(index)
    if item is None or item.row is None:
        row = SlotRow(index=index, node=node, seq=working.seq)
        if item is None:
            item = of_node[index] = WorkingRow(row)
        else:
            item.row = row
    working.touch_slot(node, index, item)
    return item


def _device(working: WorkingSet, name: str, index: int) -> Device | None:
    node = working.state.nodes.get(name)
    if node is None or node.status is _REMOVED:
        return None
    for device in node.gpus:
        if device.index == index:
            return device
    return None


def use_changed(working: WorkingSet, name: str, moved_ns: int | None) -> None:
    """A grant, an end or a Started changed a node at ``moved_ns``; a Stopping (None) changes its fold alone."""
    item, node = working.nodes.get(name), working.state.nodes.get(name)
    if node is None:
        _forgotten(working, name)
    elif item is not None:
        row = working.touch_node(item)
        if moved_ns is not None:
            row.seq, row.updated_at = working.seq, stored_time(moved_ns)
            row.suspect_since, row.suspect_reason = _suspect(node)


def _forgotten(working: WorkingSet, name: str) -> None:
    """The fold knows this node no longer (or, of a grant to one that never joined, not yet)."""
    item = working.nodes.get(name)
    if item is None or item.row is None:
        return
    working.touch_node(item)
    item.row = None
    for index, slot in sorted(working.slots.get(name, {}).items()):
        if slot.row is not None:
            working.touch_slot(name, index, slot)
            slot.row = None


def node_changed(working: WorkingSet, stored: StoredEvent, name: str) -> None:
    """An event of the node itself: its row and its slots, as the fold has it now."""
    node = working.state.nodes.get(name)
    if node is None:
        _forgotten(working, name)
        return
    event = stored.event
    reasons = {event.index: event.reason} if isinstance(event, SlotUnhealthy) else {}
    _inventory(working, node, stored.seq, stored_time(stored.stored_ns), reasons)
    row = _node_row(node)
    item = working.nodes.get(name)
    if item is None or item.row is None:
        if item is None:
            item = working.nodes[name] = WorkingRow(row)
        else:
            item.row = row
        row.updated_at = stored_time(stored.stored_ns)
        _set_witness(row, event)
        working.touch_node(item)
        return
    before = working.touch_node(item)  # its fold may have changed where its columns did not
    for column in _KEPT:
        setattr(row, column, getattr(before, column))
    _set_witness(row, event)
    if row != before or node.status is _REMOVED:
        row.seq, row.updated_at = stored.seq, stored_time(stored.stored_ns)
        item.row = row
    if (row.status in GONE) is not (before.status in GONE):
        _free_slots_come_or_go(working, name)


def _free_slots_come_or_go(working: WorkingSet, name: str) -> None:
    """Their rows stay as they are; `slot.list` and the bucket have them only while the node is not away."""
    for index, slot in sorted(working.slots.get(name, {}).items()):
        if slot.row is not None and slot.row.run_id is None:
            working.touch_slot(name, index, slot)


def _set_witness(row: NodeRow, event: Event) -> None:
    """A join names the node's key; what was cosigned with another is none of its cosignatures."""
    if isinstance(event, NodeJoined) and event.witness != row.witness:
        row.witness = event.witness
        reports.WitnessColumns().set_in(row)


def set_used(working: WorkingSet) -> None:
    """Set in the row of each touched node what is used of it."""
    for name in working.dirty_nodes:
        row = working.nodes[name].row
        if row is None:
            continue
        usage = working.state.usage_of(name)
        row.cpus_used, row.memory_used_mb = fitting(usage.cpus), fitting(usage.memory_mb)
        row.slots_used = working.held.get(name, 0)


def _inventory(
    working: WorkingSet, node: Node, seq: int, time: str, reasons: Mapping[int, str | None]
) -> None:
    """Make the node's slots those of its inventory; one that an attempt holds stays in any case. ``reasons``: why slots
    are unhealthy from now on."""
    devices = {} if node.status is NodeStatus.REMOVED else {d.index: d for d in reversed(node.gpus)}
    for index in sorted(working.slots.get(node.name, {}).keys() - devices.keys()):
        item = working.slots[node.name][index]
        if item.row is not None and item.row.run_id is None:
            working.touch_slot(node.name, index, item)
            item.row = None
    for index in sorted(devices):
        if fitting(index) is None:
            continue
        device, healthy = devices[index], index not in node.unhealthy
        there = working.slots.get(node.name, {}).get(index)
        row = there.row if there is not None else None
        reason = None if healthy else reasons.get(index, row.unhealthy_reason if row is not None else None)
        wanted = (fitting(device.place), device.uuid, device.name, fitting(device.memory_mb), healthy, reason)
        if row is not None and wanted == (
            row.gpu,
            row.uuid,
            row.device,
            row.memory_mb,
            row.healthy,
            row.unhealthy_reason,
        ):
            continue
        item = _slot(working, node.name, index)
        assert item.row is not None
        row = item.row
        row.gpu, row.uuid, row.device, row.memory_mb, row.healthy, row.unhealthy_reason = wanted
        row.seq, row.updated_at = seq, time


def _suspect(node: Node) -> tuple[str | None, str | None]:
    """Since when, and why."""
    if not node.suspect:
        return None, None
    return stored_time(node.failed_starts[0].at_ns), node.failed_starts[-1].why


def _node_row(node: Node) -> NodeRow:
    since, reason = _suspect(node)
    return NodeRow(
        cpus=fitting(node.cpus),
        cpus_used=0,
        drained=node.drained,
        gpus=len(slots_of_devices(node, unhealthy_too=True)),
        slots_total=len(node.gpus),
        host=node.host,
        incarnation=node.incarnation,
        joined_at=stored_time(node.joined_ns),
        memory_enforced=node.memory_enforced,
        memory_mb=fitting(node.memory_mb),
        memory_used_mb=0,
        node=node.name,
        seq=node.seq,
        status=node.status.value,
        suspect_reason=reason,
        suspect_since=since,
    )
