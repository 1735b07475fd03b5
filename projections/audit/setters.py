"""Which event of a log set what a row of its read model holds: some rows are watched while the log is folded once more.

Owns the watch; knows no live read model, and no reason why somebody asks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from events.change import Change
from events.codec import StoredEvent
from events.types import NodeEvent, RunEvent
from projections.read_model.core import Projection
from projections.read_model.nodes import set_used
from projections.read_model.rows import Row
from projections.read_model.state_hash import hashed_fields
from projections.read_model.working_set import WorkingSet

Key = tuple[str | int, ...]
"""A row's key as people name it (`rows.key_of`)."""


class SetBy(msgspec.Struct, frozen=True):
    """An event of the log, by its sequence and type."""

    seq: int
    type: str


class _WatchedRow:
    """A row as it was last seen, and which event made it so; ``made``: the one that made the row or took it away."""

    __slots__ = ("fields", "made", "set_by")

    def __init__(self) -> None:
        self.fields: dict[str, Any] | None = None
        self.made: SetBy | None = None
        self.set_by: dict[str, SetBy] = {}

    def see(self, row: Row | None, event: SetBy) -> None:
        fields = None if row is None else hashed_fields(row)
        before, self.fields = self.fields, fields
        if (before is None) != (fields is None):
            self.made, self.set_by = event, {}
        if fields is not None:
            old = before or {}
            for name, value in fields.items():
                if name not in old or old[name] != value:
                    self.set_by[name] = event


class Setters:
    """Watches rows, each as (table, key). Give it every event with what it did. (Of the timeline an entry is its event's.)"""

    def __init__(self, rows: Iterable[tuple[str, Key]]) -> None:
        self._rows: dict[tuple[str, Key], _WatchedRow] = {row: _WatchedRow() for row in rows}
        self._of_run: dict[str, list[tuple[str, Key]]] = {}
        self._of_node: dict[str, list[tuple[str, Key]]] = {}
        for table, key in self._rows:
            index = self._of_node if table in ("slots", "nodes") else self._of_run
            index.setdefault(str(key[0]), []).append((table, key))

    def observe(self, stored: StoredEvent, change: Change, projection: Projection) -> None:
        """What an event did: called when the rows at hand are as it leaves them."""
        working, by = projection.working, SetBy(stored.seq, stored.subject.type)
        if self._of_run:
            for run_id in _runs_of(stored, change):
                for table, key in self._of_run.get(run_id, ()):
                    self._see_run(working, table, key, by)
        if self._of_node:
            names = _nodes_of(stored, change) & self._of_node.keys()
            if names:
                set_used(working)
            for name in names:
                for table, key in self._of_node[name]:
                    self._rows[table, key].see(_row_of_node(working, key), by)

    def of(self, table: str, key: Key, column: str | None) -> SetBy | None:
        """The event that set a column last; or (None) that made the row, or took it away. None: no event did."""
        watched = self._rows.get((table, key))
        if watched is None:
            return None
        return watched.made if column is None or table == "timeline" else watched.set_by.get(column)

    def _see_run(self, working: WorkingSet, table: str, key: Key, by: SetBy) -> None:
        run = working.runs.get(str(key[0]))
        if run is None or run.row is None:
            return  # not at hand: so no row of it was changed
        watched = self._rows[table, key]
        if table == "timeline":
            if by.seq == key[1]:
                watched.made = by
            return
        if table == "runs":
            watched.see(run.row, by)
            return
        attempt = working.attempts.get((run.row.submit_seq, int(key[1])))
        if attempt is not None:
            watched.see(attempt.row, by)
        elif run.row.submit_seq == by.seq:
            watched.see(None, by)  # the run was submitted anew, and its attempts are gone


def _runs_of(stored: StoredEvent, change: Change) -> set[str]:
    runs = {run_change.after.run_id for run_change in change.runs}
    if isinstance(stored.event, RunEvent):
        runs.add(stored.event.run_id)
    return runs


def _nodes_of(stored: StoredEvent, change: Change) -> set[str]:
    """Also those of which an attempt that ended held something, and a grant's, whether or not the fold knows the node."""
    nodes = {*change.nodes, *(name for end in change.ended for name in end.attempt.nodes)}
    if isinstance(stored.event, NodeEvent):
        nodes.add(stored.event.node)
    if (granted := getattr(stored.event, "node", None)) is not None:
        nodes.add(granted)
    return nodes


def _row_of_node(working: WorkingSet, key: Key) -> Row | None:
    item = (
        working.nodes.get(str(key[0]))
        if len(key) == 1
        else working.slots.get(str(key[0]), {}).get(int(key[1]))
    )
    return None if item is None else item.row
