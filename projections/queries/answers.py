"""What the read model answers: runs, one run, slots, nodes, and all rows for an audit.

Owns what is read for an answer and its size; knows neither NATS nor how rows come about, nor what a listing asks for, nor
why a run waits. Each answer is of one read transaction, and its ``seq`` is the checkpoint's in that transaction.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import msgspec
from sqlalchemy import Connection, Table, func, select
from sqlalchemy import Row as SqlRow

from events.state import State
from projections.queries.listing import RunQuery, has_labels, quick_row, selected, total
from projections.queries.live import Live
from projections.queries.naming import called
from projections.read_model import tables
from projections.read_model.rows import (
    NULL,
    NodeRow,
    SlotRow,
    record_json,
    row_from,
)
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.naming import title
from trainshed_client.rendering.timeline import text_of_stored
from trainshed_client.statuses import GONE, PLACED, NodeStatus, RunStatus

MAX_BYTES = 900_000
"""Of one answer: the server takes 1 MB."""
LAST_ENDED = 1_000
NAME_LETTERS = 300
"""So much of a run's name, which may be its command, is beside each slot that it holds."""
WAITING_BYTES = 1_000
"""So much room is left beside a PENDING run's record for why it waits, which others add."""
_ENTRY = msgspec.json.Encoder()


class FoundRun(NamedTuple):
    """A run's record as JSON, and its id where it is PENDING."""

    record: bytes
    waits: str | None


class FoundRuns(NamedTuple):
    """One page of a listing, newest first. ``total`` in a first page alone: how many match, in all pages together.

    ``live``: all that is live at the same moment, where a run of the page is PENDING.
    """

    seq: int
    runs: list[FoundRun]
    total: int | None
    live: State | None


class FoundOne(NamedTuple):
    """All about one run: its config, attempts and timeline as JSON; ``live`` as in FoundRuns."""

    seq: int
    run: FoundRun
    config: bytes
    attempts: list[msgspec.Raw]
    timeline: list[msgspec.Raw]
    live: State | None


class HasReadModel(Protocol):
    """A database with the read model's tables."""

    def reading(self) -> AbstractContextManager[Connection]:
        """One read transaction: all its queries see the same moment."""
        ...


class HasState(Protocol):
    """Whoever knows all that is live at a transaction's moment."""

    def state(self, connection: Connection) -> State:
        """See the class."""
        ...


