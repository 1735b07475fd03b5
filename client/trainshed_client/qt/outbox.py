"""What is to cross from the client's event loop to the GUI's thread: one frame at a time, 30 a second at the most.

Owns when a frame is sent and what stands for what in it; lives in the loop's thread, knows neither Qt nor NATS.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import NamedTuple

FRAME_S = 1 / 30
MOST_ITEMS = 4_000
MOST_BYTES = 4 * 1024 * 1024


class FrameItem(NamedTuple):
    """The name of what is to be emitted, and with what."""

    name: str
    values: tuple[object, ...]


Frame = list[FrameItem]


class Outbox:
    """Gathers items and sends them as a frame; the next one only once the last was `taken`.

    A GUI that stands still so gets one frame and then all that is newest, however long it stood. What must come whole is put
    with `wait_for_room` before it, by which its source is held up instead of its items being kept.
    """

    def __init__(self, send: Callable[[Frame], None], *, frame_s: float = FRAME_S) -> None:
        self._send = send
        self._frame_s = frame_s
        self._items: dict[Hashable, FrameItem] = {}
        self._bytes = 0
        self._in_flight = False
        self._sent_at = float("-inf")
        self._due: asyncio.TimerHandle | None = None
        self._room = asyncio.Event()
        self._room.set()
        self._closed = False

    def put(self, name: str, *values: object, key: Hashable = None, size: int = 0) -> None:
        """Add an item; with a ``key`` it takes the place of one that was not sent yet. ``size``: bytes that it holds."""
        if self._closed:
            return
        place = object() if key is None else (name, key)
        self._items.pop(place, None)  # the newest comes last, after all that it may refer to
        self._items[place] = FrameItem(name, values)
        self._bytes += size
        if len(self._items) >= MOST_ITEMS or self._bytes >= MOST_BYTES:
            self._room.clear()
        self._plan()

    async def wait_for_room(self) -> None:
        """Wait until the GUI has taken some of what there is."""
        await self._room.wait()

    def taken(self) -> None:
        """The GUI has emitted all of the last frame."""
        self._in_flight = False
        self._plan()

    def close(self) -> None:
        """Send what there is now, whether the last frame was taken or not, and nothing more."""
        self._closed = True
        if self._due is not None:
            self._due.cancel()
        if self._items:
            self._flush()

    def drop(self) -> None:
        """Send nothing more."""
        self._items.clear()
        self.close()

    def _plan(self) -> None:
        if not self._items or self._in_flight or self._due is not None or self._closed:
            return
        loop = asyncio.get_running_loop()
        self._due = loop.call_at(max(loop.time(), self._sent_at + self._frame_s), self._flush)

    def _flush(self) -> None:
        self._due = None
        self._in_flight = True
        self._sent_at = asyncio.get_running_loop().time()
        frame = list(self._items.values())
        self._items.clear()
        self._bytes = 0
        self._room.set()
        self._send(frame)
