"""The control side on a real nats-server: logs, folds, gateways and dispatchers, each run as the stack runs it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from events.codec import StoredEvent, Writer, uuid7
from events.log import EventLog
from events.streams import ensure_streams
from events.types import AttemptRef, Device, Event, NodeHeartbeat, NodeJoined
from services.fold import SharedFold
from services.gateway.gateway import Gateway
from services.lifecycle import Service
from tests.support.nats import NatsServer
from trainshed_client import subjects
from trainshed_client.nats_client import SafeClient
from trainshed_client.subjects import Role


def writer(role: Role, node: str | None = None) -> Writer:
    """A writer with the real clock and ids."""
    return Writer(role, time.time_ns, uuid7, node)


async def new_log(server: NatsServer, name: str = "test", **options: Any) -> EventLog:
    """The event log over a connection of its own; its streams are made if they are not there."""
    nc = await server.client(name)
    await ensure_streams(nc)
    return EventLog(nc, **options)


async def everything(log: EventLog) -> list[StoredEvent]:
    """All events of the log."""
    return [one async for one in log.read() if isinstance(one, StoredEvent)]


@contextlib.asynccontextmanager
async def running(*services: Service) -> AsyncIterator[None]:
    """Run services in the order given until the block ends; what fails fails the test."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(service.run(), name=service.name) for service in services]
        try:
            yield
        finally:
            for service, task in reversed(list(zip(services, tasks, strict=True))):
                service.stop()
                await asyncio.wait({task}, timeout=5.0)
                task.cancel()


@contextlib.asynccontextmanager
async def gateway(
    server: NatsServer, snapshot: Path | None = None, **options: Any
) -> AsyncIterator[tuple[SharedFold, Gateway]]:
    """A gateway that serves, with its fold, on a connection of its own."""
    log = await new_log(server, "gateway")
    fold = SharedFold(log, await log.log_id(), snapshot)
    service = Gateway(log, fold, **options)
    async with running(fold, service):
        await asyncio.wait_for(service.ready.wait(), 10)
        yield fold, service


async def ask(nc: SafeClient, call: str, request: object, *, timeout: float = 20.0) -> Any:
    """A call of the API, answered."""
    body = request if isinstance(request, bytes) else msgspec.json.encode(request)
    answer = await nc.request(subjects.api(call), body, timeout=timeout)
    return msgspec.json.decode(answer.data)


def joined(
    node: str = "gpu01",
    *,
    incarnation: str = "a",
    slots: int = 2,
    cpus: int = 8,
    attempts: tuple[AttemptRef, ...] = (),
    borrowed: bool = False,
) -> NodeJoined:
    """A node's join."""
    return NodeJoined(
        node=node,
        incarnation=incarnation,
        host=f"{node}.lab",
        cpus=cpus,
        memory_mb=64_000,
        gpus=tuple(Device(index=index, uuid=f"GPU-{node}-{index}") for index in range(slots)),
        attempts=attempts,
        borrowed=borrowed,
    )


async def say(log: EventLog, role: Role, event: Event, node: str | None = None) -> int:
    """Append an event without a guard; returns its sequence."""
    return (await log.append(writer(role, node).new(event))).seq


async def beat(log: EventLog, node: str = "gpu01", incarnation: str = "a") -> None:
    """A node's heartbeat."""
    subject, _, body = writer(Role.AGENT, node).heartbeat(NodeHeartbeat(node=node, incarnation=incarnation))
    await log.nc.publish(subject, body)


@contextlib.contextmanager
def stopped(pid: int) -> Any:
    """A process stopped by SIGSTOP while the block lasts: every thread of it, for the signal alone is only asked for."""
    os.kill(pid, signal.SIGSTOP)
    try:
        deadline = time.monotonic() + 5
        while not all(state == "T" for state in _thread_states(pid)):
            assert time.monotonic() < deadline, f"process {pid} does not stop"
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _thread_states(pid: int) -> list[str]:
    """The states of a process's threads as proc(5) spells them."""
    stats = [(task / "stat").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    return [stat.rpartition(")")[2].split()[0] for stat in stats]


async def kill_and_start_again(server: NatsServer) -> None:
    """SIGKILL the server, and start it on the same store and ports."""
    os.kill(server.pid, signal.SIGKILL)
    await server.embedded.wait()
    await server.embedded.start()
