"""Made-up logs on a real server, and calls of the API as a client makes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from events.log import EventLog
from events.stored_log import StoredLog
from services.projector.service import ProjectorService
from tests.support.deadline import eventually
from trainshed_client import subjects
from trainshed_client.direct_get import Message
from trainshed_client.nats_client import SafeClient


async def store(nc: SafeClient, messages: list[Message]) -> int:
    """Append messages as they stand, in order; returns the log's end."""
    log = EventLog(nc)
    end = await log.end() + len(messages)
    for place, message in enumerate(messages, 1):
        await nc.publish(message.subject, message.body)
        if place % 500 == 0:
            await eventually(_at_least(log, end - len(messages) + place), 30)
    await eventually(_at_least(log, end), 30)
    return end


def reading(nc: SafeClient) -> StoredLog:
    """The log as a reader has it, also where no projector answers."""

    async def health() -> dict[str, object]:
        return {"log_id": await EventLog(nc).log_id()}

    return StoredLog(nc, where="the test's server", health=health)


def _at_least(log: EventLog, seq: int) -> Any:
    async def stored_so_far() -> bool:
        return await log.end() >= seq

    return stored_so_far


async def ask(nc: SafeClient, call: str, request: object = None, *, within: float = 5.0) -> dict[str, Any]:
    """One call of the API, its answer decoded."""
    answer = await nc.request(subjects.api(call), msgspec.json.encode(request or {}), timeout=within)
    decoded: dict[str, Any] = msgspec.json.decode(answer.data)
    return decoded


@asynccontextmanager
async def projecting(
    nc: SafeClient, database: str | Path, *, ready: bool = True, **options: Any
) -> AsyncIterator[ProjectorService]:
    """A ProjectorService that serves (``ready``: wait for that), and stops at the end."""
    service = ProjectorService(nc, database, **options)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(service.run())
        waiting = tasks.create_task(service.ready.wait())
        if ready:
            await asyncio.wait({running, waiting}, timeout=20, return_when=asyncio.FIRST_COMPLETED)
        try:
            assert service.ready.is_set() or not ready
            yield service
        finally:
            waiting.cancel()
            service.stop()
            async with asyncio.timeout(10):
                await asyncio.wait({running})
