"""Committed rows of runs and attempts that are no longer live, as a projection asks for them.

Owns these statements and how columns become rows again; knows neither who asks nor as of which moment.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from sqlalchemy import Connection

from events.state import Run
from projections.read_model import tables
from projections.read_model.database import Database, in_chunks
from projections.read_model.folds import run_of
from projections.read_model.rows import AttemptRow, RunRow, row_from

_T = TypeVar("_T")
_RUN = (*RunRow.__struct_fields__, "fold", "config")
_ATTEMPT = ("submit_seq", "since_seq", *AttemptRow.__struct_fields__)


class StoredRows:
    """The ``CommittedRows`` that a connection sees."""

    def __init__(self, database: Database, connection: Connection) -> None:
        self._database = database
        self._connection = connection

    def runs(self, run_ids: Iterable[str]) -> list[tuple[RunRow, Run]]:
        """See ``CommittedRows``."""
        found: list[tuple[RunRow, Run]] = []
        for chunk in in_chunks(run_ids):
            statement = self._database.select(tables.runs, _RUN, self._database.one_of("run_id", len(chunk)))
            for values in self._connection.exec_driver_sql(statement, chunk):
                found.append(run_pair(dict(zip(_RUN, values, strict=True))))
        return found

    def attempts(self, submit_seq: int) -> list[tuple[AttemptRow, int]]:
        """See ``CommittedRows``."""
        return [(row, since) for _, row, since in self.attempts_of((submit_seq,))]

    def attempts_of(self, submit_seqs: tuple[int, ...]) -> list[tuple[int, AttemptRow, int]]:
        """All attempts of these runs: (``submit_seq``, row, ``since_seq``)."""
        where = self._database.one_of("submit_seq", len(submit_seqs))
        statement = self._database.select(tables.attempts, _ATTEMPT, where)
        return [
            (values[0], row_of(AttemptRow, dict(zip(_ATTEMPT, values, strict=True))), values[1])
            for values in self._connection.exec_driver_sql(statement, submit_seqs)
        ]


def run_pair(columns: Any) -> tuple[RunRow, Run]:
    """A run's row and its fold, from all columns of ``runs``."""
    row = row_of(RunRow, columns)
    return row, run_of(columns["fold"], row.run_id, row.submit_seq, columns["config"])


def row_of(kind: type[_T], columns: Any) -> _T:
    """A row of this kind, of all its columns."""
    row = row_from(kind.table, columns)  # type: ignore[attr-defined]
    assert isinstance(row, kind)
    return row
