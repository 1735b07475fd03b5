"""Reads of attempts' files in threads: few of one attempt at a time, and none waited for too long.

Owns those bounds; knows neither what is read nor NATS.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from events.types import AttemptRef
from services.daemon_thread import in_daemon_thread
from trainshed_client.errors import ErrorCode, TrainshedError

AT_ONCE = 4
"""Reads of one attempt under way at the same time: what hangs holds up those alone."""
ANSWERS_WITHIN_S = 3.0
"""Seconds after which who asks is told that the storage does not answer."""

T = TypeVar("T")


class Readers:
    """Runs such reads; a thread counts until it is back."""

    def __init__(self) -> None:
        self._reading: dict[AttemptRef, set[asyncio.Future[Any]]] = {}

    async def read(self, ref: AttemptRef, work: Callable[[], T]) -> T:
        """What ``work`` returns or raises, which blocks. Raises TrainshedError (UNAVAILABLE) where it takes too long."""
        try:
            async with asyncio.timeout(ANSWERS_WITHIN_S):
                while len(reading := self._reading.setdefault(ref, set())) >= AT_ONCE:
                    await asyncio.wait(reading, return_when=asyncio.FIRST_COMPLETED)
                read = asyncio.ensure_future(in_daemon_thread(work))
                reading.add(read)
                read.add_done_callback(partial(self._has_read, ref))
                return await asyncio.shield(read)
        except TimeoutError:
            raise TrainshedError(
                ErrorCode.UNAVAILABLE,
                f"the storage of the files of attempt {ref.attempt} of run {ref.run_id} does not answer",
            ) from None

    def _has_read(self, ref: AttemptRef, read: asyncio.Future[Any]) -> None:
        if not read.cancelled():
            read.exception()  # who asked has heard it, or waits no more
        reading = self._reading[ref]
        reading.discard(read)
        if not reading:
            del self._reading[ref]
