"""A real nats-server of its own for each test, as `trainshed up` starts it."""

from __future__ import annotations

import contextlib
from pathlib import Path

from services.access.local_realm import Unconfined
from services.nats_server.embedded_nats import EmbeddedNats
from services.nats_server.web_socket import WebSocketOptions
from trainshed_client.endpoint import Endpoint
from trainshed_client.nats_client import SafeClient, connect


class NatsServer:
    """One embedded nats-server on a state folder; `client` makes connections that end with the test."""

    def __init__(self, state_dir: Path, *, web_socket: WebSocketOptions | None = None) -> None:
        self.state_dir = state_dir
        self.embedded = EmbeddedNats(state_dir, Unconfined(), web_socket=web_socket)
        self._clients: list[SafeClient] = []

    @property
    def endpoint(self) -> Endpoint:
        """Where it listens, with credentials."""
        return self.embedded.endpoint

    @property
    def pid(self) -> int:
        """Its process id; it must run."""
        pid = self.embedded.pid
        assert pid is not None, "nats-server does not run"
        return pid

    async def client(self, name: str = "test") -> SafeClient:
        """A new connection, closed when the test ends."""
        client = await connect(self.endpoint, name=name)
        self._clients.append(client)
        return client

    async def restart(self) -> None:
        """End it and start it again on the same store, ports and password."""
        await self.embedded.stop()
        await self.embedded.start()

    async def close(self) -> None:
        """End connections and server."""
        for client in self._clients:
            with contextlib.suppress(Exception):
                await client.close()
        await self.embedded.stop()
