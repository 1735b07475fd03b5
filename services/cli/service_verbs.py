"""`trainshed gateway|dispatcher|projector|agent`: one service alone, for compose and for many machines.

Owns their options and how each ends; services.parts builds them.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from services.cli.common import given_nats, nats_option
from services.cli.up import agent_options, up_arguments, warn_of_unknown_settings, with_options
from services.cli.verb import verb
from services.open_files import raise_limit
from services.settings import Settings
from trainshed_client.endpoint import Endpoint, discover, read_credentials
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.os_errors import why

if TYPE_CHECKING:
    from services.agent.agent import AgentService
    from services.lifecycle import Service
    from services.observe.observe import Observer
    from services.up.child_link import ChildEnd
    from trainshed_client.nats_client import SafeClient

AGENT_FILE = "credentials/agent.json"
"""The credentials of the state folder's own node."""
Build = Callable[["SafeClient", "Observer"], Coroutine[Any, Any, list["Service"]]]
Stopping = Callable[[float | None], float | None]
"""See `services.lifecycle.run_services`: `on_stop`."""


@verb("NATS_URL=tls://host:4222 trainshed gateway", name="gateway")
@nats_option
def gateway() -> None:
    """Run the gateway alone: it takes commands and appends what follows."""
    settings = Settings.read()

    async def build(nc: SafeClient, observer: Observer) -> list[Service]:
        from events.streams import ensure_streams
        from services import parts

        log = observer.log(nc)
        fold = parts.fold(log, await ensure_streams(nc, replicas=settings.replicas, buckets=False), settings)
        watch = parts.roster_watch(settings)
        people = None if watch is None else watch.people
        services: list[Service] = [parts.gateway(log, fold, settings, people=people), fold]
        if watch is not None:
            services.append(watch)
        observer.services(services)
        return services

    _serve("gateway", settings, build)


@verb("NATS_URL=tls://host:4222 trainshed dispatcher", name="dispatcher")
@nats_option
def dispatcher() -> None:
    """Run a dispatcher alone; of several one is active and the others stand by."""
    settings = Settings.read()

    async def build(nc: SafeClient, observer: Observer) -> list[Service]:
        from events.streams import ensure_streams
        from services import parts

        log = observer.log(nc)
        fold = parts.fold(log, await ensure_streams(nc, replicas=settings.replicas, buckets=False), settings)
        observer.fold(fold)
        observer.services([fold])  # one that stands by serves as well
        return [parts.dispatcher(log, fold, settings), fold]

    _serve("dispatcher", settings, build)


@verb("NATS_URL=tls://host:4222 trainshed projector --records", name="projector")
@nats_option
@click.option("--records", is_flag=True, help="Keep the record buckets too (one projector of a stack does).")
@click.option("--database", metavar="PATH", help="The SQLite file (trainshed.db in the state folder).")
@click.option("--link", type=int, hidden=True)
@click.option("--start", hidden=True, default="alone")
@click.option("--die-with", type=int, hidden=True)
def projector(
    records: bool, database: str | None, link: int | None, start: str, die_with: int | None
) -> None:
    """Run a projector alone: it builds the read model and answers queries."""
    if die_with is not None:
        _die_with(die_with)
    from services.up.child_link import ChildEnd

    settings = Settings.read()
    to_up = None if link is None else ChildEnd(link)

    async def build(nc: SafeClient, observer: Observer) -> list[Service]:
        from events.streams import ensure_streams
        from services import parts
        from services.projector.start import Start

        if to_up is not None:
            to_up.answer()
        await ensure_streams(nc, replicas=settings.replicas)
        watch = parts.roster_watch(settings)
        people = None if watch is None else watch.people
        service = parts.projector(nc, settings, database, records=records, start=Start(start), people=people)
        await observer.projector(nc, service)
        if watch is not None:
            from services.enrol.roster import ends

            observer.certificates(lambda: ends(watch.roster))
        observer.services([service])
        return [service] if watch is None else [service, watch]

    _serve_beside_up("projector", settings, build, to_up)


