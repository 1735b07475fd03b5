"""`trainshed up` and `trainshed down`: the whole stack on this machine.

Owns their options and what they print; services.up.up, services.up.detach and services.up.down do the work.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sys
from typing import TYPE_CHECKING, Any, TypeVar

import click

from services.cli.common import given_nats
from services.cli.number import Number
from services.cli.verb import verb
from services.open_files import raise_limit
from services.settings import Settings
from trainshed_client.errors import ErrorCode, TrainshedError

if TYPE_CHECKING:
    from services.nats_server.web_socket import WebSocketOptions
    from services.up.up import Up

C = TypeVar("C", bound=click.Command)

MOST_GPUS = 1024
"""Declared ones: each is rows, and a part of the node's heartbeat."""


def gpu_count(_ctx: click.Context, _option: click.Parameter, value: str | None) -> int | str | None:
    """The option's number of GPUs, or "all"."""
    if value is None or value == "all":
        return value
    if not value.isdecimal() or len(value) > len(str(MOST_GPUS)) or int(value) > MOST_GPUS:
        raise click.BadParameter(f"{value!r:.40} is neither a number of GPUs (0 to {MOST_GPUS}) nor all")
    return int(value)


def agent_options(command: C) -> C:
    """The options that say what a node has and how it behaves, shared by `up` and `agent`."""
    for option in (
        click.option("--node", metavar="NAME", help="This node's name, kept from its first start on."),
        click.option(
            "--gpus",
            callback=gpu_count,
            metavar="N|all",
            help="The first N visible devices; kept, until all.",
        ),
        click.option(
            "--slots-per-gpu",
            type=Number(least=1, most=64),
            metavar="K",
            help="So many runs may share a GPU (1); kept.",
        ),
        click.option("--cpus", type=Number(least=1), metavar="N", help="CPUs that runs may ask for."),
        click.option("--memory", type=Number(least=1), metavar="MB", help="Memory that runs may ask for."),
        click.option(
            "--heartbeat-timeout",
            metavar="DURATION",
            help="Silence after which an attempt is timed out (5m).",
        ),
    ):
        command = option(command)
    return command


_ANY_PORT = "any"


