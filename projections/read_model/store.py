"""Rows to and from the database: the projector's writes, the committed rows that it asks for, and the live ones at start.

Owns the statements of the write side; knows nothing of how a row comes about.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection, Table

from events.config import stored_config
from events.run_machine import run_of_config
from events.state import Node, Run, RunProgress, Snapshot, restore
from projections.read_model import reports, tables
from projections.read_model.core import Projection
from projections.read_model.database import Database, in_chunks
from projections.read_model.rows import (
    EMPTY_OBJECT,
    AttemptRow,
    NodeRow,
    Row,
    RunRow,
    SlotRow,
    row_from,
)
from projections.read_model.tables import JSON_COLUMNS, SCHEMA_VERSION
from projections.read_model.working_set import Batch, WorkingRun
from projections.transparency.fold import RightEdge, TreeFold

_T = TypeVar("_T")
_NEVER_CHANGES = frozenset(
    {
        "cpus",
        "command",
        "digest",
        "gpus",
        "labels",
        "name",
        "priority",
        "run_id",
        "submit_seq",
        "submitted_at",
        "submitted_by",
    }
)
_RUN = RunRow.__struct_fields__
_CHANGES = tuple(name for name in _RUN if name not in _NEVER_CHANGES)
_ENCODER = msgspec.json.Encoder(
    order="deterministic"
)  # sets too: a row is the same whichever process wrote it
_NODE_FOLD = msgspec.json.Decoder(Node)
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
        database.remember()
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
        self._put_attempt = db.upsert(tables.attempts, ("submit_seq", *self._attempt.names), attempt_key)
        self._put_slot = db.upsert(tables.slots, self._slot.names, ("node", "index"))
        self._put_node = db.upsert(tables.nodes, (*self._node.names, "fold"), ("node",))
        self._put_entry = db.insert(tables.timeline, _ENTRY)
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
            node_rows, nodes = self._all_nodes()
        # by the last change of their rows, so that an index that depends on the order is made as it was
        runs = sorted(live, key=lambda pair: pair[0].seq)
        state = restore(
            Snapshot(
                seq=at.seq,
                epoch=at.epoch,
                epoch_of=at.epoch_of,
                rules=at.rules,
                runs=tuple(run for _, run in runs),
                nodes=tuple(nodes),
            )
        )
        projection = Projection(self, state, at.state_hash, at.seq)
        projection.working.restore(live, attempts, slots, node_rows)
        return projection

    def _live_runs(self) -> list[tuple[RunRow, Run]]:
        statement = tables.runs.select().where(tables.IS_LIVE).order_by(tables.runs.c.submit_seq)
        return [run_pair(row) for row in self.connection.execute(statement).mappings()]

    def _live_attempts(self, live: list[tuple[RunRow, Run]]) -> list[AttemptRow]:
        active = {row.submit_seq: row.attempt for row, _ in live if row.node is not None}
        return [
            row
            for submit_seqs in in_chunks(active)
            for submit_seq, row in self._attempts(submit_seqs)
            if active[submit_seq] == row.attempt
        ]

    def _all(self, table: Table, kind: type[_T]) -> list[_T]:
        return [_row(kind, row) for row in self.connection.execute(table.select()).mappings()]

    def _all_nodes(self) -> tuple[list[NodeRow], list[Node]]:
        rows = list(self.connection.execute(tables.nodes.select()).mappings())
        return [_row(NodeRow, row) for row in rows], [node_of(row["fold"]) for row in rows]

    # --- committed rows -------------------------------------------------------------------------------------

    def runs(self, run_ids: Iterable[str]) -> list[tuple[RunRow, Run]]:
        """See ``CommittedRows``."""
        names = (*_RUN, "fold", "config")
        found: list[tuple[RunRow, Run]] = []
        for chunk in in_chunks(run_ids):
            statement = self.database.select(tables.runs, names, self.database.one_of("run_id", len(chunk)))
            for values in self.connection.exec_driver_sql(statement, chunk):
                columns = dict(zip(names, values, strict=True))
                found.append(run_pair(columns))
        return found

    def attempts(self, submit_seq: int) -> list[AttemptRow]:
        """See ``CommittedRows``."""
        return [row for _, row in self._attempts((submit_seq,))]

    def _attempts(self, submit_seqs: tuple[int, ...]) -> list[tuple[int, AttemptRow]]:
        names = ("submit_seq", *self._attempt.names)
        where = self.database.one_of("submit_seq", len(submit_seqs))
        statement = self.database.select(tables.attempts, names, where)
        return [
            (values[0], _row(AttemptRow, dict(zip(names, values, strict=True))))
            for values in self.connection.exec_driver_sql(statement, submit_seqs)
        ]

    # --- writing ------------------------------------------------------------------------------------------

    def write(self, batch: Batch, log_id: str, first_seq: int, levels: dict[int, bytes]) -> None:
        """Put a batch's rows, the checkpoint and the tree's right edge, within the caller's transaction."""
        many, conn = self.database.many, self.connection
        many(conn, self._drop_attempt, list(batch.gone_attempts))
        many(conn, self._drop_slot, list(batch.gone_slots))
        many(conn, self._drop_node, [(name,) for name in batch.gone_nodes])
        many(conn, self._put_run, [self._fresh(item) for item in batch.fresh_runs])
        many(conn, self._change_run, [self._changed(item) for item in batch.runs])
        many(conn, self._put_attempt, [(seq, *self._attempt.of(row)) for seq, row in batch.attempts])
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

    def put_slots(self, rows: list[SlotRow]) -> None:
        """Put slots' rows, within the caller's transaction."""
        self.database.many(self.connection, self._put_slot, [self._slot.of(row) for row in rows])

    def put_attempts(self, rows: list[tuple[int, AttemptRow]]) -> None:
        """Put attempts' rows, with their runs' ``submit_seq``, within the caller's transaction."""
        self.database.many(
            self.connection, self._put_attempt, [(seq, *self._attempt.of(row)) for seq, row in rows]
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

    def _changed(self, item: WorkingRun) -> tuple[Any, ...]:
        assert item.row is not None
        return (*self._run_changes.of(item.row), fold_of(item.run), item.row.run_id)


_PROGRESS = RunProgress.__struct_fields__
_PROGRESS_OF = attrgetter(*_PROGRESS)
_PROGRESS_JSON = msgspec.json.Decoder(RunProgress)


def fold_of(run: Run) -> str:
    """A run's fold as the table keeps it. (JSON: it holds any number that an event can bear.)"""
    return _ENCODER.encode(RunProgress(*_PROGRESS_OF(run))).decode()


def run_of(fold: str, run_id: str, submit_seq: int, config: str) -> Run:
    """The inverse of :func:`fold_of`: what the config decides is made of it as ``evolve`` did at first."""
    kept = _PROGRESS_JSON.decode(fold)
    raw = config.encode()
    run = run_of_config(run_id, submit_seq, raw, stored_config(msgspec.Raw(raw)), kept.phase)
    return msgspec.structs.replace(run, **{name: getattr(kept, name) for name in _PROGRESS})


def fold_of_node(node: Node) -> str:
    """A node's fold as the table keeps it."""
    return _ENCODER.encode(_ordered(node)).decode()


def _ordered(value: Any) -> Any:
    """``value`` with its sets as sorted lists: of structs, which have no order of their own."""
    match value:
        case msgspec.Struct():
            return {name: _ordered(getattr(value, name)) for name in value.__struct_fields__}
        case frozenset():
            return sorted(map(_ordered, value), key=_ENCODER.encode)
        case tuple():
            return list(map(_ordered, value))
        case _:
            return value


def node_of(fold: str) -> Node:
    """A node's fold."""
    return _NODE_FOLD.decode(fold)


def run_pair(columns: Any) -> tuple[RunRow, Run]:
    """A run's row and its fold, from all columns of ``runs``."""
    row = _row(RunRow, columns)
    return row, run_of(columns["fold"], row.run_id, row.submit_seq, columns["config"])


def _row(kind: type[_T], columns: Any) -> _T:
    row = row_from(kind.table, columns)  # type: ignore[attr-defined]
    assert isinstance(row, kind)
    return row
