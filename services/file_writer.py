"""Writes one after the other, off the event loop, on storage that may fail or hang: nobody waits for it.

Owns their order and the trying again; knows nothing of what is written.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import msgspec

from services.daemon_thread import in_daemon_thread

AGAIN_S = 5.0
MAX_WAITING = 100


class _Write(msgspec.Struct, frozen=True):
    work: Callable[[], None]
    done: Callable[[], None] | None
    latest: str | None


class FileWriter:
    """What is to be written waits here; what is marked ``latest`` takes the place of what waits under the same mark.

    ``failed`` is called with the first of each row of failures.
    """

    def __init__(self, failed: Callable[[OSError], None]) -> None:
        self._failed = failed
        self._waiting: deque[_Write] = deque()
        self._came = asyncio.Event()

    def write(
        self, work: Callable[[], None], done: Callable[[], None] | None = None, *, latest: str | None = None
    ) -> None:
        """Have ``work`` done in a thread, again after an OSError; ``done`` is called on the loop after it."""
        if latest is not None:
            self._waiting = deque(each for each in self._waiting if each.latest != latest)
        if len(self._waiting) < MAX_WAITING:
            self._waiting.append(_Write(work, done, latest))
        self._came.set()

    async def run(self) -> None:
        """Write until cancelled."""
        logged = False
        while True:
            await self._came.wait()
            self._came.clear()
            while self._waiting:
                write = self._waiting[0]
                try:
                    await in_daemon_thread(write.work)
                except OSError as error:
                    if not logged:
                        self._failed(error)
                    logged = True
                    await asyncio.sleep(AGAIN_S)
                    continue
                logged = False
                if self._waiting and self._waiting[0] is write:
                    self._waiting.popleft()
                if write.done is not None:
                    write.done()
