"""Which runs a listing is of: what ``run.list`` takes, checked, and the statements that find them.

Owns the conditions and what is read of a listed run; knows neither the answer's form nor its size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Select, Table, func, select
from sqlalchemy import Row as SqlRow

from events.times import nanoseconds, rfc3339
from projections.read_model import tables
from projections.read_model.rows import RunRow, plain_number, sorted_json
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.statuses import LIVE, RunStatus

MAX_RUNS = 500
BEYOND_TEXT = chr(0x10FFFF)
"""Behind each text that begins as that to which it is appended."""
_STATUSES = tuple(status.value for status in RunStatus if status is not RunStatus.UNSPECIFIED)


class RunQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What ``run.list`` takes. ``run``: what a person calls a run (projections/queries/naming.py); the rest narrows a
    listing down.

    ``live`` and ``ended`` choose by whether a run has ended; with ``ended`` the order is that of the ends, the last
    first, and there is one page. ``ended_before``: those whose end was stored before that time.
    """

    status: tuple[str, ...] = ()
    labels: Mapping[str, str] = {}
    name: str | None = None
    run: str | None = None
    live: bool = False
    ended: bool = False
    ended_before: str | None = None
    limit: int = MAX_RUNS
    before_seq: int | None = None


def run_query(
    *,
    status: list[Any] | None = None,
    labels: dict[str, Any] | None = None,
    name: str | None = None,
    run: str | None = None,
    prefix: str | None = None,
    live: bool | None = None,
    ended: bool | None = None,
    ended_before: str | None = None,
    limit: int | None = None,
    before_seq: int | None = None,
) -> RunQuery:
    """A checked query. Raises TrainshedError (invalid) that names the field."""
    for place, one in enumerate(status or ()):
        if one not in _STATUSES:
            raise TrainshedError(
                ErrorCode.INVALID,
                f"must be one of {', '.join(_STATUSES)}, not {one!r:.60}",
                f"status.{place}",
            )
    for key, value in (labels or {}).items():
        if not isinstance(value, str):
            raise TrainshedError(ErrorCode.INVALID, f"must be a string, not {value!r:.60}", f"labels.{key}")
    if limit is not None and not 1 <= limit <= MAX_RUNS:
        raise TrainshedError(ErrorCode.INVALID, f"must be 1 to {MAX_RUNS}, not {limit}", "limit")
    if live and ended:
        raise TrainshedError(ErrorCode.INVALID, "no run is both live and ended; leave one out", "ended")
    if ended_before is not None:
        try:
            ended_before = rfc3339(nanoseconds(ended_before))
        except (ValueError, OverflowError):
            raise TrainshedError(
                ErrorCode.INVALID,
                f"must be a time as in 2026-11-24T08:17:40Z, not {ended_before!r:.60}",
                "ended_before",
            ) from None
    if ended and before_seq is not None:
        raise TrainshedError(
            ErrorCode.INVALID,
            "the last that ended are one page; page through all by their status",
            "before_seq",
        )
    return RunQuery(
        status=tuple(status or ()),
        labels=labels or {},
        name=name,
        run=run if run is not None else prefix,
        live=bool(live),
        ended=bool(ended),
        ended_before=ended_before,
        limit=limit or MAX_RUNS,
        before_seq=before_seq,
    )


_FIELDS = RunRow.__struct_fields__
_JSON_PLACES = tuple(place for place, name in enumerate(_FIELDS) if name in tables.JSON_COLUMNS)
_BOOLEAN_PLACES = tuple(place for place, name in enumerate(_FIELDS) if name in tables.BOOLEAN_COLUMNS)
_STEP_PLACE = _FIELDS.index("step")


def quick_row(row: SqlRow[Any]) -> RunRow:
    """What `row_from` makes of a row of :func:`selected`, by place and so three times as fast."""
    values = list(row[: len(_FIELDS)])
    for place in _JSON_PLACES:
        values[place] = msgspec.Raw(values[place].encode())
    for place in _BOOLEAN_PLACES:
        values[place] = None if values[place] is None else bool(values[place])
    values[_STEP_PLACE] = plain_number(values[_STEP_PLACE])
    return RunRow(*values)


def selected(query: RunQuery) -> Select[Any]:
    """The runs that match (by their labels: see :func:`label_text`), in the order of the listing."""
    runs = tables.runs.c
    statement = select(*(runs[name] for name in _FIELDS)).where(*_conditions(query))
    # The index of the ended ones is in this order: however many there are, the last are found at once.
    return statement.order_by(runs.seq.desc() if query.ended else runs.submit_seq.desc())


def total(connection: Connection, query: RunQuery, parts: Iterable[Table]) -> int:
    """How many runs of these tables match, their labels too."""
    return sum(_matching(connection, query, part) for part in parts)


def _matching(connection: Connection, query: RunQuery, runs: Table) -> int:
    where = _conditions(query, runs)
    if not query.labels:
        counted = select(func.count()).select_from(runs).where(*where)
        return int(connection.execute(counted).scalar_one())
    labels = connection.execute(select(runs.c.labels).where(*where)).scalars()
    return sum(has_labels(found, query.labels) for found in labels)


def _conditions(query: RunQuery, table: Table = tables.runs) -> list[ColumnElement[bool]]:
    runs = table.c
    where: list[ColumnElement[bool]] = []
    if query.status:
        where.append(runs.status.in_(query.status))
        if set(LIVE).issuperset(query.status):
            where.append(tables.IS_LIVE)  # type: ignore[arg-type]  # their index: they are few, whatever has ended
    if query.name is not None:
        where.append(runs.name == query.name)
    if query.before_seq is not None:
        where.append(runs.submit_seq < query.before_seq)
    where += [
        runs.labels.contains(label_text(key, value), autoescape=True) for key, value in query.labels.items()
    ]
    if query.ended_before is not None:
        where.append(runs.ended_at < query.ended_before)  # null, and so not before, while it is live
    if query.live:
        where.append(tables.IS_LIVE)  # type: ignore[arg-type]
    if query.ended:
        where.append(tables.IS_ENDED)  # type: ignore[arg-type]
    return where


def has_labels(stored: str, labels: Mapping[str, str]) -> bool:
    """Whether the JSON text of a run's labels has all of these: LIKE, by which they are found, takes letters of either case."""
    return all(label_text(key, value) in stored for key, value in labels.items())


def label_text(key: str, value: str) -> str:
    """How a label stands in the JSON text of ``labels``."""
    return str(sorted_json({key: value}), "utf-8")[1:-1]
