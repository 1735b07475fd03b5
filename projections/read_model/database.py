"""The database behind the read model: how it is opened, and all that is special to SQLite or PostgreSQL.

Owns engines, pragmas, transactions, how one takes another's place and the text of upserts; knows no event and no record.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, MetaData, Table, create_engine, event, make_url
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.pool import NullPool, StaticPool

from projections.read_model.readers_gate import ReadersGate

BUSY_TIMEOUT_S = 10.0
GATHER_WITHIN_MS = 200
CONNECT_WITHIN_S = 5
_HAVE_CONNECT_TIMEOUT = ("postgresql", "postgresql+psycopg", "postgresql+psycopg2")
BESIDE = "rebuild"
"""The end of the name of a file that is built beside."""
SCHEMA_BESIDE = f"trainshed_{BESIDE}"
_SQLITES_OWN = ("-wal", "-shm")
_NO_FILE = (-1, -1)
_T = TypeVar("_T")

# sqlite3 knows how to bind None and True only after it has asked both the value and a protocol how they adapt, which takes
# longer than all else of a parameter, and half of a row's are None. These adapters give back what they are given, at once.
_SAME: dict[None, None] = {}
sqlite3.register_adapter(type(None), _SAME.get)
sqlite3.register_adapter(bool, int)


class DatabaseGone(Exception):
    """Somebody deleted the file of a database that is open, or (``replaced``) put another in its place."""

    def __init__(self, *, replaced: bool) -> None:
        super().__init__("another file was put in its place" if replaced else "its file was deleted")
        self.replaced = replaced


class Database:
    """One read model's database. ``url``: an SQLAlchemy URL, or a path of an SQLite file (made with its folder).

    ``beside``: it is only built beside that one, and thrown away if anything happens to it: nothing waits for its storage.

    The writer's transactions begin IMMEDIATE: two writers then wait for each other at the start and neither fails in
    the middle. SQLite runs in WAL mode, so readers never wait, with ``synchronous=NORMAL``: a crash of the machine
    may lose the last commits, never the file, and what is lost is folded again, since the checkpoint is lost with it.
    """

    def __init__(self, url: str | Path, *, beside: bool = False) -> None:
        text = str(url)
        self._is_beside = beside
        self.readers = ReadersGate()
        self._looking = threading.Lock()
        self._file: tuple[int, int] | None = None
        """Which file is read, the one that the writer has open; None: not known, or none."""
        self.url = make_url(text if "://" in text else f"sqlite:///{Path(text).absolute()}")
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.path = Path(self.url.database or "") if self.is_sqlite and self._on_disk else None
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.engine = self._engine()
        self.mark = "?" if self.engine.dialect.paramstyle == "qmark" else "%s"
        self._quote = self.engine.dialect.identifier_preparer.quote

    @property
    def _on_disk(self) -> bool:
        return self.url.database not in (None, "", ":memory:")

    def _engine(self) -> Engine:
        if not self.is_sqlite:
            bounded = self.url.drivername in _HAVE_CONNECT_TIMEOUT and "connect_timeout" not in self.url.query
            more: dict[str, Any] = {"connect_timeout": CONNECT_WITHIN_S} if bounded else {}
            if self._is_beside:
                more["options"] = f"-csearch_path={SCHEMA_BESIDE}"
            return create_engine(
                self.url,
                pool_size=2,
                max_overflow=4,
                isolation_level="REPEATABLE READ",
                connect_args=more,
            )
        # a connection in memory is the database itself; one of a file costs 0.1 ms to open, less than a pool's care
        engine = create_engine(
            self.url,
            poolclass=NullPool if self._on_disk else StaticPool,
            connect_args={"check_same_thread": False, "timeout": BUSY_TIMEOUT_S},
        )

        @event.listens_for(engine, "connect")
        def _connected(connection: sqlite3.Connection, _: object) -> None:
            connection.isolation_level = None  # BEGIN is ours to send
            # a run's row is about 1 KB: pages of 8 KB hold several
            for pragma in (
                "page_size=8192",
                "journal_mode=WAL",
                f"synchronous={'OFF' if self._is_beside else 'NORMAL'}",
                "cache_size=-4000",
            ):
                connection.execute(f"PRAGMA {pragma}")

        @event.listens_for(engine, "begin")
        def _begun(connection: Connection) -> None:
            writes = connection.get_execution_options().get("trainshed_writes", False)
            connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

        return engine

    def writer(self) -> Connection:
        """The connection of the one writer."""
        return self.engine.connect().execution_options(trainshed_writes=True)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One read transaction: all its queries see the same moment. Raises DatabaseGone."""
        with self.readers.one():
            self.look()
            try:
                with self.engine.connect() as connection, connection.begin():
                    yield connection
            except DatabaseError:
                self.look()  # it went between that look and SQLite's, which makes an empty one
                raise

    def remember(self) -> None:
        """The writer has it open, and it can be asked: this file, and no other, is the one that is read from now on."""
        with self._looking:
            found = self._at_path()
            absent = None if self.path is None else _NO_FILE
            self._file = absent if found is None else _number(found)

    def look(self) -> None:
        """Raises DatabaseGone where the file is no longer the one that the writer has open, until another is remembered: that
        may have the same number, which was free again."""
        with self._looking:
            found = self._at_path()
            if self._file is None or (found is not None and _number(found) == self._file):
                return
            self._file = _NO_FILE
        raise DatabaseGone(replaced=found is not None and found.st_size > 0)

    def _at_path(self) -> os.stat_result | None:
        try:
            return None if self.path is None else os.stat(self.path)
        except FileNotFoundError:
            return None

    @contextmanager
    def reading_aside(self) -> Iterator[Connection]:
        """As :meth:`reading`, and temporary tables and views may be made in it: they are gone after it."""
        with self.reading() as connection:
            yield connection
            if (transaction := connection.get_transaction()) is not None:
                transaction.rollback()

    def own_schema(self, connection: Connection) -> str:
        """Where the tables are, for whoever has temporary ones of the same names before them; ready for a statement."""
        if self.is_sqlite:
            return "main"
        return self._quote(str(connection.exec_driver_sql("SELECT current_schema()").scalar_one()))

    def mostly(self, condition: str) -> str:
        """A condition that holds for most rows, so that no index is chosen for its sake (SQLite expects few rows)."""
        return f"likelihood({condition}, 0.95)" if self.is_sqlite else condition

    def names(self, columns: Iterable[str]) -> str:
        """Columns, as a statement has them."""
        return ", ".join(map(self._quote, columns))

    def try_writing(self) -> None:
        """Write something that changes nothing. Raises sqlalchemy's OperationalError where there is no room for it."""
        if self.is_sqlite:
            with self.writer() as connection, connection.begin():
                version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
                connection.exec_driver_sql(f"PRAGMA user_version = {version}")

    def close(self) -> None:
        """Close what is open."""
        self.engine.dispose()

    def move_aside(self, suffix: str) -> Path | None:
        """Take the file out of the way (kept as ``<file>.<suffix>``); where there is no file, nothing happens."""
        self.close()
        if self.path is None or not self.path.exists():
            return None
        file = self._file_itself
        kept = file.with_name(f"{file.name}.{suffix}")
        os.replace(file, kept)
        for beside, kept_beside in zip(_sqlites_own(file), _sqlites_own(kept), strict=True):
            if beside.exists():
                os.replace(beside, kept_beside)
        return kept

    def erase(self) -> bool:
        """Delete the file, and what lies beside it; False where there is none, but tables."""
        self.close()
        if self.path is None:
            return False
        file = self._file_itself
        for each in (file, *_sqlites_own(file)):  # SQLite itself passes over the log of no file
            each.unlink(missing_ok=True)
        return True

    # --- one that is built beside -------------------------------------------------------------------------

    def beside(self) -> Database | None:
        """An empty database beside this one; None where there cannot be one (in memory)."""
        self.clear_beside()
        if not self.is_sqlite:
            with self.writer() as connection, connection.begin():
                connection.exec_driver_sql(f"CREATE SCHEMA {SCHEMA_BESIDE}")
            return Database(self.url.render_as_string(hide_password=False), beside=True)
        return None if self.path is None else Database(self._path_beside, beside=True)

    @property
    def _file_itself(self) -> Path:
        """What SQLite names its own files by: somebody's link to storage elsewhere stays a link."""
        assert self.path is not None, "it is a file"
        return self.path.resolve()

    @property
    def _path_beside(self) -> Path:
        return self._file_itself.with_name(f"{self._file_itself.name}.{BESIDE}")

    def clear_beside(self) -> None:
        """Delete what was built beside this one and did not take its place."""
        if not self.is_sqlite:
            with self.writer() as connection, connection.begin():
                connection.exec_driver_sql(f"DROP SCHEMA IF EXISTS {SCHEMA_BESIDE} CASCADE")
        elif self.path is not None:
            for each in (self._path_beside, *_sqlites_own(self._path_beside)):
                each.unlink(missing_ok=True)

    def gather(self, connection: Connection) -> bool:
        """Have all that ``connection`` wrote in the one file, and on storage; False where another program reads it.

        Raises sqlalchemy's OperationalError where there is no room for it.
        """
        if self.path is None:
            return True
        sqlite = connection.connection.driver_connection  # in no transaction
        assert isinstance(sqlite, sqlite3.Connection)
        sqlite.execute(f"PRAGMA busy_timeout={GATHER_WITHIN_MS}")
        statement = "PRAGMA wal_checkpoint(TRUNCATE)"
        try:
            ((busy, _, _),) = sqlite.execute(statement).fetchall()
        except sqlite3.OperationalError as error:
            raise OperationalError(statement, None, error) from error
        finally:
            sqlite.execute(f"PRAGMA busy_timeout={int(BUSY_TIMEOUT_S * 1000)}")
        if not busy and self._is_beside:
            _sync(self.path)
        return not busy

    def sync(self) -> None:
        """Have what is in the file on storage, which may take long: beside whoever writes there."""
        if self.path is not None:
            _sync(self.path)

    def take(self, built: Database, tables: MetaData) -> None:
        """Become ``built``, of which nothing stays. Nobody may have either open, and both must be gathered: whoever dies on
        the way leaves the one or the other whole."""
        built.close()
        if self.path is None:
            self._take_schema(tables)
            return
        self.close()
        with self._looking:
            self._file = None  # it is another's from here on, until the writer has that open
        # SQLite deletes them with the last connection; another program's may be left, and would be the new file's
        file = self._file_itself
        for each in _sqlites_own(file):
            each.unlink(missing_ok=True)
        os.replace(self._path_beside, file)
        _sync(file.parent)

    def _take_schema(self, tables: MetaData) -> None:
        with self.writer() as connection, connection.begin():
            here = self._quote(connection.exec_driver_sql("SELECT current_schema()").scalar_one())
            for table in tables.sorted_tables:
                name = self._quote(table.name)
                connection.exec_driver_sql(f"DROP TABLE IF EXISTS {here}.{name}")
                connection.exec_driver_sql(f"ALTER TABLE {SCHEMA_BESIDE}.{name} SET SCHEMA {here}")
            connection.exec_driver_sql(f"DROP SCHEMA {SCHEMA_BESIDE} CASCADE")
        self.close()  # no connection knows the tables of before

    # --- statements of the hot path -----------------------------------------------------------------------

    def upsert(self, table: Table, columns: Sequence[str], key: Sequence[str]) -> str:
        """``INSERT ... ON CONFLICT (key) DO UPDATE``, parameters in the order of ``columns``."""
        updates = ", ".join(
            f"{self._quote(name)} = excluded.{self._quote(name)}" for name in columns if name not in key
        )
        names = ", ".join(self._quote(name) for name in key)
        return f"{self.insert(table, columns)} ON CONFLICT ({names}) DO UPDATE SET {updates}"

    def insert(self, table: Table, columns: Sequence[str]) -> str:
        """A plain ``INSERT``."""
        names = ", ".join(map(self._quote, columns))
        marks = ", ".join([self.mark] * len(columns))
        return f"INSERT INTO {self._quote(table.name)} ({names}) VALUES ({marks})"

    def update(self, table: Table, columns: Sequence[str], key: str) -> str:
        """``UPDATE``, parameters in the order of ``columns`` and then ``key``."""
        updates = ", ".join(f"{self._quote(name)} = {self.mark}" for name in columns)
        return f"UPDATE {self._quote(table.name)} SET {updates} WHERE {self._quote(key)} = {self.mark}"

    def delete(self, table: Table, key: Sequence[str]) -> str:
        """``DELETE`` of one row."""
        where = " AND ".join(f"{self._quote(name)} = {self.mark}" for name in key)
        return f"DELETE FROM {self._quote(table.name)} WHERE {where}"

    def select(self, table: Table, columns: Sequence[str], where: str) -> str:
        """``SELECT`` with a condition as it stands."""
        names = ", ".join(map(self._quote, columns))
        return f"SELECT {names} FROM {self._quote(table.name)} WHERE {where}"

    def one_of(self, column: str, count: int) -> str:
        """A condition with ``count`` parameters."""
        return f"{self._quote(column)} IN ({', '.join([self.mark] * count)})"

    def many(self, connection: Connection, statement: str, rows: list[tuple[Any, ...]]) -> None:
        """Run ``statement`` for each of ``rows``."""
        if rows:
            connection.exec_driver_sql(statement, rows)


def in_chunks(items: Iterable[_T], size: int = 500) -> Iterator[tuple[_T, ...]]:
    """``items`` in pieces that fit a statement's parameters."""
    everything = list(items)
    for start in range(0, len(everything), size):
        yield tuple(everything[start : start + size])


def _number(file: os.stat_result) -> tuple[int, int]:
    """By which a file is told from another, whatever its name."""
    return file.st_dev, file.st_ino


def _sqlites_own(path: Path) -> tuple[Path, ...]:
    """What SQLite has beside a file: its write-ahead log, and what it knows of that."""
    return tuple(path.with_name(path.name + tail) for tail in _SQLITES_OWN)


def _sync(path: Path) -> None:
    """Have a file, or a folder's names, on storage."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
