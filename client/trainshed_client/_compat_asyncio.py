"""What asyncio of Python 3.9 and 3.10 lacks: time limits, tasks that end together, and whom a cancellation was meant for.

Owns these stand-ins; knows nothing of Trainshed. `asyncio.TimeoutError` is the built-in one from 3.11 on only: what asyncio
and nats-py raise is caught by that name, and what is raised here is the built-in one everywhere.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")

if sys.version_info >= (3, 11):
    from asyncio import timeout

    async def heeding(work: Awaitable[T]) -> T:
        """What ``work`` gives, unless this task was cancelled meanwhile, even where ``work`` passed that over.

        `asyncio.wait_for` before Python 3.12, which nats-py uses, loses a cancellation that comes in the same turn of the
        event loop as the answer: who was asked to end would go on for ever.
        """
        task = asyncio.current_task()
        before = task.cancelling() if task else 0
        result = await work
        if task and task.cancelling() > before:
            raise asyncio.CancelledError
        return result

    async def finishes(work: Awaitable[object]) -> bool:
        """Await it; False where it ended by a cancellation that was not meant for this task."""
        try:
            await work
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) and task.cancelling():
                raise
            return False
        return True

else:  # a task does not tell that it was cancelled: so the work has one of its own

    @asynccontextmanager
    async def timeout(delay: float | None) -> AsyncIterator[None]:
        """As `asyncio.timeout`: raises TimeoutError where the block takes longer than ``delay`` seconds (None: never)."""
        task = asyncio.current_task()
        assert task is not None
        late = False

        def cancel() -> None:
            nonlocal late
            late = True
            task.cancel()

        timer = None if delay is None else asyncio.get_running_loop().call_later(max(0, delay), cancel)
        try:
            yield
        except asyncio.CancelledError:
            if late:
                raise TimeoutError from None
            raise
        finally:
            if timer is not None:
                timer.cancel()

    async def heeding(work: Awaitable[T]) -> T:
        """What ``work`` gives, unless this task was cancelled meanwhile, even where ``work`` passed that over."""
        return (await _of_its_own(work)).result()

    async def finishes(work: Awaitable[object]) -> bool:
        """Await it; False where it ended by a cancellation that was not meant for this task."""
        done = await _of_its_own(work)
        if done.cancelled():
            return False
        done.result()
        return True

    async def _of_its_own(work: Awaitable[T]) -> asyncio.Future[T]:
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait({task})
            raise
        return task


async def all_of(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """What each of these gives, in order, all of them at once. The first that raises ends the others, and is raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        if tasks:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        left = [task for task in tasks if not task.done()]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)
        # looked at here, for where this task is cancelled nobody looks at them any more
        failed = [error for task in tasks if not task.cancelled() and (error := task.exception()) is not None]
    if failed:
        raise failed[0]
    return [task.result() for task in tasks]


__all__ = ["all_of", "finishes", "heeding", "timeout"]
