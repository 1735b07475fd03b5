"""How things were at an earlier moment, for the projector's calls: found out once, and kept for the questions that follow.

Owns which moments are accepted, how the log is read for one and how many are kept; knows no table and no query.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple, TypeVar

import nats.errors

from events.feed import ApiError
from events.log import EventLog, UnknownOutcome, messages_between, next_message
from events.times import nanoseconds, rfc3339
from projections.past.moment import Moment, Past
from projections.queries.answers import Queries
from services.position import Position
from services.projector.memory import give_back_memory
from services.projector.waiting import WaitingRuns
from trainshed_client.direct_get import Message
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.fold_progress import FoldProgress

KEPT = 4
"""So many moments are kept: the pages of a listing, and two that are compared."""
KEPT_RUNS = 10_000
"""So many live runs are kept with them in all, about 2.5 KB each: of longer queues the last moment alone."""
LET_GO_AFTER_S = 60.0
"""So long after the last question none is kept any more: the process may now be idle for days."""
WITHIN_S = 2.0

T = TypeVar("T")


class Answering(NamedTuple):
    """What answers of one moment, be it the present."""

    queries: Queries
    waiting: WaitingRuns


class Then(NamedTuple):
    """A moment that was found out, and what answers of it."""

    moment: Moment
    source: Answering


class PastMoments:
    """The moments of one projector, with a thread of their own: no other query waits for one. The clock (ns) says what is
    in the future."""

    def __init__(self, past: Past, log: EventLog, position: Position, clock: Callable[[], int]) -> None:
        self._past = past
        self._log = log
        self._position = position
        self._thread = ThreadPoolExecutor(1, "projector-past")
        self._clock = clock
        self._kept: OrderedDict[int, Then] = OrderedDict()
        self._finding = asyncio.Lock()
        self._letting_go: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """Wait for what is under way."""
        self._thread.shutdown()

    async def beside(self, work: Callable[[], T]) -> T:
        """Run ``work`` in that thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def forget(self) -> None:
        """Let go of all that is kept: the log or the tables may be others. What is being found out is not kept either."""
        self._kept = OrderedDict()
        if self._letting_go is not None:
            self._letting_go.cancel()
            self._letting_go = None

    def _let_go(self) -> None:
        self.forget()
        self._thread.submit(give_back_memory)

    async def at(self, seq: int, field: str = "at") -> Then:
        """How things were after event ``seq``. Raises TrainshedError: INVALID by that field, UNAVAILABLE."""
        first, end = await self._bounds()
        if not first <= seq <= end:
            raise TrainshedError(ErrorCode.INVALID, _accepted(first, end), field)
        await self._folded(seq, end)
        async with self._finding:
            kept = self._kept
            then = kept.get(seq)
            if then is None:
                then = kept[seq] = await self._found(seq)
            kept.move_to_end(seq)
            while len(kept) > 1 and (len(kept) > KEPT or _runs_in(kept.values()) > KEPT_RUNS):
                kept.popitem(last=False)
            self._keep_for_a_while()
        return then

    def _keep_for_a_while(self) -> None:
        if self._letting_go is not None:
            self._letting_go.cancel()
        self._letting_go = asyncio.get_running_loop().call_later(LET_GO_AFTER_S, self._let_go)

    async def last_at(self, time: str, field: str = "time") -> int:
        """The sequence of the last event stored at a time or before it; one that is stored within its microsecond counts.

        Raises TrainshedError: INVALID by that field, UNAVAILABLE.
        """
        try:
            ns = nanoseconds(time)
        except (ValueError, OverflowError):
            wanted = f"must be a time as in 2026-11-24T08:17:40Z, not {time!r:.60}"
            raise TrainshedError(ErrorCode.INVALID, wanted, field) from None
        first, end = await self._bounds()
        begin, last = await self._stored(first), await self._stored(end)
        now_ns = max(self._clock(), last.stored_ns)
        until_ns = ns + 1_000
        if begin.stored_ns >= until_ns or ns > now_ns:
            accepted = f"must be a time from {rfc3339(begin.stored_ns)}, when the log's first event was stored, to now"
            raise TrainshedError(ErrorCode.INVALID, f"{accepted} ({rfc3339(now_ns)}), not {time:.60}", field)
        if last.stored_ns < until_ns:
            return end
        try:
            return await self._log.first_since(until_ns) - 1
        except (UnknownOutcome, nats.errors.Error, ApiError, TimeoutError):
            raise _no_log() from None

    async def _bounds(self) -> tuple[int, int]:
        try:
            async with asyncio.timeout(WITHIN_S):
                first, end = await self._log.bounds()
        except (TimeoutError, nats.errors.Error, ApiError):
            raise _no_log() from None
        return first, end

    async def _stored(self, seq: int) -> Message:
        try:
            found = await next_message(self._log.nc, self._log.stream, seq)
        except (UnknownOutcome, ApiError):
            raise _no_log() from None
        if found is None:
            raise TrainshedError(ErrorCode.INVALID, "the log has no event yet")
        return found

    async def _folded(self, seq: int, end: int) -> None:
        """Wait until the read model has that event. Raises UNAVAILABLE."""
        try:
            async with asyncio.timeout(WITHIN_S):
                await self._position.reached(seq)
        except TimeoutError:
            behind = FoldProgress(self._position.seq, end)
            raise TrainshedError(
                ErrorCode.UNAVAILABLE,
                f"the read side is behind the event log ({behind.text}) and has no event {seq} yet; ask again",
                progress=behind,
            ) from None

    async def _found(self, seq: int) -> Then:
        kept = await self.beside(partial(self._past.before, seq))
        try:
            messages = await messages_between(self._log.nc, self._log.stream, kept.live.seq + 1, seq)
        except (UnknownOutcome, ApiError):
            raise _no_log() from None
        moment = await self.beside(partial(self._past.after, kept, messages))
        return Then(moment, Answering(self._past.queries(seq, moment), WaitingRuns(lambda: moment.stored_ns)))


def _runs_in(kept: Iterable[Then]) -> int:
    return sum(len(then.moment.live.runs) for then in kept)


def _accepted(first: int, end: int) -> str:
    if not end:
        return "the log has no event yet"
    return f"must be an event's sequence, from {first} to {end} (the log's first and last)"


def _no_log() -> TrainshedError:
    return TrainshedError(
        ErrorCode.UNAVAILABLE,
        "the event log does not answer, and earlier moments are made from it; ask again",
    )
