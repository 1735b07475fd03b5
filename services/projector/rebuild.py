"""A read model built anew beside the live one, when somebody asks for it, and put in its place.

Owns the order of that work and what whoever asks is told meanwhile; knows no table and no file.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager

import msgspec
import nats.errors

from events.feed import ApiError, Feed
from events.log import EventLog
from projections.read_model.heartbeats import carry_over
from projections.read_model.projector import Projector
from services.failpoints import delay, failpoint
from services.lifecycle import first_cause
from services.position import Position
from services.projector.memory import give_back_memory
from services.projector.trouble import FAILURES, message_of
from services.projector.writing import Writing
from trainshed_client.direct_get import Message
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.fold_progress import FoldProgress

_log = logging.getLogger("trainshed.projector")

BATCH = 500
"""Events of one transaction beside the live read model, whose own next batch waits for no more than these."""
SIGN_EVERY_S = 0.5
"""So often whoever asked hears how far it is."""
LAST_EVENTS_WITHIN_S = 1.0
AGAIN_AFTER_S = 0.5
TRIES = 120
"""To put it in the old one's place, while somebody reads there."""


class Rebuilt(msgspec.Struct, frozen=True, kw_only=True):
    """What ``audit.rebuild`` answers in the end. ``same``: whether the state hash was that of the read model before."""

    v: int = 1
    seq: int
    state_hash: str
    same: bool
    seconds: float
    database: str
    host: str


