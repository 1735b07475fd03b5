"""How far something has come along the log, and who waits for it to be further.

Owns that number and its waiters; knows neither what was done up to there nor why somebody waits.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools


class Position:
    """A sequence of the log and who waits for it. To move it costs nothing that grows with those who wait longer."""

    def __init__(self, seq: int = 0) -> None:
        self.seq = seq
        self._waiters: list[tuple[int, int, asyncio.Event]] = []  # a heap
        self._number = itertools.count()

    def advance(self, seq: int) -> None:
        """All is done up to ``seq`` (which is lower where something had to begin anew)."""
        self.seq = seq
        while self._waiters and self._waiters[0][0] <= seq:
            heapq.heappop(self._waiters)[2].set()

    async def reached(self, seq: int) -> None:
        """Wait until all is done up to ``seq``."""
        if self.seq >= seq:
            return
        waiter = (seq, next(self._number), asyncio.Event())
        heapq.heappush(self._waiters, waiter)
        try:
            await waiter[2].wait()
        except asyncio.CancelledError:
            if not waiter[2].is_set():  # who gave up is not kept for ever where the log stands still
                self._waiters.remove(waiter)
                heapq.heapify(self._waiters)
            raise
