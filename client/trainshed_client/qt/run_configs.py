"""The configs of runs that somebody looks at, each read once: they never change.

Owns which are read, and when; lives in the loop's thread, knows no Qt.
"""

from __future__ import annotations

import asyncio

from trainshed_client.client import Trainshed
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.qt.outbox import Outbox

_RETRY_S = 1.0


class RunConfigs:
    """Puts ``config_received`` into the outbox, once a run."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._wanted: asyncio.Queue[str] | None = None

    def want(self, run_id: str) -> None:
        """Have it read soon, by `feed`."""
        if run_id not in self._known and self._wanted is not None:
            self._known.add(run_id)
            self._wanted.put_nowait(run_id)

    async def have(self, client: Trainshed, outbox: Outbox, run_id: str) -> None:
        """Read it now, so that it comes before what is put next. Raises TrainshedError."""
        if run_id not in self._known:
            self._known.add(run_id)
            try:
                outbox.put("config_received", run_id, (await client.get(run_id)).config)
            except BaseException:
                self._known.discard(run_id)
                raise

    async def feed(self, client: Trainshed, outbox: Outbox) -> None:
        """Read what is wanted, one after the other, for ever."""
        wanted: asyncio.Queue[str] = asyncio.Queue()
        self._wanted = wanted
        while True:
            run_id = await wanted.get()
            try:
                outbox.put("config_received", run_id, (await client.get(run_id)).config)
            except TrainshedError as error:
                if error.code is ErrorCode.UNAVAILABLE:
                    wanted.put_nowait(run_id)
                    await asyncio.sleep(_RETRY_S)
