"""One stack a state folder: the lock that `up` holds while it lives.

Owns `<state>/up.lock`; a dead holder's lock is free by itself, since the kernel drops it with the process.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from trainshed_client.errors import ErrorCode, TrainshedError

LOCK_FILE = "up.lock"


class StateLock:
    """Held as a context manager. Entering raises TrainshedError: CONFLICT while another living process holds it, INVALID
    where the folder cannot be made or written."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / LOCK_FILE
        self._fd: int | None = None

    def __enter__(self) -> Self:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise TrainshedError(
                ErrorCode.INVALID,
                f"the state folder {self._path.parent} cannot be used ({(error.strerror or str(error)).lower()}). "
                "Name another one: TRAINSHED_STATE_DIR=DIR trainshed up",
            ) from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 20, 0).decode(errors="replace").strip()
            os.close(fd)
            who = f" (pid {holder})" if holder.isdigit() else ""
            raise TrainshedError(
                ErrorCode.CONFLICT,
                f"a stack is running already on {self._path.parent}{who}. Use it: trainshed ls. Or start another one on "
                "another folder: TRAINSHED_STATE_DIR=DIR trainshed up",
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
