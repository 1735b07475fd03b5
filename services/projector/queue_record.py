"""The queue's record, made anew when something changed that it may say, and put where it says more.

Owns when that is and how often at the most; what is in it is services/scheduling/whole_queue.py's, how it is put the
buckets'.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import NoReturn

import msgspec

from events.state import State
from projections.read_model.changed import Applied
from projections.records import RecordBuckets
from services.projector.calls import InReader
from services.projector.writing import Writing
from services.scheduling.whole_queue import WholeQueue, is_news
from trainshed_client.records import QueueRecord
from trainshed_client.times import with_texts

EVERY_S = 0.25
SHARE = 10
MOST_S = 5.0
"""A queue of very many runs on very many nodes takes long to explain: at most this part of the time goes into it, as long as
it is not older than that."""


class KeptQueue:
    """The record of one projector's queue. The clock (ns) is passed in."""

    def __init__(
        self, writing: Writing, buckets: RecordBuckets, in_reader: InReader, clock: Callable[[], int]
    ) -> None:
        self._writing = writing
        self._buckets = buckets
        self._in_reader = in_reader
        self._clock = clock
        self._whole = WholeQueue()
        self._last: QueueRecord | None = None
        self._changed = asyncio.Event()

    def note(self, applied: Applied) -> None:
        """Events were folded: the queue may be another one."""
        if applied.runs or applied.nodes:
            self._changed.set()

    def begin(self) -> None:
        """The log is folded from where the tables stand: it is another one once all of it is."""
        self._changed.clear()

    def caught_up(self) -> None:
        """All that was stored is folded: from now on it is kept."""
        self._changed.set()

    async def run(self) -> NoReturn:
        """Keep it, until cancelled. Nothing happens while nothing changes."""
        while True:
            await self._change()
            self._changed.clear()
            state, seq = await self._writing.run(self._present)
            news, seconds = await self._in_reader(partial(self._look, state, seq, self._clock()))
            if news is not None:
                async with self._writing.turn:
                    await self._buckets.put_queue(news)
            await asyncio.sleep(max(EVERY_S, min(SHARE * seconds, MOST_S)))

    async def _change(self) -> None:
        """Wait for one, or until time alone makes one."""
        due_ns = self._whole.next_due_ns()
        try:
            async with asyncio.timeout(None if due_ns is None else max(0, due_ns - self._clock()) / 1e9):
                await self._changed.wait()
        except TimeoutError:
            return

    def _look(self, state: State, seq: int, now_ns: int) -> tuple[bytes | None, float]:
        """The record where it is news, and the seconds of work that it took to see."""
        began = time.thread_time()
        record = self._whole.at(state, seq, now_ns)
        news = None
        if self._last is None or is_news(self._last, record):
            self._last, news = record, msgspec.json.encode(with_texts(record))
        return news, time.thread_time() - began

    def _present(self) -> tuple[State, int]:
        """What is live, and after which event: in the thread that changes it."""
        projector = self._writing.projector
        return projector.projection.working.state.copy(), projector.seq
