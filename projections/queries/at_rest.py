"""An SQLite read model that no projector has open, read as it lies: nothing is written, made or locked beside it.

Owns how such a file and its write-ahead log are opened, and whether this release reads it; knows no query.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from urllib.parse import quote

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.pool import NullPool

from events.times import rfc3339
from projections.read_model.tables import SCHEMA_VERSION
from trainshed_client.errors import ErrorCode, TrainshedError


class AsOf(NamedTuple):
    """Up to which event the read model tells what happened, and when it was last written."""

    seq: int
    time: str


class DatabaseAtRest:
    """The read side of such a file; a context manager. Raises TrainshedError (UNAVAILABLE) where it cannot be read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._copy: TemporaryDirectory[str] | None = None
        self._uri = self._opened()
        self._engine = create_engine("sqlite://", creator=self._connect, poolclass=NullPool)

        @event.listens_for(self._engine, "begin")
        def _begun(connection: Connection) -> None:
            connection.exec_driver_sql("BEGIN")  # all queries of one answer see the same moment

        try:
            self.as_of = self._as_of()
        except BaseException:
            self.close()
            raise

    def _opened(self) -> str:
        """Its URI. What was not moved out of the write-ahead log yet is read there, by what SQLite knows of it
        (``-shm``), which is not written either; where that is missing SQLite would make it, so a copy is read."""
        log = Path(f"{self._path}-wal")
        if not log.exists() or not log.stat().st_size:
            return f"file:{quote(str(self._path))}?immutable=1"
        path, options = self._path, "mode=ro&readonly_shm=1"
        if not Path(f"{self._path}-shm").exists():
            self._copy = TemporaryDirectory(prefix="trainshed-")
            path, options = Path(self._copy.name) / self._path.name, "mode=rw"
            shutil.copyfile(self._path, path)
            shutil.copyfile(log, f"{path}-wal")
        return f"file:{quote(str(path))}?{options}"

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._uri, uri=True, isolation_level=None, check_same_thread=False)

    def _as_of(self) -> AsOf:
        try:
            connection = self._connect()
            try:
                row = connection.execute("SELECT seq, schema_version FROM checkpoint").fetchone()
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise self._unreadable(f"cannot be read ({error})") from None
        if row is None:
            raise self._unreadable("holds nothing yet")
        seq, version = row
        if version != SCHEMA_VERSION:
            age = "an older" if version < SCHEMA_VERSION else "a newer"
            raise self._unreadable(
                f"is {age} release's (schema version {version}; this one reads {SCHEMA_VERSION}), and made anew from the "
                "event log by the next `trainshed up`"
            )
        files = (self._path, Path(f"{self._path}-wal"))
        written = max(os.stat(file).st_mtime_ns for file in files if file.exists())
        return AsOf(int(seq), rfc3339(written))

    def _unreadable(self, why: str) -> TrainshedError:
        return TrainshedError(ErrorCode.UNAVAILABLE, f"The read model {self._path} {why}")

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One read transaction: all its queries see the same moment."""
        with self._engine.connect() as connection, connection.begin():
            yield connection

    def close(self) -> None:
        """Let go of it."""
        self._engine.dispose()
        if self._copy is not None:
            self._copy.cleanup()
