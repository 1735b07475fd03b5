"""A thread with an event loop of its own, by which code that blocks uses what is asynchronous.

Owns that thread's life: it starts with the first call, ends with its owner, and is not there after a fork.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from trainshed_client.errors import ErrorCode, TrainshedError

T = TypeVar("T")
End = Callable[[], Awaitable[object]]

_ENDS_WITHIN_S = 2.0
"""So long the end of a program, or of a call that was interrupted, waits for what is closed in order."""


class Portal:
    """Runs coroutines on its thread for any number of others. Nothing is started before the first is run."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._worker: _Worker | None = None
        self._closed = False

    @property
    def is_open(self) -> bool:
        """Whether there is such a thread, here and now."""
        return self._worker is not None and self._pid == os.getpid()

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What the coroutine that ``work`` makes gives, or raises; ``work`` itself is called on the loop.

        An exception that interrupts this thread meanwhile, as ^C does, ends the coroutine, and goes on once it has ended.
        Raises TrainshedError (UNAVAILABLE) where there is no such thread any more.
        """
        worker = self._running()
        if threading.current_thread() is worker.thread:
            raise _unusable("it is called from a callback of its own, which would wait for itself for ever")
        ended = threading.Event()
        future = asyncio.run_coroutine_threadsafe(_marking_its_end(work, ended), worker.loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise _unusable("it was closed meanwhile") from None
        except BaseException:
            if future.cancel():
                ended.wait(_ENDS_WITHIN_S)
            raise

    def at_end(self, end: End) -> None:
        """Await this on the thread before it ends. It must not lead to this object, which would never be collected then."""
        self._running().ends.append(end)

    def let_go(self, owner: object, end: End) -> None:
        """Await this on the thread, some time after ``owner`` was collected. It must not lead to that."""
        weakref.finalize(owner, _begin, self._running().loop, self._pid, end).atexit = False

    def stop(self) -> None:
        """End the thread: what runs is cancelled. Waits for it, a few seconds at most. Again it does nothing."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            worker, self._worker, self._closed = self._worker, None, True
        if worker is not None:
            worker.finalize()

    def _running(self) -> _Worker:
        if os.getpid() != self._pid:
            raise _unusable("it was made before this process was forked; make another here: Trainshed.sync()")
        with self._lock:
            if self._closed:
                raise _unusable("it is closed")
            if self._worker is None:
                self._worker = _Worker(self)
            return self._worker


class _Worker:
    """The thread and its loop; it ends when its portal is collected, or with the program."""

    def __init__(self, portal: Portal) -> None:
        self.loop = asyncio.new_event_loop()
        self.ends: list[End] = []
        self.thread = threading.Thread(
            target=_serve, args=(self.loop, self.ends), name="trainshed", daemon=True
        )
        self.thread.start()
        self.finalize = weakref.finalize(portal, _end, self.loop, self.thread, os.getpid())


def _serve(loop: asyncio.AbstractEventLoop, ends: list[End]) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        if ends:
            loop.run_until_complete(
                asyncio.wait([loop.create_task(_awaited(one)) for one in ends], timeout=_ENDS_WITHIN_S)
            )
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks, timeout=_ENDS_WITHIN_S))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def _end(loop: asyncio.AbstractEventLoop, thread: threading.Thread, pid: int) -> None:
    """May be called by the garbage collector, in any thread, and in a forked process, where there is no such thread."""
    if os.getpid() != pid:
        return
    with suppress(RuntimeError):  # it is closed already
        loop.call_soon_threadsafe(loop.stop)
    if threading.current_thread() is not thread:
        thread.join(2 * _ENDS_WITHIN_S)


_closing: set[asyncio.Task[object]] = set()


def _begin(loop: asyncio.AbstractEventLoop, pid: int, end: End) -> None:
    def start() -> None:
        task = loop.create_task(_awaited(end))
        _closing.add(task)
        task.add_done_callback(_closing.discard)

    if os.getpid() == pid:
        with suppress(RuntimeError):  # as above
            loop.call_soon_threadsafe(start)


async def _awaited(end: End) -> object:
    with suppress(TrainshedError, OSError):
        return await end()
    return None


async def _marking_its_end(work: Callable[[], Coroutine[Any, Any, T]], ended: threading.Event) -> T:
    try:
        return await work()
    finally:
        ended.set()


def _unusable(why: str) -> TrainshedError:
    return TrainshedError(ErrorCode.UNAVAILABLE, f"this connection cannot be used: {why}")
