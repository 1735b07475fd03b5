"""`trainshed audit checkpoint`: a signed checkpoint of the log's tree, to be kept where the log's keeper cannot reach.

Owns what is printed; the signer signs.
"""

from __future__ import annotations

import msgspec

from services.cli.common import connected, json_option, nats_option, print_json, run_async, warn, write
from services.cli.verb import verb


@verb("trainshed audit checkpoint", name="checkpoint")
@json_option
@nats_option
def checkpoint(as_json: bool) -> None:
    """Print a signed checkpoint of the whole log, as C2SP's tlog-checkpoint has it.

    Kept elsewhere, it shows later whether what was stored before is still what it was.
    """
    answer = run_async(_checkpoint())
    shown = msgspec.json.decode(answer)
    if shown["gap"] is not None:
        warn(f"the log has no event {shown['gap']}: its tree ends there, with {shown['size']} leaves")
    if as_json:
        print_json(answer)
    else:
        write(shown["checkpoint"].encode())


async def _checkpoint() -> bytes:
    async with connected() as trainshed:
        return await trainshed.call("audit.checkpoint", {})
