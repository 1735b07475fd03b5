"""`Trainshed.events`: the events of the log, decoded, from a sequence to the end or for ever.

Owns which of them are asked for, and that the log is the one that the caller means.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from trainshed_client import subjects
from trainshed_client.direct_get import Message
from trainshed_client.errors import ErrorCode, NobodyAnswers, TrainshedError
from trainshed_client.log_reading.follower import LogFollower, exchanged
from trainshed_client.log_reading.log_event import LogEvent, event_of
from trainshed_client.log_reading.log_reader import WHOLE, LogReader
from trainshed_client.self_entering import SelfEntering

if TYPE_CHECKING:
    from typing_extensions import Self

    from trainshed_client.nats_connection import NatsConnection
    from trainshed_client.records import RunRecord


class LogClient(Protocol):
    """The connection class, as far as reading the log needs it."""

    async def resolve(self, run: str) -> RunRecord:
        """The record of the run that is called so."""
        ...

    async def health(self) -> dict[str, object]:
        """What the read side says of itself."""
        ...


class EventStream(SelfEntering[LogEvent]):
    """An async iterator of events, and an async context manager that ends it; ``async for`` alone enters and leaves it by itself.

    ``log_id``: which log it is, once it was entered (None: no projector answers). Not for use by two tasks at once.
    """

    def __init__(
        self,
        client: LogClient,
        connection: NatsConnection,
        *,
        since_seq: int,
        follow: bool,
        run: str | None,
        types: Collection[str],
        node: str | None,
        log_id: str | None,
    ) -> None:
        self.log_id = log_id
        self._client = client
        self._connection = connection
        self._since_seq = since_seq
        self._follow = follow
        self._run = run
        self._types = types
        self._node = node
        self._exit = AsyncExitStack()
        self._follower: LogFollower | None = None
        self._pages: AsyncIterator[list[LogEvent]] | None = None
        self._read: deque[LogEvent] = deque()

    async def __aenter__(self) -> Self:
        self._entered = True
        run_id = None if self._run is None else (await self._client.resolve(self._run)).run_id
        filters = log_filters(run_id, self._types, self._node)
        await self._know()
        reader = LogReader(self._connection.nc, where=self._connection.where)
        end = await reader.end()
        if self._since_seq > end:
            raise exchanged(self._connection.where, self._since_seq)
        if self._follow:
            follower = LogFollower(self._connection, filters, since_seq=self._since_seq)
            self._follower = await self._exit.enter_async_context(follower)
        else:
            self._pages = _decoded(reader.pages(filters, first=self._since_seq + 1, last=end))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._exit.aclose()

    async def __anext__(self) -> LogEvent:
        while not self._read:
            if self._follower is not None:
                self._read.extend(map(event_of, await self._follower.batch()))
            else:
                assert self._pages is not None, "it was entered"
                self._read.extend(await self._pages.__anext__())
        return self._read.popleft()

    async def _know(self) -> None:
        """Which log it is. Raises CONFLICT where it is not the one that was given."""
        try:
            log_id = (await self._client.health()).get("log_id")
        except NobodyAnswers:
            return  # the log is read without a projector
        if self.log_id is not None and log_id is not None and log_id != self.log_id:
            raise TrainshedError(
                ErrorCode.CONFLICT,
                f"the event log at {self._connection.where} is {log_id}, and not {self.log_id}: it was exchanged. Read it from "
                "its beginning, and forget what you know of the other",
            )
        self.log_id = log_id if isinstance(log_id, str) else self.log_id


async def _decoded(pages: AsyncIterator[list[Message]]) -> AsyncIterator[list[LogEvent]]:
    async for page in pages:
        yield [event_of(message) for message in page]


def log_filters(run_id: str | None, types: Collection[str] = (), node: str | None = None) -> tuple[str, ...]:
    """The subjects of a run's events, of these types and of what this node is part of. Raises INVALID."""
    for name, values in (("types", tuple(types)), ("node", () if node is None else (node,))):
        for value in values:
            if not subjects.is_token(value):
                raise TrainshedError(
                    ErrorCode.INVALID, f"must be a name as in the log, not {value!r:.60}", name
                )
    if run_id is None and not types and node is None:
        return WHOLE
    about = "*.*" if run_id is None else f"{subjects.Scope.RUN}.{run_id}"
    return tuple(
        f"{subjects.EVENTS}.{about}.*.{type_}.{node or '*'}" for type_ in dict.fromkeys(types or ("*",))
    )
