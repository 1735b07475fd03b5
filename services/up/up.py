"""The whole stack on one machine: nats-server, projector process, and the writing side in this process.

Owns the order of start and end; every part of it runs alone just as well (services.parts).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import nats.errors

from events.feed import ApiError
from events.streams import MissingLog, ensure_streams
from services import parts
from services.access.identities import ControlRole
from services.access.local_realm import AGENT, LocalRealm
from services.agent.identity import kept_log, node_name
from services.enrol.roster_file import CLUSTER_DIR
from services.lifecycle import STOP_WITHIN_S, Service, run_services, stop_on_signals, unless
from services.logging import get_logger
from services.nats_server.embedded_nats import EmbeddedNats
from services.nats_server.nats_supervisor import NatsSupervisor
from services.nats_server.web_socket import WebSocketEndpoint, WebSocketOptions, write_web_socket
from services.observe.observe import Observer, observer
from services.parts import AgentOptions
from services.setting_values import Listen, own_address
from services.settings import Settings
from services.up.child_process import ChildProcess
from services.up.down import take_request
from services.up.log_file import LogFile
from services.up.sd_notify import Notifier
from services.up.starting import Starting, waited_for
from services.up.state_lock import StateLock
from trainshed_client.endpoint import Endpoint
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.nats_client import SafeClient, connect
from trainshed_client.os_errors import why

if TYPE_CHECKING:
    from services.access.cluster_realm import ClusterRealm

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
    listens_at: str | None = None
    """Where other machines join; None: nowhere."""


async def up(
    settings: Settings,
    options: AgentOptions,
    on_ready: Callable[[Up], None],
    *,
    on_starting: Callable[[str], None] = lambda text: None,
    log_file: Path | None = None,
    web_socket: WebSocketOptions | None = None,
    listen: str | None = None,
) -> None:
    """Run the stack until SIGTERM, SIGINT or SIGHUP. Workers are left to their shims unless ``options.stop_workers``
    or the stop asks otherwise (services.up.down). ``on_starting`` hears what a long start waits for. ``log_file`` is kept from
    growing; systemd is told where it listens. ``web_socket``: a listener for pages in a browser (None: there is none).
    ``listen``: the address at which other machines join, with what `cluster init` made.

    Raises TrainshedError where another stack lives on this state folder, or a part cannot go on.
    """
    stop = stop_on_signals()
    notifier = Notifier.take()

    def report(text: str) -> None:
        on_starting(text)
        notifier.notify(f"STATUS={text}")

    async with Starting(report) as starting:
        await _up(settings, options, on_ready, starting, stop, notifier, log_file, web_socket, listen)


async def _up(
    settings: Settings,
    options: AgentOptions,
    on_ready: Callable[[Up], None],
    starting: Starting,
    stop: asyncio.Event,
    notifier: Notifier,
    log_file: Path | None,
    web_socket: WebSocketOptions | None,
    listen: str | None,
) -> None:
    with StateLock(settings.state_dir):
        take_request(settings.state_dir)  # one that came too late was not for us
        # devices first: an NVML that does not answer must stop us before anything is started
        machine = parts.machine(options, settings)
        node = node_name(settings.state_dir, settings.node)
        listen = await _listening(settings.state_dir, listen)
        realm, at = await _realm(settings.state_dir, node, listen)
        server = EmbeddedNats(settings.state_dir, realm, web_socket=web_socket, listen=at)
        try:
            # A long log takes its time to be opened; a stop does not wait for that.
            if (endpoint := await unless(stop, server.start())) is None:
                return
            log_id = await unless(stop, _make_streams(endpoint, settings, server))
            if log_id is None:
                return
            realm.write(server.url, server.password)
            write_web_socket(settings.state_dir, server.web_socket)
            async with observer("up", settings) as watching, contextlib.AsyncExitStack() as connections:

                async def connected(name: str) -> SafeClient:
                    nc = await connect(realm.service(name, server.url), name=name, forever=True)
                    connections.push_async_callback(nc.close)
                    watching.connection(nc)
                    return nc

                clients = await unless(stop, _all_connected(connected))
                if clients is not None:
                    await _serve(
                        settings,
                        options,
                        on_ready,
                        starting,
                        stop,
                        machine,
                        server,
                        clients,
                        log_id,
                        _children(realm, server, listen, _next(settings.http_listen)),
                        watching,
                        notifier,
                        log_file,
                        None if listen is None else str(at),
                    )
        finally:
            await server.stop()
            _log.info("stopped")


class _Clients(NamedTuple):
    """The connections of the services in this process: each its own, with rights of its own."""

    gateway: SafeClient
    dispatcher: SafeClient
    agent: SafeClient


async def _all_connected(connected: Callable[[str], Awaitable[SafeClient]]) -> _Clients:
    return _Clients(
        await connected(ControlRole.GATEWAY), await connected(ControlRole.DISPATCHER), await connected(AGENT)
    )


async def _listening(state_dir: Path, asked: str | None) -> str | None:
    """Where other machines reach the server (services.enrol.cluster.listening). Raises TrainshedError."""
    if asked is None and not (state_dir / CLUSTER_DIR).is_dir():
        return None  # a stack that was never opened loads nothing of it
    from services.enrol.cluster import listening

    return await asyncio.to_thread(listening, state_dir, asked)


async def _realm(
    state_dir: Path, node: str, listen: str | None
) -> tuple[LocalRealm | ClusterRealm, Listen | None]:
    """Who gets in, and where the server listens: loopback and passwords, or ``listen`` with the cluster's certificates.

    Raises TrainshedError where there is no cluster.
    """
    if listen is None:
        return LocalRealm(state_dir, node), None
    from services.access.cluster_realm import ClusterRealm
    from services.enrol.cluster import local_members, needed_cluster, prepare

    cluster = needed_cluster(state_dir)
    members, now = local_members(node), datetime.now(UTC)
    await asyncio.to_thread(partial(prepare, state_dir, members, own_address(listen), now=now))
    return ClusterRealm(state_dir), Listen(listen, cluster.port)


def _children(
    realm: LocalRealm | ClusterRealm, server: EmbeddedNats, listen: str | None, http: Listen | None
) -> list[ChildProcess]:
    """The processes beside this one: the projector, and the enrolment where others may join."""
    children = [
        ChildProcess(
            "projector",
            ("projector", "--records"),
            realm.path(ControlRole.PROJECTOR),
            os.environ,
            http,
            server.monitor_url,
        )
    ]
    if listen is not None:
        pages = () if server.web_socket is None else ("--pages",)
        arguments = ("enrol", "--listen", listen, *pages)
        children.append(ChildProcess("enrol", arguments, realm.path(ControlRole.ENROL), os.environ))
    return children


async def _make_streams(endpoint: Endpoint, settings: Settings, server: EmbeddedNats) -> str:
    """Make what is missing, as the one who may, and return the log's id. Raises TrainshedError."""
    nc = await connect(endpoint, name="up", forever=True)
    known = kept_log(settings.state_dir)
    try:
        return await ensure_streams(nc, replicas=settings.replicas, known=known)
    except MissingLog as error:
        raise TrainshedError(
            error.code,
            f"{error.message}: {settings.state_dir} belongs to it, with its nodes and runs. Bring {server.store_dir} back from a "
            "backup, or start on another state folder (TRAINSHED_STATE_DIR)",
        ) from None
    except (TimeoutError, nats.errors.Error, ApiError) as error:
        raise TrainshedError(
            ErrorCode.UNAVAILABLE,
            f"nats-server started and does not answer for the event log ({why(error)}); "
            f"its own log is {server.log_file}. Try again: trainshed up",
        ) from None
    finally:
        await nc.close()


async def _serve(
    settings: Settings,
    options: AgentOptions,
    on_ready: Callable[[Up], None],
    starting: Starting,
    stop: asyncio.Event,
    machine: parts.Machine,
    server: EmbeddedNats,
    clients: _Clients,
    log_id: str,
    children: list[ChildProcess],
    watching: Observer,
    notifier: Notifier,
    log_file: Path | None,
    listens_at: str | None,
) -> None:
    log = watching.log(clients.gateway)
    fold = parts.fold(log, log_id, settings)
    watching.fold(fold)
    watch = parts.roster_watch(settings)
    agent = parts.agent(clients.agent, settings, options, machine, watching.log(clients.agent))
    watching.agent(agent, len(machine.inventory.gpus))
    services: list[Service] = [
        parts.gateway(
            log, fold, settings, store=server.store_dir, people=None if watch is None else watch.people
        ),
        agent,
        parts.dispatcher(watching.log(clients.dispatcher), fold, settings, stand_at_once=True),
        fold,
        *children,
        NatsSupervisor(server),
    ]
    if watch is not None:
        services.append(watch)
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
                listens_at=listens_at,
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
