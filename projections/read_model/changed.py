"""What a commit changed, as the record buckets have it: the records of runs, slots and nodes.

Owns which of the changed rows are records, and of what is no more; knows neither how they are put nor who reads them.
"""

from __future__ import annotations

import msgspec

from events.state import State
from projections.read_model.rows import NodeRow, RunRow, SlotRow, record_json
from projections.read_model.working_set import Batch
from trainshed_client.statuses import GONE, LIVE


class ChangedRun(msgspec.Struct, frozen=True):
    """A run's record as committed."""

    run_id: str
    seq: int
    live: bool
    record: bytes


class ChangedSlot(msgspec.Struct, frozen=True):
    """A slot's record as committed; None: `slot.list` does not have it."""

    node: str
    index: int
    record: bytes | None


class ChangedNode(msgspec.Struct, frozen=True):
    """A node's record as committed; None: `node.list` does not have it."""

    node: str
    record: bytes | None


class Applied(msgspec.Struct, frozen=True):
    """What a transaction changed, for the record buckets."""

    seq: int
    runs: tuple[ChangedRun, ...] = ()
    slots: tuple[ChangedSlot, ...] = ()
    nodes: tuple[ChangedNode, ...] = ()


def changed_run(row: RunRow) -> ChangedRun:
    """A run's record as it is put into its bucket."""
    return ChangedRun(row.run_id, row.seq, row.status in LIVE, record_json(row))


def changed_slot(row: SlotRow, state: State) -> ChangedSlot:
    """A slot's record as it is put into its bucket; that of a node that is away stays there while it is held."""
    node = state.nodes.get(row.node)
    listed = row.run_id is not None or node is None or node.status not in GONE
    return ChangedSlot(row.node, row.index, record_json(row) if listed else None)


def changed_node(row: NodeRow, state: State) -> ChangedNode:
    """A node's record as it is put into its bucket; one that is away stays there while it has attempts."""
    listed = row.status not in GONE or any(True for _ in state.attempts_of(row.node))
    return ChangedNode(row.node, record_json(row) if listed else None)


def applied_of(batch: Batch, state: State) -> Applied:
    """What a batch changed, as committed; ``state``: what is live after it."""
    rows = [item.row for item in (*batch.fresh_runs, *batch.runs) if item.row is not None]
    rows.sort(key=lambda row: row.seq)  # the buckets forget ended runs in the order of their ends
    return Applied(
        batch.seq,
        tuple(map(changed_run, rows)),
        (
            *(ChangedSlot(node, index, None) for node, index in batch.gone_slots),
            *(changed_slot(row, state) for row in batch.slots),
        ),
        (
            *(ChangedNode(name, None) for name in batch.gone_nodes),
            *(changed_node(row, state) for row, _ in batch.nodes),
        ),
    )
