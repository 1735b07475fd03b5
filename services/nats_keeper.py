"""Keeps the embedded nats-server running: started again when it ends.

Owns that loop alone; services wait the outage out by themselves.
"""

from __future__ import annotations

import asyncio

from services.embedded_nats import EmbeddedNats
from services.logging import get_logger
from trainshed_client.errors import TrainshedError

_log = get_logger("up")

AGAIN_AFTER_S = 0.5


class NatsKeeper:
    """A Service around a server that was started before it. Stopping it leaves the server to its owner."""

    name = "nats-server"

    def __init__(self, server: EmbeddedNats) -> None:
        self._server = server
        self._stop = asyncio.Event()
        self.ready = asyncio.Event()
        self.ready.set()

    async def run(self) -> None:
        """Start the server again whenever it ends, until stopped."""
        async with asyncio.TaskGroup() as tasks:
            keeping = tasks.create_task(self._keep())
            await self._stop.wait()
            keeping.cancel()

    def stop(self) -> None:
        """See Service."""
        self._stop.set()

    async def _keep(self) -> None:
        while True:
            how = await self._server.wait()
            _log.warning("nats-server ended; starting it again", how=how)
            while True:
                try:
                    await self._server.start()
                    break
                except TrainshedError as error:
                    _log.error("nats-server did not start", why=str(error))
                    await asyncio.sleep(AGAIN_AFTER_S)
