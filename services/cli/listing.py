"""Runs as rows: the columns that `ls` and `wait` share.

Owns which columns there are and in what colour; the words are services/cli/describe.py's.
"""

from __future__ import annotations

from collections.abc import Sequence

from services.cli import describe
from services.cli.table import Cell, Column
from services.cli.text import clean, day_or_time, short, shortest, zoned
from trainshed_client.naming import title_of
from trainshed_client.records import RunRecord

COLUMNS = (
    Column("RUN"),
    Column("NAME", shrink=10),
    Column("STATUS"),
    Column("WHERE", shrink=10),
    Column("SINCE"),
    Column("WAITED", right=True, extra=True),
    Column("RAN", right=True, extra=True),
    Column("LAST", shrink=36),
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
            _since(record, now, whole=whole_ids),
            describe.waited(record, now),
            describe.ran(record, now),
            _last(record, now, whole_ids=whole_ids),
        ]
        for record in records
    ]


def _since(record: RunRecord, now: str, *, whole: bool) -> str:
    since = describe.since(record)
    return describe.NOTHING if since is None else zoned(since) if whole else day_or_time(since, now)


def _last(record: RunRecord, now: str, *, whole_ids: bool) -> Cell:
    style = "yellow" if describe.away(record) else None
    if whole_ids:
        return Cell(clean(describe.last_of_all(record, now)), style)
    text, brief = (
        describe.last_of_all(record, now, short),
        describe.last_of_all(record, now, short, brief=True),
    )
    return Cell(clean(text), style, brief=clean(brief))


def _title(record: RunRecord) -> Cell:
    """Its name, or the command where nobody gave it a name: of that the middle matters least."""
    title = title_of(record)
    return Cell(clean(title), middle=title != record.name)
