"""One stack a state folder: the lock that `up` holds while it lives.

Owns `<state>/up.lock`; a dead holder's lock is free by itself, since the kernel drops it with the process.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from services.plain_trouble import may_pass, plain, refusal
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.os_errors import why

LOCK_FILE = "up.lock"
HOLDER_WITHIN_S = 2.0
"""Far more than the moment between taking the lock and writing who holds it."""


class StateLock:
    """Held as a context manager. Entering raises TrainshedError: CONFLICT while another living process holds it, INVALID
    where the folder cannot be made or written, UNAVAILABLE where its disk is full."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / LOCK_FILE
        self._fd: int | None = None

    def __enter__(self) -> Self:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise unusable(self._path.parent, error) from None
        deadline = time.monotonic() + HOLDER_WITHIN_S
        while not _locked(fd, fcntl.LOCK_EX):
            pid = _written(fd)
            # Who only looks whether it is held (`holder`) is gone in a moment, and is no stack.
            if (pid is not None and _has_open(pid, os.fstat(fd))) or time.monotonic() > deadline:
                os.close(fd)
                raise running_already(self._path.parent, pid)
            time.sleep(0.01)
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


def unusable(state_dir: Path, error: OSError) -> TrainshedError:
    """What to say of a state folder that cannot be made or written."""
    if may_pass(error):
        return refusal(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        full = plain(OSError(error.errno, error.strerror, str(state_dir)))
        assert full is not None
        return full
    return TrainshedError(
        ErrorCode.INVALID,
        f"the state folder {state_dir} cannot be used ({why(error)}). "
        "Name another one: TRAINSHED_STATE_DIR=DIR trainshed up",
    )


def running_already(state_dir: Path, pid: int | None) -> TrainshedError:
    """What to say where another stack lives on the folder."""
    who = f" (pid {pid})" if pid is not None else ""
    return TrainshedError(
        ErrorCode.CONFLICT,
        f"a stack is running already on {state_dir}{who}. Use it: trainshed ls. Or start another one on "
        "another folder: TRAINSHED_STATE_DIR=DIR trainshed up",
    )


def holder(state_dir: Path, lock_file: str = LOCK_FILE) -> int | None:
    """The pid of the living process that holds this lock of ``state_dir``; None where nobody does.

    The number in the file alone proves nothing: it stays there when its writer has died. Raises TrainshedError
    (DENIED) where the lock is held by a process that cannot be seen: another user's, or another container's.
    """
    path = state_dir / lock_file
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise TrainshedError(ErrorCode.DENIED, f"{path} cannot be read ({why(error)})") from None
    try:
        deadline = time.monotonic() + HOLDER_WITHIN_S
        while True:
            if _locked(fd, fcntl.LOCK_SH):
                return None
            pid = _written(fd)
            if pid is not None and _has_open(pid, os.fstat(fd)):
                return pid
            if time.monotonic() > deadline:
                who = f"pid {pid}" if pid is not None else "a process"
                raise TrainshedError(
                    ErrorCode.DENIED,
                    f"what runs on {state_dir} is run by {who}, which cannot be seen from here: "
                    "it is another user's or in another container. Stop it there",
                )
            time.sleep(0.01)
    finally:
        os.close(fd)


def _locked(fd: int, how: int) -> bool:
    """Take the lock, if it is to be had at once."""
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _written(fd: int) -> int | None:
    """The pid in the file: the holder's, or of one that has died."""
    text = os.pread(fd, 20, 0).decode(errors="replace").strip()
    return int(text) if text.isdigit() else None


def _has_open(pid: int, file: os.stat_result) -> bool:
    """Whether a process has this file open."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                if os.path.samestat(os.stat(entry.path), file):
                    return True
    return False
