"""The present records of runs as the API gives them: for runs by their ids, and where no bucket can be read.

Owns which questions that takes; knows nothing of what is handed out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from typing import TYPE_CHECKING

from trainshed_client._compat_asyncio import all_of
from trainshed_client.answers import RunPage, RunView, decode_run
from trainshed_client.records import RunRecord
from trainshed_client.watching.kinds import RUNS
from trainshed_client.watching.newest import Newest

if TYPE_CHECKING:
    from trainshed_client.asking import Asking
    from trainshed_client.connection import Connection, Watching

PAGE = 500
AT_ONCE = 16


class PresentRuns:
    """Asks for the records of runs; raises what `Trainshed.get` does."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking

    async def of(self, run_ids: Collection[str]) -> list[RunRecord]:
        """Those of these runs: of many the live ones by pages, the rest one by one."""
        found: list[RunRecord] = []
        if len(run_ids) > PAGE:
            found = [record async for record in self.live() if record.run_id in run_ids]
        left = sorted(set(run_ids).difference(record.run_id for record in found))
        at_once = asyncio.Semaphore(AT_ONCE)

        async def read(run_id: str) -> RunRecord:
            async with at_once:
                return (await self._asking.ask("run.get", {"run_id": run_id}, RunView)).run

        return found + await all_of(read(run_id) for run_id in left)

    async def live(self) -> AsyncIterator[RunRecord]:
        """Every live one."""
        request: dict[str, object] = {"live": True, "limit": PAGE}
        while True:
            page = await self._asking.ask("run.list", request, RunPage)
            for record in page.records:
                yield record
            if not page.runs:
                return
            request["before_seq"] = decode_run(page.runs[-1]).submit_seq

    async def ended(self) -> list[RunRecord]:
        """The last that ended."""
        page = await self._asking.ask("run.list", {"ended": True, "limit": PAGE}, RunPage)
        return list(page.records)


class AskedRuns:
    """See RecordSource: of these runs, or inside a worker (None) of all that it sees: live, or ended lately.

    What is asked for has every event that was acknowledged before, as a bucket's record may not: a wait that is begun after
    a retry does not end with the end before it.
    """

    def __init__(self, connection: Connection, present: PresentRuns, run_ids: Collection[str] | None) -> None:
        self._connection = connection
        self._present = present
        self._wanted = None if run_ids is None else frozenset(run_ids)

    async def listen(
        self, newest: Newest[RunRecord], changed: Callable[[], None], again: Callable[[], None]
    ) -> Watching:
        """See RecordSource."""

        def receive(run_id: str, body: bytes) -> None:
            if self._wanted is not None and run_id not in self._wanted:
                return
            if not body:  # it left the bucket, perhaps with an end that nobody heard of
                again()
                return
            record = RUNS.record(run_id, body)
            if record is not None and newest.arrived(run_id, record):
                changed()

        return await self._connection.watch_runs(self._wanted, receive, again)

    async def read(self, newest: Newest[RunRecord], *, again: bool, patient: bool) -> None:
        """See RecordSource."""
        if self._wanted is not None:
            found = await self._present.of(self._wanted)
        else:
            found = [record async for record in self._present.live()] + await self._present.ended()
        for record in found:
            newest.arrived(record.run_id, record, of_present=True)
