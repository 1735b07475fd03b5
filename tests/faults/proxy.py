"""A TCP proxy between an agent and the server: passes, cuts, holds back one direction, or is slow.

Owns the bytes in between and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum

CHUNK = 16 * 1024
SLOW_S = 0.15


class Way(enum.StrEnum):
    """What the proxy does with bytes. A held direction loses nothing until its connection ends."""

    PASS = "pass"
    CUT = "cut"
    HOLD_UP = "hold up"
    HOLD_DOWN = "hold down"
    HOLD_BOTH = "hold both"
    SLOW = "slow"


_UP_HELD = (Way.HOLD_UP, Way.HOLD_BOTH)
_DOWN_HELD = (Way.HOLD_DOWN, Way.HOLD_BOTH)


class Proxy:
    """Listens on loopback and passes on to one port there."""

    def __init__(self, target_port: int) -> None:
        self._target = target_port
        self._way = Way.PASS
        self._changed = asyncio.Event()
        self._links: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """End every connection, and listen no more."""
        if self._server is not None:
            self._server.close()
        await self.drop()

    def turn(self, way: Way) -> None:
        """From now on do this. `CUT` ends the connections that there are; new ones are refused while it lasts."""
        self._way = way
        if way is Way.CUT:
            for link in self._links:
                link.cancel()
        self._changed.set()
        self._changed = asyncio.Event()

    async def drop(self) -> None:
        """End the connections that there are; what was held back is lost."""
        links = list(self._links)
        for link in links:
            link.cancel()
        if links:
            await asyncio.wait(links)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.current_task()
        assert link is not None
        self._links.add(link)
        try:
            if self._way is Way.CUT:
                return
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._target)
            try:
                pumps = [
                    asyncio.ensure_future(self._pump(reader, to_writer, _UP_HELD)),
                    asyncio.ensure_future(self._pump(to_reader, writer, _DOWN_HELD)),
                ]
                try:
                    await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for pump in pumps:
                        pump.cancel()
                    await asyncio.wait(pumps)
            finally:
                to_writer.transport.abort()
        except OSError:
            pass  # the server is away: so is what is behind us
        except asyncio.CancelledError:
            pass  # the end of this connection alone
        finally:
            writer.transport.abort()
            self._links.discard(link)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, held_by: tuple[Way, ...]
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                while self._way in held_by:
                    await self._changed.wait()
                if self._way is Way.SLOW:
                    await asyncio.sleep(SLOW_S)
                writer.write(data)
                await writer.drain()
