"""Rows to and from the database: the projector's writes, the committed rows that it asks for, and the live ones at start.

Owns the statements of the write side; knows nothing of how a row comes about.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection, Table

from events.state import Node, Run
from projections.read_model import reports, tables
from projections.read_model.committed import StoredRows, row_of, run_pair
from projections.read_model.core import Projection
from projections.read_model.database import Database, in_chunks
from projections.read_model.folds import fold_of, fold_of_node, node_of
from projections.read_model.frames import KeptFrame
from projections.read_model.rows import (
    EMPTY_OBJECT,
    NEVER_CHANGES,
    AttemptRow,
    NodeRow,
    Row,
    RunRow,
    SlotRow,
)
from projections.read_model.tables import JSON_COLUMNS, SCHEMA_VERSION
from projections.read_model.working_set import Batch, LiveSet, RunBefore, WorkingRun
from projections.transparency.fold import RightEdge, TreeFold

_T = TypeVar("_T")
_RUN = RunRow.__struct_fields__
_CHANGES = tuple(name for name in _RUN if name not in NEVER_CHANGES)
_ENTRY = ("submit_seq", "run_id", "seq", "time", "type", "data")
_CHECKPOINT = (
    "id",
    "seq",
    "state_hash",
    "schema_version",
    "log_id",
    "epoch",
    "epoch_of",
    "rules",
    "first_seq",
)


class Checkpoint(msgspec.Struct, frozen=True):
    """Where the committed read model stands."""

    seq: int
    state_hash: int
    schema_version: int
    log_id: str
    epoch: int
    epoch_of: str
    rules: int
    first_seq: int


class Columns:
    """How rows of one struct become parameters: JSON columns as text, and last."""

    def __init__(self, names: tuple[str, ...]) -> None:
        plain = tuple(name for name in names if name not in JSON_COLUMNS)
        json = tuple(name for name in names if name in JSON_COLUMNS)
        self.names = (*plain, *json)
        self._all = attrgetter(*self.names)
        self._plain = len(plain)

    def of(self, row: Row) -> tuple[Any, ...]:
        """The row's values in the order of ``names``."""
        values: tuple[Any, ...] = self._all(row)
        texts = ["{}" if json is EMPTY_OBJECT else str(json, "utf-8") for json in values[self._plain :]]
        return values[: self._plain] + tuple(texts)


