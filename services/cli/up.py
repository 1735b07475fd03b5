"""`trainshed up`: the whole stack on this machine.

Owns its options and what it prints when it is ready; services.up does the work.
"""

from __future__ import annotations

import asyncio
import dataclasses

import click

from services.settings import Settings


def agent_options(command: click.Command) -> click.Command:
    """The options that say what a node has and how it behaves, shared by `up` and `agent`."""
    for option in (
        click.option("--node", metavar="NAME", help="This node's name, kept from its first start on."),
        click.option(
            "--gpus", type=click.IntRange(min=0), metavar="N", help="Slots: the first N visible devices."
        ),
        click.option("--cpus", type=click.IntRange(min=1), metavar="N", help="CPUs that runs may ask for."),
        click.option(
            "--memory", type=click.IntRange(min=1), metavar="MB", help="Memory that runs may ask for."
        ),
        click.option(
            "--heartbeat-timeout",
            metavar="DURATION",
            help="Silence after which an attempt is timed out (5m).",
        ),
    ):
        command = option(command)
    return command


@click.command("up")
@click.option("--stop-workers", is_flag=True, help="At the end, stop the workers too (they go on otherwise).")
@click.option("--borrowed", is_flag=True, hidden=True)
def up(
    node: str | None,
    gpus: int | None,
    cpus: int | None,
    memory: int | None,
    heartbeat_timeout: str | None,
    stop_workers: bool,
    borrowed: bool,
) -> None:
    """Run everything on this machine, with an embedded nats-server, until Ctrl-C.

    \b
    Example:  trainshed up
              trainshed up --gpus 2 --node box1
    """
    from services import logging
    from services.parts import AgentOptions
    from services.up import Up
    from services.up import up as run_up

    settings = with_options(Settings.read(), node, heartbeat_timeout)
    logging.configure(settings.log_format, settings.log_level)
    options = AgentOptions(
        gpus=gpus, cpus=cpus, memory_mb=memory, stop_workers=stop_workers, borrowed=borrowed
    )

    def ready(stack: Up) -> None:
        for note in stack.notes:
            click.echo(note, err=True)
        click.echo(
            f"Trainshed is up: node {stack.node}, {stack.slots} slot{'' if stack.slots == 1 else 's'}, "
            f"{stack.cpus} CPUs, {stack.memory_mb} MB; state in {stack.state_dir}\n"
            "Next:  trainshed submit --gpus 1 -- python train.py      Ctrl-C stops it; running workers go on",
            err=True,
        )

    asyncio.run(run_up(settings, options, ready))


def with_options(settings: Settings, node: str | None, heartbeat_timeout: str | None) -> Settings:
    """The settings with what the command line says over them."""
    from services.durations import parse_duration
    from services.settings import check_node_name

    changes: dict[str, object] = {}
    if node is not None:
        changes["node"] = check_node_name(node)
    if heartbeat_timeout is not None:
        try:
            changes["heartbeat_timeout_s"] = parse_duration(heartbeat_timeout)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--heartbeat-timeout") from None
    return dataclasses.replace(settings, **changes)  # type: ignore[arg-type]


up = agent_options(up)
