"""The watches of one connection: what is made for each kind of record, and that all of them end with it.

Owns which source a kind has, over NATS and inside a worker; imports what a watch needs only once there is one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, TypeVar

from trainshed_client.errors import ErrorCode, TrainshedError

if TYPE_CHECKING:
    from trainshed_client.asking import Asking
    from trainshed_client.connection import Connection
    from trainshed_client.nats_connection import NatsConnection
    from trainshed_client.records import NodeRecord, QueueRecord, RunRecord, SlotRecord
    from trainshed_client.watching.kinds import RecordKind
    from trainshed_client.watching.watch import RecordSource, RecordWatch

R = TypeVar("R")


class Watches:
    """Makes watches, and ends with `close` those that are still open."""

    def __init__(self, connection: Connection, asking: Asking) -> None:
        self._connection = connection
        self._asking = asking
        self._open: set[RecordWatch[Any]] = set()

    async def close(self) -> None:
        """End every watch."""
        for watch in tuple(self._open):
            await watch.close()

    def runs(
        self,
        run_ids: Collection[str] | None,
        *,
        since_seq: int = 0,
        wake: asyncio.Event | None = None,
        patient: bool = False,
    ) -> RecordWatch[RunRecord]:
        """Of these runs (None: of all). ``wake`` and ``patient``: see RecordWatch."""
        from trainshed_client.watching.buckets import RunBucket
        from trainshed_client.watching.kinds import RUNS
        from trainshed_client.watching.present_runs import AskedRuns, PresentRuns

        present = PresentRuns(self._asking)
        source: RecordSource[RunRecord]
        if run_ids is None and (connection := self._nats()) is not None:
            source = RunBucket(connection, present)
        else:
            source = AskedRuns(self._connection, present, run_ids)
        return self._watch(source, RUNS, since_seq=since_seq, wake=wake, patient=patient)

    def slots(self) -> RecordWatch[SlotRecord]:
        """Of every slot."""
        from trainshed_client.answers import SlotPage
        from trainshed_client.watching.buckets import MemberBucket
        from trainshed_client.watching.kinds import SLOTS

        async def listed() -> set[str]:
            page = await self._asking.ask("slot.list", {}, SlotPage)
            return {f"{slot.node}.{slot.index}" for slot in page.slots}

        return self._watch(MemberBucket(self.nats("slots"), SLOTS, listed), SLOTS)

    def nodes(self) -> RecordWatch[NodeRecord]:
        """Of every node."""
        from trainshed_client.answers import NodePage
        from trainshed_client.watching.buckets import MemberBucket
        from trainshed_client.watching.kinds import NODES

        async def listed() -> set[str]:
            return {node.node for node in (await self._asking.ask("node.list", {}, NodePage)).nodes}

        return self._watch(MemberBucket(self.nats("nodes"), NODES, listed), NODES)

    def queue(self) -> RecordWatch[QueueRecord]:
        """Of the queue."""
        from trainshed_client.watching.buckets import BucketSource
        from trainshed_client.watching.kinds import QUEUE

        return self._watch(BucketSource(self.nats("the queue"), QUEUE), QUEUE)

    def _watch(self, source: RecordSource[R], kind: RecordKind[R], **options: Any) -> RecordWatch[R]:
        from trainshed_client.watching.watch import RecordWatch

        return RecordWatch(source, kind.age, opened=self._open, **options)

    def nats(self, what: str) -> NatsConnection:
        """The connection, where it is one to NATS. Raises DENIED inside a worker, for ``what`` cannot be read there."""
        connection = self._nats()
        if connection is None:
            raise TrainshedError(
                ErrorCode.DENIED,
                f"inside a worker there are the runs that it submitted, and {what} cannot be read; to reach all of the "
                "stack name it: --nats URL",
            )
        return connection

    def _nats(self) -> NatsConnection | None:
        from trainshed_client.worker_socket import WorkerSocket

        if isinstance(self._connection, WorkerSocket):
            return None
        from trainshed_client.nats_connection import NatsConnection  # costs 0.1 s: not inside a worker

        return self._connection if isinstance(self._connection, NatsConnection) else None
