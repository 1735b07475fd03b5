"""The one start/stop contract of every service, and how several are run together.

Owns the order of stopping and its bounds; knows no service and no process.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

STOP_WITHIN_S = 1.2
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Service(Protocol):
    """A part of the stack as a task. It does not know which process it is in.

    ``run`` returns after ``stop`` (a second stop is harmless) and raises what the service cannot go on from;
    ``ready`` is set once it serves.
    """

    name: str
    ready: asyncio.Event

    async def run(self) -> None:
        """Serve until stopped."""
        ...

    def stop(self) -> None:
        """Ask it to stop; ``run`` returns soon after."""
        ...


async def run_services(
    services: Sequence[Service],
    stop: asyncio.Event,
    *,
    on_ready: Callable[[], None] = lambda: None,
    within_s: float | None = STOP_WITHIN_S,
) -> None:
    """Run services until ``stop`` is set, or one fails: then the rest are ended and its error is raised.

    Stopped in the order given, each before the next, within ``within_s`` seconds in all; what has not returned by then
    is cancelled (None: without a bound). Raises the ExceptionGroup of what failed.
    """
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(service.run(), name=service.name) for service in services]
        telling = group.create_task(_tell_ready(services, on_ready))
        await stop.wait()
        telling.cancel()  # what is not ready by now never will be
        loop = asyncio.get_running_loop()
        deadline = None if within_s is None else loop.time() + within_s
        for service, task in zip(services, tasks, strict=True):
            service.stop()
            left = None if deadline is None else max(0.05, deadline - loop.time())
            await asyncio.wait({task}, timeout=left)
        for task in tasks:
            task.cancel()


async def _tell_ready(services: Sequence[Service], on_ready: Callable[[], None]) -> None:
    for service in services:
        await service.ready.wait()
    on_ready()


async def unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """What ``work`` returns, or None where ``stop`` was set first: then it has been cancelled and has ended.

    Raises what ``work`` raises, as it is.
    """
    working = asyncio.ensure_future(work)
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (working, stopped):
            task.cancel()
        await asyncio.gather(working, stopped, return_exceptions=True)
    return None if working.cancelled() else working.result()


def first_cause(error: BaseException) -> BaseException:
    """The error at the bottom of the groups that structured concurrency wraps it in."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def stop_on_signals() -> asyncio.Event:
    """An event that SIGTERM, SIGINT and SIGHUP (the end of an ssh session) set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stop.set)
    return stop
