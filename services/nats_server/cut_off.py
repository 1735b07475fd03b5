"""The connections that the server cut off because they read too slowly, or no longer at all: each is named once.

Owns how that is seen on the server's monitoring pages; knows neither who listened there nor what for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import NoReturn, TypeVar

import msgspec

from services.nats_server.monitor import ASK_WITHIN_S, get

_log = logging.getLogger("trainshed.watchers")

LOOK_EVERY_S = 5.0
"""A server is asked for two counts so often, and for more where these have changed."""
_CLOSED = "/connz?state=closed&sort=stop&limit=1000"
_WHY = {"Slow Consumer": "it read too slowly", "Stale Connection": "it answered no more"}

T = TypeVar("T")


class CutOff(msgspec.Struct, frozen=True, kw_only=True):
    """A connection that was cut off, as ``/connz`` has it: ``pending_bytes`` were not read yet."""

    cid: int
    reason: str = ""
    name: str = ""
    ip: str = ""
    port: int = 0
    pending_bytes: int = 0

    @property
    def why(self) -> str | None:
        """That in words; None where it ended otherwise."""
        return next((text for begin, text in _WHY.items() if self.reason.startswith(begin)), None)

    @property
    def text(self) -> str:
        """One line for people."""
        return (
            f"the server cut off {self.name or 'a connection without a name'} at {self.ip}:{self.port}, as {self.why}: "
            f"{self.pending_bytes:,} bytes were pending for it. It misses nothing that it reads anew when it is back"
        )


class CutCounts(msgspec.Struct, frozen=True):
    """How many a server has cut off since it was started."""

    server_id: str
    slow_consumers: int = 0
    stale_connections: int = 0


class ClosedConnections(msgspec.Struct, frozen=True):
    """The last that were closed, newest first."""

    server_id: str
    connections: list[CutOff] = []


class CutOffLog:
    """Names each once: those of the server at ``monitor_url`` that are cut off from when this is first called on."""

    def __init__(self, monitor_url: str, *, report: Callable[[str], None] = _log.warning) -> None:
        self._url = monitor_url
        self._report = report
        self._counts: CutCounts | None = None
        self._known: tuple[str, frozenset[int]] = ("", frozenset())

    async def run(self) -> NoReturn:
        """Look again and again, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Name those that are new. Where no answer comes, the next look has them."""
        counts = await self._page("/varz", CutCounts)
        if counts is None or counts == self._counts:
            return
        closed = await self._page(_CLOSED, ClosedConnections)
        if closed is None or closed.server_id != counts.server_id:
            return
        cut = {one.cid: one for one in reversed(closed.connections) if one.why is not None}
        server_id, known = self._known
        if server_id != closed.server_id:
            known = frozenset()
        for cid, one in cut.items():
            if cid not in known and self._counts is not None:
                self._report(one.text)
        self._counts, self._known = counts, (closed.server_id, frozenset(cut))

    async def _page(self, path: str, type_: type[T]) -> T | None:
        answer = await get(self._url, path, within_s=ASK_WITHIN_S)
        if answer is None or answer[0] != 200:
            return None
        try:
            return msgspec.json.decode(answer[1], type=type_)
        except msgspec.MsgspecError as unreadable:
            _log.debug("%s%s: %s", self._url, path, unreadable)
            return None
