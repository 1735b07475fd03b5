"""The log folded anew into an empty read model by the projector's own core, with whoever looks on.

Owns how far it is and how much of the log it has read; knows no check and no live read model.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from types import TracebackType
from typing import Self

from events.change import Change
from events.codec import StoredEvent
from events.stored_log import StoredLog
from projections.read_model.core import Projection
from projections.read_model.database import Database
from projections.read_model.projector import Projector
from trainshed_client.direct_get import Message

Progress = Callable[[int, int], None]
"""Is told the sequence that a replay has come to, and the one where it ends. A smaller one than before: another begins."""
Arrived = Callable[[Sequence[Message]], None]
"""Is shown messages as they were stored, before they are folded."""
Observe = Callable[[StoredEvent, Change, Projection], None]
"""Is shown every event that can be read, and what it did, when the rows at hand are as it leaves them."""


def unseen(seq: int, end: int) -> None:
    """Nobody looks how far it is."""


class Replay:
    """An async context manager; ``end`` is the last sequence that it will ever be asked for."""

    def __init__(self, log: StoredLog, database: Database, end: int, progress: Progress = unseen) -> None:
        self.events = 0
        self._log, self._end, self._progress = log, end, progress
        self._projector = Projector.open(database, "replay", end)
        self._pages: AsyncGenerator[list[Message], None] | None = None
        self._ahead: list[Message] = []

    @property
    def seq(self) -> int:
        """The last event's that was folded."""
        return self._projector.seq

    @property
    def state_hash(self) -> int:
        """That of the rows there."""
        return self._projector.projection.working.state_hash

    async def __aenter__(self) -> Self:
        self._pages = self._log.pages(last=self._end)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._projector.close()
        if self._pages is not None:
            await self._pages.aclose()

    async def to(self, seq: int, observe: Observe, arrived: Arrived | None = None) -> None:
        """Fold up to and with ``seq``, or what is stored of that."""
        assert self._pages is not None, "entered first"
        projection = self._projector.projection
        while self.seq < seq:
            there = self._ahead or await anext(self._pages, [])
            messages = [message for message in there if message.seq <= seq]
            self._ahead = there[len(messages) :]
            if not messages:
                return
            self.events += len(messages)
            if arrived is not None:
                arrived(messages)
            self._projector.apply(
                messages, lambda stored, change: observe(stored, change, projection), with_records=False
            )
            self._progress(self.seq, self._end)
