"""The event log as whoever reads it has it, by direct gets alone: from a sequence, of some subjects, by a time.

Owns how several subjects are read in the log's order, and how a log that ends too early is found; decodes nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import TYPE_CHECKING

from trainshed_client import subjects
from trainshed_client.direct_get import PAGE, PATIENCE_S, RETRY_S, Message, StreamReader
from trainshed_client.errors import ErrorCode, TrainshedError

if TYPE_CHECKING:
    from trainshed_client.nats_client import SafeClient

WHOLE = (subjects.ALL_EVENTS,)


class LogReader:
    """Reads one event log. One question raises UNAVAILABLE where nobody answers it for ``patience_s`` (None: that is waited
    out), or there is no log; what is read page by page goes on once the connection is made anew."""

    def __init__(
        self,
        nc: SafeClient,
        *,
        where: str,
        stream: str = subjects.EVENTS_STREAM,
        patience_s: float | None = PATIENCE_S,
    ) -> None:
        self._reader = StreamReader(nc, stream, where=where)
        self._where = where
        self._patience_s = patience_s

    async def end(self) -> int:
        """The last sequence of the log; 0 for an empty one."""
        last = await self._reader.last(patience_s=self._patience_s)
        return 0 if last is None else last.seq

    async def at(self, seq: int) -> Message | None:
        """The message at ``seq``; None where there is none."""
        found = await self._reader.next(seq, patience_s=self._patience_s)
        return found if found is not None and found.seq == seq else None

    async def next(self, seq: int, subject: str) -> Message | None:
        """The message at ``seq``, or the first after it, on a subject; None where there is none."""
        return await self._reader.next(seq, subject, patience_s=self._patience_s)

    async def first_since(self, ns: int) -> int:
        """The sequence of the first event stored at ``ns`` (since 1970) or later; one more than the end where none was.

        By halves: some twenty direct gets for a million events.
        """
        first, past = 1, await self.end() + 1
        while first < past:
            middle = (first + past) // 2
            found = await self._reader.next(middle, patience_s=self._patience_s)
            if found is None or found.stored_ns >= ns:
                past = middle
            else:
                first = found.seq + 1
        return first

    async def pages(
        self, filters: Sequence[str] = WHOLE, *, first: int = 1, last: int | None = None
    ) -> AsyncGenerator[list[Message], None]:
        """What is stored from sequence ``first`` up to and with ``last`` (None: the end), in order.

        ``filters``: what of it, subjects with wildcards, no two of which overlap. No page is empty. Of all the log
        everything up to ``last`` is waited for: a server that has not got it yet may answer.
        """
        if last is None and len(filters) > 1:
            last = await self.end()  # else what is stored of one while another is read would be passed over
        if last is not None and first > last:
            return
        pages = self._one(filters[0], first) if len(filters) == 1 else self._merged(filters, first)
        seen = first - 1
        try:
            async for page in pages:
                if last is not None and page[-1].seq > last:
                    page = [message for message in page if message.seq <= last]
                if page:
                    seen = page[-1].seq
                    yield page
                if last is not None and seen >= last:
                    return
        finally:
            await pages.aclose()
        if last is not None and tuple(filters) == WHOLE:
            async for page in self._late(seen, last):
                yield page

    def _one(self, subject: str, first: int) -> AsyncGenerator[list[Message], None]:
        return self._reader.pages(subject, first=first, size=PAGE, patience_s=None)

    async def _late(self, seen: int, last: int) -> AsyncIterator[list[Message]]:
        """What a server that lags behind had not got yet. Raises UNAVAILABLE where it does not come."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + PATIENCE_S
        while seen < last:
            if loop.time() >= give_up:
                raise TrainshedError(
                    ErrorCode.UNAVAILABLE,
                    f"the event log at {self._where} ends at {seen:,}, and should go up to {last:,}; ask again",
                )
            await asyncio.sleep(RETRY_S)
            async for page in self._one(subjects.ALL_EVENTS, seen + 1):
                page = [message for message in page if message.seq <= last]
                if page:
                    seen = page[-1].seq
                    yield page

    async def _merged(self, filters: Sequence[str], first: int) -> AsyncGenerator[list[Message], None]:
        """Each subject is read by itself: of a long log a few rare types are found without the rest."""
        reads = {subject: self._one(subject, first) for subject in filters}
        read: dict[str, deque[Message]] = {subject: deque() for subject in filters}
        try:
            while True:
                for subject in tuple(reads):
                    if not read[subject]:
                        try:
                            read[subject].extend(await reads[subject].__anext__())
                        except StopAsyncIteration:
                            del reads[subject]
                upto = min((read[subject][-1].seq for subject in reads), default=None)
                page: list[Message] = []
                for waiting in read.values():
                    while waiting and (upto is None or waiting[0].seq <= upto):
                        page.append(waiting.popleft())
                if not page:
                    return
                yield sorted(page)
        finally:
            for pages in reads.values():
                await pages.aclose()
