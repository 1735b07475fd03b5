"""The agent's end of the pre-warmed spawner: hands folders to idle shims, and starts the spawner again when it ends.

Owns the spawner's process and its socket; knows no attempt beyond its folder's path. Used by `workers` alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog

from services.open_files import own_limit
from trainshed_client.os_errors import cause

_log = structlog.get_logger(__name__)

SPAWNER = "services.agent.shim.spawner"
ANSWER_S = 10.0
"""Seconds for a shim to answer that it has the folder."""
LATE_S = 0.1
"""Seconds without an answer after which the spawner is to look: its shims may have folders, and hang with them."""
END_S = 5.0
"""Seconds for a spawner to end by itself when its socket is closed."""


class ShimPool:
    """Idle shims behind one socket. `cgroups` and `memory_cgroups` are where their workers' cgroups go, and those in which
    memory counts; empty: they have none.

    `taken(folder, pid, pidfd)` is called as soon as a shim answers that it has a folder; the descriptor, which names
    exactly that process, is then the callee's to close.
    """

    def __init__(
        self,
        folder: Path,
        sockets: Path,
        cgroups: str,
        memory_cgroups: str,
        environment: Mapping[str, str],
        taken: Callable[[Path, int, int], None],
    ) -> None:
        self._folder = folder
        self._sockets = sockets
        self._cgroups, self._memory_cgroups = cgroups, memory_cgroups
        self._environment = dict(environment)
        self._taken = taken
        self._waiting: dict[Path, asyncio.Future[None]] = {}
        self._sending = asyncio.Lock()
        self._spawner: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._looks: socket.socket | None = None
        self._pidfd = -1

    @property
    def pid(self) -> int | None:
        """The spawner's pid; None where there is none."""
        return self._spawner.pid if self._spawner is not None else None

    def start(self) -> socket.socket:
        """Start the spawner; requests may be sent at once. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        looks, self._looks = socket.socketpair()
        with theirs, looks, open(self._folder / "spawner.log", "ab") as log:
            self._spawner = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    SPAWNER,
                    str(theirs.fileno()),
                    str(looks.fileno()),
                    str(self._sockets),
                    self._cgroups,
                    self._memory_cgroups,
                    str(own_limit()),
                ],
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(theirs.fileno(), looks.fileno()),
                start_new_session=True,  # Ctrl-C is the agent's
            )
        ours.setblocking(False)
        self._looks.setblocking(False)
        self._socket = ours
        self._pidfd = os.pidfd_open(self._spawner.pid)
        loop = asyncio.get_running_loop()
        loop.add_reader(ours, self.hear)
        loop.add_reader(self._pidfd, self._gone)
        return ours

    async def hand_over(self, folder: Path) -> None:
        """Give the folder to an idle shim; returns when its worker has exec'd or never will, or hangs on its way there. Raises
        OSError (TimeoutError among it)."""
        waiting = self._waiting.get(folder)
        if waiting is None:
            requests = self._socket or self.start()
            waiting = self._waiting[folder] = asyncio.get_running_loop().create_future()
            waiting.add_done_callback(_heard)
            try:
                await self._send(requests, os.fsencode(folder))
            except OSError as error:
                self._resolve(folder, error)
        give_up = time.monotonic() + ANSWER_S
        while not (await asyncio.wait({waiting}, timeout=LATE_S))[0]:
            if time.monotonic() > give_up:
                # Asked again, it is sent again: the lock decides between two shims.
                self._waiting.pop(folder, None)
                raise TimeoutError(f"no shim has taken {folder} in {ANSWER_S:g} s")
            self.look()
        waiting.result()

    async def taken_up(self, folder: Path) -> None:
        """Wait until a hand-over of that folder that is on its way has come to an end, well or not."""
        waiting = self._waiting.get(folder)
        if waiting is not None:
            await asyncio.wait({waiting}, timeout=ANSWER_S)

    def hear(self) -> None:
        """Take the answers that are there."""
        while self._socket is not None:
            try:
                message, fds, _flags, _address = socket.recv_fds(self._socket, 8192, 1)
            except BlockingIOError:
                return
            except OSError as error:
                _log.warning("the shim spawner's socket failed", error=cause(error))
                message, fds = b"", []
            if not message:  # the spawner's own end follows
                asyncio.get_running_loop().remove_reader(self._socket)
                return
            pid, _, path = message.partition(b"\0")
            folder = Path(os.fsdecode(path))
            self._taken(folder, int(pid), fds[0])
            self._resolve(folder, None)

    async def close(self) -> None:
        """Close our end: the spawner and its idle shims end, busy shims live on."""
        spawner = self._spawner
        self._drop(OSError("the agent stops"))
        if spawner is not None:
            await asyncio.to_thread(_end, spawner)

    async def _send(self, requests: socket.socket, message: bytes) -> None:
        try:
            requests.send(message)
        except BlockingIOError:  # hundreds are on their way
            async with self._sending:
                await asyncio.get_running_loop().sock_sendall(requests, message)

    def look(self) -> None:
        """Have those shims answer that have a folder and hang before their worker's exec, and others take their places; the
        idle ones make their socket again where it has vanished."""
        if self._looks is not None:
            with contextlib.suppress(
                BlockingIOError, BrokenPipeError
            ):  # it has more to read than it needs, or is gone
                self._looks.send(b"l")

    def _gone(self) -> None:
        assert self._spawner is not None
        self.hear()
        status = self._spawner.wait()
        _log.warning("the shim spawner ended; the next launch starts another", status=status)
        self._drop(OSError(f"the shim spawner ended (status {status}); see {self._folder}/spawner.log"))

    def _drop(self, error: OSError) -> None:
        if self._socket is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._socket)
            loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._socket.close()
        if self._looks is not None:
            self._looks.close()
        self._socket = self._looks = self._spawner = None
        for folder in list(self._waiting):
            self._resolve(folder, error)

    def _resolve(self, folder: Path, error: OSError | None) -> None:
        waiting = self._waiting.pop(folder, None)
        if waiting is None or waiting.done():
            return
        if error is None:
            waiting.set_result(None)
        else:
            waiting.set_exception(error)


def _heard(waiting: asyncio.Future[None]) -> None:
    """Whoever still waits hears of the error; no one need."""
    if not waiting.cancelled():
        waiting.exception()


def _end(spawner: subprocess.Popen[bytes]) -> None:
    try:
        spawner.wait(END_S)
    except subprocess.TimeoutExpired:
        spawner.kill()
        spawner.wait()
