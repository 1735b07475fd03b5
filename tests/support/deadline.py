"""Waiting for a condition, never for a length of time."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")


@overload
async def eventually(
    predicate: Callable[[], Awaitable[T]], within: float = ..., *, every: float = ...
) -> T: ...


@overload
async def eventually(predicate: Callable[[], T], within: float = ..., *, every: float = ...) -> T: ...


async def eventually(predicate: Callable[[], Any], within: float = 5.0, *, every: float = 0.01) -> Any:
    """Ask ``predicate`` (plain or async) until its answer is true, and return that answer.

    Fails the test after ``within`` seconds, with the predicate's name and its last answer.
    """
    deadline = time.monotonic() + within
    while True:
        answer = predicate()
        value = await answer if inspect.isawaitable(answer) else answer
        if value:
            return value
        if time.monotonic() >= deadline:
            what = (
                inspect.getsource(predicate).strip()
                if predicate.__name__ == "<lambda>"
                else predicate.__name__
            )
            raise AssertionError(f"not within {within} s: {what}; the last answer was {value!r}")
        await asyncio.sleep(every)
