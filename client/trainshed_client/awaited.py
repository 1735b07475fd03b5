"""A stack that is not up yet is waited for: its server, then the services that answer commands and queries.

Owns what counts as up, and what is an error at once however long one would wait; knows no way of connecting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

from trainshed_client import subjects
from trainshed_client.answers import error_in
from trainshed_client.callbacks import guarded
from trainshed_client.errors import ErrorCode, NobodyAnswers, TrainshedError, UnknownHost

if TYPE_CHECKING:
    from trainshed_client.connection import OnWaiting, Reply

C = TypeVar("C", bound="Connected")

RETRY_S = 0.25
ANSWERS_WITHIN_S = 2.0
_PROBES = ("health", "run.check")
"""Calls that change nothing: the projector answers the first, the gateway refuses the second, whose config is empty."""


class Connected(Protocol):
    """The connection class, as far as this module needs it."""

    async def request(self, subject: str, payload: bytes, *, timeout: float) -> Reply:
        """One request, answered by any message."""
        ...

    async def close(self) -> None:
        """Close it."""
        ...


async def awaited(
    connect: Callable[[], Awaitable[C]], on_waiting: OnWaiting | None, within_s: float | None
) -> C:
    """The connection once the stack is up. Raises UNAVAILABLE after ``within_s`` seconds (None: never), and as ``connect``
    does for what waiting does not mend."""
    loop = asyncio.get_running_loop()
    deadline = None if within_s is None else loop.time() + within_s
    report = guarded(on_waiting or (lambda service, why: None))
    last = ""
    while True:
        why = await _try(connect)
        if not isinstance(why, str):
            if last:
                await report("the stack", None)
            return why
        if deadline is not None and loop.time() >= deadline:
            raise NobodyAnswers(f"the stack is not up after {within_s:g} s: {why}")
        if why != last:
            last = why
            await report("the stack", why)
        await asyncio.sleep(RETRY_S)


async def _try(connect: Callable[[], Awaitable[C]]) -> C | str:
    """The connection to a stack that is up; else why it is not."""
    try:
        trainshed = await connect()
    except UnknownHost:
        raise
    except NobodyAnswers as error:
        return error.message
    try:
        why = await _not_up(trainshed)
    except BaseException:
        await trainshed.close()
        raise
    if why is None:
        return trainshed
    await trainshed.close()
    return why


async def _not_up(trainshed: Connected) -> str | None:
    for call in _PROBES:
        try:
            reply = await trainshed.request(subjects.api(call), b"{}", timeout=ANSWERS_WITHIN_S)
        except TrainshedError as error:
            if error.code is not ErrorCode.UNAVAILABLE:
                raise
            return error.message
        refused = error_in(reply.data)
        if refused is not None and (refused.progress is not None or refused.code is ErrorCode.UNAVAILABLE):
            return refused.message
    return None
