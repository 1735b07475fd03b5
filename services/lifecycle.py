"""The one start/stop contract of every service, and how several are run together.

Owns the order of stopping and its bounds; knows no service and no process.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar

from services.logging import get_logger

T = TypeVar("T")

_log = get_logger("lifecycle")

STOP_WITHIN_S = 1.2
CANCEL_WITHIN_S = 2.0
"""Seconds for what was cancelled to clean up; a part that swallowed its cancellation must not keep a process alive."""
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
    on_stop: Callable[[float | None], float | None] = lambda within_s: within_s,
    within_s: float | None = STOP_WITHIN_S,
) -> None:
    """Run services until ``stop`` is set, or one fails: then the rest are ended and its error is raised.

    Stopped in the order given, each before the next, within ``within_s`` seconds in all; what has not returned by then
    is cancelled (None: without a bound). ``on_stop`` hears of the stop first, and may return another bound.
    Raises what the first to fail raised, out of any ExceptionGroup.
    """
    running = [asyncio.create_task(service.run(), name=service.name) for service in services]
    announcing = asyncio.create_task(_announce_ready(services, on_ready), name="ready")
    stopping = asyncio.create_task(_stop_in_order(services, running, stop, on_stop, within_s), name="stop")
    everything = (*running, announcing, stopping)
    failed: BaseException | None = None
    try:
        left = set(everything)
        while failed is None and not stopping.done():
            done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            failed = next((error for task in done if (error := task.exception())), None)
    finally:
        errors = await _end(everything)
    if failed is None and errors:
        failed = errors[0]
    if failed is not None:
        raise first_cause(failed)


async def _stop_in_order(
    services: Sequence[Service],
    running: Sequence[asyncio.Task[None]],
    stop: asyncio.Event,
    on_stop: Callable[[float | None], float | None],
    within_s: float | None,
) -> None:
    await stop.wait()
    within_s = on_stop(within_s)
    loop = asyncio.get_running_loop()
    deadline = None if within_s is None else loop.time() + within_s
    for service, task in zip(services, running, strict=True):
        service.stop()
        left = None if deadline is None else max(0.05, deadline - loop.time())
        await asyncio.wait({task}, timeout=left)


async def _end(tasks: Sequence[asyncio.Task[None]]) -> list[BaseException]:
    """Cancel what still runs, and return what has failed. One that does not end is left behind, and named."""
    for task in tasks:
        task.cancel()
    done, stuck = await asyncio.wait(tasks, timeout=CANCEL_WITHIN_S)
    if stuck:
        _log.warning("did not end when it was told to", parts=sorted(task.get_name() for task in stuck))
    return [error for task in done if not task.cancelled() and (error := task.exception())]


async def _announce_ready(services: Sequence[Service], on_ready: Callable[[], None]) -> None:
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
