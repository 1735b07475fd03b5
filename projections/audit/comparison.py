"""The rows of a live read model as an audit received them, and where they differ from those of a replay.

Owns how they are kept meanwhile (in files: there may be millions) and compared; knows neither NATS nor the log.

Both sides come in the order of their keys, so tables that are the same are read side by side, once. Only a table that is
not the same somewhere is put in an index, row by row, to name what differs.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection, select

from projections.read_model import tables
from projections.read_model.database import Database
from projections.read_model.rows import Row, key_of, record_json, row_from
from projections.read_model.state_hash import MODULUS, digest, hashed_fields
from trainshed_client.answers import error_in
from trainshed_client.errors import ErrorCode, TrainshedError

MAX_DIFFERENCES = 100
SHOWN = 80
"""Characters of a value that a message shows."""
_T = TypeVar("_T")


class Head(msgspec.Struct, frozen=True):
    """The first message of ``audit.rows``. ``schema_version``: of the tables; None from who does not name it yet."""

    seq: int
    state_hash: str
    log_id: str
    counts: dict[str, int]
    schema_version: int | None = None
    v: int = 1


class Part(msgspec.Struct, frozen=True):
    """Each other message of ``audit.rows``."""

    part: int
    table: str
    rows: list[msgspec.Raw]


class Unlike(msgspec.Struct, frozen=True):
    """Where a read model is not what the log says: in a column, in a row as a whole (``column`` None: a side that lacks it has
    None), or in none that has a name (``table`` None)."""

    message: str
    table: str | None = None
    key: tuple[str | int, ...] = ()
    column: str | None = None
    live: Any = None
    replayed: Any = None


class LiveRows:
    """The messages of ``audit.rows`` in a file, as they came; one for each ``verify``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = (folder / "live.rows").open("w+b")
        self._parts: dict[str, list[tuple[int, int]]] = {}
        """Table → where its parts lie: (offset, length)."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    async def take(self, messages: AsyncIterator[bytes]) -> Head:
        """Take all messages in, as fast as they come: who does not keep up is cut off by the server.

        Raises TrainshedError where some are missing, or are of another release's tables.
        """
        head: Head | None = None
        counts: dict[str, int] = {}
        expected = 1
        async for message in messages:
            if head is None:
                head = _decoded(message, Head)
                _compare(head.schema_version)
                continue
            part = _decoded(message, Part)
            if part.part != expected:
                raise unavailable(f"part {expected} of the rows was lost; ask again")
            expected += 1
            counts[part.table] = counts.get(part.table, 0) + len(part.rows)
            self._parts.setdefault(part.table, []).append((self._file.tell(), len(message)))
            self._file.write(message)
        if head is None or any(counts.get(name, 0) != count for name, count in head.counts.items()):
            raise unavailable("the projector's rows did not come whole; ask again")
        return head

    def rows(self, table: str) -> Iterator[bytes]:
        """The rows of a table as JSON, in the order in which they came."""
        for offset, length in self._parts.get(table, ()):
            self._file.seek(offset)
            yield from map(bytes, _decoded(self._file.read(length), Part).rows)

    def differences(self, head: Head, database: Database, replayed_hash: int) -> list[Unlike]:
        """Where these are not the rows of the replay in ``database``; the first hundred."""
        found: list[Unlike] = []
        state_hash = 0
        with database.reading() as connection:
            for name in tables.HASHED:
                digests = self._in_step(name, connection)
                if digests is None:
                    digests, more = self._row_by_row(name, connection)
                    found += more
                state_hash = (state_hash + digests) % MODULUS
        if head.state_hash != f"{state_hash:064x}":
            found.append(Unlike("the kept state hash is not that of the tables' rows"))
        if state_hash != replayed_hash and not found:
            found.append(Unlike("the state hash is not that of the replay"))
        return found[:MAX_DIFFERENCES]

    def _in_step(self, table: str, connection: Connection) -> int | None:
        """The sum of the digests of a table's rows; None as soon as one is not that of the replay in its place."""
        digests = 0
        for raw, expected in zip_longest(self.rows(table), replayed_rows(table, connection)):
            if raw is None or expected is None:
                return None
            if raw != record_json(expected):
                there = row_from(table, msgspec.json.decode(raw))
                if key_of(there) != key_of(expected) or hashed_fields(there) != hashed_fields(expected):
                    return None
            digests += digest(expected)
        return digests

    def _row_by_row(self, table: str, connection: Connection) -> tuple[int, list[Unlike]]:
        """The sum of the digests of a table's rows, and what differs by key."""
        found: list[Unlike] = []
        index = _Index(self._folder / f"{table}.db")
        try:
            digests = 0
            for raw in self.rows(table):
                row = row_from(table, msgspec.json.decode(raw))
                digests += digest(row)
                if not index.put(row, raw):
                    found.append(_whole(row, "is there twice", hashed_fields(row), None))
            for row in replayed_rows(table, connection):
                raw_there, expected = index.pop(row), hashed_fields(row)
                if raw_there is None:
                    found.append(_whole(row, "is missing", None, expected))
                else:
                    there = hashed_fields(row_from(table, msgspec.json.decode(raw_there)))
                    found += _columns(row, there, expected)
                if len(found) >= MAX_DIFFERENCES:
                    return digests, found
            for raw in index.rest():
                row = row_from(table, msgspec.json.decode(raw))
                found.append(_whole(row, "is in no replay of the log", hashed_fields(row), None))
        finally:
            index.close()
        return digests, found


