"""Whether a process shows how it does, and if so on which address: the one place that services are told of it.

Owns the switch (TRAINSHED_HTTP_LISTEN) and readiness; what is measured is services.observe.metrics', loaded only if asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Self

from events.log import EventLog
from services.lifecycle import Service
from services.setting_values import Listen
from services.settings import Settings
from trainshed_client.nats_client import SafeClient

if TYPE_CHECKING:
    from services.agent.agent import AgentService
    from services.fold import SharedFold
    from services.observe.health import HealthServer
    from services.observe.metrics import Metrics
    from services.projector.service import ProjectorService


class Observer:
    """Watches a process for whoever asks over HTTP; an async context manager that serves meanwhile.

    Without an address every call does nothing, and nothing of it is loaded.
    """

    def __init__(self, name: str, listen: Listen | None) -> None:
        self._name = name
        self._listen = listen
        self._metrics: Metrics | None = None
        self._server: HealthServer | None = None
        self._serving: asyncio.Task[None] | None = None
        self._connections: list[SafeClient] = []
        self._services: Sequence[Service] | None = None
        self._fold: SharedFold | None = None

    @property
    def port(self) -> int | None:
        """The port that it serves on."""
        return self._server.port if self._server is not None else None

    async def __aenter__(self) -> Self:
        """Serve. Raises TrainshedError where the address cannot be had."""
        if self._listen is None:
            return self
        from services.observe.health import HealthServer
        from services.observe.metrics import Metrics

        self._metrics = Metrics(self._name)
        self._server = HealthServer(self._listen, self.lacking, self._metrics.page)
        self._serving = asyncio.create_task(self._server.run(), name="http")
        ready = asyncio.create_task(self._server.ready.wait())
        await asyncio.wait({ready, self._serving}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if self._serving.done():
            self._serving.result()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None and self._serving is not None:
            self._server.stop()
            await self._serving

    def lacking(self) -> list[str]:
        """What keeps the process from serving; empty where it serves."""
        if not self._connections:
            return ["no connection to the NATS server yet"]
        missing = (
            []
            if all(nc.is_connected for nc in self._connections)
            else ["the connection to the NATS server is lost"]
        )
        if self._services is None:
            return [*missing, "starting"]
        return missing + [self._lacks(service) for service in self._services if not service.ready.is_set()]

    def _lacks(self, service: Service) -> str:
        progress = self._fold.progress if self._fold is service and self._fold is not None else None
        how_far = f" (starting: {progress.text})" if progress is not None and progress.events else ""
        return f"{service.name} is not ready{how_far}"

    # --- what is watched ----------------------------------------------------------------------------------

    def connection(self, nc: SafeClient) -> None:
        """A connection of the process."""
        self._connections.append(nc)
        if self._metrics is not None:
            self._metrics.connection(nc)

    def log(self, nc: SafeClient) -> EventLog:
        """The log as the process appends to it."""
        return EventLog(nc) if self._metrics is None else self._metrics.log(nc)

    def fold(self, fold: SharedFold) -> None:
        """The fold of a dispatcher."""
        self._fold = fold
        if self._metrics is not None:
            self._metrics.dispatching(fold)

    def agent(self, agent: AgentService, slots: int) -> None:
        """The agent of a node with that many slots."""
        if self._metrics is not None:
            self._metrics.agent(agent, slots)

    async def projector(self, nc: SafeClient, projector: ProjectorService) -> None:
        """A projector, and the heartbeats that pass by."""
        if self._metrics is not None:
            await self._metrics.projector(nc, projector)

    def certificates(self, ends: Callable[[], Mapping[str, datetime]]) -> None:
        """When whose certificate expires, asked for each page."""
        if self._metrics is not None:
            self._metrics.certificates(ends)

    def services(self, services: Sequence[Service]) -> None:
        """Those that must be ready before the process is. (A dispatcher that stands by is not one.)"""
        self._services = services


def observer(name: str, settings: Settings) -> Observer:
    """The observer that the settings ask for."""
    return Observer(name, settings.http_listen)
