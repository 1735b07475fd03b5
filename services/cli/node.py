"""`trainshed drain`, `resume` and `node remove`: what an operator says of a machine.

Owns what they print; whether they may is the gateway's word.
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


@verb_group("trainshed node remove gpu01")
def node() -> None:
    """What an operator says of a machine."""


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
