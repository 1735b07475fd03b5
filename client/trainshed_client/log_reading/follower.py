"""Following the event log: what is stored, then what is republished of it, as one.

Owns what a lost connection and an exchanged log mean for who follows; how the two are joined is log_join.py's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from trainshed_client import subjects
from trainshed_client._compat_asyncio import timeout
from trainshed_client.direct_get import RETRY_S, Message, stored_message
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.log_reading.log_join import LogJoin
from trainshed_client.log_reading.log_reader import WHOLE, LogReader

if TYPE_CHECKING:
    from nats.aio.msg import Msg
    from typing_extensions import Self

    from trainshed_client.connection import Watching
    from trainshed_client.nats_connection import NatsConnection

MOST = 10_000
"""So many live messages wait at most for a slow reader."""
LOOK_EVERY_S = 5.0
ELECTS_S = 60.0
"""The same on a cluster: a copy has what its dead leader republished only once another is elected, and one that was killed
catches up first. That nothing is there is no proof of another log; that something else is, is one at once."""
LAGS_S = 5.0
"""So long what was heard may be missing in what is read, and the last message that was handed out not be there again."""


class LogFollower:
    """An async context manager: `batch` hands out what comes after ``since_seq``, in order, each once, for ever.

    A lost connection is waited out. Raises CONFLICT where the log is another one than before: it was exchanged.
    """

    def __init__(
        self, connection: NatsConnection, filters: Sequence[str] = WHOLE, *, since_seq: int = 0
    ) -> None:
        self._connection = connection
        self._filters = filters
        self._reader = LogReader(connection.nc, where=connection.where, patience_s=None)
        self._join = LogJoin(since_seq, whole=tuple(filters) == WHOLE, most=MOST)
        self._last: Message | None = None
        """What was handed out last: by it the log is known again."""
        self._wake = asyncio.Event()
        self._pages: AsyncIterator[list[Message]] | None = None
        self._look = False
        """Whether the connection was lost since the log was last known again."""
        self._missing_since: float | None = None
        self._watching: Watching | None = None

    async def __aenter__(self) -> Self:
        live = [f"{subjects.LOG}{subject[len(subjects.EVENTS) :]}" for subject in self._filters]
        self._watching = await self._connection.hear(live, self._receive, self._lost)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        watching, self._watching = self._watching, None
        if watching is not None:
            await watching.close()

    async def batch(self) -> list[Message]:
        """What comes next, at least one message; waits for it."""
        while True:
            if taken := self._join.taken():
                self._last = taken[-1]
                return taken
            if self._look:
                await self._know_again()
            elif self._join.reading:
                await self._read()
            else:
                await self._something_new()

    async def _something_new(self) -> None:
        """Wait for it. On a cluster the last that was stored may be republished to nobody, as its server died: now and then
        it is looked for."""
        self._wake.clear()
        try:
            async with timeout(LOOK_EVERY_S if self._connection.of_several else None):
                await self._wake.wait()
        except TimeoutError:
            self._join.lost()

    async def _read(self) -> None:
        """Read a page, or find that there is none any more."""
        if self._pages is None:
            self._pages = self._reader.pages(self._filters, first=self._join.position + 1)
        pages, self._pages = self._pages, None  # one whose reading was cancelled has ended
        try:
            page = await pages.__anext__()
        except StopAsyncIteration:
            if self._look or self._join.end_of_pages():
                self._missing_since = None
            else:
                await self._missing()
            return
        self._join.page(page)
        self._pages = pages

    async def _missing(self) -> None:
        """More was heard than is stored where it was read: another server of a cluster may have it."""
        now = asyncio.get_running_loop().time()
        if self._missing_since is None:
            self._missing_since = now
        elif now - self._missing_since > LAGS_S:
            self._join.forget_heard()
            return
        await asyncio.sleep(RETRY_S)

    async def _know_again(self) -> None:
        """After a loss: what was handed out last must be there as it was. Raises CONFLICT."""
        self._look = False
        if self._last is None:
            return
        loop = asyncio.get_running_loop()
        give_up = loop.time() + (ELECTS_S if self._connection.of_several else LAGS_S)
        while (found := await self._reader.at(self._last.seq)) is None and loop.time() < give_up:
            await asyncio.sleep(RETRY_S)
        if found is None or found != self._last:
            raise exchanged(self._connection.where, self._last.seq)

    def _receive(self, msg: Msg) -> None:
        headers = msg.headers or {}
        subject = headers["Nats-Subject"]
        self._join.live(stored_message(headers, subject, msg.data), int(headers["Nats-Last-Sequence"]))
        self._wake.set()

    def _lost(self) -> None:
        self._look = True
        self._pages = None
        self._join.lost()
        self._wake.set()


def exchanged(where: str, seq: int) -> TrainshedError:
    """The error where the log is not the one that was read up to ``seq``."""
    return TrainshedError(
        ErrorCode.CONFLICT,
        f"the event log at {where} is another one now: its event {seq:,} is not the one that was read before. Read it from its "
        "beginning, and forget what you know of the other",
    )
