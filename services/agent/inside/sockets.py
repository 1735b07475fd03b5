"""The sockets by which workers reach the stack: one for each live attempt, so that the agent knows which run asks.

Owns the sockets, their connections and what one worker may take of the agent; knows no call.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from events.types import AttemptRef
from services.agent.folders.files import WorkerUser
from services.agent.inside.calls import WATCHES, Asker, WorkerCalls, WorkerRequest, read_worker_request
from services.agent.inside.watches import PendingLines
from services.agent.processes.sockets import WORKER_SOCKETS, BoundSocket
from services.api import error_answer
from services.logging import get_logger
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.os_errors import cause

_log = get_logger("agent")

LONGEST_REQUEST = 1_000_000 + 1024
"""Bytes of a line: the largest batch of run configs and what goes around it."""
CONNECTIONS = 32
"""Connections of one attempt at the same time; as many more wait."""
ALL_CONNECTIONS = 256
"""Of all attempts of the node: each is a descriptor."""
IDLE_S = 60.0
"""Seconds that a connection may wait for its next request, and an answer to be read."""
SPARE = 8
ACCEPT_AGAIN_S = 1.0
SMALL_BYTES = 16 * 1024
BYTES_PER_S = 20_000_000
"""So fast larger requests of one attempt are read, that reading them leaves the agent most of its time."""
_CREDENTIALS = struct.Struct("3i")

Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


class _Door:
    """The socket of one attempt, and who came in by it."""

    def __init__(self, ref: AttemptRef, path: str, user: WorkerUser | None) -> None:
        self.ref = ref
        self.path = path
        self.user = user
        self.asker = Asker(ref.run_id)
        self.bound: BoundSocket | None = None
        self.connections: set[asyncio.Task[None]] = set()
        self.turn = asyncio.Lock()
        """A request is read in its turn: however many connections there are, one attempt takes the time of one."""


class WorkerSockets:
    """Every attempt's socket. ``make_folder`` makes the folder of the sockets where it is gone; raises OSError."""

    def __init__(self, calls: WorkerCalls, make_folder: Callable[[], Path], spawn: Spawn) -> None:
        self._calls = calls
        self._make_folder = make_folder
        self._spawn = spawn
        self._doors: dict[AttemptRef, _Door] = {}
        self._count = 0
        self._spare: list[BoundSocket] = []
        """Sockets of ended attempts: the file system takes long to make a new one where such were removed lately."""
        self._spares = 0
        self._paused: set[_Door] = set()
        """Whose next connections wait, in the kernel."""

    def clear(self) -> None:
        """Remove what an earlier process left; the sockets of adopted attempts are bound again. Raises OSError."""
        for left in self._make_folder().glob(WORKER_SOCKETS):
            left.unlink(missing_ok=True)

    def open(self, ref: AttemptRef, path: str, user: WorkerUser | None = None) -> None:
        """Listen there for the worker of that attempt, which runs as ``user`` (None: as we do). Where that fails `restore`
        tries again."""
        if ref not in self._doors:
            door = self._doors[ref] = _Door(ref, path, user)
            self._bind(door)

    def close(self, ref: AttemptRef) -> None:
        """The attempt has ended: who is connected is hung up on."""
        if (door := self._doors.pop(ref, None)) is not None:
            self._unbind(door)
            for connection in door.connections:
                connection.cancel()

    def end(self) -> None:
        """Every attempt was closed: nothing is kept for others."""
        for spare in self._spare:
            spare.close()
        self._spare.clear()

    def restore(self) -> None:
        """Make each socket again that is gone, as a cleaner of temporary folders may have it."""
        for door in self._doors.values():
            if door.bound is None or door.bound.gone:
                self._unbind(door)
                self._bind(door)

    def _bind(self, door: _Door) -> None:
        try:
            bound = self._bound(door.path)
            uid, gid = (os.geteuid(), os.getegid()) if door.user is None else (door.user.uid, door.user.gid)
            bound.give(uid, gid)
        except OSError as error:
            _log.warning("a worker's socket cannot be made", run_id=door.ref.run_id, error=cause(error))
            return
        door.bound = bound
        asyncio.get_running_loop().add_reader(bound.socket, self._accept, door, bound)

    def _bound(self, path: str) -> BoundSocket:
        while self._spare:
            spare = self._spare.pop()
            try:
                spare.move(path)
            except OSError:
                spare.close()
            else:
                return spare
        try:
            bound = BoundSocket(path, socket.SOCK_STREAM)
        except FileNotFoundError:
            self._make_folder()
            bound = BoundSocket(path, socket.SOCK_STREAM)
        bound.socket.listen(CONNECTIONS)
        return bound

    def _put_by(self, bound: BoundSocket, path: str) -> None:
        """Keep the socket for another attempt, with nobody of this one left at it."""
        if len(self._spare) < SPARE:
            try:
                self._spares += 1
                bound.move(f"{os.path.dirname(path)}/wspare{self._spares % 10_000}.sock")
                while True:
                    bound.socket.accept()[0].close()
            except BlockingIOError:
                self._spare.append(bound)
                return
            except OSError:
                pass
        bound.close()

    def _pause(self, door: _Door, bound: BoundSocket) -> None:
        self._paused.add(door)
        asyncio.get_running_loop().remove_reader(bound.socket)

    def _resume(self) -> None:
        for door in [one for one in self._paused if not self._is_full(one)]:
            self._paused.discard(door)
            if door.bound is not None:
                asyncio.get_running_loop().add_reader(door.bound.socket, self._accept, door, door.bound)

    def _is_full(self, door: _Door) -> bool:
        return len(door.connections) >= CONNECTIONS or self._count >= ALL_CONNECTIONS

    def _unbind(self, door: _Door) -> None:
        self._paused.discard(door)
        if door.bound is not None:
            asyncio.get_running_loop().remove_reader(door.bound.socket)
            self._put_by(door.bound, door.path)
            door.bound = None

    # --- connections ----------------------------------------------------------------------------------------

    def _accept(self, door: _Door, bound: BoundSocket) -> None:
        if self._is_full(door):
            self._pause(door, bound)
            return
        try:
            connection, _ = bound.socket.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError as error:  # no descriptors left: it would be readable all the time
            _log.warning("a worker's connection cannot be taken", run_id=door.ref.run_id, error=cause(error))
            self._pause(door, bound)
            asyncio.get_running_loop().call_later(ACCEPT_AGAIN_S, self._resume)
            return
        connection.setblocking(False)
        if _user_of(connection) != (os.geteuid() if door.user is None else door.user.uid):
            connection.close()
            return
        self._count += 1
        task = self._spawn(self._serve(door, connection))
        door.connections.add(task)
        task.add_done_callback(partial(self._served, door, connection))

    def _served(self, door: _Door, connection: socket.socket, task: asyncio.Task[None]) -> None:
        self._count -= 1
        door.connections.discard(task)
        connection.close()
        self._resume()

    async def _serve(self, door: _Door, connection: socket.socket) -> None:
        """One connection to its end: requests, each answered before the next is read, or one watch."""
        reader, writer = await asyncio.open_unix_connection(sock=connection, limit=LONGEST_REQUEST)
        try:
            while (wanted := await self._request(door, reader, writer)) is not None:
                if wanted.call in WATCHES:
                    await self._watch(door, wanted, reader, writer)
                    return
                await _write(writer, await self._calls.answer(door.asker, wanted) + b"\n")
        except TrainshedError as error:
            await _write_last(writer, _error_line(error))
        except (OSError, TimeoutError):
            pass  # it hung up, or does not read
        except Exception:  # noqa: BLE001 — whatever it is, the agent goes on
            _log.exception("a worker's connection failed", run_id=door.ref.run_id)
        finally:
            writer.transport.abort()

    async def _request(
        self, door: _Door, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> WorkerRequest | None:
        """The next request that can be read; what cannot is answered. None at the connection's end."""
        while True:
            try:
                async with asyncio.timeout(IDLE_S):
                    line = await reader.readuntil(b"\n")
            except asyncio.IncompleteReadError:
                return None
            except asyncio.LimitOverrunError:
                raise TrainshedError(
                    ErrorCode.TOO_LARGE, f"a request has at most {LONGEST_REQUEST:,} bytes; split it"
                ) from None
            async with door.turn:
                # Also a pause of no time lets others have their turn: lines may have come faster than they are read.
                await asyncio.sleep(0 if len(line) < SMALL_BYTES else len(line) / BYTES_PER_S)
                try:
                    return read_worker_request(line)
                except TrainshedError as error:
                    refusal = _error_line(error)
            await _write(writer, refusal)

    async def _watch(
        self, door: _Door, wanted: WorkerRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        async with self._calls.watching(door.asker, wanted) as pending:
            hung_up = asyncio.ensure_future(reader.read(1))
            hung_up.add_done_callback(lambda _: pending.wake.set())
            try:
                await _write_pending(pending, writer, hung_up)
            finally:
                hung_up.cancel()
                await asyncio.gather(hung_up, return_exceptions=True)


def _user_of(connection: socket.socket) -> int:
    """The user at the other end, by the kernel's word."""
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    user: int = _CREDENTIALS.unpack(packed)[1]
    return user


async def _write_pending(
    pending: PendingLines, writer: asyncio.StreamWriter, hung_up: asyncio.Future[bytes]
) -> None:
    while True:
        await pending.wake.wait()
        if hung_up.done():
            return
        pending.wake.clear()
        await _write(writer, pending.take())


async def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Write, and see it read. Raises TimeoutError, OSError."""
    writer.write(data)
    async with asyncio.timeout(IDLE_S):
        await writer.drain()


async def _write_last(writer: asyncio.StreamWriter, data: bytes) -> None:
    try:
        await _write(writer, data)
    except (OSError, TimeoutError):
        pass  # it hung up, or does not read


def _error_line(error: TrainshedError) -> bytes:
    return msgspec.json.encode(error_answer(error)) + b"\n"
