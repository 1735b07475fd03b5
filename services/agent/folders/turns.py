"""One at a time for each run: making its folder, and moving it away.

Owns that order within this node, for work in threads; other nodes that share the storage are seen by their folders.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """The turns of all runs of this node."""

    def __init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = {}
        self._users: Counter[str] = Counter()

    @asynccontextmanager
    async def of(self, run_id: str) -> AsyncIterator[None]:
        """Have the run's folder for oneself while the block lasts."""
        self._users[run_id] += 1
        try:
            async with self._locks.setdefault(run_id, asyncio.Lock()):
                yield
        finally:
            self._users[run_id] -= 1
            if not self._users[run_id]:
                del self._users[run_id], self._locks[run_id]