class _Port(Number):
    """A port, or `any`: 0 then."""

    def convert(self, value: Any, option: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number. Raises click.BadParameter."""
        return 0 if value == _ANY_PORT else super().convert(value, option, ctx)


def web_socket_options(command: C) -> C:
    """The options that open the stack to pages in a browser, shared by `up` and `service install`."""
    for option in (
        click.option(
            "--websocket-origin",
            "origins",
            multiple=True,
            metavar="ORIGIN",
            help="Where these pages are served (http://localhost:8080); may be repeated.",
        ),
        click.option(
            "--websocket",
            "web_port",
            type=_Port(least=1, most=65535),
            is_flag=False,
            flag_value=_ANY_PORT,
            metavar="[PORT]",
            help="Let pages in a browser of this machine read; without PORT a free one, kept.",
        ),
    ):
        command = option(command)
    return command


@verb(
    "trainshed up",
    "trainshed up --gpus 2 --node box1",
    "trainshed up --detach            (trainshed down stops it)",
    name="up",
)
@click.option("--stop-workers", is_flag=True, help="At the end, stop the workers too (they go on otherwise).")
@click.option("--detach", "-d", is_flag=True, help="Go on in the background; return when it is ready.")
@click.option(
    "--listen",
    metavar="ADDRESS",
    help="Let other machines join, at this address of this one (0.0.0.0: any); kept, until none.",
)
@click.option("--borrowed", is_flag=True, hidden=True)
@click.option("--ready-fd", type=int, hidden=True)
def up(
    node: str | None,
    gpus: int | str | None,
    slots_per_gpu: int | None,
    cpus: int | None,
    memory: int | None,
    heartbeat_timeout: str | None,
    web_port: int | None,
    origins: tuple[str, ...],
    stop_workers: bool,
    detach: bool,
    listen: str | None,
    borrowed: bool,
    ready_fd: int | None,
) -> None:
    """Run everything on this machine, with an embedded nats-server, until Ctrl-C.

    Workers outlive it: the next `trainshed up` finds them again.
    """
    if given_nats():
        raise click.UsageError(
            "up starts a server of its own. To join another's as a node: trainshed agent --nats URL"
        )
    from services import logging
    from services.parts import AgentOptions
    from services.plain_trouble import plain
    from services.state_folder import close_to_others
    from services.up.log_file import up_log
    from services.up.up import up as run_up
    from services.up.waiting_caller import WaitingCaller

    caller = WaitingCaller(ready_fd)
    settings = with_options(Settings.read(), node, heartbeat_timeout)
    web_socket = web_socket_asked(web_port, origins)
    if detach:
        from services.up.detach import start_detached

        given = up_arguments(node, gpus, slots_per_gpu, cpus, memory, heartbeat_timeout)
        arguments = [
            *given,
            *web_socket_arguments(web_port, origins),
            *(["--listen", listen] if listen is not None else []),
            *(["--stop-workers"] if stop_workers else []),
            *(["--borrowed"] if borrowed else []),
        ]
        raise click.exceptions.Exit(
            start_detached(settings, arguments, lambda line: click.echo(line, err=True))
        )
    raise_limit()
    logging.configure(settings.log_format, settings.log_level)
    close_to_others(settings.state_dir)
    warn_of_unknown_settings("up")
    options = AgentOptions(
        gpus=gpus,
        slots_per_gpu=slots_per_gpu,
        cpus=cpus,
        memory_mb=memory,
        stop_workers=stop_workers,
        borrowed=borrowed,
    )

    def ready(stack: Up) -> None:
        asked = "--gpus 1 " if stack.slots else ""
        slots = f"{stack.slots} slot{'' if stack.slots == 1 else 's'}"
        if stack.slots != stack.gpus:
            slots += f" on {stack.gpus} GPU{'' if stack.gpus == 1 else 's'}"
        has = f"{slots}, {stack.cpus} CPUs, {stack.memory_mb} MB"
        lines = [
            *stack.notes,
            f"Trainshed is up: node {stack.node}, {has}; state in {stack.state_dir}",
            *_join_lines(stack),
            *_pages_lines(stack),
            f"Next:  trainshed run {asked}-- echo hello      (then your own: {asked}-- python3 train.py)",
            *(["Ctrl-C stops it; running workers go on"] if ready_fd is None else []),
        ]
        text = "\n".join(lines)
        click.echo(text, err=True)
        caller.ready(text)

    def starting(text: str) -> None:
        caller.starting(text)
        if ready_fd is None and sys.stderr.isatty():
            click.echo(text, err=True)

    log_file = up_log(settings.state_dir) if ready_fd is not None else None
    try:
        asyncio.run(
            run_up(
                settings,
                options,
                ready,
                on_starting=starting,
                log_file=log_file,
                web_socket=web_socket,
                listen=listen,
            )
        )
    except Exception as error:
        if (refusal := plain(error)) is None:
            raise
        caller.refused(refusal)
        raise refusal from None


@verb("trainshed down", "trainshed down --stop-workers", name="down")
@click.option("--stop-workers", is_flag=True, help="Stop its workers first (they go on otherwise).")
def down(stop_workers: bool) -> None:
    """Stop what `trainshed up` or `trainshed agent --detach` started here, and wait until it is gone.

    Workers go on and are found again by the next start; what is queued stays queued. With --stop-workers
    each gets its stop signal, and SIGKILL after its grace period; a run with a retry policy is tried again later.
    """
    from services.up.down import down as stop_stack

    state_dir = Settings.read().state_dir
    stopped = stop_stack(state_dir, stop_workers=stop_workers, show=lambda line: click.echo(line, err=True))
    if stopped is not None:
        finder = "trainshed agent" if stopped.agent_alone else "trainshed up"
        after = "" if stop_workers else f"; running workers go on, and `{finder}` finds them again"
        click.echo(f"stopped (pid {stopped.pid}){after}", err=True)
        return
    click.echo(f"nothing runs on {state_dir}", err=True)
    if stop_workers:
        click.echo(
            "Workers of an earlier one may go on. To end them:  trainshed up --detach && trainshed down --stop-workers",
            err=True,
        )


def up_arguments(
    node: str | None,
    gpus: int | str | None,
    slots_per_gpu: int | None,
    cpus: int | None,
    memory: int | None,
    heartbeat_timeout: str | None,
) -> list[str]:
    """The shared options as words of a command line again."""
    given = {
        "--node": node,
        "--gpus": gpus,
        "--slots-per-gpu": slots_per_gpu,
        "--cpus": cpus,
        "--memory": memory,
        "--heartbeat-timeout": heartbeat_timeout,
    }
    return [part for name, value in given.items() if value is not None for part in (name, str(value))]


def web_socket_asked(port: int | None, origins: tuple[str, ...]) -> WebSocketOptions | None:
    """What the two options ask for. Raises click's errors for an origin that is none, or without the listener."""
    from services.nats_server.web_socket import DEFAULT_ORIGINS, WebSocketOptions, checked_origin

    if port is None:
        if origins:
            raise click.UsageError("--websocket-origin goes with --websocket, which opens the listener")
        return None
    checked = []
    for origin in origins:
        try:
            checked.append(checked_origin(origin))
        except ValueError as accepted:
            raise click.BadParameter(
                f"{origin!r:.80} is no origin; accepted: {accepted}", param_hint="--websocket-origin"
            ) from None
    return WebSocketOptions(port or None, tuple(dict.fromkeys(checked)) or DEFAULT_ORIGINS)


def web_socket_arguments(port: int | None, origins: tuple[str, ...]) -> list[str]:
    """The two options as words of a command line again."""
    given = [] if port is None else ["--websocket", str(port) if port else _ANY_PORT]
    return given + [part for origin in origins for part in ("--websocket-origin", origin)]


def _join_lines(stack: Up) -> list[str]:
    if stack.listens_at is None:
        return []
    return [
        (
            f"Others join at {stack.listens_at}: a machine by  trainshed node add NODE,  a person by  trainshed user add NAME "
            "--role submitter"
        )
    ]


def _pages_lines(stack: Up) -> list[str]:
    if (pages := stack.web_socket) is None:
        return []
    return [
        (
            f"Pages of {', '.join(pages.origins)} may read at {pages.url}; "
            f"user and password are in {stack.state_dir}/websocket.json"
        )
    ]


def warn_of_unknown_settings(service: str) -> None:
    """Log each `TRAINSHED_` variable that is none: a setting that is misspelt would be passed over in silence."""
    from services.logging import get_logger
    from services.settings import unknown_settings

    log = get_logger(service)
    for name, meant in unknown_settings(os.environ).items():
        hint = {"did_you_mean": meant} if meant else {}
        log.warning("no such setting; it is passed over", variable=name, **hint)


def with_options(settings: Settings, node: str | None, heartbeat_timeout: str | None) -> Settings:
    """The settings with what the command line says over them."""
    from services import setting_values
    from services.settings import check_node_name

    changes: dict[str, object] = {}
    if node is not None:
        changes["node"] = check_node_name(node)
    if heartbeat_timeout is not None:
        try:
            changes["heartbeat_timeout_s"] = setting_values.seconds(heartbeat_timeout)
        except ValueError as accepted:
            raise TrainshedError(
                ErrorCode.INVALID, f"--heartbeat-timeout is {heartbeat_timeout!r}; accepted: {accepted}"
            ) from None
    return dataclasses.replace(settings, **changes)  # type: ignore[arg-type]


up = agent_options(web_socket_options(up))
