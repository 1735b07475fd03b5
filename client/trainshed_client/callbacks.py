"""Callbacks that a caller hands in: plain functions and coroutine functions alike.

Owns how they are called; knows no connection.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Optional

if TYPE_CHECKING:
    from typing_extensions import ParamSpec

    P = ParamSpec("P")
    Called = Callable[P, Optional[Awaitable[None]]]

_log = logging.getLogger("trainshed.callbacks")


async def call(callback: Called[P], *args: P.args, **given: P.kwargs) -> None:
    """Call it, and await what it returns where that can be awaited. Raises what it raises."""
    result = callback(*args, **given)
    if inspect.isawaitable(result):
        await result


def guarded(callback: Called[P]) -> Callable[P, Coroutine[Any, Any, None]]:
    """The same as a coroutine function that never raises: whoever calls it must not end by a fault of the callback's."""

    async def run(*args: P.args, **given: P.kwargs) -> None:
        try:
            await call(callback, *args, **given)
        except Exception:  # noqa: BLE001  # a fault of the caller's own code, and his to see
            _log.exception("the callback %r failed", callback)

    return run


class CallbackTasks:
    """Calls from where nothing can be awaited: what a coroutine function has to do goes on beside, until `close`."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Future[None]] = set()

    def start(self, callback: Called[P], *args: P.args, **given: P.kwargs) -> None:
        """Call it at once; never raises."""
        try:
            result = callback(*args, **given)
        except Exception:  # noqa: BLE001  # as above
            _log.exception("the callback %r failed", callback)
            return
        if inspect.isawaitable(result):
            task = asyncio.ensure_future(guarded(lambda: result)())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End what goes on."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
