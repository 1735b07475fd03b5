"""What the projector that keeps the records does for who watches: puts after each commit, fills the buckets, keeps the queue,
and names who could not follow.

Owns when that is; what is in the buckets is projections/records.py's, what the queue says services/scheduling/whole_queue.py's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import nats.errors

from events.feed import ApiError
from projections.queries.answers import Queries
from projections.read_model.changed import Applied
from projections.records import Filling, RecordBuckets
from services.nats_server.cut_off import CutOffLog
from services.projector.calls import InReader
from services.projector.queue_record import KeptQueue
from services.projector.writing import Writing
from trainshed_client.nats_client import SafeClient


class KeptRecords:
    """Of one projector. What is put is put in the order of commits: by who holds the turn to write."""

    def __init__(
        self,
        nc: SafeClient,
        writing: Writing,
        queries: Queries,
        in_reader: InReader,
        clock: Callable[[], int],
        monitor_url: str | None,
        replicas: int = 1,
    ) -> None:
        self._writing = writing
        self._queries = queries
        self._in_reader = in_reader
        self._buckets = RecordBuckets(nc, replicas=replicas)
        self._queue = KeptQueue(writing, self._buckets, in_reader, clock)
        self._cut_off = None if monitor_url is None else CutOffLog(monitor_url)
        self.filled = False
        """Whether what is committed is put: before, the whole of it will be."""

    def begin(self) -> None:
        """The log is folded from where the tables stand: nothing is put until all of it is."""
        self.filled = False
        self._queue.begin()

    def caught_up(self) -> None:
        """The whole log is folded. A rebuild does not send every record again: the buckets are filled once it is."""
        if not self.filled:
            self.filled = True
            self._buckets.lost.set()
            self._queue.caught_up()

    async def folded(self, applied: Applied) -> None:
        """Put what a batch of events changed."""
        if self.filled:
            await self._buckets.put(applied)
            self._queue.note(applied)

    async def reported(self, applied: Applied) -> None:
        """Put what heartbeats changed."""
        if self.filled:
            await self._buckets.put(applied)

    def put_again(self) -> None:
        """The tables are no longer what they were."""
        self._buckets.fill_again()

    async def run(self) -> None:
        """Keep the records of a log that is being folded, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_buckets())
            tasks.create_task(self._queue.run())
            if self._cut_off is not None:
                tasks.create_task(self._cut_off.run())

    async def _keep_buckets(self) -> None:
        async with self._buckets as buckets:
            while True:
                await buckets.lost.wait()
                buckets.lost.clear()
                async with self._writing.turn:
                    if self.filled and not await self._are_whole():
                        await buckets.fill(await self._in_reader(self._filling))

    async def _are_whole(self) -> bool:
        try:
            return await self._buckets.are_whole()
        except (TimeoutError, nats.errors.Error, ApiError):
            return False

    def _filling(self) -> Filling:
        live, ended = self._queries.bucket_runs()
        return Filling(live, ended, self._queries.bucket_slots(), self._queries.bucket_nodes())
