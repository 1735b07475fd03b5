"""The lock that keeps a second nats-server off a store: held by the server itself, so it lasts as long as the server does.

Owns waiting for it, and ending a server that hangs with it; knows no port and no configuration.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import time
from pathlib import Path

from trainshed_client.errors import ErrorCode, TrainshedError

_log = logging.getLogger("trainshed.embedded_nats")

DEAF_AFTER_S = 2.0
"""A server that holds the lock and has not even taken its SIGTERM by then hangs."""
_POLL_S = 0.01


async def take_store_lock(folder: Path, deadline: float) -> int:
    """Take the lock of the server's ``folder``; the descriptor that holds it.

    A server that is ending still holds it, so it is waited for until ``deadline`` (monotonic, s); one that hangs is
    killed. Raises OSError, and TrainshedError (UNAVAILABLE) where it is not to be had.
    """
    deaf_at = time.monotonic() + DEAF_AFTER_S
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return lock
            if time.monotonic() >= deadline:
                text = f"another nats-server{_holder(folder)} still uses {folder}. Stop it first"
                raise TrainshedError(ErrorCode.UNAVAILABLE, text)
            if time.monotonic() >= deaf_at:
                deaf_at = deadline
                _kill_deaf_holder(folder)
            await asyncio.sleep(_POLL_S)
    except BaseException:
        os.close(lock)
        raise


def _kill_deaf_holder(folder: Path) -> None:
    """SIGKILL to a server of this folder that was asked to end (its parent died) and stands still: what it acknowledged
    is on disk."""
    with contextlib.suppress(OSError, ValueError):
        pid = int((folder / "server.pid").read_text())
        process = os.pidfd_open(pid)
        try:
            if _is_server_of(pid, folder) and _was_asked_to_end(pid):
                _log.warning("killing nats-server %d, which hangs and was asked to end", pid)
                signal.pidfd_send_signal(process, signal.SIGKILL)
        finally:
            os.close(process)


def _is_server_of(pid: int, folder: Path) -> bool:
    return os.fsencode(folder / "server.conf") in Path(f"/proc/{pid}/cmdline").read_bytes()


def _was_asked_to_end(pid: int) -> bool:
    """A SIGTERM waits to be taken."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("ShdPnd:"):
            return bool(int(line.split()[1], 16) & 1 << (signal.SIGTERM - 1))
    return False


def _holder(folder: Path) -> str:
    with contextlib.suppress(OSError):
        return f" (pid {(folder / 'server.pid').read_text().strip()})"
    return ""
