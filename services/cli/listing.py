"""Runs as rows: the columns that `ls` and `wait` share.

Owns which columns there are and in what colour; the words are services/cli/describe.py's.
"""

from __future__ import annotations

from collections.abc import Sequence

from services.cli import describe
from services.cli.table import Cell, Column
from services.cli.text import clean, short, shortest
from trainshed_client.naming import title_of
from trainshed_client.records import RunRecord

COLUMNS = (
    Column("RUN"),
    Column("NAME", shrink=10),
    Column("STATUS"),
    Column("WHERE", shrink=10),
    Column("WAITED", right=True),
    Column("RAN", right=True),
    Column("LAST", shrink=22),
)


def rows(records: Sequence[RunRecord], now: str, *, whole_ids: bool) -> list[list[str | Cell]]:
    """A row a run; ``whole_ids`` for programs, else as much of each id as tells these apart."""
    ids = [record.run_id for record in records]
    shown = {run_id: run_id for run_id in ids} if whole_ids else shortest(ids)
    return [
        [
            shown[record.run_id],
            _title(record),
            Cell(str(record.status), describe.style_of(record.status)),
            describe.where(record),
            describe.waited(record, now),
            describe.ran(record, now),
            clean(describe.last_of_all(record, now, str if whole_ids else short)),
        ]
        for record in records
    ]


def _title(record: RunRecord) -> Cell:
    """Its name, or the command where nobody gave it a name: of that the middle matters least."""
    title = title_of(record)
    return Cell(clean(title), middle=title != record.name)
