"""How events change the rows of nodes and slots.

Owns the meaning of these rows' columns; knows no SQL, and of an attempt only that it holds or lets go of slots.

A grant or an end moves a node's ``seq`` because it moves what is used of the node. A slot has a row while its node's last
inventory names it and the node is not removed, or while an attempt holds it.
"""

from __future__ import annotations

from events.codec import StoredEvent
from events.state import Node
from events.types import Device, Dispatched
from projections.read_model.rows import NodeRow, SlotRow, fitting
from projections.read_model.times import stored_time
from projections.read_model.working_set import Entries, Entry
from trainshed_client.statuses import NodeStatus


def hold(entries: Entries, node: str, index: int, ref: Dispatched, time: str) -> None:
    """A grant: the attempt holds this slot, whether or not the node has it."""
    if fitting(index) is None:
        return
    entry = _slot(entries, node, index)
    row = entry.row
    assert row is not None
    if row.run_id is None:
        entries.held[node] = entries.held.get(node, 0) + 1
    row.run_id, row.attempt, row.seq, row.updated_at = ref.run_id, ref.attempt, entries.seq, time


def let_go(entries: Entries, node: str, index: int, run_id: str, attempt: int, time: str) -> None:
    """An end: the slot is free, if it was this attempt that held it."""
    entry = entries.slots.get(node, {}).get(index)
    row = entry.row if entry is not None else None
    if entry is None or row is None or row.run_id != run_id or row.attempt != attempt:
        return
    entries.touch_slot(node, index, entry)
    entries.held[node] -= 1
    row.run_id = row.attempt = None
    row.seq, row.updated_at = entries.seq, time
    if _device(entries, node, index) is None:
        entry.row = None


def _slot(entries: Entries, node: str, index: int) -> Entry[SlotRow]:
    """The slot's entry, made if there is none, and touched."""
    of_node = entries.slots.setdefault(node, {})
    entry = of_node.get(index)
    if entry is None or entry.row is None:
        row = SlotRow(index=index, node=node, seq=entries.seq)
        if entry is None:
            entry = of_node[index] = Entry(row)
        else:
            entry.row = row
    entries.touch_slot(node, index, entry)
    return entry


def _device(entries: Entries, name: str, index: int) -> Device | None:
    node = entries.state.nodes.get(name)
    if node is None or node.status is NodeStatus.REMOVED:
        return None
    return next((device for device in node.gpus if device.index == index), None)


def use_changed(entries: Entries, name: str, moves: bool) -> None:
    """A grant or an end (``moves``) changed what is used of a node; a Stopping changes its fold alone."""
    entry = entries.nodes.get(name)
    if entry is not None:  # a grant may name a node that never joined
        row = entries.touch_node(entry)
        if moves:
            row.seq = entries.seq


def node_changed(entries: Entries, stored: StoredEvent, name: str) -> None:
    """An event of the node itself: its row and its slots, as the fold has it now."""
    node = entries.state.nodes[name]
    _inventory(entries, node, stored.seq, stored_time(stored.stored_ns))
    row = _node_row(node)
    entry = entries.nodes.get(name)
    if entry is None or entry.row is None:
        entry = entries.nodes[name] = Entry(row)
        entries.touch_node(entry)
        return
    before = entries.touch_node(entry)  # its fold may have changed where its columns did not
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


def set_used(entries: Entries) -> None:
    """Set in the row of each touched node what is used of it."""
    for name in entries.dirty_nodes:
        row = entries.nodes[name].row
        assert row is not None
        usage = entries.state.usage_of(name)
        row.cpus_used, row.memory_used_mb = fitting(usage.cpus), fitting(usage.memory_mb)
        row.slots_used = entries.held.get(name, 0)


def _inventory(entries: Entries, node: Node, seq: int, time: str) -> None:
    """Make the node's slots those of its inventory; one that an attempt holds stays in any case."""
    devices = {} if node.status is NodeStatus.REMOVED else {d.index: d for d in reversed(node.gpus)}
    for index in sorted(entries.slots.get(node.name, {}).keys() - devices.keys()):
        entry = entries.slots[node.name][index]
        if entry.row is not None and entry.row.run_id is None:
            entries.touch_slot(node.name, index, entry)
            entry.row = None
    for index in sorted(devices):
        if fitting(index) is None:
            continue
        device, healthy = devices[index], index not in node.unhealthy
        there = entries.slots.get(node.name, {}).get(index)
        wanted = (device.uuid, device.name, fitting(device.memory_mb), healthy)
        row = there.row if there is not None else None
        if row is not None and (row.uuid, row.device, row.memory_mb, row.healthy) == wanted:
            continue
        entry = _slot(entries, node.name, index)
        assert entry.row is not None
        row = entry.row
        row.uuid, row.device, row.memory_mb, row.healthy = wanted
        row.seq, row.updated_at = seq, time


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