class Queries:
    """The read side of one database; every call is one read transaction.

    ``run_parts``: the tables in which the runs are, all together.
    """

    def __init__(
        self,
        database: HasReadModel,
        live: HasState | None = None,
        run_parts: Sequence[Table] = (tables.runs,),
    ) -> None:
        self._database = database
        self._live = live or Live()
        self._run_parts = run_parts

    # --- answers ------------------------------------------------------------------------------------------

    def runs(self, query: RunQuery) -> FoundRuns:
        """``run.list``. A page may end before ``limit`` where it is full: the last one is empty."""
        limit = query.limit
        with self._database.reading() as connection:
            seq = _seq(connection)
            runs: list[FoundRun] = []
            size = 0
            away = _away(connection)
            for found in self._found(connection, query, away):
                size += len(found.record) + 1 + (WAITING_BYTES if found.waits else 0)
                if size > MAX_BYTES and runs:
                    break
                runs.append(found)
                if len(runs) == limit:
                    break
            else:
                limit = 0  # these were all
            matching = None
            if query.before_seq is None:
                counted = limit and query.run is None
                matching = total(connection, query, self._run_parts) if counted else len(runs)
            waits = any(found.waits for found in runs)
            return FoundRuns(seq, runs, matching, self._live.state(connection) if waits else None)

    def node_of(self, run_id: str) -> str | None:
        """The node that the run's present attempt is on; None where it has none."""
        runs = tables.runs
        present = select(runs.c.node).where(runs.c.run_id == run_id, runs.c.status.in_(PLACED))
        with self._database.reading() as connection:
            return connection.execute(present).scalar_one_or_none()

    def run(self, run_id: str) -> FoundOne:
        """``run.get``. Raises TrainshedError (not_found). Of what is too long for an answer, the newest is kept."""
        with self._database.reading() as connection:
            statement = tables.runs.select().where(tables.runs.c.run_id == run_id)
            columns = connection.execute(statement).mappings().one_or_none()
            if columns is None:
                raise TrainshedError(
                    ErrorCode.NOT_FOUND, f"no run {run_id:.80}. List all: trainshed ls --all"
                )
            seq = _seq(connection)
            attempts = _attempts(connection, columns["submit_seq"])
            timeline = _timeline(connection, columns["submit_seq"])
            waits = columns["status"] == RunStatus.PENDING
            live = self._live.state(connection) if waits else None
            away = _away(connection)
        config = columns["config"].encode()
        record = _with_node(record_json(row_from("runs", columns)), columns["status"], columns["node"], away)
        left = MAX_BYTES - WAITING_BYTES - len(record) - len(config)
        attempts = _newest(attempts, left // 2)
        timeline = _newest(timeline, left - sum(map(len, attempts)))
        return FoundOne(
            seq,
            FoundRun(record, run_id if waits else None),
            config,
            [msgspec.Raw(text) for text in attempts],
            [msgspec.Raw(text) for text in timeline],
            live,
        )

    def slots(self) -> dict[str, Any]:
        """``slot.list``; the free slots of nodes that left are left out."""
        with self._database.reading() as connection:
            seq, shown, holders = _seq(connection), _listed_slots(connection), _holders(connection)
        return {
            "v": 1,
            "seq": seq,
            "slots": [msgspec.Raw(record_json(slot)[:-1] + holders.get(slot.run_id, b"}")) for slot in shown],
        }

    def nodes(self) -> dict[str, Any]:
        """``node.list``: without those that left or were removed and have no attempts."""
        with self._database.reading() as connection:
            seq, nodes = _seq(connection), _listed_nodes(connection)
        return {"v": 1, "seq": seq, "nodes": [msgspec.Raw(record_json(row)) for row in nodes]}

    def witnesses(self) -> list[NodeRow]:
        """The nodes that have a key to cosign with, those that left among them."""
        with self._database.reading() as connection:
            return [row for row in _nodes(connection) if row.witness is not None]

    def health(self) -> dict[str, Any]:
        """``health``, what the database knows of it."""
        with self._database.reading() as connection:
            at = connection.execute(tables.checkpoint.select()).mappings().one_or_none()
            quarantined = connection.execute(select(func.count()).select_from(tables.quarantine)).scalar_one()
            objects = [row.node for row in _nodes(connection) if row.witness_objection != NULL]
        return {
            "v": 1,
            "seq": at["seq"] if at is not None else 0,
            "state_hash": at["state_hash"] if at is not None else f"{0:064x}",
            "schema_version": tables.SCHEMA_VERSION,
            "quarantined": quarantined,
            "objections": objects,
        }

    def audit_rows(self) -> Generator[bytes, None, None]:
        """``audit.rows``: all rows as several JSON texts, from one read transaction.

        The first: ``{"v": 1, "seq", "state_hash", "log_id", "schema_version", "counts": {table: rows}}``. Each other:
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
                "schema_version": tables.SCHEMA_VERSION,
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
        """(node, index, record) of the slots that `slot.list` has."""
        with self._database.reading() as connection:
            return [(slot.node, slot.index, record_json(slot)) for slot in _listed_slots(connection)]

    def bucket_nodes(self) -> list[tuple[str, bytes]]:
        """(node, record) of the nodes that `node.list` has."""
        with self._database.reading() as connection:
            return [(node.node, record_json(node)) for node in _listed_nodes(connection)]

    # --- parts --------------------------------------------------------------------------------------------

    def _found(self, connection: Connection, query: RunQuery, away: Mapping[str, str]) -> Iterator[FoundRun]:
        if query.run is not None:
            rows: Iterable[SqlRow[Any]] = called(connection, query, query.run)
        else:
            rows = connection.execute(selected(query)).yield_per(100)
        for row in rows:
            if has_labels(row.labels, query.labels):
                waits = row.run_id if row.status == RunStatus.PENDING else None
                yield FoundRun(_with_node(record_json(quick_row(row)), row.status, row.node, away), waits)


def _seq(connection: Connection) -> int:
    return int(connection.execute(select(tables.checkpoint.c.seq)).scalar_one_or_none() or 0)


def _away(connection: Connection) -> dict[str, str]:
    """Nodes that do not answer: name → status."""
    node = tables.nodes.c
    statement = select(node.node, node.status).where(node.status.in_((NodeStatus.LOST, NodeStatus.LEFT)))
    return {row.node: row.status for row in connection.execute(statement)}


def _with_node(record: bytes, status: str, node: str | None, away: Mapping[str, str]) -> bytes:
    """A run's record with ``node_status`` where it is live on a node that does not answer."""
    if node is None or node not in away or status not in PLACED:
        return record
    return record[:-1] + b',"node_status":"' + away[node].encode() + b'"}'


def _holders(connection: Connection) -> dict[str | None, bytes]:
    """What a slot's record bears beside of the run that holds it, by the run's id: its name as a list shows it."""
    run = tables.runs.c
    statement = select(run.run_id, run.name, run.command, run.named).where(
        tables.IS_LIVE, run.node.is_not(None)
    )
    return {
        run_id: b',"run_name":%b}'
        % _ENTRY.encode(title(name, msgspec.json.decode(command), named)[:NAME_LETTERS])
        for run_id, name, command, named in connection.execute(statement)
    }


def _slots(connection: Connection) -> list[SlotRow]:
    statement = tables.slots.select().order_by(tables.slots.c.node, tables.slots.c.index)
    rows = (row_from("slots", columns) for columns in connection.execute(statement).mappings())
    return [row for row in rows if isinstance(row, SlotRow)]


def _listed_slots(connection: Connection) -> list[SlotRow]:
    """Without the free slots of nodes that left or were removed."""
    gone = {node.node for node in _nodes(connection) if node.status in GONE}
    return [row for row in _slots(connection) if row.run_id is not None or row.node not in gone]


def _nodes(connection: Connection) -> list[NodeRow]:
    statement = tables.nodes.select().order_by(tables.nodes.c.node)
    rows = (row_from("nodes", columns) for columns in connection.execute(statement).mappings())
    return [row for row in rows if isinstance(row, NodeRow)]


def _listed_nodes(connection: Connection) -> list[NodeRow]:
    """Without those that left or were removed and have no attempts."""
    node = tables.runs.c.node
    statement = select(node).where(tables.IS_LIVE, node.is_not(None)).distinct()
    busy = set(connection.execute(statement).scalars())
    return [row for row in _nodes(connection) if row.status not in GONE or row.node in busy]


def _all_rows(connection: Connection, name: str, table: Table) -> Iterator[bytes]:
    columns = [column for column in table.c if column.name not in tables.NOT_RECORD]
    statement = select(*columns).order_by(*table.primary_key.columns)
    for row in connection.execute(statement).yield_per(500).mappings():
        yield record_json(row_from(name, row))


def _attempts(connection: Connection, submit_seq: int) -> list[bytes]:
    return [
        record_json(row_from("attempts", row)) for row in _of_run(connection, tables.attempts, submit_seq)
    ]


def _timeline(connection: Connection, submit_seq: int) -> list[bytes]:
    return [
        _ENTRY.encode(
            {
                "seq": row["seq"],
                "time": row["time"],
                "type": row["type"],
                "data": msgspec.Raw(row["data"].encode()),
                "text": text_of_stored(row["type"], row["data"]),
            }
        )
        for row in _of_run(connection, tables.timeline, submit_seq)
    ]


def _of_run(connection: Connection, table: Table, submit_seq: int) -> Iterable[Mapping[Any, Any]]:
    statement = table.select().where(table.c.submit_seq == submit_seq).order_by(*table.primary_key.columns)
    return connection.execute(statement).mappings()


def _newest(texts: list[bytes], size: int) -> list[bytes]:
    """The last of ``texts`` that fit in ``size`` bytes."""
    for place in range(len(texts) - 1, -1, -1):
        size -= len(texts[place]) + 1
        if size < 0:
            return texts[place + 1 :]
    return texts


def _part(number: int, table: str, rows: Iterable[bytes]) -> bytes:
    return msgspec.json.encode({"part": number, "table": table, "rows": [msgspec.Raw(row) for row in rows]})