class Rebuilds:
    """The rebuilds of one projector, one at a time; who asks during one joins it.

    ``where`` names the database for people. ``differs`` is called where the tables did not hold what the log says.
    """

    def __init__(
        self,
        log: EventLog,
        writing: Writing,
        position: Position,
        *,
        where: str,
        differs: Callable[[], None],
    ) -> None:
        self._log = log
        self._writing = writing
        self._position = position
        self._where = where
        self._differs = differs
        self._asked = asyncio.Event()
        self._outcome: asyncio.Future[Rebuilt] | None = None
        self._folded = 0

    # --- asking -------------------------------------------------------------------------------------------

    async def parts(self) -> AsyncIterator[bytes]:
        """Have it rebuilt, or join: how far it is from time to time, and in the end what came of it. Raises TrainshedError."""
        outcome = self._outcome
        if outcome is None:
            self._folded = 0
            outcome = self._outcome = asyncio.get_running_loop().create_future()
            outcome.add_done_callback(self._over)
            self._asked.set()
        while not outcome.done():
            yield msgspec.json.encode(
                {"v": 1, "progress": FoldProgress(min(self._folded, self._position.seq), self._position.seq)}
            )
            await asyncio.wait({outcome}, timeout=SIGN_EVERY_S)
        yield msgspec.json.encode(outcome.result())

    def _over(self, outcome: asyncio.Future[Rebuilt]) -> None:
        self._outcome = None
        if not outcome.cancelled():
            outcome.exception()  # whoever asked may be gone

    def give_up(self, why: str) -> None:
        """Whoever waits is told that nothing comes of it."""
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_exception(_failed(why))

    # --- building -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Rebuild whenever it is asked for. Raises what came in the way of putting it in the old one's place."""
        try:
            while True:
                await self._asked.wait()
                self._asked.clear()
                outcome = self._outcome
                if outcome is None:
                    continue
                try:
                    rebuilt = await self._rebuild()
                except TrainshedError as error:
                    _log.error("%s", error.message)
                    self._end(outcome, error)
                else:
                    self._end(outcome, rebuilt)
        finally:
            self._asked.clear()
            self.give_up("the projector stops, or opens its database anew")

    async def _rebuild(self) -> Rebuilt:
        began = time.monotonic()
        _log.info("the read model %s is rebuilt beside the live one, as somebody asked", self._where)
        try:
            with _failing():
                built = await self._writing.run(self._writing.projector.begin_beside)
            if built is None:
                raise _failed("one in memory has no place beside it")
            try:
                async with self._log.follow(1) as feed:
                    same = await self._build(feed, built)
            finally:
                await asyncio.shield(self._writing.run(built.close))
        finally:
            await asyncio.shield(self._writing.run(self._writing.projector.store.database.clear_beside))
        seq, state_hash = built.seq, f"{built.state_hash:064x}"
        seconds = round(time.monotonic() - began, 3)
        give_back_memory()
        if same:
            _log.info(
                "the read model was rebuilt from the log up to %d in %g s, and is the same", seq, seconds
            )
        else:
            _log.warning(
                "the read model was rebuilt from the log up to %d in %g s, and is not what it was: its state hash is %s",
                seq,
                seconds,
                state_hash,
            )
            self._differs()
        return Rebuilt(
            seq=seq,
            state_hash=state_hash,
            same=same,
            seconds=seconds,
            database=self._where,
            host=socket.gethostname(),
        )

    async def _build(self, feed: Feed, built: Projector) -> bool:
        """Fold, and put it in the live one's place at the same sequence; whether their state hashes are the same."""
        for _ in range(TRIES):
            with _failing():
                await self._catch_up(feed, built)
                await asyncio.to_thread(built.store.database.sync)
            async with self._writing.turn:
                with _failing():
                    level = await self._draw_level(feed, built)
                live = self._writing.projector
                if level and await self._writing.run(_swap, self._writing, live, built):
                    return built.state_hash == live.state_hash
            await asyncio.sleep(AGAIN_AFTER_S)
        raise _failed(f"another program has been reading the old one for {TRIES * AGAIN_AFTER_S:g} s")

    async def _catch_up(self, feed: Feed, built: Projector) -> None:
        """Fold until few events are left. The live read model is always ahead, and its batches go between."""
        while self._position.seq - built.seq > BATCH:
            messages = await feed.batch(BATCH)
            await self._position.reached(messages[-1].seq)
            await self._fold(built, messages)

    async def _draw_level(self, feed: Feed, built: Projector) -> bool:
        """Fold what the live one has, which stands still: False where that does not come."""
        live = self._writing.projector
        try:
            while built.seq < live.seq:
                async with asyncio.timeout(LAST_EVENTS_WITHIN_S):
                    messages = await feed.batch(live.seq - built.seq)
                await self._fold(built, messages)
        except TimeoutError:
            return False
        return built.seq == live.seq  # it is beyond where the log has a gap

    async def _fold(self, built: Projector, messages: Sequence[Message]) -> None:
        await self._writing.run(_apply, built, messages)
        failpoint("projector.rebuilding")
        self._folded = built.seq

    @staticmethod
    def _end(outcome: asyncio.Future[Rebuilt], end: Rebuilt | TrainshedError) -> None:
        if outcome.done():
            return
        if isinstance(end, TrainshedError):
            outcome.set_exception(end)
        else:
            outcome.set_result(end)


def _apply(built: Projector, messages: Sequence[Message]) -> None:
    time.sleep(delay("projector.batch"))  # in the thread that writes: the loop goes on answering
    built.apply(messages, with_records=False)


def _swap(writing: Writing, live: Projector, built: Projector) -> bool:
    """Put it in the live one's place; False where somebody reads there."""
    with _failing():  # nothing has happened yet: all that is to be written is, while queries go on
        carry_over(live, built)
        live.store.gather()
        built.store.gather()
    moved = live.give_way_to(built, lambda: failpoint("projector.swapping"))
    if moved is None:
        return False
    writing.begin(moved)
    failpoint("projector.swapped")
    return True


@contextmanager
def _failing() -> Iterator[None]:
    """What goes wrong beside the live read model leaves that as it is."""
    try:
        yield
    except FAILURES as error:
        raise _failed(message_of(error)) from None
    except (nats.errors.Error, ApiError) as error:
        raise _failed(f"the event log does not answer: {first_cause(error)}") from None


def _failed(why: str) -> TrainshedError:
    return TrainshedError(
        ErrorCode.UNAVAILABLE, f"the read model was not rebuilt, and is as it was ({why}). Try again later"
    )
