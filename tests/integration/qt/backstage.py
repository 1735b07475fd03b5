"""A real nats-server and whoever plays the services on it, on a thread beside the GUI's, which a test holds."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from nats.aio.msg import Msg

from events.streams import ensure_streams
from tests.support import NatsServer
from trainshed_client.nats_client import SafeClient
from trainshed_client.records import RunRecord

T = TypeVar("T")


class Backstage:
    """The server, and a loop on a thread: `do` runs a coroutine there and waits for what it gives."""

    def __init__(self, folder: Path) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="backstage")
        self._thread.start()
        self.server = self.do(self._start(folder))
        self.nc: SafeClient = self.do(self.server.client("backstage"))
        self.prepare()

    @property
    def url(self) -> str:
        """Where it listens, with its password."""
        endpoint = self.server.endpoint
        return endpoint.url.replace("//", f"//{endpoint.user}:{endpoint.password}@")

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run it there."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    def answer(self, subject: str, answer: Callable[[Any], object]) -> None:
        """Play a service: each request's JSON is answered by what ``answer`` makes of it."""

        async def reply(msg: Msg) -> None:
            await msg.respond(msgspec.json.encode(answer(msgspec.json.decode(msg.data))))

        async def serve() -> None:
            await self.nc.subscribe(subject, cb=reply)
            await self.nc.flush()

        self.do(serve())

    def publish(self, subject: str, payload: object, **headers: str) -> None:
        """Publish bytes, or what is to be JSON."""

        async def publish() -> None:
            data = payload if isinstance(payload, bytes) else msgspec.json.encode(payload)
            await self.nc.publish(subject, data, headers=headers or None)
            await self.nc.flush()

        self.do(publish())

    def put_runs(self, *records: RunRecord) -> None:
        """Put records into the runs' bucket, as the projector does."""

        async def put() -> None:
            for record in records:
                await self.nc.publish(f"$KV.trainshed_runs.{record.run_id}", msgspec.json.encode(record))
            await self.nc.flush()

        self.do(put())

    def prepare(self) -> None:
        """Make the streams and buckets, as the services do when they start."""
        self.do(ensure_streams(self.nc))

    def restart(self) -> None:
        """End the server and start it again."""
        self.do(self.server.restart())

    def close(self) -> None:
        """End all of it."""
        self.do(self.server.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _start(self, folder: Path) -> NatsServer:
        server = NatsServer(folder)
        await server.embedded.start()
        return server
