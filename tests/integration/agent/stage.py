"""A stage for the agent: a real nats-server, real processes, and a test that plays gateway and dispatcher."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from events.codec import StoredEvent, Writer, uuid7
from events.feed import api_call
from events.log import EventLog, Guard
from events.streams import ensure_streams
from events.types import (
    AttemptEnd,
    AttemptRef,
    Device,
    Dispatched,
    Elected,
    Event,
    NodeJoined,
    NodeLost,
    SchedulerInfo,
    Stopping,
    View,
    Why,
)
from services.agent.agent import AgentService
from services.agent.machine.inventory import Inventory
from tests.support import NatsServer, eventually
from trainshed_client import subjects
from trainshed_client.nats_client import SafeClient
from trainshed_client.subjects import Role

E = TypeVar("E", bound=Event)
NODE = "gpu01"
SEES_ALL = 2**40


def run_id(number: int) -> str:
    """A well-formed run id."""
    digits = "abcdefghijklmnopqrstuvwxyz234567"
    text = ""
    for _ in range(26):
        text += digits[number % 32]
        number //= 32
    return text


def python(script: str, **launch: Any) -> dict[str, Any]:
    """A launch of a Python one-liner."""
    return {"entry_point": sys.executable, "arguments": ["-c", script], **launch}


class Stage:
    """The control side of one node, played by the test; `agent` runs agents on the stage."""

    def __init__(self, server: NatsServer, nc: SafeClient, log_id: str, root: Path) -> None:
        self.server = server
        self.nc = nc
        self.log_id = log_id
        self.log = EventLog(nc)
        self.root = root
        self.runs_dir = root / "runs"
        self.writer = Writer(Role.DISPATCHER, time.time_ns)
        self.epoch = 0

    @classmethod
    async def set_up(cls, server: NatsServer, root: Path) -> Stage:
        nc = await server.client("stage")
        stage = cls(server, nc, await ensure_streams(nc), root)
        elected = Elected(name="test", scheduler=SchedulerInfo(name="test", version=1))
        stage.epoch = await stage.append(elected)
        return stage

    async def append(self, event: Event, guard: Guard | None = None) -> int:
        """Append a dispatcher's event."""
        return (await self.log.append(self.writer.new(event), guard)).seq

    @asynccontextmanager
    async def agent(
        self, *, state_dir: Path | None = None, joins: bool = True, consumer: bool = True, **options: Any
    ) -> AsyncIterator[Running]:
        """An agent that runs until the block ends (or `Running.kill`); joined, and with its push consumer."""
        nc = await self.server.client("agent")
        agent = AgentService(
            nc,
            state_dir=state_dir or self.root / "node",
            runs_dir=self.runs_dir,
            node=options.pop("node", NODE),
            inventory=options.pop("inventory", inventory()),
            **options,
        )
        running = Running(agent, nc, asyncio.create_task(agent.run()))
        try:
            if joins:
                ready = asyncio.create_task(agent.ready.wait())
                await asyncio.wait({ready, running.task}, timeout=10, return_when="FIRST_COMPLETED")
                ready.cancel()
                if running.task.done():
                    running.task.result()
                assert agent.ready.is_set(), "the agent did not join in 10 s"
                if consumer:
                    await self.push_consumer()
            yield running
        finally:
            agent.stop()
            if not running.task.done():
                await asyncio.wait({running.task}, timeout=10)
                running.task.cancel()
            await asyncio.gather(running.task, return_exceptions=True)
            await nc.close()

    async def push_consumer(self, node: str = NODE) -> None:
        """The node's durable push consumer, from its last NodeJoined on (docs/protocol.md rule 10)."""
        joined = await self.log.last(subjects.node_event(node, Role.AGENT, "node_joined"))
        assert joined is not None
        consumers = await api_call(self.nc, f"CONSUMER.NAMES.{subjects.EVENTS_STREAM}")
        if node in (consumers.get("consumers") or ()):
            return
        config = {
            "durable_name": node,
            "deliver_subject": subjects.push_delivery(node),
            "filter_subject": subjects.pushed_to(node),
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": joined.seq,
            "ack_policy": "explicit",
            "ack_wait": 1_000_000_000,
            "max_deliver": -1,
            "max_ack_pending": 1,
        }
        await api_call(
            self.nc,
            f"CONSUMER.CREATE.{subjects.EVENTS_STREAM}.{node}.{subjects.pushed_to(node)}",
            {"stream_name": subjects.EVENTS_STREAM, "config": config},
        )

    async def deliver_all_again(self, node: str = NODE) -> None:
        """Have every decision since the node's join delivered again, as a new consumer does, and taken."""
        await api_call(self.nc, f"CONSUMER.DELETE.{subjects.EVENTS_STREAM}.{node}")
        await self.push_consumer(node)

        async def taken() -> bool:
            return await self.unacknowledged(node) == 0

        await eventually(taken)

    async def unacknowledged(self, node: str = NODE) -> int:
        """Decisions that the node has not acknowledged, those on their way included."""
        info = await api_call(self.nc, f"CONSUMER.INFO.{subjects.EVENTS_STREAM}.{node}")
        return int(info["num_ack_pending"]) + int(info["num_pending"])

    async def incarnation(self, node: str = NODE) -> str:
        """Of the node's last NodeJoined."""
        joined = await self.last(NodeJoined, node=node)
        return joined.incarnation

    def dispatched(
        self,
        ref: AttemptRef,
        launch: dict[str, Any],
        *,
        incarnation: str,
        slots: tuple[int, ...] = (),
        seen: int = SEES_ALL,
    ) -> Dispatched:
        """A grant; ``seen`` is the last sequence that it rests on."""
        return Dispatched(
            run_id=ref.run_id,
            attempt=ref.attempt,
            epoch=self.epoch,
            node=NODE,
            incarnation=incarnation,
            slots=slots,
            cpus=1,
            memory_mb=0,
            launch=msgspec.Raw(msgspec.json.encode(launch)),
            view=View(seq=seen, now="2026-01-01T00:00:00.000000Z"),
            why=Why(free=1),
        )

    async def dispatch(
        self,
        ref: AttemptRef,
        launch: dict[str, Any],
        *,
        slots: tuple[int, ...] = (),
        incarnation: str | None = None,
        seen: int = SEES_ALL,
    ) -> int:
        """Grant an attempt to the node."""
        incarnation = incarnation or await self.incarnation()
        return await self.append(
            self.dispatched(ref, launch, incarnation=incarnation, slots=slots, seen=seen)
        )

    async def order_stop(
        self, ref: AttemptRef, reason: str = "cancel", incarnation: str | None = None
    ) -> int:
        """Append a Stopping."""
        return await self.append(
            Stopping(
                run_id=ref.run_id,
                attempt=ref.attempt,
                epoch=self.epoch,
                node=NODE,
                incarnation=incarnation or await self.incarnation(),
                reason=reason,
            )
        )

    async def count_lost(self) -> int:
        """Append a NodeLost."""
        incarnation = await self.incarnation()
        return await self.append(
            NodeLost(node=NODE, incarnation=incarnation, epoch=self.epoch, silent_s=15.0)
        )

    async def events(self, of: str | None = None) -> list[StoredEvent]:
        """What the log holds, of one run or all."""
        filters = (subjects.run_events(of),) if of else (subjects.ALL_EVENTS,)
        return [event async for event in self.log.read(filters) if isinstance(event, StoredEvent)]

    async def words(self, ref: AttemptRef) -> list[str]:
        """What the agent has said of an attempt, as event names in their order."""
        return [
            stored.subject.type
            for stored in await self.events(ref.run_id)
            if stored.subject.role == Role.AGENT and getattr(stored.event, "attempt", 0) == ref.attempt
        ]

    async def last(self, kind: type[E], *, node: str = NODE, within: float = 5.0) -> E:
        """The last event of a kind about the node."""

        async def look() -> StoredEvent | None:
            found = [e for e in await self.events() if isinstance(e.event, kind) and e.subject.node == node]
            return found[-1] if found else None

        stored = await eventually(look, within)
        assert stored is not None and isinstance(stored.event, kind)
        return stored.event

    async def told(self, ref: AttemptRef, kind: type[E], within: float = 15.0) -> E:
        """The agent's word of this kind on the attempt, once it is there."""

        async def look() -> StoredEvent | None:
            for stored in await self.events(ref.run_id):
                event = stored.event
                if isinstance(event, kind) and getattr(event, "attempt", 0) == ref.attempt:
                    return stored
            return None

        stored = await eventually(look, within)
        assert stored is not None and isinstance(stored.event, kind)
        return stored.event

    async def ended(self, ref: AttemptRef, within: float = 20.0) -> AttemptEnd:
        """The attempt's end, once it is there."""
        return await self.told(ref, AttemptEnd, within)


class Running:
    """One agent's process, played by a task."""

    def __init__(self, agent: AgentService, nc: SafeClient, task: asyncio.Task[None]) -> None:
        self.agent = agent
        self.nc = nc
        self.task = task

    async def kill(self) -> None:
        """End it without a word, as a crash does; its workers and shims live on."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.nc.close()


def inventory(slots: int = 2) -> Inventory:
    """Declared slots without devices."""
    return Inventory(cpus=4, memory_mb=4096, gpus=tuple(Device(index=index) for index in range(slots)))


def new_ref(number: int = 1, attempt: int = 1) -> AttemptRef:
    """The attempt of a run that the test makes up."""
    return AttemptRef(run_id(number), attempt)


def new_id() -> str:
    """An incarnation of somebody else."""
    return uuid7()
