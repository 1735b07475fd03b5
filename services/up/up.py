"""The whole stack on one machine: nats-server, projector process, and the writing side in this process.

Owns the order of start and end; every part of it runs alone just as well (services.parts).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import nats.errors

from events.feed import ApiError
from events.streams import ensure_streams
from services import parts
from services.lifecycle import STOP_WITHIN_S, Service, run_services, stop_on_signals, unless
from services.logging import get_logger
from services.nats_server.embedded_nats import EmbeddedNats
from services.nats_server.nats_supervisor import NatsSupervisor
from services.nats_server.web_socket import WebSocketEndpoint, WebSocketOptions, write_web_socket
from services.observe.observe import Observer, observer
from services.parts import AgentOptions
from services.setting_values import Listen
from services.settings import Settings
from services.up.down import take_request
from services.up.log_file import LogFile
from services.up.projector_process import ProjectorProcess
from services.up.sd_notify import Notifier
from services.up.starting import Starting, waited_for
from services.up.state_lock import StateLock
from trainshed_client.endpoint import write_endpoint
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.nats_client import SafeClient, connect
from trainshed_client.os_errors import why

_log = get_logger("up")


class Up(msgspec.Struct, frozen=True, kw_only=True):
    """What a running stack says of itself when it is ready."""

    node: str
    gpus: int
    slots: int
    cpus: int
    memory_mb: int
    notes: tuple[str, ...]
    state_dir: str
    web_socket: WebSocketEndpoint | None = None


async def up(
    settings: Settings,
    options: AgentOptions,
    on_ready: Callable[[Up], None],
    *,
    on_starting: Callable[[str], None] = lambda text: None,
    log_file: Path | None = None,
    web_socket: WebSocketOptions | None = None,
) -> None:
    """Run the stack until SIGTERM, SIGINT or SIGHUP. Workers are left to their shims unless ``options.stop_workers``
    or the stop asks otherwise (services.up.down). ``on_starting`` hears what a long start waits for. ``log_file`` is kept from
    growing; systemd is told where it listens. ``web_socket``: a listener for pages in a browser (None: there is none).

    Raises TrainshedError where another stack lives on this state folder, or a part cannot go on.
    """
    stop = stop_on_signals()
    notifier = Notifier.take()

    def report(text: str) -> None:
        on_starting(text)
        notifier.notify(f"STATUS={text}")

    async with Starting(report) as starting:
        await _up(settings, options, on_ready, starting, stop, notifier, log_file, web_socket)


async def _up(
    settings: Settings,
    options: AgentOptions,
    on_ready: Callable[[Up], None],
    starting: Starting,
    stop: asyncio.Event,
    notifier: Notifier,
    log_file: Path | None,
    web_socket: WebSocketOptions | None,
) -> None:
    with StateLock(settings.state_dir):
        take_request(settings.state_dir)  # one that came too late was not for us
        # devices first: an NVML that does not answer must stop us before anything is started
        machine = parts.machine(options, settings)
        server = EmbeddedNats(settings.state_dir, web_socket=web_socket)
        try:
            # A long log takes its time to be opened; a stop does not wait for that.
            if (endpoint := await unless(stop, server.start())) is None:
                return
            async with observer("up", settings) as watching:
                if (nc := await unless(stop, connect(endpoint, name="up", forever=True))) is None:
                    return
                watching.connection(nc)
                try:
                    await _serve(
                        settings,
                        options,
                        on_ready,
                        starting,
                        stop,
                        machine,
                        server,
                        nc,
                        watching,
                        notifier,
                        log_file,
                    )
                finally:
                    await nc.close()
        finally:
            await server.stop()
            _log.info("stopped")


async def _serve(
    settings: Settings,
    options: AgentOptions,
    on_ready: Callable[[Up], None],
    starting: Starting,
    stop: asyncio.Event,
    machine: parts.Machine,
    server: EmbeddedNats,
    nc: SafeClient,
    watching: Observer,
    notifier: Notifier,
    log_file: Path | None,
) -> None:
    log = watching.log(nc)
    try:
        log_id = await unless(stop, ensure_streams(nc, replicas=settings.replicas))
    except (TimeoutError, nats.errors.Error, ApiError) as error:
        raise TrainshedError(
            ErrorCode.UNAVAILABLE,
            f"nats-server started and does not answer for the event log ({why(error)}); "
            f"its own log is {server.log_file}. Try again: trainshed up",
        ) from None
    if log_id is None:
        return
    write_endpoint(settings.state_dir, server.endpoint)
    write_web_socket(settings.state_dir, server.web_socket)
    fold = parts.fold(log, log_id, settings)
    watching.fold(fold)
    agent = parts.agent(nc, settings, options, machine, log)
    watching.agent(agent, len(machine.inventory.gpus))
    services: list[Service] = [
        parts.gateway(log, fold, settings, store=server.store_dir),
        agent,
        parts.dispatcher(log, fold, settings, stand_at_once=True),
        fold,
        ProjectorProcess(server.endpoint, os.environ, _next(settings.http_listen), server.monitor_url),
        NatsSupervisor(server),
    ]
    if log_file is not None:
        services.append(LogFile(log_file))
    watching.services(services)

    def notify() -> None:
        given = machine.inventory
        on_ready(
            Up(
                node=agent.node,
                gpus=len({device.place for device in given.gpus}),
                slots=len(given.gpus),
                cpus=given.cpus,
                memory_mb=given.memory_mb,
                notes=given.notes,
                state_dir=str(settings.state_dir),
                web_socket=server.web_socket,
            )
        )

        notifier.notify("READY=1", f"STATUS=node {agent.node}, {len(given.gpus)} slots")

    def stopping(within_s: float | None) -> float | None:
        notifier.notify("STOPPING=1")
        if not take_request(settings.state_dir):
            return within_s
        agent.stop(stop_workers=True)
        return None

    within_s = None if options.stop_workers else STOP_WITHIN_S
    starting.look = lambda: waited_for(services, fold.progress)
    await run_services(services, stop, on_ready=notify, on_stop=stopping, within_s=within_s)


def _next(listen: Listen | None) -> Listen | None:
    """Where the projector shows its part: one port on."""
    return None if listen is None else Listen(listen.host, listen.port + 1 if listen.port else 0)
