"""What keeps a projector from its database: logged once, answered to whoever asks meanwhile, and mended.

Owns what counts as damage (rebuild), what may pass by itself (try again) and what ends a start; knows no table and no query.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import msgspec
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DataError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)

from projections.read_model.database import Database, DatabaseGone
from services.plain_trouble import plain
from services.projector.start import Hindrance, Start
from trainshed_client.errors import ErrorCode, TrainshedError

_log = logging.getLogger("trainshed.projector")

QUIET_S = 60.0
"""The same trouble is not logged again so soon: a disk that is nearly full comes and goes."""
LONGEST_PATH = 504
"""Bytes of a database's path that SQLite opens: 512 with what it puts behind it."""
_SIGNS_OF_DAMAGE = ("no such table", "no such column", "Could not decode to UTF-8")
"""In errors that SQLite calls operational: a file that was emptied, and garbage within a row."""


class Damaged(Exception):
    """A query found the database to be damaged; the text is how."""


FAILURES = (SQLAlchemyError, Damaged, DatabaseGone, OSError, msgspec.MsgspecError, ValueError)
"""What a database that is damaged, full or gone may make of reading and writing it."""


def message_of(error: BaseException) -> str:
    """What an error reads, without SQLAlchemy's statement and link."""
    return str(getattr(error, "orig", None) or error) or type(error).__name__


def damage_in(error: BaseException) -> str | None:
    """What is damaged, where the database must be rebuilt; None where it may pass by itself: a full disk, a lock."""
    message = message_of(error)
    match error:
        case (
            OperationalError() | DataError() | ProgrammingError()
        ):  # the latter two: a value that it cannot take
            return message if any(sign in message for sign in _SIGNS_OF_DAMAGE) else None
        case DatabaseGone():
            return message if error.replaced else None
        case DatabaseError() | Damaged() | msgspec.MsgspecError() | ValueError():
            return message
        case _:
            return None


_SQLITE_UNUSABLE = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY}


def hindrance_of(error: BaseException) -> Hindrance:
    """What kind an error of opening the database is."""
    cause = getattr(error, "orig", None) or error
    if isinstance(cause, OSError):
        if cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return Hindrance.FULL
        refused = plain(cause)
        stays = refused is not None and refused.code is ErrorCode.INVALID
        return Hindrance.UNUSABLE if stays else Hindrance.PASSING
    primary = getattr(cause, "sqlite_errorcode", 0) & 0xFF
    if primary == sqlite3.SQLITE_FULL:
        return Hindrance.FULL
    return Hindrance.UNUSABLE if primary in _SQLITE_UNUSABLE else Hindrance.PASSING


def closer_look(path: Path | None, error: BaseException) -> BaseException:
    """What the system has against a file that SQLite "cannot open"; the error itself where it has nothing."""
    cause = getattr(error, "orig", None) or error
    if path is None or getattr(cause, "sqlite_errorcode", None) is None:
        return error
    if hindrance_of(error) is not Hindrance.UNUSABLE:
        return error
    if (length := len(os.fsencode(path))) > LONGEST_PATH:
        return OSError(errno.ENAMETOOLONG, f"its path has {length} bytes, and SQLite takes {LONGEST_PATH}")
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as why:
        return why
    return error


def open_database(url: str | Path) -> Database:
    """The database at a path or an URL. Raises TrainshedError where it is none, or its driver is not installed."""
    try:
        return Database(url)
    except ModuleNotFoundError as error:
        why = f"its driver is not installed: pip install {error.name}"
    except (ArgumentError, ValueError) as error:  # an URL that is none, or of a database that nobody knows
        why = f"{error}; accepted: a path, or as in postgresql+psycopg://user@host/database"
    shown = re.sub(r"://[^@/]*@", "://…@", str(url))  # a password is no one's to read
    raise TrainshedError(ErrorCode.INVALID, f"{shown} cannot be opened ({why})", "--database")


