"""The agent's heartbeats: that the node is alive and how its devices do, and what its workers reported.

Owns their pace, guards and sequences (docs/contracts/events.md, "Heartbeats": 5 s a node, 1 s a run); knows no process and no file.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable

import msgspec
import nats.errors

from events.codec import Writer, decode_heartbeat, event_id
from events.log import Conflict, Guard, Refused, UnknownOutcome, last_message, publish
from events.times import rfc3339
from events.types import (
    AttemptRef,
    GpuReading,
    NodeCosignature,
    NodeHeartbeat,
    NodeObjection,
    RunHeartbeat,
    WorkerReport,
)
from services.agent.machine.gpus import GpuSample
from services.logging import get_logger
from trainshed_client import subjects
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.nats_client import SafeClient
from trainshed_client.rendering.ago import ago

_log = get_logger("agent")

NODE_EVERY_S = 5.0
RUN_EVERY_S = 1.0
ALIVE_EVERY_S = 30.0
"""A worker whose being alive is all that it shows (`heartbeat.source` process): so often."""
OUTPUT_EVERY_S = 5.0
_REMEMBERED_IDS = 50

Sample = Callable[[], Awaitable[list[GpuSample]]]


class NodeHeartbeats:
    """Publishes every 5 s that the node is alive, each against the sequence of the one before (docs/protocol.md rule 11)."""

    def __init__(self, nc: SafeClient, writer: Writer, node: str, incarnation: str) -> None:
        self._nc = nc
        self._writer = writer
        self._node = node
        self._incarnation = incarnation
        self._subject = subjects.node_heartbeat(node)
        self._seq: int | None = None
        self._stored_one = False
        self._now = asyncio.Event()
        self._sent: deque[str] = deque(maxlen=_REMEMBERED_IDS)

    async def last_heard(self, now_ns: int) -> str | None:
        """How long ago the name's last heartbeat was stored, in words; None where there is none or no answer."""
        with contextlib.suppress(UnknownOutcome):
            found = await last_message(self._nc, subjects.HEARTBEATS_STREAM, self._subject)
            if found is not None:
                return ago((now_ns - found.stored_ns) / 1e9)
        return None

    def soon(self) -> None:
        """The next one goes out now: there is something to say."""
        self._now.set()

    async def run(
        self,
        readings: Callable[[], tuple[GpuReading, ...]],
        disk_free_mb: Callable[[], int | None],
        witnessed: Callable[[], tuple[NodeCosignature | None, NodeObjection | None]],
    ) -> None:
        """Heartbeats until cancelled. Raises TrainshedError (CONFLICT) where another speaks for this node."""
        while True:
            begun = time.monotonic()
            self._now.clear()
            cosignature, objection = witnessed()
            await self._publish(
                NodeHeartbeat(
                    node=self._node,
                    incarnation=self._incarnation,
                    gpus=readings(),
                    disk_free_mb=disk_free_mb(),
                    cosignature=cosignature,
                    objection=objection,
                )
            )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, NODE_EVERY_S - (time.monotonic() - begun))):
                    await self._now.wait()

    async def _publish(self, heartbeat: NodeHeartbeat) -> None:
        subject, id_, body = self._writer.heartbeat(heartbeat)
        try:
            if self._seq is None:
                await self._read()
            self._sent.append(id_)
            for _ in range(3):
                try:
                    stored = await publish(self._nc, subject, id_, body, Guard(subject, self._seq or 0))
                    self._seq, self._stored_one = stored.seq, True
                    return
                except Conflict:
                    await self._read()
        except UnknownOutcome:
            pass  # the next one says the same; a silent node is the dispatcher's to judge
        except Refused as error:
            _log.warning("the heartbeat stream takes nothing", error=error.message)

    async def _read(self) -> None:
        """What stands there: the guard of the next heartbeat, unless it is another's."""
        found = await last_message(self._nc, subjects.HEARTBEATS_STREAM, self._subject)
        self._seq = 0 if found is None else found.seq
        if found is None or event_id(found.body) in self._sent:
            return
        heartbeat = decode_heartbeat(found.subject, found.body)
        theirs = heartbeat.incarnation if isinstance(heartbeat, NodeHeartbeat) else "unknown"
        # Before the first own one it is an earlier session's; after it only another agent can have spoken.
        if self._stored_one:
            raise TrainshedError(
                ErrorCode.CONFLICT,
                f"another agent speaks for node {self._node} (incarnation {theirs}, this one is {self._incarnation}). "
                "Two agents must not share a name or a copied state folder: stop one of them, and give it a node name "
                "and a state folder of its own",
            )


class RunHeartbeats:
    """One run's heartbeats: what was reported, at most one a second, and nothing where nothing new was."""

    def __init__(
        self,
        nc: SafeClient,
        writer: Writer,
        ref: AttemptRef,
        *,
        alive_counts: bool,
        clock: Callable[[], int],
    ) -> None:
        self._nc = nc
        self._writer = writer
        self._ref = ref
        self._alive_counts = alive_counts
        self._clock = clock
        self._report = WorkerReport()
        self._new = asyncio.Event()
        self.stored: WorkerReport | None = None
        """The last that was stored."""
        self.seq = 0
        """Its sequence; 0: none was."""

    def report(self, report: WorkerReport) -> None:
        """All that the worker reported so far. What it printed is no sign of life; that it is there may be one."""
        times = [report.last_heartbeat_at, self._report.last_heartbeat_at]
        if self._alive_counts:
            times.append(rfc3339(self._clock()))
        at = max((time for time in times if time is not None), default=None)
        self._report = msgspec.structs.replace(report, last_heartbeat_at=at)
        self._new.set()

    def seen(self) -> None:
        """A sign of life that says nothing else (a line of output)."""
        self._report = msgspec.structs.replace(self._report, last_heartbeat_at=rfc3339(self._clock()))
        self._new.set()

    async def run(self) -> None:
        """Heartbeats until cancelled.

        The first sign of a worker that is only alive goes out after a second: most that end sooner are counted in
        hundreds, and their end says it all.
        """
        first = True
        while True:
            if self._alive_counts:
                await self._await_news(RUN_EVERY_S if first else ALIVE_EVERY_S)
            else:
                await self._new.wait()
            first = False
            if not self._new.is_set():
                self.seen()
            self._new.clear()
            await self._publish()
            await asyncio.sleep(RUN_EVERY_S)

    async def _await_news(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._new.wait()

    async def _publish(self) -> None:
        report = self._report
        heartbeat = RunHeartbeat(
            run_id=self._ref.run_id, attempt=self._ref.attempt, **msgspec.structs.asdict(report)
        )
        try:
            subject, id_, body = self._writer.heartbeat(heartbeat)
            self.seq = (await publish(self._nc, subject, id_, body)).seq
            self.stored = report
        except (UnknownOutcome, Refused, nats.errors.Error):
            pass  # the next one carries all of it
