"""What the log has of a run, for the gateway's answers: asked for until somebody answers.

Owns the bound of that and its error for people; decides nothing and appends nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import nats.errors

from events.codec import StoredEvent
from events.feed import ApiError
from events.log import EventLog, UnknownOutcome
from events.state import Ended, Run
from events.types import Submitted
from services.fold import SharedFold
from trainshed_client import subjects
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.statuses import RunStatus

RESOLVE_S = 60.0
"""How long it is tried to resolve an unknown outcome; within the stream's duplicate window (docs/protocol.md rule 2)."""


class Lookup:
    """Reads for answers: the fold where a run is live, the log where it ended."""

    def __init__(self, log: EventLog, fold: SharedFold) -> None:
        self._log = log
        self._fold = fold

    async def last(self, subject: str) -> tuple[int, str | None]:
        """The last (sequence, event id) on a literal subject, (0, None) where there is none; asked until answered. On a cluster
        that may be a moment old."""
        return await _answered(self._log, self._log.last_id, subject)

    async def submitted(self, run_id: str) -> tuple[int, str | None]:
        """The same of a run's Submitted: none is there only where the leader has none."""
        return await _answered(self._log, self._log.has, subjects.submitted(run_id))

    async def submitted_by(self, run_id: str) -> str | None:
        """Who submitted a run, as its Submitted has it; None where the log has none that can be read."""
        if not subjects.is_token(run_id):
            return None
        async with resolving():
            while True:
                try:
                    found = await self._log.last(subjects.submitted(run_id))
                except (UnknownOutcome, ApiError):
                    await self._log.reachable()
                    continue
                event = found.event if isinstance(found, StoredEvent) else None
                return event.submitted_by if isinstance(event, Submitted) else None
        raise AssertionError("unreachable")

    async def run(self, run_id: str, submitted_seq: int) -> Run | None:
        """The present value of a run that was submitted at that sequence, live or ended long ago."""
        async with resolving():
            await self._fold.reached(submitted_seq)
            live = self._fold.state.runs.get(run_id)
            return live if live is not None else await self._ended(run_id)
        raise AssertionError("unreachable")

    async def status(self, run_id: str) -> RunStatus:
        """A run's status now."""
        live = self._fold.state.runs.get(run_id)
        if live is not None:
            return live.status
        async with resolving():
            ended = await self._ended(run_id)
        return ended.status if ended is not None and isinstance(ended.phase, Ended) else RunStatus.UNSPECIFIED

    async def _ended(self, run_id: str) -> Run | None:
        while True:
            try:
                return await self._fold.history.run_before(run_id, self._fold.position + 1)
            except (ApiError, TimeoutError, nats.errors.Error):
                await self._log.reachable()


async def _answered(
    log: EventLog, ask: Callable[[str], Awaitable[tuple[int, str | None]]], subject: str
) -> tuple[int, str | None]:
    async with resolving():
        while True:
            try:
                return await ask(subject)
            except UnknownOutcome:
                await log.reachable()
    raise AssertionError("unreachable")


@contextlib.asynccontextmanager
async def resolving() -> AsyncIterator[None]:
    """Bounds how long an unknown outcome is resolved; past it the caller hears that it stays unknown. Raises TrainshedError."""
    try:
        async with asyncio.timeout(RESOLVE_S):
            yield
    except (TimeoutError, UnknownOutcome):
        raise TrainshedError(
            ErrorCode.UNAVAILABLE,
            "the event log does not answer: it is not known whether this was stored. Submitting the same config "
            "again is safe",
        ) from None