def start_refused(where: str, error: BaseException, code: ErrorCode, start: Start) -> TrainshedError:
    """The error of a start that such an error ends; ``where``: the database. What to do is the last thing it reads."""
    number = error.errno if isinstance(error, OSError) else None
    match number:
        case errno.ENAMETOOLONG if start is not Start.ALONE:
            advice = "Name another state folder: TRAINSHED_STATE_DIR=DIR trainshed up"
        case errno.EROFS if start is not Start.ALONE:
            advice = "Make it writable, or name another state folder: TRAINSHED_STATE_DIR=DIR trainshed up"
        case _ if start is Start.ALONE:
            advice = "Name another file: trainshed projector --database PATH"
        case _ if code is ErrorCode.UNAVAILABLE:
            advice = f"Make room (how much is left: df -h {Path(where).parent}), then: trainshed up"
        case _:
            advice = f"It is made of the event log alone: take it away (mv {where} {where}.old), then: trainshed up"
    why = (error.strerror or str(error)) if isinstance(error, OSError) else message_of(error)
    return TrainshedError(
        code, f"the read model {where} cannot be opened ({why[:1].lower()}{why[1:]}). {advice}"
    )


class Trouble:
    """Whether the read model called ``where`` is well, and if not why."""

    def __init__(self, where: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._where = where
        self._clock = clock
        self._logged = ""
        self._logged_at = 0.0
        self._damaged = False
        self._found = ""
        self._is_found = asyncio.Event()
        self._doubted = asyncio.Event()
        self._opened = asyncio.Event()
        self.openings = 0
        """So often the database was opened."""
        self.text: str | None = None
        """None: it is well."""

    def failed(self, error: BaseException) -> str | None:
        """Reading or writing failed: log it, once. Returns what is damaged, as :func:`damage_in`."""
        _log.debug("the read model failed", exc_info=error)
        damage = damage_in(error)
        self._damaged = damage is not None
        if damage is not None:
            self.text = (
                f"the read model {self._where} is damaged ({damage}); it is rebuilt from the event log"
            )
        elif isinstance(error, DatabaseGone):
            self.text = (
                f"the read model {self._where} is gone ({error}); it is built again from the event log"
            )
        else:
            self.text = f"the read model {self._where} cannot be used ({message_of(error)}); it is tried again until it can"
        now = self._clock()
        if self.text != self._logged or now - self._logged_at >= QUIET_S:
            _log.error("%s. Runs go on meanwhile", self.text)
            self._logged, self._logged_at = self.text, now
        return damage

    def over(self) -> None:
        """It is open and can be written."""
        self._is_found.clear()
        self.openings += 1
        opened, self._opened = self._opened, asyncio.Event()
        opened.set()
        if self.text is not None:
            self.text = None
            self._damaged = False
            _log.info("the read model is there again")

    def refuse_damaged(self) -> None:
        """Raises UNAVAILABLE while the database is damaged: one on a full disk can often still be read."""
        if self._damaged:
            raise self._refusal()

    def refuse_any(self) -> None:
        """Raises UNAVAILABLE while anything is wrong: where there is nothing that could be read."""
        if self.text is not None:
            raise self._refusal()

    def _refusal(self) -> TrainshedError:
        return TrainshedError(ErrorCode.UNAVAILABLE, f"{self.text}. Runs go on meanwhile: ask again later")

    def query_failed(self, error: BaseException) -> NoReturn:
        """Raises UNAVAILABLE; damage is for the writer to mend, who might not come across it for days."""
        damage = damage_in(error)
        if damage is not None:
            self._found = damage
            self._is_found.set()
        if self.text is not None:
            raise self._refusal() from None
        what = "is damaged, and is rebuilt from the event log" if damage else "cannot be read"
        raise TrainshedError(
            ErrorCode.UNAVAILABLE, f"the read model {what} ({message_of(error)}); ask again"
        ) from None

    async def opened_after(self, openings: int, within_s: float) -> None:
        """A query found the file gone that was opened so often: wait until there is another. Raises UNAVAILABLE where that
        takes longer."""
        self._doubted.set()
        try:
            async with asyncio.timeout(within_s):
                while self.openings <= openings:
                    await self._opened.wait()
        except TimeoutError:
            self.refuse_any()
            raise TrainshedError(
                ErrorCode.UNAVAILABLE, f"the read model {self._where} is being opened again; ask again"
            ) from None

    async def doubted(self, within_s: float) -> None:
        """Wait until a query found the file gone, and so long at the most."""
        try:
            async with asyncio.timeout(within_s):
                await self._doubted.wait()
        except TimeoutError:
            return
        self._doubted.clear()

    async def heed_queries(self) -> NoReturn:
        """Raises Damaged once a query has found damage."""
        await self._is_found.wait()
        raise Damaged(self._found)
