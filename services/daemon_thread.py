"""Blocking work that may never come back, as on storage that hangs: in a thread that no end of the process waits for.

Owns the thread and the way of its outcome; knows nothing of the work, which must bear being left halfway.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


async def in_daemon_thread(work: Callable[[], T]) -> T:
    """What ``work`` returns or raises. Cancelled, the thread goes on alone, and its outcome is dropped."""
    outcome: Future[T] = Future()
    outcome.set_running_or_notify_cancel()  # from here on it is not the future that a cancellation ends

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:  # noqa: BLE001 — whatever it is, it is raised where it is awaited
            outcome.set_exception(error)

    threading.Thread(target=run, name="daemon-work", daemon=True).start()
    return await asyncio.wrap_future(outcome)
