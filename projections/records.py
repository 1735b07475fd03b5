"""The record buckets: after each commit the changed records, for whoever watches; filled again when they were lost.

Owns what is in the buckets (the slots of `slot.list`, the nodes of `node.list`, the live runs and the last 1,000 that ended, the queue)
and how it gets there; builds no record. Puts are sent ahead and their acknowledgements counted; what is lost is made good by filling again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

import msgspec
import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from events.feed import ApiError, api_call
from events.streams import ensure_buckets
from projections.queries.answers import LAST_ENDED
from projections.read_model.changed import Applied
from trainshed_client import subjects
from trainshed_client.nats_client import SafeClient
from trainshed_client.os_errors import cause

_log = logging.getLogger("trainshed.records")

RUNS = f"$KV.{subjects.RUNS_BUCKET}"
SLOTS = f"$KV.{subjects.SLOTS_BUCKET}"
NODES = f"$KV.{subjects.NODES_BUCKET}"
QUEUE = f"$KV.{subjects.QUEUE_BUCKET}.{subjects.QUEUE_KEY}"
PURGED = {"KV-Operation": "PURGE", "Nats-Rollup": "sub", "Nats-TTL": "600s"}
"""A key leaves with a marker, which leaves by itself after ten minutes."""
AGAIN_AFTER_S = 2.0
FLUSH_EVERY = 500


class Filling(msgspec.Struct, frozen=True):
    """What the buckets should hold: (run id, record), oldest ended first, (node, index, record), and (node, record)."""

    live: list[tuple[str, bytes]]
    ended: list[tuple[str, bytes]]
    slots: list[tuple[str, int, bytes]]
    nodes: list[tuple[str, bytes]]

    @property
    def records(self) -> dict[str, list[tuple[str, bytes]]]:
        """By bucket: (subject, record)."""
        return {
            subjects.RUNS_BUCKET: [
                (f"{RUNS}.{run_id}", record) for run_id, record in (*self.live, *self.ended)
            ],
            subjects.SLOTS_BUCKET: [
                (f"{SLOTS}.{node}.{index}", record) for node, index, record in self.slots
            ],
            subjects.NODES_BUCKET: [(f"{NODES}.{node}", record) for node, record in self.nodes],
        }


class Puts:
    """What is put of each commit, where the runs ``ended``, oldest first, are in the bucket beside the live ones. Pure."""

    def __init__(self, ended: Iterable[str] = ()) -> None:
        self._ended = dict.fromkeys(ended)

    def of(self, applied: Applied) -> Iterator[tuple[str, bytes | None]]:
        """(subject, record); None: the key leaves."""
        for run in applied.runs:
            self._ended.pop(run.run_id, None)
            if not run.live:
                self._ended[run.run_id] = None
            yield f"{RUNS}.{run.run_id}", run.record
        while len(self._ended) > LAST_ENDED:
            oldest = next(iter(self._ended))
            del self._ended[oldest]
            yield f"{RUNS}.{oldest}", None
        for slot in applied.slots:
            yield f"{SLOTS}.{slot.node}.{slot.index}", slot.record
        for node in applied.nodes:
            yield f"{NODES}.{node.node}", node.record


class RecordBuckets:
    """The buckets of one stack; an async context manager. Its calls must come one after the other.

    ``lost`` is set when the buckets have to be filled again.
    """

    def __init__(self, nc: SafeClient, *, replicas: int = 1) -> None:
        self._nc = nc
        self._replicas = replicas
        self.lost = asyncio.Event()
        self._puts = Puts()
        self._inbox = nc.new_inbox()
        self._subscriptions: list[Subscription] = []
        self._generation = 0
        self._unacknowledged = 0
        self._made: tuple[str, ...] = ()
        self._again: asyncio.TimerHandle | None = None
        self._queue: bytes | None = None

    async def __aenter__(self) -> Self:
        self._subscriptions.append(
            await self._nc.subscribe(
                f"{self._inbox}.*", cb=self._acknowledged, pending_msgs_limit=-1, pending_bytes_limit=-1
            )
        )
        if self._replicas > 1:
            for bucket in subjects.BUCKETS:
                leader = await self._nc.listen(subjects.leader_elected(f"KV_{bucket}"), self._another_leader)
                self._subscriptions.append(leader)
        self._nc.reconnect_hooks.add(self.lost.set)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._nc.reconnect_hooks.discard(self.lost.set)
        if self._again is not None:
            self._again.cancel()
        subscriptions, self._subscriptions = self._subscriptions, []
        for subscription in () if self._nc.is_closed else subscriptions:
            try:
                await subscription.unsubscribe()
            except nats.errors.Error as closing:
                _log.debug("unsubscribe: %s", closing)

    def _another_leader(self, _: Msg) -> None:
        """What the one before it stored last, it may have republished to nobody: all is put again."""
        self.lost.set()

    async def put(self, applied: Applied) -> None:
        """Put the records that a commit changed. What cannot be sent is made good by the next filling."""
        try:
            for subject, record in self._puts.of(applied):
                await self._send(subject, record)
        except nats.errors.Error as error:
            self._failed(str(error))

    async def put_queue(self, record: bytes) -> None:
        """Put the queue's record; as `put`."""
        self._queue = record
        try:
            await self._send(QUEUE, record)
        except nats.errors.Error as error:
            self._failed(str(error))

    def fill_again(self) -> None:
        """What is in them is not what it should be."""
        self._made = ()
        self.lost.set()

    async def are_whole(self) -> bool:
        """True where the buckets are those last filled and all that was put since is in them."""
        return bool(self._made) and not self._unacknowledged and await self._identity() == self._made

    async def fill(self, filling: Filling) -> None:
        """Make the buckets if they are gone, put everything, and take out what no longer belongs there."""
        try:
            await ensure_buckets(self._nc, replicas=self._replicas)
            self._generation += 1
            self._unacknowledged = 0
            self._puts = Puts(run_id for run_id, _ in filling.ended)
            for bucket, records in filling.records.items():
                await self._fill(bucket, records)
            if self._queue is not None:
                await self._send(QUEUE, self._queue)
            self._made = await self._identity()
        except (TimeoutError, ApiError, nats.errors.Error) as error:
            self._failed(cause(error))

    async def _fill(self, bucket: str, records: Iterable[tuple[str, bytes]]) -> None:
        info = await api_call(self._nc, f"STREAM.INFO.KV_{bucket}", {"subjects_filter": f"$KV.{bucket}.>"})
        there = set(info["state"].get("subjects") or ())
        for place, (subject, record) in enumerate(records, 1):
            there.discard(subject)
            await self._send(subject, record)
            if place % FLUSH_EVERY == 0:
                await self._nc.flush()  # as fast as the server takes them, and no faster
        for subject in sorted(there):
            await self._send(subject, None)

    async def _identity(self) -> tuple[str, ...]:
        """When the buckets were made: memory does not outlive a server, so another time means other buckets. On a cluster the
        time stays, and another leader, or one elected again, may have less, or have told nobody of the last puts."""
        infos = [await api_call(self._nc, f"STREAM.INFO.KV_{bucket}") for bucket in subjects.BUCKETS]
        clusters = [info.get("cluster") or {} for info in infos]
        return tuple(
            f"{info['created']} {cluster.get('leader', '')} {cluster.get('leader_since', '')}"
            for info, cluster in zip(infos, clusters, strict=True)
        )

    async def _send(self, subject: str, record: bytes | None) -> None:
        reply = f"{self._inbox}.{self._generation}"
        self._unacknowledged += 1
        if record is None:
            await self._nc.publish(subject, b"", reply=reply, headers=dict(PURGED))
        else:
            await self._nc.publish(subject, record, reply=reply)

    async def _acknowledged(self, msg: Msg) -> None:
        if msg.subject.rpartition(".")[2] != str(self._generation):
            return
        self._unacknowledged -= 1
        if (msg.headers or {}).get("Status") == "503":
            self._failed("no bucket answers")
            return
        try:
            error = msgspec.json.decode(msg.data, type=_PutAck).error
        except msgspec.MsgspecError as unreadable:
            self._failed(str(unreadable))
            return
        if error is not None:
            self._failed(error.description)

    def _failed(self, why: str) -> None:
        """Fill again, after a while: a full or absent bucket is not stormed."""
        self._made = ()
        if self._again is None or self._again.when() <= asyncio.get_running_loop().time():
            _log.warning(
                "a record could not be put (%s): the buckets are filled again in %g s", why, AGAIN_AFTER_S
            )
            self._again = asyncio.get_running_loop().call_later(AGAIN_AFTER_S, self.lost.set)


class _PutError(msgspec.Struct):
    description: str = ""


class _PutAck(msgspec.Struct):
    error: _PutError | None = None
