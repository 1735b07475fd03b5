"""`trainshed audit checkpoint`: a signed checkpoint of the log's tree, to be kept where the log's keeper cannot reach.

Owns what is printed; the signer signs.
"""

from __future__ import annotations

from typing import Any

import click
import msgspec

from services.cli.common import connected, json_option, nats_option, note, print_json, run_async, warn, write
from services.cli.text import clean
from services.cli.verb import verb


@verb("trainshed audit checkpoint", name="checkpoint")
@click.option(
    "--cosigned",
    is_flag=True,
    help="The one that most nodes have cosigned, which may be some seconds old, in place of the whole log's.",
)
@json_option
@nats_option
def checkpoint(as_json: bool, cosigned: bool) -> None:
    """Print a signed checkpoint of the whole log, as C2SP's tlog-checkpoint has it, with the nodes' cosignatures of it.

    Kept elsewhere, it shows later whether what was stored before is still what it was.
    """
    answer = run_async(_checkpoint(cosigned))
    shown: dict[str, Any] = msgspec.json.decode(answer)
    if shown["gap"] is not None:
        warn(f"the log has no event {shown['gap']}: its tree ends there, with {shown['size']} leaves")
    if as_json:
        print_json(answer)
    else:
        write(shown["checkpoint"].encode())
        if shown["cosigned_by"]:
            note(f"{shown['size']:,} events, cosigned by {', '.join(map(clean, shown['cosigned_by']))}")
        else:
            at = "any yet" if cosigned else "this one yet; for the last that they have: --cosigned"
            note(f"{shown['size']:,} events; no node has cosigned {at}")


async def _checkpoint(cosigned: bool) -> bytes:
    async with connected() as trainshed:
        return await trainshed.call("audit.checkpoint", {"cosigned": cosigned})
