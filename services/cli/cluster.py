"""`trainshed cluster`: the stack's certificate authority, made and replaced.

Owns what these print.
"""

from __future__ import annotations

from datetime import UTC, datetime

import click

from services.cli.common import note
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
