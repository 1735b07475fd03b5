"""Blocking work that may never come back, as on storage that hangs: in a thread that no end of the process waits for.

Owns the threads and the way of an outcome; knows nothing of the work, which must bear being left halfway.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")
_Job = Callable[[], Callable[[], None]]

KEPT = 8
"""Threads that wait for the next work, since a new one costs as much as a short work. There is no highest number: work
that hangs must hold up no other."""
_idle: deque[SimpleQueue[_Job]] = deque()


async def in_daemon_thread(work: Callable[[], T]) -> T:
    """What ``work`` returns or raises. Cancelled, the thread goes on alone, and its outcome is dropped."""
    outcome: Future[T] = Future()
    outcome.set_running_or_notify_cancel()  # from here on it is not the future that a cancellation ends

    def run() -> Callable[[], None]:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 — whatever it is, it is raised where it is awaited
            failure = error
            return lambda: outcome.set_exception(failure)
        return lambda: outcome.set_result(result)

    _start(run)
    return await asyncio.wrap_future(outcome)


def _start(job: _Job) -> None:
    try:
        jobs = _idle.pop()
    except IndexError:
        jobs = SimpleQueue()
        threading.Thread(target=_work, args=(jobs,), name="daemon-work", daemon=True).start()
    jobs.put(job)


def _work(jobs: SimpleQueue[_Job]) -> None:
    while True:
        deliver = jobs.get()()
        stays = len(_idle) < KEPT
        if stays:  # before it is delivered: what follows at once finds this thread
            _idle.append(jobs)
        deliver()
        if not stays:
            return
        del deliver  # holds what the work returned
