"""What the read model answers: runs, one run, slots, nodes, and all rows for an audit.

Owns the shapes of answers and their size; knows neither NATS nor how rows come about. Each answer is of one read
transaction, and its ``seq`` is the checkpoint's in that transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Select, Table, and_, case, func, or_, select
from sqlalchemy import Row as SqlRow

from events.times import nanoseconds, rfc3339
from projections import tables
from projections.database import Database
from projections.rows import (
    LIVE,
    AttemptRow,
    NodeRow,
    Row,
    RunRow,
    SlotRow,
    TimelineRow,
    plain_number,
    record_json,
    row_from,
    sorted_json,
)
from projections.standing import Standing, standing_of
from projections.store import run_pair
from projections.waits import Rooms, Waits, waits_for
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.records import TimelineEntry
from trainshed_client.statuses import RunStatus

MAX_RUNS = 500
MAX_FOUND = 6
MAX_BYTES = 900_000
"""Of one answer: the server takes 1 MB."""
LAST_ENDED = 1_000
_EXPLAINED = 10
_TIMELINE = msgspec.json.Encoder()
_BEYOND_TEXT = chr(0x10FFFF)
_STATUSES = tuple(status.value for status in RunStatus if status is not RunStatus.UNSPECIFIED)


class RunQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What ``run.list`` takes. ``run``: an id, a prefix of one, or a name; the rest narrows a listing down.

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


class Queries:
    """The read side of one database; every call is one read transaction. The clock (ns) is passed in."""

    def __init__(self, database: Database, clock: Callable[[], int]) -> None:
        self._database = database
        self._clock = clock

    # --- answers ------------------------------------------------------------------------------------------

    def runs(self, query: RunQuery) -> dict[str, Any]:
        """``run.list``: newest first. A page may end before ``limit`` where it is full: the last one is empty.

        ``total`` stands in a first page alone: how many match, in all pages together.
        """
        limit = query.limit if query.run is None else min(query.limit, MAX_FOUND)
        with self._database.reading() as connection:
            seq = _seq(connection)
            runs: list[msgspec.Raw] = []
            size = 0
            for record in self._records(connection, _selected(query), query.labels):
                size += len(record) + 1
                if size > MAX_BYTES and runs:
                    break
                runs.append(msgspec.Raw(record))
                if len(runs) == limit:
                    break
            else:
                limit = 0  # these were all
            answer = {"v": 1, "seq": seq, "runs": runs}
            if query.before_seq is None:
                answer["total"] = _total(connection, query) if limit else len(runs)
        return answer

    def run(self, run_id: str) -> dict[str, Any]:
        """``run.get``. Raises TrainshedError (not_found). Of what is too long for an answer, the newest is kept."""
        with self._database.reading() as connection:
            seq = _seq(connection)
            columns, record = self._one(connection, run_id)
            attempts = _of_run(connection, tables.attempts, AttemptRow, columns["submit_seq"])
            timeline = _of_run(connection, tables.timeline, TimelineRow, columns["submit_seq"])
        config: str = columns["config"]
        left = MAX_BYTES - len(record) - len(config)
        attempts = _newest(attempts, left // 2)
        timeline = _newest(timeline, left - sum(map(len, attempts)))
        return {
            "v": 1,
            "seq": seq,
            "run": msgspec.Raw(record),
            "config": msgspec.Raw(config.encode()),
            "attempts": [msgspec.Raw(text) for text in attempts],
            "timeline": [msgspec.Raw(text) for text in timeline],
        }

    def explain(self, run_id: str, outlook: Callable[[Standing, int], object]) -> dict[str, Any]:
        """``run.explain``: the run, of a PENDING one what ``outlook`` tells of its standing, and what happened last."""
        with self._database.reading() as connection:
            seq = _seq(connection)
            columns, record = self._one(connection, run_id)
            timeline = _of_run(connection, tables.timeline, TimelineRow, columns["submit_seq"])
            answer = {"v": 1, "seq": seq, "run": msgspec.Raw(record)}
            if columns["status"] == RunStatus.PENDING:
                now_ns = self._clock()
                _, run = run_pair(columns)
                waits = waits_for(run, Rooms.of(_nodes(connection), _slots(connection)), now_ns)
                answer["waiting"] = outlook(standing_of(connection, run, waits, now_ns), now_ns)
        answer["timeline"] = [msgspec.Raw(text) for text in timeline[-_EXPLAINED:]]
        return answer

    def slots(self) -> dict[str, Any]:
        """``slot.list``; the free slots of nodes that left are left out."""
        with self._database.reading() as connection:
            seq, nodes, slots = _seq(connection), _nodes(connection), _slots(connection)
        gone = {node.node for node in nodes if node.status in ("left", "removed")}
        shown = [slot for slot in slots if slot.node not in gone or slot.run_id is not None]
        return {"v": 1, "seq": seq, "slots": [msgspec.Raw(record_json(slot)) for slot in shown]}

    def nodes(self) -> dict[str, Any]:
        """``node.list``: without those that left or were removed and have no attempts."""
        node = tables.runs.c.node
        with self._database.reading() as connection:
            seq, nodes = _seq(connection), _nodes(connection)
            statement = select(node).where(tables.IS_LIVE, node.is_not(None)).distinct()
            busy = set(connection.execute(statement).scalars())
        shown = [row for row in nodes if row.status not in ("left", "removed") or row.node in busy]
        return {"v": 1, "seq": seq, "nodes": [msgspec.Raw(record_json(row)) for row in shown]}

    def health(self) -> dict[str, Any]:
        """``health``, what the database knows of it."""
        with self._database.reading() as connection:
            at = connection.execute(tables.checkpoint.select()).mappings().one_or_none()
            quarantined = connection.execute(select(func.count()).select_from(tables.quarantine)).scalar_one()
        return {
            "v": 1,
            "seq": at["seq"] if at is not None else 0,
            "state_hash": at["state_hash"] if at is not None else f"{0:064x}",
            "schema_version": tables.SCHEMA_VERSION,
            "quarantined": quarantined,
        }

    def audit_rows(self) -> Generator[bytes, None, None]:
        """``audit.rows``: all rows as several JSON texts, from one read transaction.

        The first: ``{"v": 1, "seq", "state_hash", "log_id", "counts": {table: rows}}``. Each other:
        ``{"part": n, "table": name, "rows": [record, ...]}``, n from 1 on. (Whoever sends them adds an empty one.)
        """
        with self._database.reading() as connection:
            at = connection.execute(tables.checkpoint.select()).mappings().one_or_none()
            counts = {
                name: connection.execute(select(func.count()).select_from(table)).scalar_one()
                for name, table in tables.HASHED.items()
            }
            head = {
                "v": 1,
                "seq": at["seq"] if at is not None else 0,
                "state_hash": at["state_hash"] if at is not None else f"{0:064x}",
                "log_id": at["log_id"] if at is not None else "",
                "counts": counts,
            }
            yield msgspec.json.encode(head)
            part = 0
            for name, table in tables.HASHED.items():
                rows: list[bytes] = []
                size = 0
                for row in _all_rows(connection, name, table):
                    if rows and size + len(row) > MAX_BYTES // 2:
                        part += 1
                        yield _part(part, name, rows)
                        rows, size = [], 0
                    rows.append(row)
                    size += len(row) + 1
                if rows:
                    part += 1
                    yield _part(part, name, rows)

    # --- for the record buckets ---------------------------------------------------------------------------

    def bucket_runs(self) -> tuple[list[tuple[str, bytes]], list[tuple[str, bytes]]]:
        """(live, the last 1,000 ended, oldest first), each (run id, record)."""
        columns = select(*[column for column in tables.runs.c if column.name not in tables.NOT_RECORD])
        last = columns.where(tables.IS_ENDED).order_by(tables.runs.c.seq.desc()).limit(LAST_ENDED)
        with self._database.reading() as connection:
            live, ended = (
                [
                    (row["run_id"], record_json(row_from("runs", row)))
                    for row in connection.execute(statement).mappings()
                ]
                for statement in (columns.where(tables.IS_LIVE), last)
            )
        return live, ended[::-1]

    def bucket_slots(self) -> list[tuple[str, int, bytes]]:
        """(node, index, record) of every slot."""
        with self._database.reading() as connection:
            return [(slot.node, slot.index, record_json(slot)) for slot in _slots(connection)]

    # --- parts --------------------------------------------------------------------------------------------

    def _records(
        self, connection: Connection, statement: Select[Any], labels: Mapping[str, str]
    ) -> Iterator[bytes]:
        waits: Waits | None = None
        wanted = [_label(key, value) for key, value in labels.items()]
        for row in connection.execute(statement).yield_per(100):
            if wanted and not all(text in row.labels for text in wanted):  # LIKE takes letters of either case
                continue
            record = _quick_row(row)
            if row.status != "PENDING":
                yield record_json(record)
                continue
            if waits is None:
                waits = self._waits(connection)
            yield _queued(record, waits.json(row.fold, row.config))

    def _one(self, connection: Connection, run_id: str) -> tuple[Mapping[Any, Any], bytes]:
        statement = tables.runs.select().where(tables.runs.c.run_id == run_id)
        columns = connection.execute(statement).mappings().one_or_none()
        if columns is None:
            raise TrainshedError(ErrorCode.NOT_FOUND, f"no run {run_id:.80}. List all: trainshed ls --all")
        record = row_from("runs", columns)
        if columns["status"] != RunStatus.PENDING:
            return columns, record_json(record)
        return columns, _queued(record, self._waits(connection).json(columns["fold"], columns["config"]))

    def _waits(self, connection: Connection) -> Waits:
        return Waits(Rooms.of(_nodes(connection), _slots(connection)), self._clock())


def _queued(row: Row, waits: bytes) -> bytes:
    return record_json(row)[:-1] + b',"waits_for":' + waits + b"}"


def _seq(connection: Connection) -> int:
    return int(connection.execute(select(tables.checkpoint.c.seq)).scalar_one_or_none() or 0)


_FIELDS = RunRow.__struct_fields__
_IS_PENDING = tables.runs.c.status == RunStatus.PENDING.value
_LISTED: tuple[ColumnElement[Any], ...] = (
    *(tables.runs.c[name] for name in _FIELDS),
    # What a queued run waits for is made of these; the others' are not read from the disk for a listing.
    case((_IS_PENDING, tables.runs.c.config)).label("config"),
    case((_IS_PENDING, tables.runs.c.fold)).label("fold"),
)
_JSON_PLACES = tuple(place for place, name in enumerate(_FIELDS) if name in tables.JSON_COLUMNS)
_BOOLEAN_PLACES = tuple(place for place, name in enumerate(_FIELDS) if name in tables.BOOLEAN_COLUMNS)
_STEP_PLACE = _FIELDS.index("step")


def _quick_row(row: SqlRow[Any]) -> RunRow:
    """What `row_from` makes of a row of ``_LISTED``, by place and so three times as fast."""
    values = list(row[: len(_FIELDS)])
    for place in _JSON_PLACES:
        values[place] = msgspec.Raw(values[place].encode())
    for place in _BOOLEAN_PLACES:
        values[place] = bool(values[place])
    values[_STEP_PLACE] = plain_number(values[_STEP_PLACE])
    return RunRow(*values)


def _selected(query: RunQuery) -> Select[Any]:
    runs = tables.runs.c
    selected = select(*_LISTED).where(*_conditions(query))
    # The index of the ended ones is in this order: however many there are, the last are found at once.
    return selected.order_by(runs.seq.desc() if query.ended else runs.submit_seq.desc())


def _total(connection: Connection, query: RunQuery) -> int:
    """How many runs match."""
    if not query.labels:
        counted = select(func.count()).select_from(tables.runs).where(*_conditions(query))
        return int(connection.execute(counted).scalar_one())
    wanted = [_label(key, value) for key, value in query.labels.items()]
    labels = connection.execute(select(tables.runs.c.labels).where(*_conditions(query))).scalars()
    return sum(all(text in found for text in wanted) for found in labels)


def _conditions(query: RunQuery) -> list[ColumnElement[bool]]:
    runs = tables.runs.c
    where: list[ColumnElement[bool]] = []
    if query.status:
        where.append(runs.status.in_(query.status))
        if LIVE.issuperset(query.status):
            where.append(tables.IS_LIVE)  # type: ignore[arg-type]  # their index: they are few, whatever has ended
    if query.name is not None:
        where.append(runs.name == query.name)
    if query.run is not None:
        starts = and_(runs.run_id >= query.run, runs.run_id < query.run + _BEYOND_TEXT)
        where.append(or_(starts, runs.name == query.run))
    if query.before_seq is not None:
        where.append(runs.submit_seq < query.before_seq)
    where += [
        runs.labels.contains(_label(key, value), autoescape=True) for key, value in query.labels.items()
    ]
    if query.ended_before is not None:
        where.append(runs.ended_at < query.ended_before)  # null, and so not before, while it is live
    if query.live:
        where.append(tables.IS_LIVE)  # type: ignore[arg-type]
    if query.ended:
        where.append(tables.IS_ENDED)  # type: ignore[arg-type]
    return where


def _label(key: str, value: str) -> str:
    """How a label stands in the JSON text of ``labels``."""
    return str(sorted_json({key: value}), "utf-8")[1:-1]


def _slots(connection: Connection) -> list[SlotRow]:
    statement = tables.slots.select().order_by(tables.slots.c.node, tables.slots.c.index)
    rows = (row_from("slots", columns) for columns in connection.execute(statement).mappings())
    return [row for row in rows if isinstance(row, SlotRow)]


def _nodes(connection: Connection) -> list[NodeRow]:
    statement = tables.nodes.select().order_by(tables.nodes.c.node)
    rows = (row_from("nodes", columns) for columns in connection.execute(statement).mappings())
    return [row for row in rows if isinstance(row, NodeRow)]


def _all_rows(connection: Connection, name: str, table: Table) -> Iterator[bytes]:
    columns = [column for column in table.c if column.name not in tables.NOT_RECORD]
    statement = select(*columns).order_by(*table.primary_key.columns)
    for row in connection.execute(statement).yield_per(500).mappings():
        yield record_json(row_from(name, row))


def _of_run(
    connection: Connection, table: Table, kind: type[AttemptRow | TimelineRow], submit_seq: int
) -> list[bytes]:
    statement = table.select().where(table.c.submit_seq == submit_seq).order_by(*table.primary_key.columns)
    found = [row_from(kind.table, row) for row in connection.execute(statement).mappings()]
    return [
        _TIMELINE.encode(TimelineEntry(seq=row.seq, time=row.time, type=row.type, text=row.text))
        if isinstance(row, TimelineRow)
        else record_json(row)
        for row in found
    ]


def _newest(texts: list[bytes], size: int) -> list[bytes]:
    """The last of ``texts`` that fit in ``size`` bytes."""
    for place in range(len(texts) - 1, -1, -1):
        size -= len(texts[place]) + 1
        if size < 0:
            return texts[place + 1 :]
    return texts


def _part(number: int, table: str, rows: Iterable[bytes]) -> bytes:
    return msgspec.json.encode({"part": number, "table": table, "rows": [msgspec.Raw(row) for row in rows]})
