"""The log file of a stack without a terminal, and its bounded size.

Owns `<state>/logs/up.log` and the older ones beside it; must not know what is written or who writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

from services.logging import get_logger
from trainshed_client.os_errors import cause

_log = get_logger("log")

MAX_BYTES = 8 * 1024 * 1024
OLDER_FILES = 2
CHECK_EVERY_S = 5.0


def up_log(state_dir: Path) -> Path:
    """Where `trainshed up --detach` writes what it has to say."""
    return state_dir / "logs" / "up.log"


def open_log(path: Path) -> int:
    """Open it to append, whoever else does too. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


class LogFile:
    """A Service that moves a log file's content aside once it is over ``max_bytes``; ``older`` such files are kept.

    The content is copied and the file cut to nothing, not renamed: several processes hold it open (the projector, and
    what it may start), and each appends. Lines written between the copy's end and the cut, some microseconds, are lost.
    """

    name = "log"

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int = MAX_BYTES,
        older: int = OLDER_FILES,
        every_s: float = CHECK_EVERY_S,
    ) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._older = older
        self._every_s = every_s
        self._stop = asyncio.Event()
        self.ready = asyncio.Event()
        self.ready.set()

    async def run(self) -> None:
        """See Service. A file that cannot be moved (a full disk) is looked at again later."""
        while not self._stop.is_set():
            try:
                await asyncio.to_thread(self.bound)
            except OSError as error:
                _log.debug("the log file could not be moved aside", why=cause(error))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._every_s):
                    await self._stop.wait()

    def stop(self) -> None:
        """See Service."""
        self._stop.set()

    def bound(self) -> bool:
        """Move its content aside if it is too long; whether it was. Raises OSError."""
        if self._path.stat().st_size <= self._max_bytes:
            return False
        for number in range(self._older, 1, -1):
            with contextlib.suppress(FileNotFoundError):
                os.replace(self._numbered(number - 1), self._numbered(number))
        part = self._path.with_name(f".{self._path.name}.part")
        with self._path.open("r+b") as current:
            with open(part, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as aside:
                # Only the end is kept of a file that grew far beyond its bound between two looks.
                current.seek(max(0, os.fstat(current.fileno()).st_size - 2 * self._max_bytes))
                while chunk := current.read(1 << 20):
                    aside.write(chunk)
            os.replace(part, self._numbered(1))
            os.ftruncate(current.fileno(), 0)
        return True

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")