class _Index:
    """Rows by their key, in a file of their own that is thrown away: one transaction, which nothing waits for."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=OFF")
        self._db.execute("PRAGMA synchronous=OFF")
        self._db.execute("CREATE TABLE live (key TEXT PRIMARY KEY, row BLOB) WITHOUT ROWID")
        self._db.execute("BEGIN")

    def close(self) -> None:
        self._db.close()

    def put(self, row: Row, raw: bytes) -> bool:
        """Keep a row as it came; False where its key is there already."""
        return self._db.execute("INSERT OR IGNORE INTO live VALUES (?, ?)", (_key(row), raw)).rowcount == 1

    def pop(self, row: Row) -> bytes | None:
        """Take out the row with this one's key: what remains at the end is in no replay."""
        key = _key(row)
        found = self._db.execute("SELECT row FROM live WHERE key = ?", (key,)).fetchone()
        if found is None:
            return None
        self._db.execute("DELETE FROM live WHERE key = ?", (key,))
        return bytes(found[0])

    def rest(self) -> list[bytes]:
        """The rows that nobody took out (at most as many as are named)."""
        found = self._db.execute("SELECT row FROM live ORDER BY key LIMIT ?", (MAX_DIFFERENCES,))
        return [bytes(row) for (row,) in found]


def replayed_rows(name: str, connection: Connection) -> Iterator[Row]:
    table = tables.HASHED[name]
    columns = [column for column in table.c if column.name not in tables.NOT_RECORD]
    statement = select(*columns).order_by(*table.primary_key.columns)
    for row in connection.execute(statement).yield_per(500).mappings():
        yield row_from(name, row)


def _compare(theirs: int | None) -> None:
    """Raises TrainshedError where the rows' tables are not as this release has them."""
    ours = tables.SCHEMA_VERSION
    if theirs == ours:
        return
    named = "an unnamed version" if theirs is None else f"version {theirs}"
    versions = f"its tables are of {named}, those of this trainshed of version {ours}"
    if theirs is None or theirs < ours:
        raise unavailable(
            f"the projector that runs is older ({versions}). Restart the stack: trainshed down, then trainshed up"
        )
    raise unavailable(f"the projector that runs is newer ({versions}). Ask with the trainshed that it is of")


def _key(row: Row) -> str:
    return " ".join(map(str, key_of(row)))


def _whole(row: Row, message: str, live: Any, replayed: Any) -> Unlike:
    return Unlike(f"{row.table} {_key(row)} {message}", row.table, key_of(row), None, live, replayed)


def _columns(row: Row, there: dict[str, Any], expected: dict[str, Any]) -> list[Unlike]:
    """Where the status differs a side may leave columns out (`hashed_fields`): what only one side has is not compared."""
    return [
        Unlike(
            f"{row.table} {_key(row)}: {name} is {_shown(there, name)}, the log says {_shown(expected, name)}",
            row.table,
            key_of(row),
            name,
            there.get(name),
            expected.get(name),
        )
        for name in sorted(there.keys() | expected.keys())
        if name in there and name in expected and there[name] != expected[name]
    ]


def _shown(fields: dict[str, Any], name: str) -> str:
    text = json.dumps(fields[name], ensure_ascii=False)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def _decoded(message: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(message, type=kind)
    except msgspec.MsgspecError as error:
        raise error_in(message) or unavailable(f"the projector's answer cannot be read: {error}") from None


def unavailable(message: str) -> TrainshedError:
    """That no verdict can be had now."""
    return TrainshedError(ErrorCode.UNAVAILABLE, message)