@verb("trainshed enrol --listen 10.0.0.5", name="enrol")
@nats_option
@click.option("--listen", "address", metavar="ADDRESS", required=True, help="Where those who join reach it.")
@click.option(
    "--volumes",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Server and services are containers, whose volumes lie below this folder (compose.yaml).",
)
@click.option("--pages", is_flag=True, hidden=True)
@click.option("--link", type=int, hidden=True)
@click.option("--start", hidden=True, default="alone")
@click.option("--die-with", type=int, hidden=True)
def enrol(
    address: str, volumes: Path | None, pages: bool, link: int | None, start: str, die_with: int | None
) -> None:
    """Run the enrolment alone: it lets machines and people in who bring a token.

    `trainshed up --listen` runs it by itself. It alone reads the key of the certificate authority.
    """
    if die_with is not None:
        _die_with(die_with)
    from services.up.child_link import ChildEnd

    settings = Settings.read()
    to_up = None if link is None else ChildEnd(link)

    async def build(nc: SafeClient, observer: Observer) -> list[Service]:
        from services import parts

        if to_up is not None:
            to_up.answer()
        service = parts.enrol(nc, settings, address, pages=pages, volumes=volumes)
        observer.services([service])
        return [service]

    _serve_beside_up("enrol", settings, build, to_up)


@verb("trainshed agent --join ts1-abcd-efgh@control.lab:4224", name="agent")
@nats_option
@click.option(
    "--join",
    metavar="TOKEN@HOST:PORT|@FILE",
    help="Enrol first, with what `trainshed node add` printed; once that was done, it is passed over.",
)
@click.option("--detach", is_flag=True, help="In the background: return once it is ready.")
@click.option("--ready-fd", type=int, hidden=True)
@click.option(
    "--borrowed", is_flag=True, help="The machine is on loan: SIGTERM stops the workers and leaves."
)
def agent(
    node: str | None,
    gpus: int | str | None,
    slots_per_gpu: int | None,
    cpus: int | None,
    memory: int | None,
    heartbeat_timeout: str | None,
    borrowed: bool,
    join: str | None,
    detach: bool,
    ready_fd: int | None,
) -> None:
    """Run this machine's agent alone: it starts and ends workers as the dispatcher decides."""
    settings = with_options(Settings.read(), node, heartbeat_timeout)
    if join is None and settings.join_file is not None and not (settings.state_dir / AGENT_FILE).exists():
        join = f"@{settings.join_file}"
    if join is not None:
        from services.enrol.joining import join_once
        from services.enrol.tokens import parse_line

        line = parse_line(_from_file(join), given_by="--join")
        name = join_once(line, state_dir=settings.state_dir, name=settings.node)
        settings = with_options(settings, name, None)
    endpoint = _agents_endpoint(settings)
    if detach:
        from services.cli import agent_detach

        arguments = up_arguments(settings.node, gpus, slots_per_gpu, cpus, memory, heartbeat_timeout)
        arguments += (["--borrowed"] if borrowed else []) + (["--nats", url] if (url := given_nats()) else [])
        pid = agent_detach.start(settings.state_dir, arguments)
        click.echo(f"the agent runs (pid {pid}); its log: {agent_detach.agent_log(settings.state_dir)}")
        return

    served: list[AgentService] = []

    async def build(nc: SafeClient, observer: Observer) -> list[Service]:
        from services import parts

        options = parts.AgentOptions(
            gpus=gpus, slots_per_gpu=slots_per_gpu, cpus=cpus, memory_mb=memory, borrowed=borrowed
        )
        machine = parts.machine(options, settings)
        for note in machine.inventory.notes:
            click.echo(note, err=True)
        service = parts.agent(nc, settings, options, machine, observer.log(nc))
        served.append(service)
        observer.agent(service, len(machine.inventory.gpus))
        observer.services([service])
        return [
            service,
            *([] if endpoint is None else _renewal(nc, endpoint)),
            *([] if ready_fd is None else _log_of_its_own(settings)),
        ]

    def ready() -> None:
        if ready_fd is not None:
            from services.cli.agent_detach import report_ready

            report_ready(ready_fd)

    def stopping(within_s: float | None) -> float | None:
        """`trainshed down --stop-workers` says in a file what its SIGTERM is to mean."""
        from services.up.down import take_request

        if not take_request(settings.state_dir):
            return within_s
        served[0].stop(stop_workers=True)
        return None

    _serve(
        "agent",
        settings,
        build,
        ready,
        within_s=None if borrowed else 1.2,
        endpoint=endpoint,
        on_stop=stopping,
    )


agent = agent_options(agent)


