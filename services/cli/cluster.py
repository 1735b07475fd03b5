"""`trainshed cluster`: the stack's certificate authority, made and replaced.

Owns what these print.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from services.cli.common import given_nats, nats_option, note, run_async
from services.cli.number import Number
from services.cli.verb import Verb, verb_group
from services.settings import Settings, check_node_name, default_node_name


@verb_group("trainshed cluster init --host control.lab")
def cluster() -> None:
    """Let other machines and people in: the authority that vouches for them."""


@cluster.command(cls=Verb, examples=("trainshed cluster init --host control.lab",))
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="How other machines reach this one, the first they are given first (its address and its name).",
)
@click.option("--node", metavar="NAME", help="The name of this machine's own node.")
@click.option(
    "--port", type=Number(least=1, most=65535), default=4222, metavar="N", help="The server's (4222)."
)
@click.option(
    "--enrol-port", type=Number(least=1, most=65535), default=4224, metavar="N", help="Of enrolments (4224)."
)
def init(hosts: tuple[str, ...], node: str | None, port: int, enrol_port: int) -> None:
    """Make the certificate authority, the server's certificate and those of this machine, once."""
    from services.agent.identity import kept_name
    from services.enrol.cluster import default_hosts, initialise, local_members, provide

    state_dir, now = Settings.read().state_dir, datetime.now(UTC)
    name = check_node_name(node) if node is not None else kept_name(state_dir) or default_node_name()
    made = initialise(state_dir, hosts or default_hosts(), now=now, port=port, enrol_port=enrol_port)
    provide(state_dir, local_members(name), now=now)
    click.echo(f"made {state_dir / 'cluster'}, for {', '.join(made.hosts)}")
    note(
        f"its authority.pem lets anybody in who has it: keep it here. Now: trainshed up --listen {made.hosts[0]}; then "
        "trainshed node add NODE, trainshed user add NAME --role submitter"
    )


@cluster.command(cls=Verb, examples=("trainshed cluster streams",))
@nats_option
def streams() -> None:
    """Make the event log's streams, or bring their settings up to date, as who may: the operator.

    `trainshed up` does it by itself; services that run alone as roles of the control side find them made.
    """
    run_async(_make_streams(Settings.read()))


async def _make_streams(settings: Settings) -> None:
    import nats.errors

    from events.feed import ApiError
    from events.streams import ensure_streams
    from trainshed_client.endpoint import discover
    from trainshed_client.errors import ErrorCode, TrainshedError
    from trainshed_client.nats_client import connect
    from trainshed_client.os_errors import cause

    endpoint = discover(given_nats(), state_dir=settings.state_dir)
    nc = await connect(endpoint, name="streams")
    try:
        log_id = await ensure_streams(nc, replicas=settings.replicas)
    except (TimeoutError, nats.errors.Error, ApiError) as error:
        raise TrainshedError(
            ErrorCode.UNAVAILABLE,
            f"the server at {endpoint.url} does not make the event log ({cause(error)}). It must run with JetStream, and let in who "
            "asks as the operator",
        ) from None
    finally:
        await nc.close()
    click.echo(f"the streams are there; the log is {log_id}")


@cluster.command(
    cls=Verb, examples=("trainshed cluster volumes /etc/trainshed --host localhost",), hidden=True
)
@click.argument("root", type=click.Path(path_type=Path))
@click.option(
    "--host",
    "hosts",
    multiple=True,
    required=True,
    help="As of cluster init; the first is for those outside.",
)
@click.option("--port", type=Number(least=1, most=65535), default=4222, help="The server's, from outside.")
@click.option("--enrol-port", type=Number(least=1, most=65535), default=4224, help="Of enrolments.")
@click.option("--server", default="tls://nats:4222", help="The server's URL for the containers.")
@click.option("--enrol", default="enrol", help="The enrolment's host for the containers.")
def volumes(root: Path, hosts: tuple[str, ...], port: int, enrol_port: int, server: str, enrol: str) -> None:
    """Put in the volumes of a stack of containers what each of them needs: for the init service of compose.yaml."""
    from services.access.containers import set_up

    set_up(
        root.absolute(),
        Settings.read().state_dir,
        hosts=hosts,
        port=port,
        enrol_port=enrol_port,
        server=server,
        enrol=enrol,
    )


@cluster.command(
    cls=Verb,
    examples=("trainshed cluster rotate", "trainshed cluster rotate --finish      once all have followed"),
)
@click.option(
    "--finish", is_flag=True, help="Trust the younger authority alone, once nobody hangs on the older."
)
def rotate(finish: bool) -> None:
    """Replace the certificate authority, in two steps, so that nobody is cut off."""
    from services.enrol.cluster import begin_rotation, end_rotation

    state_dir, now = Settings.read().state_dir, datetime.now(UTC)
    if finish:
        end_rotation(state_dir, now=now)
        click.echo("the younger authority alone is trusted")
        return
    begin_rotation(state_dir, now=now)
    click.echo("a younger authority is trusted beside the present one, and signs from now on")
    note(
        "every node and person asks for its certificate within half an hour of being connected. Then: trainshed cluster rotate --finish"
    )
