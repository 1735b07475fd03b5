"""`trainshed audit accept`: the word of an operator that the log is not what was signed before, and why.

Owns what is printed; the event is the gateway's, and what a node makes of it its witness's.
"""

from __future__ import annotations

from typing import Any

import click
import msgspec

from services.cli.common import connected, json_option, nats_option, note, print_json, run_async
from services.cli.verb import verb


@verb("trainshed audit accept --reason 'restored from the backup of 23 November'", name="accept")
@click.option("--reason", metavar="TEXT", required=True, help="What happened. Kept in the log.")
@json_option
@nats_option
def accept(reason: str, as_json: bool) -> None:
    """Accept the log as it is now, where nodes object that it is not what was signed before.

    After a restore from a backup it lacks what was stored since. The nodes keep what they objected to, and begin anew with
    the log as it is. That it was accepted, when and why, is an event, which `audit verify` shows for ever.
    """
    answer = run_async(_accept(reason))
    if as_json:
        print_json(answer)
        return
    shown: dict[str, Any] = msgspec.json.decode(answer)
    click.echo(f"accepted at {shown['seq']}")
    note("each node that objects begins anew with its next checkpoint, within some seconds: trainshed nodes")


async def _accept(reason: str) -> bytes:
    async with connected() as trainshed:
        return await trainshed.call("audit.accept", {"reason": reason})
