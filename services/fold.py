"""The fold that the writing side of one process shares: the log followed into one State, with its snapshot on disk.

Owns the position, who hears of each change and when the snapshot is written; decides nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import nats.errors

from events.change import Change
from events.codec import StoredEvent, Unreadable, decode
from events.feed import TRANSIENT_FROM, ApiError
from events.history import LogHistory, fold
from events.log import EventLog
from events.state import State, restore, snapshot
from services import fold_file
from services.failpoints import delay
from services.logging import get_logger
from services.position import Position
from trainshed_client.fold_progress import FoldProgress
from trainshed_client.os_errors import cause

_log = get_logger("fold")

TURN = 256
"""Events folded before other tasks of the process get their turn."""
LONG_BACKLOG = 10_000
KEEP_EVERY_S = 5.0
"""So long after a change the snapshot is written: a process killed with -9 has no more than that to fold again."""
KEEP_SHARE = 100
"""A snapshot of very many runs takes long to write: at most this part of the time goes into it."""

T = TypeVar("T")
Listener = Callable[[StoredEvent, Change], None]


class SharedFold:
    """Follows the event log into ``state``. A Service; gateway and dispatcher of one process read the same one."""

    name = "fold"

    def __init__(self, log: EventLog, log_id: str, snapshot_path: Path | None = None) -> None:
        self._log = log
        self._log_id = log_id
        self._path = snapshot_path
        self._history = LogHistory(log)
        self._listeners: list[Listener] = []
        self._stop = asyncio.Event()
        self._changed = asyncio.Event()  # since the snapshot
        self._writer = ThreadPoolExecutor(1, "fold-writer")  # one: a snapshot is never written by two at once
        self.state, seq = self._restored()
        self._position = Position(seq)
        self._begin = seq
        self._end: int | None = None
        """Where the log ended when it was begun to be followed."""
        self.ready = asyncio.Event()

    @property
    def progress(self) -> FoldProgress | None:
        """How far the start is; None once it is done."""
        if self.ready.is_set():
            return None
        return FoldProgress(self.position - self._begin, (self._end or self._begin) - self._begin)

    @property
    def history(self) -> LogHistory:
        """Where ended runs are read back from."""
        return self._history

    @property
    def position(self) -> int:
        """The last message of the log that was folded, or passed over."""
        return self._position.seq

    def listen(self, listener: Listener) -> None:
        """Call ``listener`` with each event folded from now on and what it changed; it must not block."""
        self._listeners.append(listener)

    async def reached(self, seq: int) -> None:
        """Return once everything up to ``seq`` has been folded."""
        await self._position.reached(seq)

    async def run(self) -> None:
        """Follow the log until stopped; ready once what was stored at the start has been folded.

        A server that does not answer is waited for. Raises ApiError where it answers that there is no such stream.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                work = [tasks.create_task(self._follow()), tasks.create_task(self._keep_now_and_then())]
                await self._stop.wait()
                for task in work:
                    task.cancel()
        finally:
            await self._keep()
            await asyncio.to_thread(self._writer.shutdown)

    def stop(self) -> None:
        """See Service."""
        self._stop.set()

    async def _follow(self) -> None:
        end = await self._answered(self._log.end)
        if self.position > end:
            _log.warning(
                "the snapshot is ahead of the log, which was put back; the log is folded from its start",
                snapshot=self.position,
                end=end,
            )
            self.state = State()
            self._position.advance(0)
            self._begin = 0
        self._end = end
        if end - self.position >= LONG_BACKLOG:
            _log.info("folding a long backlog; ready when it is done", events=end - self.position)
        async with self._log.follow(self.position + 1) as feed:
            while True:
                if self.position >= end:
                    self.ready.set()
                for message in await feed.batch(TURN):
                    await self._fold(decode(message.subject, message.body, message.seq, message.stored_ns))
                self._changed.set()
                # let decisions be made between turns of a long backlog
                await asyncio.sleep(delay("fold.turn"))

    async def _fold(self, stored: StoredEvent | Unreadable) -> None:
        if isinstance(stored, Unreadable):
            _log.warning(
                "passed over an unreadable event", subject=stored.subject, seq=stored.seq, why=stored.reason
            )
            self._position.advance(stored.seq)
            return
        change = await self._answered(lambda: fold(self.state, stored, self._history))
        if change.unreadable is not None:
            _log.warning(
                "passed over an event that cannot be folded",
                subject=str(stored.subject),
                seq=stored.seq,
                why=change.unreadable,
            )
        self._position.advance(stored.seq)
        for listener in self._listeners:
            listener(stored, change)

    async def _answered(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What the log answers, asked again until it does: a pause of the server ends no service."""
        while True:
            try:
                return await ask()
            except ApiError as error:
                if error.http_code < TRANSIENT_FROM:
                    raise
                why: Exception = error
            except (TimeoutError, nats.errors.Error) as error:
                if self._log.nc.is_closed:
                    raise
                why = error
            _log.warning("the event log does not answer; asking again", why=str(why) or "no answer in time")
            await self._log.reachable()

    def _restored(self) -> tuple[State, int]:
        """The state as it was kept, and the position that it stands at."""
        if self._path is None:
            return State(), 0
        try:
            kept = fold_file.read(self._path, self._log_id)
        except fold_file.Unusable as error:
            _log.warning(
                "the snapshot is not used; the log is folded from its start",
                path=str(self._path),
                why=str(error),
            )
            return State(), 0
        return (State(), 0) if kept is None else (restore(kept.state), kept.position)

    async def _keep_now_and_then(self) -> None:
        """Write the snapshot some seconds after each change, for as long as the log grows."""
        pause_s = KEEP_EVERY_S
        loop = asyncio.get_running_loop()
        while True:
            await self._changed.wait()
            await asyncio.sleep(pause_s)
            began = loop.time()
            await self._keep()
            pause_s = max(KEEP_EVERY_S, KEEP_SHARE * (loop.time() - began))

    async def _keep(self) -> None:
        """Write the snapshot; it is a cache, so a failure costs only time at the next start."""
        if self._path is None or not self._changed.is_set():
            return
        self._changed.clear()
        kept = fold_file.KeptFold(self._log_id, snapshot(self.state), self.position)
        try:
            await asyncio.get_running_loop().run_in_executor(self._writer, fold_file.write, self._path, kept)
        except OSError as error:
            _log.warning("the snapshot was not written", path=str(self._path), why=cause(error))
