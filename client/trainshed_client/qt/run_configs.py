"""The configs of runs that somebody looks at, each read once: they never change.

Owns which are read, and when; lives in the loop's thread, knows no Qt.
"""

from __future__ import annotations

import asyncio

from trainshed_client.client import Trainshed
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.qt.outbox import Outbox

CONFIGS_KEPT = 5_000
"""So many a runner keeps. One that it keeps no more is read again where its run is looked at again."""
_RETRY_S = 1.0


class RunConfigs:
    """Puts ``config_received`` into the outbox, once a run."""

    def __init__(self, kept: int = CONFIGS_KEPT) -> None:
        self._kept = kept
        self._known: dict[str, bool] = {}
        """Of the last that were looked at: whether it was read already."""
        self._wanted: asyncio.Queue[str] | None = None

    def want(self, run_id: str) -> None:
        """Have it read soon, by `feed`."""
        if run_id not in self._known and self._wanted is not None:
            self._note(run_id, False)
            self._wanted.put_nowait(run_id)

    async def have(self, client: Trainshed, outbox: Outbox, run_id: str) -> None:
        """Read it now, so that it comes before what is put next. Raises TrainshedError."""
        if self._known.get(run_id):
            return
        config = (await client.get(run_id)).config
        if not self._known.get(run_id):
            self._note(run_id, True)
            outbox.put("config_received", run_id, config)

    async def feed(self, client: Trainshed, outbox: Outbox) -> None:
        """Read what is wanted, one after the other, for ever."""
        wanted: asyncio.Queue[str] = asyncio.Queue()
        self._wanted = wanted
        while True:
            run_id = await wanted.get()
            try:
                await self.have(client, outbox, run_id)
            except TrainshedError as error:
                if error.code is ErrorCode.UNAVAILABLE:
                    wanted.put_nowait(run_id)
                    await asyncio.sleep(_RETRY_S)

    def _note(self, run_id: str, is_read: bool) -> None:
        self._known[run_id] = is_read
        if len(self._known) > self._kept:
            del self._known[next(iter(self._known))]
