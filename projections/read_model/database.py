"""The database behind the read model: how it is opened, and all that is special to SQLite or PostgreSQL.

Owns engines, pragmas, transactions and the text of upserts; knows no event and no record.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, Table, create_engine, event, make_url
from sqlalchemy.pool import NullPool, StaticPool

BUSY_TIMEOUT_S = 10.0
CONNECT_WITHIN_S = 5
_HAVE_CONNECT_TIMEOUT = ("postgresql", "postgresql+psycopg", "postgresql+psycopg2")
_T = TypeVar("_T")

# sqlite3 knows how to bind None and True only after it has asked both the value and a protocol how they adapt, which takes
# longer than all else of a parameter, and half of a row's are None. These adapters give back what they are given, at once.
_SAME: dict[None, None] = {}
sqlite3.register_adapter(type(None), _SAME.get)
sqlite3.register_adapter(bool, int)


class Database:
    """One read model's database. ``url``: an SQLAlchemy URL, or a path of an SQLite file (made with its folder).

    The writer's transactions begin IMMEDIATE: two writers then wait for each other at the start and neither fails in
    the middle. SQLite runs in WAL mode, so readers never wait, with ``synchronous=NORMAL``: a crash of the machine
    may lose the last commits, never the file, and what is lost is folded again, since the checkpoint is lost with it.
    """

    def __init__(self, url: str | Path) -> None:
        text = str(url)
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
            return create_engine(
                self.url,
                pool_size=2,
                max_overflow=4,
                isolation_level="REPEATABLE READ",
                connect_args={"connect_timeout": CONNECT_WITHIN_S} if bounded else {},
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
                "synchronous=NORMAL",
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
        """One read transaction: all its queries see the same moment."""
        with self.engine.connect() as connection, connection.begin():
            yield connection

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
        kept = self.path.with_name(f"{self.path.name}.{suffix}")
        os.replace(self.path, kept)
        for tail in ("-wal", "-shm"):
            beside = self.path.with_name(self.path.name + tail)
            if beside.exists():
                os.replace(beside, kept.with_name(kept.name + tail))
        return kept

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
