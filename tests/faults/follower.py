"""Follows the log while faults happen: keeps every event as it came, and what follows from it.

Owns the suite's own reading of the log (its `Ledger`, and the project's fold beside it); checks nothing.
"""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import nats.errors

from events.codec import StoredEvent, decode
from events.feed import ApiError
from events.log import EventLog
from events.state import Ended
from tests.faults.ledger import Ledger
from tests.support.builders import Story
from trainshed_client.direct_get import Message
from trainshed_client.endpoint import Endpoint
from trainshed_client.nats_client import SafeClient, connect


def _unheard(_: Exception) -> None:
    """Connections that are lost are what the suite is about."""


class Follower:
    """`messages` by sequence, the `ledger` and the project's fold (`story`) of them."""

    def __init__(self) -> None:
        self.messages: dict[int, Message] = {}
        self.ledger = Ledger()
        self.story = Story()
        self.position = 0
        self.moved_at = time.monotonic()
        """When an event last came that is no word of a node or an election."""
        self._nc: SafeClient | None = None

    @property
    def nc(self) -> SafeClient:
        """Its connection."""
        assert self._nc is not None
        return self._nc

    async def run(self, endpoint: Endpoint) -> None:
        """Follow until cancelled."""
        self._nc = await connect(endpoint, name="faults-follower", forever=True, on_error=_unheard)
        try:
            log = EventLog(self._nc)
            while not await self._there(log):
                await asyncio.sleep(0.1)
            async with log.follow(1) as feed:
                while True:
                    for message in await feed.batch():
                        self._take(message)
        finally:
            await self._nc.close()

    async def _there(self, log: EventLog) -> bool:
        try:
            await log.end()
        except (TimeoutError, nats.errors.Error, ApiError):
            return False  # the control side makes the stream at its start
        return True

    def _take(self, message: Message) -> None:
        if message.seq <= self.position:
            return
        self.position = message.seq
        self.messages[message.seq] = message
        self.ledger.take(message.seq, message.subject, json.loads(message.body))
        stored = decode(message.subject, message.body, message.seq, message.stored_ns)
        if isinstance(stored, StoredEvent):
            self.story.fold(stored)
        if ".events.run." in message.subject:
            self.moved_at = time.monotonic()

    def dump(self, path: Path) -> None:
        """Every event as it came, a line each."""
        with path.open("wb") as file:
            for seq, message in self.messages.items():
                file.write(b"%d %s %s\n" % (seq, message.subject.encode(), message.body))

    def unfinished(self, acknowledged: set[str]) -> list[str]:
        """Runs that were acknowledged, or are in the log, and have not ended."""
        live = set(self.story.state.runs)
        missing = {run_id for run_id in acknowledged if run_id not in self.story.past}
        open_ = {
            run_id
            for run_id in acknowledged & set(self.story.past)
            if not isinstance(self.story.past[run_id].phase, Ended)
        }
        return sorted(live | missing | open_)