class Store:
    """The writer's side of one database; the ``CommittedRows`` of the projection. For one thread at a time."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.connection: Connection = database.writer()
        self._stored = StoredRows(database, self.connection)
        db = database
        self._run = Columns(_RUN)
        self._run_changes = Columns(_CHANGES)
        self._attempt = Columns(AttemptRow.__struct_fields__)
        self._slot = Columns(SlotRow.__struct_fields__)
        self._node = Columns(NodeRow.__struct_fields__)
        self._node_reports = Columns(reports.OF_NODE)
        self._put_run = db.upsert(tables.runs, (*self._run.names, "config", "fold"), ("run_id",))
        self._change_run = db.update(tables.runs, (*self._run_changes.names, "fold"), "run_id")
        attempt_key = ("submit_seq", "attempt")
        attempt = ("submit_seq", "since_seq", *self._attempt.names)
        self._put_attempt = db.upsert(tables.attempts, attempt, attempt_key)
        past_run = ("until_seq", *self._run.names, "config", "fold")
        self._put_past_run = db.insert(tables.past_runs, past_run)
        self._put_past_attempt = db.insert(tables.past_attempts, ("until_seq", *attempt))
        self._put_slot = db.upsert(tables.slots, self._slot.names, ("node", "index"))
        self._put_node = db.upsert(tables.nodes, (*self._node.names, "fold"), ("node",))
        self._put_entry = db.insert(tables.timeline, _ENTRY)
        self._put_frame = db.upsert(tables.frames, KeptFrame._fields, ("seq",))
        self._put_quarantine = db.insert(tables.quarantine, ("seq", "time", "subject", "reason", "body"))
        self._put_checkpoint = db.upsert(tables.checkpoint, _CHECKPOINT, ("id",))
        self._put_level = db.upsert(tables.tree, ("level", "hashes"), ("level",))
        self._drop_attempt = db.delete(tables.attempts, attempt_key)
        self._drop_slot = db.delete(tables.slots, ("node", "index"))
        self._drop_node = db.delete(tables.nodes, ("node",))

    def close(self) -> None:
        """Give the connection back; what is not committed is undone."""
        self.connection.close()

    def gather(self) -> bool:
        """See ``Database.gather``."""
        return self.database.gather(self.connection)

    # --- opening ------------------------------------------------------------------------------------------

    def create(self) -> None:
        """Make the tables that are missing."""
        with self.connection.begin():
            tables.metadata.create_all(self.connection)

    def drop(self) -> None:
        """Drop all tables (where a database cannot be moved aside)."""
        with self.connection.begin():
            tables.metadata.drop_all(self.connection)

    def checkpoint(self) -> Checkpoint | None:
        """The committed position; None where nothing was committed."""
        columns = tables.checkpoint.c
        with self.connection.begin():
            row = self.connection.execute(tables.checkpoint.select().where(columns.id == 1)).one_or_none()
        if row is None:
            return None
        return Checkpoint(
            row.seq,
            int(row.state_hash, 16),
            row.schema_version,
            row.log_id,
            row.epoch,
            row.epoch_of,
            row.rules,
            row.first_seq,
        )

    def tree(self) -> TreeFold:
        """The log's tree as it was committed."""
        at = self.checkpoint()
        if at is None:
            return TreeFold()
        with self.connection.begin():
            rows = self.connection.execute(tables.tree.select().order_by(tables.tree.c.level)).all()
        return TreeFold(RightEdge(at.first_seq, tuple(bytes(row.hashes) for row in rows)), at.seq)

    def projection(self) -> Projection:
        """The projection as it was committed, restored from the rows of what is live."""
        at = self.checkpoint()
        if at is None:
            return Projection(self)
        with self.connection.begin():
            live = self._live_runs()
            attempts = self._live_attempts(live)
            slots = [row for row in self._all(tables.slots, SlotRow)]
            nodes = self._all_nodes()
        return Projection.restored(
            self,
            LiveSet(
                seq=at.seq,
                state_hash=at.state_hash,
                epoch=at.epoch,
                epoch_of=at.epoch_of,
                rules=at.rules,
                runs=live,
                attempts=attempts,
                slots=slots,
                nodes=nodes,
            ),
        )

    def _live_runs(self) -> list[tuple[RunRow, Run]]:
        statement = tables.runs.select().where(tables.IS_LIVE).order_by(tables.runs.c.submit_seq)
        return [run_pair(row) for row in self.connection.execute(statement).mappings()]

    def _live_attempts(self, live: list[tuple[RunRow, Run]]) -> list[AttemptRow]:
        active = {row.submit_seq: row.attempt for row, _ in live if row.node is not None}
        return [
            row
            for submit_seqs in in_chunks(active)
            for submit_seq, row, _ in self._stored.attempts_of(submit_seqs)
            if active[submit_seq] == row.attempt
        ]

    def _all(self, table: Table, kind: type[_T]) -> list[_T]:
        return [row_of(kind, row) for row in self.connection.execute(table.select()).mappings()]

    def _all_nodes(self) -> list[tuple[NodeRow, Node]]:
        rows = self.connection.execute(tables.nodes.select()).mappings()
        return [(row_of(NodeRow, row), node_of(row["fold"])) for row in rows]

    # --- committed rows -------------------------------------------------------------------------------------

    def runs(self, run_ids: Iterable[str]) -> list[tuple[RunRow, Run]]:
        """See ``CommittedRows``."""
        return self._stored.runs(run_ids)

    def attempts(self, submit_seq: int) -> list[tuple[AttemptRow, int]]:
        """See ``CommittedRows``."""
        return self._stored.attempts(submit_seq)

    # --- writing ------------------------------------------------------------------------------------------

    def write(self, batch: Batch, log_id: str, first_seq: int, levels: dict[int, bytes]) -> None:
        """Put a batch's rows, the checkpoint and the tree's right edge, within the caller's transaction."""
        many, conn = self.database.many, self.connection
        many(conn, self._drop_attempt, list(batch.gone_attempts))
        many(conn, self._drop_slot, list(batch.gone_slots))
        many(conn, self._drop_node, [(name,) for name in batch.gone_nodes])
        many(conn, self._put_run, [self._fresh(item) for item in batch.fresh_runs])
        many(conn, self._change_run, [self._changed(item) for item in batch.runs])
        of_attempt = self._attempt.of
        many(conn, self._put_attempt, [(seq, since, *of_attempt(row)) for seq, since, row in batch.attempts])
        self.put_slots(batch.slots)
        many(
            conn,
            self._put_node,
            [(*self._node.of(row), fold_of_node(node)) for row, node in batch.nodes],
        )
        many(
            conn,
            self._put_entry,
            [
                (seq, row.run_id, row.seq, row.time, row.type, str(row.data, "utf-8"))
                for seq, row in batch.timeline
            ],
        )
        many(
            conn,
            self._put_quarantine,
            [(kept.seq, kept.time, kept.subject, kept.reason, kept.body) for kept in batch.quarantine],
        )
        many(conn, self._put_past_run, [self._past_run(past) for past in batch.past_runs])
        many(
            conn,
            self._put_past_attempt,
            [
                (*(past.until_seq, past.submit_seq, past.since_seq), *of_attempt(past.row))
                for past in batch.past_attempts
            ],
        )
        conn.exec_driver_sql(
            self._put_checkpoint,
            (
                1,
                batch.seq,
                f"{batch.state_hash:064x}",
                SCHEMA_VERSION,
                log_id,
                batch.epoch,
                batch.epoch_of,
                batch.rules,
                first_seq,
            ),
        )
        many(conn, self._put_level, list(levels.items()))

    def put_frames(self, frames: list[KeptFrame]) -> None:
        """Put frames, within the caller's transaction."""
        self.database.many(self.connection, self._put_frame, [tuple(frame) for frame in frames])

    def put_slots(self, rows: list[SlotRow]) -> None:
        """Put slots' rows, within the caller's transaction."""
        self.database.many(self.connection, self._put_slot, [self._slot.of(row) for row in rows])

    def put_attempts(self, rows: list[tuple[int, AttemptRow]]) -> None:
        """Put live attempts' rows, with their runs' ``submit_seq``, within the caller's transaction."""
        self.database.many(
            self.connection, self._put_attempt, [(seq, 0, *self._attempt.of(row)) for seq, row in rows]
        )

    def put_runs(self, runs: list[WorkingRun]) -> None:
        """Put the changing columns of runs that are there, within the caller's transaction."""
        self.database.many(self.connection, self._change_run, [self._changed(item) for item in runs])

    def put_last_heartbeats(self, rows: list[NodeRow]) -> None:
        """Put what nodes' last heartbeats report, within the caller's transaction."""
        statement = self.database.update(tables.nodes, self._node_reports.names, "node")
        values = [(*self._node_reports.of(row), row.node) for row in rows]
        self.database.many(self.connection, statement, values)

    def _fresh(self, item: WorkingRun) -> tuple[Any, ...]:
        assert item.row is not None
        return (*self._run.of(item.row), item.run.config.decode(), fold_of(item.run))

    def _past_run(self, past: RunBefore) -> tuple[Any, ...]:
        return (past.until_seq, *self._run.of(past.row), past.run.config.decode(), fold_of(past.run))

    def _changed(self, item: WorkingRun) -> tuple[Any, ...]:
        assert item.row is not None
        return (*self._run_changes.of(item.row), fold_of(item.run), item.row.run_id)
