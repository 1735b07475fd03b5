"""The two ways to follow what happens: records as they change, and a run's output as it is written.

Owns what the present is, from which a watch goes on; knows nothing of how news come.
"""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from trainshed_client._compat_asyncio import all_of
from trainshed_client._compat_asyncio import timeout as time_limit
from trainshed_client.answers import RunView
from trainshed_client.naming import is_run_id
from trainshed_client.queries import Queries

if TYPE_CHECKING:
    from trainshed_client.callbacks import Called
    from trainshed_client.follow import RunOutput
    from trainshed_client.records import RunRecord
    from trainshed_client.watch import PresentRuns, RunWatch

_READS_AT_ONCE = 16


class Following(Queries):
    """What is followed; see `trainshed_client.Trainshed`."""

    def watch(
        self,
        run_ids: Collection[str] | None = None,
        *,
        wake: asyncio.Event | None = None,
        patient: bool = False,
    ) -> RunWatch:
        """The present record of these runs (None: of every live one) and each change after it.

        ``async with trainshed.watch([run_id]) as records: async for record in records: ...``. Takes full run ids.
        Nothing is polled; of changes that come faster than you read, the newest is handed out.
        """
        from trainshed_client.watch import RunWatch

        return RunWatch(self.connection, self._present, run_ids, wake=wake, patient=patient)

    async def wait(self, runs: Collection[str], *, timeout: float | None = None) -> builtins.list[RunRecord]:
        """Wait until every one of these runs has ended; their records, in order.

        Raises TimeoutError after ``timeout`` seconds.
        """
        run_ids = [run if is_run_id(run) else (await self.resolve(run)).run_id for run in runs]
        async with time_limit(timeout), self.watch(run_ids) as records:
            left = set(run_ids)
            ended: dict[str, RunRecord] = {}
            async for record in records:
                if record.status.ended:
                    ended[record.run_id] = record
                    left.discard(record.run_id)
                if not left:
                    break
            return [ended[run_id] for run_id in run_ids]

    def output(
        self,
        run_id: str,
        *,
        first_attempt: int | None = None,
        begin: Mapping[str, int] | None = None,
        patient: bool = False,
        on_attempt: Called[[int, str]] | None = None,
        on_record: Called[[RunRecord]] | None = None,
        streams: Sequence[str] = ("stdout", "stderr"),
    ) -> RunOutput:
        """A run's output from its first byte, over all attempts from ``first_attempt`` on, until the run ends.

        ``async with trainshed.output(run_id) as output: async for chunk in output: ...``. Takes a full run id;
        without ``first_attempt`` it begins with the latest attempt. ``begin``: the bytes of each stream of that first
        attempt to pass over. ``patient``: for a run that was just submitted, wait for a projector that does not
        answer yet instead of raising UNAVAILABLE. ``on_attempt`` hears of each attempt (number, node) before its first
        byte, ``on_record`` of every change of the run meanwhile; they are plain functions or coroutine functions. ``streams``:
        ``metrics`` is one too, whose lines `trainshed_client.metrics.metrics_lines` reads.
        """
        from trainshed_client.follow import RunOutput

        return RunOutput(
            self,
            run_id,
            first_attempt=first_attempt,
            begin=begin,
            patient=patient,
            on_attempt=on_attempt,
            on_record=on_record,
            streams=streams,
        )

    async def _present(self, run_ids: Collection[str] | None) -> PresentRuns:
        from trainshed_client.watch import PresentRuns

        if run_ids is None:
            pages = [page async for page in self.list_pages(live=True)]
            return PresentRuns(pages[0].seq, [record for page in pages for record in page.records])
        at_once = asyncio.Semaphore(_READS_AT_ONCE)

        async def read(run_id: str) -> RunView:
            async with at_once:
                return await self._asking.ask("run.get", {"run_id": run_id}, RunView)

        views = await all_of(read(run_id) for run_id in sorted(run_ids))
        return PresentRuns(min((view.seq for view in views), default=0), [view.run for view in views])
