"""The event log for who only reads it: by direct gets alone, with nothing else of the JetStream API.

Owns where its id comes from, and that what is read is decoded; services, which append and guard, have log.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing

from events.codec import StoredEvent, Unreadable, decode
from trainshed_client.direct_get import Message
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.log_reading.log_reader import WHOLE, LogReader
from trainshed_client.nats_client import SafeClient

Health = Callable[[], Awaitable[Mapping[str, object]]]
"""Asks the projector how it is (`health`): it may ask JetStream which log there is."""


class StoredLog(LogReader):
    """One event log. Raises as LogReader does."""

    def __init__(self, nc: SafeClient, *, where: str, health: Health) -> None:
        super().__init__(nc, where=where)
        self._health = health

    async def log_id(self) -> str:
        """The log's own id, as the projector finds it in the stream now. Raises UNAVAILABLE where it does not."""
        log_id = (await self._health()).get("log_id")
        if not isinstance(log_id, str):
            raise TrainshedError(
                ErrorCode.UNAVAILABLE,
                "the projector does not name the log that it reads: ask again; where it is of an older release, start it again "
                "with this one",
            )
        return log_id

    async def messages(
        self, filters: Sequence[str] = WHOLE, *, first: int = 1, last: int | None = None
    ) -> AsyncIterator[Message]:
        """What :meth:`pages` gives, one by one."""
        async with aclosing(self.pages(filters, first=first, last=last)) as pages:
            async for page in pages:
                for message in page:
                    yield message

    async def read(
        self, filters: Sequence[str] = WHOLE, *, first: int = 1, last: int | None = None
    ) -> AsyncIterator[StoredEvent | Unreadable]:
        """The same, decoded."""
        async with aclosing(self.pages(filters, first=first, last=last)) as pages:
            async for page in pages:
                for message in page:
                    yield decode(message.subject, message.body, message.seq, message.stored_ns)
