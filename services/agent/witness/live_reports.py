"""What the log has in this node's name of attempts that live here, looked at whenever the log grew.

Owns how often it is looked, and at which of them; whether an event is the node's own is `own_reports`'s to say.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

from events.codec import StoredEvent
from events.feed import ApiError
from events.log import EventLog, UnknownOutcome
from events.types import AttemptRef
from services.agent.reports.own_reports import (
    RUN_EVENTS,
    OwnReports,
    StrangeEvent,
    is_own,
    is_report_on,
    strange,
)
from trainshed_client import subjects

AT_ONCE = 4
"""Attempts, at six direct gets each: all nodes look when the log has grown."""
PAUSE_S = 2.0
"""A node with more of them looks at the next ones after that."""
SPREAD_S = 1.0

LiveAttempts = Callable[[], Sequence[tuple[AttemptRef, OwnReports]]]


class LiveReports:
    """One agent's. ``live``: its attempts; ``objects`` is called with each event that this node did not say, perhaps again."""

    def __init__(
        self,
        log: EventLog,
        node: str,
        chance: random.Random,
        *,
        live: LiveAttempts,
        objects: Callable[[StrangeEvent], None],
    ) -> None:
        self._log = log
        self._node = node
        self._chance = chance
        self._live = live
        self._objects = objects
        self._grew = asyncio.Event()
        self._looked_at = set[AttemptRef]()

    def grew(self) -> None:
        """The log has more events than before: any of them may be one in this node's name."""
        self._grew.set()

    async def run(self) -> None:
        """Look at every live attempt after the log grew, a few at a time, until cancelled."""
        while True:
            await self._grew.wait()
            self._grew.clear()
            self._looked_at.clear()
            await asyncio.sleep(self._chance.uniform(0, SPREAD_S))
            while some := [each for each in self._live() if each[0] not in self._looked_at][:AT_ONCE]:
                for ref, own in some:
                    self._looked_at.add(ref)
                    await self._look(ref, own)
                await asyncio.sleep(PAUSE_S)

    async def _look(self, ref: AttemptRef, own: OwnReports) -> None:
        """Silence, and what cannot be read, say nothing of anybody."""
        for type_ in RUN_EVENTS:
            subject = subjects.agent_event(ref.run_id, type_, self._node)
            try:
                stored = await self._log.last(subject)
            except (UnknownOutcome, ApiError):
                return
            if not isinstance(stored, StoredEvent) or not is_report_on(stored.event, ref.run_id, ref.attempt):
                continue
            if not is_own(stored, own):
                self._objects(strange(stored, own))
