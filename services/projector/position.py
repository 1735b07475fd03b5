"""How far something has come along the log, and who waits for it to be further.

Owns that number and its waiters; knows neither what was done up to there nor why somebody waits.
"""

from __future__ import annotations

import asyncio


class Position:
    """How far the read model is, and who waits for it to be further."""

    def __init__(self) -> None:
        self.seq = 0
        self._waiters: set[tuple[int, asyncio.Event]] = set()

    def advance(self, seq: int) -> None:
        """The read model is committed up to ``seq`` (which is lower after it had to be opened anew)."""
        self.seq = seq
        for wanted, event in self._waiters:
            if wanted <= seq:
                event.set()

    async def reached(self, seq: int) -> None:
        """Wait until ``seq`` is committed."""
        if self.seq >= seq:
            return
        waiter = (seq, asyncio.Event())
        self._waiters.add(waiter)
        try:
            await waiter[1].wait()
        finally:
            self._waiters.discard(waiter)
