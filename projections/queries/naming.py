"""Runs by what a person calls them: an id, a name or what a list shows in its place, or the beginning of one of these.

Owns which rows come into question, few of them; which of these is meant, trainshed_client.naming chooses.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, and_, false, func, select
from sqlalchemy import Row as SqlRow

from projections.queries.listing import BEYOND_TEXT, RunQuery, has_labels, selected
from projections.read_model import tables
from trainshed_client.naming import CUT, begins, title

MAX_FOUND = 6
LOOKED_AT = 2_000
"""So many of the newest runs are looked at for one whose command begins so."""

_RUNS = tables.runs.c
_Rows = list[SqlRow[Any]]


def called(connection: Connection, query: RunQuery, run: str) -> _Rows:
    """At most six runs that ``run`` may mean, each nearer kind before all others; the newest first.

    Kinds: id or name; the title of runs that nobody named; the beginning of an id, a name or a title. Of the last kind
    there is one run of each name where they are several.
    """
    query = msgspec.structs.replace(query, run=None)
    return (
        _rows(connection, query, _RUNS.run_id == run)
        or _rows(connection, query, _RUNS.name == run)
        or _rows(connection, query, _command(run, whole=True), lambda row: _title(row) == run)
        or _begun(connection, query, run)
    )


def _begun(connection: Connection, query: RunQuery, run: str) -> _Rows:
    begin, cut, _ = run.partition(CUT)
    found: dict[str, _Rows] = {}
    if not begin:
        return []
    if not cut:
        starts = and_(_RUNS.run_id >= run, _RUNS.run_id < run + BEYOND_TEXT)
        found |= {row.run_id: [row] for row in _rows(connection, query, starts)}
    for name in _names(connection, begin, run):
        same = _rows(
            connection,
            query,
            _RUNS.name == name,
            lambda row: begins(_title(row), run) or begins(row.name, run),
        )
        for row in same:
            found.setdefault(_title(row), []).append(row)
    for row in _rows(connection, query, _command(begin, whole=False), lambda row: begins(_title(row), run)):
        found.setdefault(_title(row), []).append(row)
    if len(found) == 1:
        return next(iter(found.values()))[:MAX_FOUND]
    unique = {same[0].run_id: same[0] for same in found.values()}
    return sorted(unique.values(), key=lambda row: -row.submit_seq)[:MAX_FOUND]


def _names(connection: Connection, begin: str, run: str) -> Iterator[str]:
    """The first names that begin so, each found at once in their index, however many runs bear it."""
    last = ""
    for _ in range(MAX_FOUND):
        after = _RUNS.name >= begin if not last else _RUNS.name > last
        statement = select(func.min(_RUNS.name)).where(after, _RUNS.name < begin + BEYOND_TEXT)
        name = connection.execute(statement).scalar_one()
        if name is None:
            return
        last = name
        yield name


def _command(text: str, *, whole: bool) -> ColumnElement[bool]:
    """A condition that holds for all runs whose title is ``text``, or begins so, and few others."""
    try:
        parts = shlex.split(text)
    except ValueError:  # the beginning of a title may end within quotes
        return false() if whole else _command_begun(text)
    if len(parts) < 2:
        return false()  # its name says as much
    return _like(parts, whole=whole)


def _command_begun(text: str) -> ColumnElement[bool]:
    try:
        return _like(shlex.split(text + "'"), whole=False)
    except ValueError:
        return false()


def _like(parts: list[str], *, whole: bool) -> ColumnElement[bool]:
    stored = str(msgspec.json.encode(parts), "utf-8")[2:]  # as in the column, from the program's last part on
    names = [parts[0], parts[1].rpartition("/")[2]]
    if len(parts) > 2:
        names.append(parts[2].rpartition(".")[2])
    if whole:
        matching = _RUNS.command.endswith(stored, autoescape=True)
        return and_(_RUNS.named == false(), _RUNS.name.in_(names), matching)
    return and_(
        _RUNS.named == false(), _RUNS.name.in_(names), _RUNS.command.contains(stored[:-2], autoescape=True)
    )


def _title(row: SqlRow[Any]) -> str:
    return title(row.name, msgspec.json.decode(row.command, type=list[str]), bool(row.named))


def _rows(
    connection: Connection,
    query: RunQuery,
    condition: ColumnElement[bool],
    wanted: Callable[[SqlRow[Any]], bool] = lambda row: True,
) -> _Rows:
    statement = selected(query).where(condition).limit(LOOKED_AT)
    rows = (
        row for row in connection.execute(statement).yield_per(100) if has_labels(row.labels, query.labels)
    )
    return list(islice((row for row in rows if wanted(row)), MAX_FOUND))
