"""One at a time for each folder: work on it in threads, within one process.

Owns that order; a run's own folder is not ordered by it but by its claims, which other nodes see too (`claims`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """The turns of all folders that somebody uses."""

    def __init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = {}
        self._users: Counter[str] = Counter()

    @asynccontextmanager
    async def of(self, folder: str) -> AsyncIterator[None]:
        """Have the folder for oneself while the block lasts."""
        self._users[folder] += 1
        try:
            async with self._locks.setdefault(folder, asyncio.Lock()):
                yield
        finally:
            self._users[folder] -= 1
            if not self._users[folder]:
                del self._users[folder], self._locks[folder]
