"""The read model's tables as they were after an earlier event, for the very queries that are asked of the present ones.

Owns the temporary views and tables that stand before the real ones for one transaction; knows no query, and not how what
was live then is found out.

A row of a run or an attempt that had ended by then still stands if no later event changed it, or else what it was before
that is kept (`past_runs`, `past_attempts`). What was live then is put beside these, and a run's timeline is read up to then.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, MetaData, Table

from projections.read_model import tables
from projections.read_model.database import Database
from projections.read_model.rows import AttemptRow, NodeRow, RunRow, SlotRow
from projections.read_model.store import Columns
from projections.read_model.tables import SCHEMA_VERSION
from projections.read_model.working_set import LiveSet
from trainshed_client.errors import ErrorCode, TrainshedError

_ENDED_RUNS, _CHANGED_RUNS, _LIVE_RUNS = "runs_that_ended", "runs_changed_since", "live_runs"
_COUNTED_RUNS = "runs_that_ended_counted"
"""The same as the first, of which the index of ended runs is read and nothing else."""
_LIVE_ATTEMPTS = "live_attempts"
_names = MetaData()
RUN_PARTS = tuple(
    tables.runs.to_metadata(_names, name=name) for name in (_COUNTED_RUNS, _CHANGED_RUNS, _LIVE_RUNS)
)
"""The parts that the runs of a moment are in: to count them one by one is quick."""

_RUN, _ATTEMPT = Columns(RunRow.__struct_fields__), Columns(AttemptRow.__struct_fields__)
_SLOT, _NODE = Columns(SlotRow.__struct_fields__), Columns(NodeRow.__struct_fields__)


class DatabaseThen:
    """The database as it was after event ``seq``, which it must have folded; ``live``: what was live (None: without).

    Each read transaction makes its views anew, a matter of milliseconds.
    """

    def __init__(self, database: Database, seq: int, live: LiveSet | None) -> None:
        self._database = database
        self._seq = seq
        self._live = live

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One read transaction: all its queries see the moment."""
        with self._database.reading_aside() as connection:
            self._put_before(connection)
            yield connection

    def _put_before(self, connection: Connection) -> None:
        own = self._database.own_schema(connection)
        self._require(connection, own)
        self._runs(connection, own)
        self._attempts(connection, own)
        live = self._live
        if live is None:
            return
        runs = [(*_RUN.of(row), run.config.decode(), "") for row, run in live.runs]
        self._fill(connection, own, tables.runs, _LIVE_RUNS, (*_RUN.names, "config", "fold"), runs)
        places = {row.run_id: row.submit_seq for row, _ in live.runs}
        attempts = [(places[row.run_id], *_ATTEMPT.of(row)) for row in live.attempts]
        self._fill(
            connection, own, tables.attempts, _LIVE_ATTEMPTS, ("submit_seq", *_ATTEMPT.names), attempts
        )
        self._fill(connection, own, tables.slots, "slots", _SLOT.names, [_SLOT.of(row) for row in live.slots])
        self._fill(
            connection, own, tables.nodes, "nodes", _NODE.names, [_NODE.of(row) for row, _ in live.nodes]
        )
        at = {
            "id": 1,
            "seq": self._seq,
            "state_hash": f"{live.state_hash:064x}",
            "schema_version": SCHEMA_VERSION,
        }
        self._fill(connection, own, tables.checkpoint, "checkpoint", tuple(at), [tuple(at.values())])
        self._view(connection, "timeline", self._select(own, tables.timeline, f"seq <= {self._seq}"))

    def _require(self, connection: Connection, own: str) -> None:
        """Raises TrainshedError (UNAVAILABLE) where the database has been begun anew meanwhile."""
        at = connection.exec_driver_sql(f"SELECT seq FROM {own}.checkpoint").scalar_one_or_none() or 0
        if at < self._seq:
            message = f"the read model is being rebuilt and has no event {self._seq} yet; ask again"
            raise TrainshedError(ErrorCode.UNAVAILABLE, message)

    def _runs(self, connection: Connection, own: str) -> None:
        database, seq = self._database, self._seq
        ended = f"submit_seq <= {seq} AND {database.mostly(f'seq <= {seq}')} AND {tables.IS_ENDED}"
        self._view(connection, _ENDED_RUNS, self._select(own, tables.runs, ended))
        self._view(
            connection,
            _COUNTED_RUNS,
            self._select(own, tables.runs, f"seq <= {seq} AND {tables.IS_ENDED}"),
        )
        changed = f"submit_seq <= {seq} AND seq <= {seq} AND until_seq > {seq}"
        self._view(connection, _CHANGED_RUNS, self._select(own, tables.runs, changed, "past_runs"))
        self._together(connection, own, tables.runs, _ENDED_RUNS, _CHANGED_RUNS, _LIVE_RUNS)

    def _attempts(self, connection: Connection, own: str) -> None:
        seq = self._seq
        ended = f"since_seq <= {seq} AND {tables.IS_ENDED}"
        self._view(connection, "attempts_that_ended", self._select(own, tables.attempts, ended))
        changed = f"since_seq <= {seq} AND until_seq > {seq}"
        self._view(
            connection, "attempts_changed_since", self._select(own, tables.attempts, changed, "past_attempts")
        )
        self._together(
            connection, own, tables.attempts, "attempts_that_ended", "attempts_changed_since", _LIVE_ATTEMPTS
        )

    def _together(
        self, connection: Connection, own: str, table: Table, ended: str, changed: str, live: str
    ) -> None:
        """A view of all parts in the table's place, with an empty table for what was live."""
        nothing = self._select(own, table, "1 = 0")
        connection.exec_driver_sql(f"CREATE TEMPORARY TABLE {live} AS {nothing}")
        columns = self._database.names(table.c.keys())
        parts = (f"SELECT {columns} FROM {part}" for part in (ended, changed, live))
        self._view(connection, table.name, " UNION ALL ".join(parts))

    def _view(self, connection: Connection, name: str, statement: str) -> None:
        connection.exec_driver_sql(f"CREATE TEMPORARY VIEW {name} AS {statement}")

    def _select(self, own: str, table: Table, where: str, of: str | None = None) -> str:
        return f"SELECT {self._database.names(table.c.keys())} FROM {own}.{of or table.name} WHERE {where}"

    def _fill(
        self,
        connection: Connection,
        own: str,
        table: Table,
        name: str,
        columns: tuple[str, ...],
        rows: list[tuple[Any, ...]],
    ) -> None:
        if name == table.name:
            nothing = self._select(own, table, "1 = 0")
            connection.exec_driver_sql(f"CREATE TEMPORARY TABLE {name} AS {nothing}")
        marks = ", ".join([self._database.mark] * len(columns))
        statement = f"INSERT INTO {name} ({self._database.names(columns)}) VALUES ({marks})"
        self._database.many(connection, statement, rows)
