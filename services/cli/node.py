"""`trainshed drain`, `resume` and `node`: what an operator says of a machine.

Owns what they print (of enrolment, services.cli.members does); whether they may is the gateway's word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import click

from services.cli.common import connected, json_option, nats_option, note, print_json, run_async
from services.cli.run_argument import NODE
from services.cli.verb import Verb, verb, verb_group

if TYPE_CHECKING:
    from trainshed_client.answers import NodeAnswer

_Verb = Literal["drain", "resume", "remove"]


@verb("trainshed drain gpu01 --reason 'new driver'")
@click.argument("node", metavar="NODE", type=NODE)
@click.option("--reason", help="Kept in the log.")
@json_option
@nats_option
def drain(node: str, reason: str | None, as_json: bool) -> None:
    """Grant a node nothing more. What runs there goes on; `resume` takes it back."""
    answer = _print_answer("drain", node, reason, as_json)
    if answer.status != "up":
        note(f"{node} is {answer.status}. If the machine is gone: trainshed node remove {node}")


@verb("trainshed resume gpu01")
@click.argument("node", metavar="NODE", type=NODE)
@click.option("--reason", help="Kept in the log.")
@json_option
@nats_option
def resume(node: str, reason: str | None, as_json: bool) -> None:
    """Grant a drained node, or one that is suspect, runs again."""
    _print_answer("resume", node, reason, as_json)


@verb_group("trainshed node add gpu01", "trainshed node remove gpu01")
def node() -> None:
    """Machines: let them in, list them, put them out; say that one is gone."""


@node.command(
    cls=Verb,
    examples=(
        "trainshed node add gpu01",
        "trainshed node add gpu01 --ssh ada@gpu01",
        "trainshed node add --reusable --valid 30d",
    ),
)
@click.argument("name", required=False, metavar="NODE")
@click.option("--reusable", is_flag=True, help="For any number of new nodes, each by a name of its own.")
@click.option("--valid", metavar="DURATION", help="How long it counts (15m).")
@click.option(
    "--ssh", "target", metavar="[USER@]HOST", help="Print nothing: enrol and start the agent there, by ssh."
)
@click.option("--program", default="trainshed", metavar="PATH", help="With --ssh: where trainshed is, there.")
@json_option
def add(
    name: str | None, reusable: bool, valid: str | None, target: str | None, program: str, as_json: bool
) -> None:
    """Print a token that counts once, for 15 minutes: there it is given to `trainshed agent --join`."""
    from datetime import timedelta

    from services.cli.members import new_line, print_token
    from services.durations import parse_duration
    from services.enrol.tokens import ForAnyNode, ForNode

    if (name is None) != reusable:
        raise click.UsageError("give a NODE, or --reusable")
    life = None if valid is None else timedelta(seconds=parse_duration(valid, given_by="--valid"))
    whom = ForAnyNode() if name is None else ForNode(name)
    if target is not None:
        from services.cli import node_by_ssh

        node_by_ssh.check_target(target)
        node_by_ssh.start_agent(target, program, str(new_line(whom, life)))
        return
    print_token(whom, "agent --join", f"On {name or 'each machine'}", life, as_json)


@node.command(cls=Verb, examples=("trainshed node revoke gpu01",))
@click.argument("name", metavar="NODE")
def revoke(name: str) -> None:
    """Put a machine out: its agent is cut off at once. What runs there goes on, until `node remove` gives it up."""
    from services.access.identities import NodeIdentity
    from services.cli import members

    members.revoke(NodeIdentity(name))


@node.command(cls=Verb, examples=("trainshed node rotate gpu01", "trainshed node rotate --all"))
@click.argument("name", required=False, metavar="NODE")
@click.option("--all", "everybody", is_flag=True, help="Everybody who is enrolled, people too.")
def rotate(name: str | None, everybody: bool) -> None:
    """Ask a machine, or everybody, for a new key. Nobody is cut off."""
    from services.access.identities import NodeIdentity
    from services.cli import members

    if (name is None) != everybody:
        raise click.UsageError("give a NODE, or --all")
    members.rotate(None if name is None else NodeIdentity(name), "everybody is")


@node.command("list", cls=Verb, examples=("trainshed node list",))
@json_option
def list_nodes(as_json: bool) -> None:
    """List the machines that are enrolled, and when their certificates expire. (How they are: trainshed nodes)"""
    from services.cli.members import print_members

    print_members("node", lambda roster: roster.nodes, as_json)


@node.command(cls=Verb, examples=("trainshed node remove gpu01",))
@click.argument("node", metavar="NODE", type=NODE)
@click.option("--reason", help="Kept in the log.")
@json_option
@nats_option
def remove(node: str, reason: str | None, as_json: bool) -> None:
    """Say that a machine is off for good: what it ran ends as failed (node_lost), or is tried elsewhere.

    Only for a node that is lost or has left. It is your word: a machine that was only cut off goes on working until
    its agent hears of it.
    """
    _print_answer("remove", node, reason, as_json)


def _print_answer(verb: _Verb, node: str, reason: str | None, as_json: bool) -> NodeAnswer:
    answer = run_async(_ask(verb, node, reason))
    if as_json:
        import msgspec

        print_json(msgspec.json.encode(answer))
    else:
        click.echo(f"{answer.node}  {answer.status}{', drained' if verb == 'drain' else ''}")
    return answer


async def _ask(verb: _Verb, node: str, reason: str | None) -> NodeAnswer:
    async with connected() as trainshed:
        match verb:
            case "drain":
                return await trainshed.drain(node, reason=reason)
            case "resume":
                return await trainshed.resume(node, reason=reason)
            case "remove":
                return await trainshed.remove_node(node, reason=reason)
