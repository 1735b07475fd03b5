"""The node's own events that the log acknowledged, until a checkpoint is known to have them.

Owns which are remembered, few enough for a busy node's memory, and how they are got back as stored; judges no tree.
"""

from __future__ import annotations

import asyncio
import enum
import random
from collections import deque
from hashlib import sha256
from typing import TypeVar

import msgspec

from events.codec import NewEvent
from events.feed import ApiError
from events.log import EventLog, UnknownOutcome, last_message
from projections.transparency.fold import leaf_of
from projections.transparency.tree import leaf_hash
from services.agent.witness.values import OwnEvent
from trainshed_client.direct_get import Message

KEPT = 64
NEWEST = 1
SAMPLED = 1
W = TypeVar("W")

PAUSE_S = 1.0
"""A busy node has a few of its events got back a second, whatever it appends."""


class AcknowledgedEvent(msgspec.Struct, frozen=True):
    """What the log acknowledged: not yet known as it was stored."""

    seq: int
    subject: str
    digest: bytes


class Lost(enum.Enum):
    """What became of an event, where it is not as it was acknowledged."""

    FOLLOWED = enum.auto()
    """A later one stands on its subject: this one can no longer be got back, and nothing is known."""
    GONE = enum.auto()
    """Its subject ends before it, or with other content: a replica may lag, or the log lost it."""


def as_stored(event: AcknowledgedEvent, last: Message | None) -> OwnEvent | Lost:
    """The event as the last message on its subject shows it."""
    if last is not None and last.seq > event.seq:
        return Lost.FOLLOWED
    if last is None or last.seq < event.seq or sha256(last.body).digest() != event.digest:
        return Lost.GONE
    leaf = leaf_hash(leaf_of(last.seq, last.stored_ns, last.subject, last.body))
    return OwnEvent(last.seq, last.stored_ns, last.subject, leaf)


class OwnEvents:
    """One agent's. One that a taken checkpoint has needs no second look: every later checkpoint extends that one."""

    def __init__(self, log: EventLog, choose: random.Random) -> None:
        self._log = log
        self._choose = choose
        self._fresh: deque[AcknowledgedEvent] = deque(maxlen=KEPT)
        self._stored: deque[OwnEvent] = deque(maxlen=KEPT)
        self._gone: deque[AcknowledgedEvent] = deque(maxlen=KEPT)
        self._came = asyncio.Event()

    def acknowledged(self, seq: int, event: NewEvent) -> None:
        """The log has it under that sequence."""
        self._fresh.append(AcknowledgedEvent(seq, event.subject, sha256(event.body).digest()))
        self._came.set()

    async def run(self) -> None:
        """Get events back as they are stored, until cancelled: of what came in a second the newest and some others."""
        while True:
            await self._came.wait()
            await asyncio.sleep(PAUSE_S)
            self._came.clear()
            for event in self._some(list(self._fresh), NEWEST, SAMPLED):
                await self._recall(event)
            self._fresh.clear()

    async def still_gone(self, end: int) -> AcknowledgedEvent | None:
        """One with a sequence below ``end`` that, looked for again, is still gone. Raises UnknownOutcome and ApiError."""
        for event in [event for event in self._gone if event.seq < end]:
            if (found := as_stored(event, await self._last(event))) is Lost.GONE:
                return event
            self._gone.remove(event)
            if isinstance(found, OwnEvent):
                self._stored.append(found)
        return None

    def to_be_proven(self, end: int) -> list[OwnEvent]:
        """Of those below ``end`` the newest, and some others."""
        return self._some([event for event in self._stored if event.seq < end], NEWEST, SAMPLED)

    def taken(self, end: int) -> None:
        """A checkpoint with all below ``end`` was taken."""
        self._stored = deque((event for event in self._stored if event.seq >= end), KEPT)

    def forget(self) -> None:
        """The log is another from here on: what it acknowledged before may be gone, and that is accepted."""
        self._fresh.clear()
        self._stored.clear()
        self._gone.clear()

    async def _recall(self, event: AcknowledgedEvent) -> None:
        try:
            found = as_stored(event, await self._last(event))
        except (UnknownOutcome, ApiError):
            return  # nothing is known of it
        if isinstance(found, OwnEvent):
            self._stored.append(found)
        elif found is Lost.GONE:
            self._gone.append(event)

    async def _last(self, event: AcknowledgedEvent) -> Message | None:
        return await last_message(self._log.nc, self._log.stream, event.subject)

    def _some(self, events: list[W], newest: int, sampled: int) -> list[W]:
        rest = events[:-newest]
        return [*self._choose.sample(rest, min(sampled, len(rest))), *events[-newest:]]