def _serve_beside_up(name: str, settings: Settings, build: Build, to_up: ChildEnd | None) -> None:
    """Serve, and have `up` know of it where that has started us."""
    try:
        # `up` has said of the environment what there is to say.
        _serve(
            name, settings, build, to_up.ready if to_up is not None else lambda: None, quiet=to_up is not None
        )
    except TrainshedError as error:
        if to_up is None:
            raise
        to_up.refuse(error)  # which says it
        raise click.exceptions.Exit(error.exit_code) from None


def _serve(
    name: str,
    settings: Settings,
    build: Build,
    on_ready: Callable[[], None] = lambda: None,
    within_s: float | None = 1.2,
    *,
    quiet: bool = False,
    endpoint: Endpoint | None = None,
    on_stop: Stopping = lambda within_s: within_s,
) -> None:
    from services import logging
    from services.state_folder import close_to_others

    raise_limit()
    logging.configure(settings.log_format, settings.log_level)
    close_to_others(settings.state_dir)
    if not quiet:
        warn_of_unknown_settings(name)
    asyncio.run(_run(name, settings, build, on_ready, within_s, endpoint, on_stop))


async def _run(
    name: str,
    settings: Settings,
    build: Build,
    on_ready: Callable[[], None],
    within_s: float | None,
    endpoint: Endpoint | None,
    on_stop: Stopping,
) -> None:
    import nats.errors

    from events.feed import ApiError
    from services.lifecycle import run_services, stop_on_signals, unless
    from services.logging import get_logger
    from services.observe.observe import observer
    from trainshed_client.nats_client import connect

    log = get_logger(name)
    endpoint = endpoint or discover(given_nats(), state_dir=settings.state_dir)
    stop = stop_on_signals()

    def ready() -> None:
        log.info("ready")
        on_ready()

    async with observer(name, settings) as watching:
        # A service waits for its server, and for JetStream behind it, but not past a SIGTERM.
        nc = await unless(stop, connect(endpoint, name=name, forever=True))
        if nc is None:
            return
        watching.connection(nc)
        try:
            try:
                services = await unless(stop, build(nc, watching))
            except (TimeoutError, nats.errors.Error, ApiError) as error:
                cause = why(error)
                raise TrainshedError(
                    ErrorCode.UNAVAILABLE,
                    f"the server at {endpoint.url} cannot keep the event log ({cause}). It must run with JetStream",
                ) from None
            if services is not None:
                await run_services(services, stop, on_ready=ready, on_stop=on_stop, within_s=within_s)
        finally:
            await nc.close()


def _from_file(join: str) -> str:
    """The token's line, or that of the file that ``@FILE`` names: a command line is for all to see."""
    if not join.startswith("@"):
        return join
    try:
        return Path(join[1:]).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise TrainshedError(
            ErrorCode.INVALID, f"--join names {join[1:]}, which cannot be read ({why(error)})"
        ) from None


def _agents_endpoint(settings: Settings) -> Endpoint | None:
    """What this machine enrolled for, where nothing else is named: by an option, or a variable. A variable may name just that
    file, beside one for the address: containers reach the server otherwise than those whom the token is for."""
    named = given_nats() or settings.nats_url or settings.credentials
    path = settings.state_dir / AGENT_FILE
    if settings.credentials == path:
        return discover(given_nats(), state_dir=settings.state_dir)
    return None if named or not path.exists() else read_credentials(path, given_by=str(settings.state_dir))


def _renewal(nc: SafeClient, endpoint: Endpoint) -> list[Service]:
    """What keeps the certificate that a token gave valid; nothing where there is none."""
    if endpoint.cert is None or endpoint.cert != endpoint.key:
        return []
    from datetime import UTC, datetime

    from services.enrol.renewing import Renewal
    from trainshed_client.nats_client import connect

    return [
        Renewal(
            nc,
            endpoint,
            connect=lambda by: connect(by, name="agent-renewal"),
            clock=lambda: datetime.now(UTC),
        )
    ]


def _log_of_its_own(settings: Settings) -> list[Service]:
    """What keeps the log of an agent in the background bounded."""
    from services.cli.agent_detach import agent_log
    from services.up.log_file import LogFile

    return [LogFile(agent_log(settings.state_dir))]


def _die_with(parent: int) -> None:
    """End with the process that started us (PR_SET_PDEATHSIG; Linux), also where it was killed."""
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit(0)
