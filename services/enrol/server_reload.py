"""Having nats-servers read their configuration anew over the system account: on whatever machine or in whatever container
they run, and with their answer.

Owns that request; knows nothing of what a configuration has. Whoever may ask this may do little else there (`SUBJECTS`).
"""

from __future__ import annotations

import asyncio

import msgspec
import nats.errors
from nats.aio.msg import Msg

from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.nats_client import SafeClient
from trainshed_client.os_errors import cause

_PING = "$SYS.REQ.SERVER.PING"
SUBJECTS = (_PING, "$SYS.REQ.SERVER.*.RELOAD")
"""What the user of this connection must be allowed to publish, in the system account; beside its inbox nothing more."""
ANSWER_WITHIN_S = 10.0
FIRST_WITHIN_S = 5.0
OTHERS_WITHIN_S = 0.5


async def reload_servers(nc: SafeClient, *, times: int = 1) -> None:
    """Have every server of the cluster read its configuration, and return once they have.

    ``times``: 2 where an account is new, whose service imports answer only after the second. Raises TrainshedError: INVALID
    with the server's reason where one refuses its file (it goes on by the old one), UNAVAILABLE where none answers.
    """
    servers = await _servers(nc)
    for _ in range(times):
        for server in sorted(servers):
            await _reload(nc, server)


async def _servers(nc: SafeClient) -> set[str]:
    """The ids of those that answer: the first is waited for, the others a moment longer."""
    found: set[str] = set()
    first = asyncio.Event()

    async def heard(msg: Msg) -> None:
        try:
            found.add(msgspec.json.decode(msg.data, type=_Answer).server.id)
        except msgspec.MsgspecError:
            return
        first.set()

    inbox = nc.new_inbox()
    subscription = await nc.subscribe(inbox, cb=heard)
    try:
        await nc.publish(_PING, b"", reply=inbox)
        async with asyncio.timeout(FIRST_WITHIN_S):
            await first.wait()
        await asyncio.sleep(OTHERS_WITHIN_S)
    except (TimeoutError, nats.errors.Error) as error:
        raise TrainshedError(
            ErrorCode.UNAVAILABLE, f"no server answers in the system account ({cause(error)})"
        ) from None
    finally:
        await subscription.unsubscribe()
    return found


async def _reload(nc: SafeClient, server: str) -> None:
    try:
        answer = await nc.request(f"$SYS.REQ.SERVER.{server}.RELOAD", b"", timeout=ANSWER_WITHIN_S)
        error = msgspec.json.decode(answer.data, type=_Answer).error
    except (TimeoutError, nats.errors.Error, msgspec.MsgspecError) as failed:
        raise TrainshedError(
            ErrorCode.UNAVAILABLE,
            f"the server {server} did not answer whether it read its configuration ({cause(failed)})",
        ) from None
    if error is not None:
        raise TrainshedError(
            ErrorCode.INVALID,
            f"the server refuses its configuration and goes on by the old one: {error.description}",
        )


class _ServerInfo(msgspec.Struct, frozen=True):
    id: str


class _ServerError(msgspec.Struct, frozen=True):
    description: str = "it gives no reason"


class _Answer(msgspec.Struct, frozen=True):
    server: _ServerInfo
    error: _ServerError | None = None
