"""The line between `up` and its projector's process: whether it serves, whether it lives, and why it cannot start.

Owns what is written on that pair of sockets, at both ends; decides nothing about what is heard.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket

import msgspec

from trainshed_client.errors import ErrorCode, TrainshedError

_ASK = b"?"
_READY = b"ready\n"
_ALIVE = b"alive\n"


class Refusal(msgspec.Struct, frozen=True):
    """The error that ends a start, as it goes over the line."""

    code: ErrorCode
    message: str


class ChildEnd:
    """The projector's end: answers that it lives for as long as its event loop turns."""

    def __init__(self, fd: int) -> None:
        os.set_inheritable(fd, False)
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(False)

    def answer(self) -> None:
        """Answer from now on; called on the running loop, once."""
        asyncio.get_running_loop().add_reader(self._socket, self._asked)
        self._write(_ALIVE)

    def ready(self) -> None:
        """It serves."""
        self._write(_READY)

    def refuse(self, error: TrainshedError) -> None:
        """It ends, by this."""
        self._write(msgspec.json.encode(Refusal(error.code, str(error))) + b"\n")

    def _asked(self) -> None:
        try:
            asked = self._socket.recv(64)
        except OSError:
            asked = b""
        if asked:
            self._write(_ALIVE)
        else:
            asyncio.get_running_loop().remove_reader(self._socket)

    def _write(self, line: bytes) -> None:
        with contextlib.suppress(OSError):  # whoever listened is gone, and we soon are
            self._socket.send(line)


class UpEnd:
    """`up`'s end: an async context manager. ``refusal`` is what the projector ended by, where it gave a reason."""

    def __init__(self) -> None:
        self.refusal: Refusal | None = None
        self.begun = False
        """Whether there was a sign of life."""
        self.ready = asyncio.Event()
        self.alive = asyncio.Event()
        """Set with each sign of life; whoever waits for the next clears it."""
        self._ours, self._its = socket.socketpair()
        self._ours.setblocking(False)

    @property
    def fd(self) -> int:
        """The other end, for the child to inherit."""
        return self._its.fileno()

    def started(self) -> None:
        """The child has its end: ours alone stays open here, so that its own end is heard."""
        self._its.close()

    def close(self) -> None:
        """Close both."""
        self._its.close()
        self._ours.close()

    def ask(self) -> None:
        """Ask for a sign of life."""
        self.alive.clear()
        with contextlib.suppress(OSError):  # it is gone, or has read nothing for long: there is no answer
            self._ours.send(_ASK)

    async def listen(self) -> None:
        """Hear it to its end."""
        loop = asyncio.get_running_loop()
        heard = b""
        while data := await self._receive(loop):
            *lines, heard = (heard + data).split(b"\n")
            for line in lines:
                self._hear(line + b"\n")

    async def _receive(self, loop: asyncio.AbstractEventLoop) -> bytes:
        try:
            return await loop.sock_recv(self._ours, 4096)
        except OSError:
            return b""

    def _hear(self, line: bytes) -> None:
        self.begun = True
        self.alive.set()
        match line:
            case b"ready\n":
                self.ready.set()
            case b"alive\n":
                pass
            case _:
                with contextlib.suppress(msgspec.MsgspecError):
                    self.refusal = msgspec.json.decode(line, type=Refusal)
