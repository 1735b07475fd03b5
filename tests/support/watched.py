"""What a watcher of a stack sees: the record buckets as they are, and what heartbeats and a log stored in parts put there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from nats.aio.msg import Msg
from nats.js.errors import KeyNotFoundError, NoKeysError

from bench.log_maker import LogMaker
from events.codec import Writer, uuid7
from events.log import publish
from events.types import NodeHeartbeat, RunHeartbeat
from tests.support.stored_log import store
from trainshed_client.nats_client import SafeClient
from trainshed_client.nats_connection import NatsConnection
from trainshed_client.subjects import Role


async def bucket(nc: SafeClient, name: str = "trainshed_runs") -> dict[str, Any]:
    """What is in a bucket."""
    kv = await nc.jetstream().key_value(name)
    found = {}
    try:
        keys = await kv.keys()
    except NoKeysError:
        return {}
    for key in keys:
        try:
            found[key] = msgspec.json.decode((await kv.get(key)).value or b"null")
        except KeyNotFoundError:  # it left meanwhile
            continue
    return found


async def heartbeat(nc: SafeClient, told: RunHeartbeat | NodeHeartbeat, node: str = "gpu01") -> None:
    """Have a node's agent send one."""
    subject, id_, body = Writer(Role.AGENT, lambda: 0, uuid7, node).heartbeat(told)
    await publish(nc, subject, id_, body)


class StoredInParts:
    """A log with an election and one node, of which what was `made` since is stored when asked to."""

    def __init__(self, nc: SafeClient) -> None:
        self.made = LogMaker()
        self.made.elect()
        self.made.join()
        self._nc = nc
        self._stored = 0

    async def store(self) -> int:
        """Store what was made since; returns the log's end."""
        end = await store(self._nc, self.made.messages[self._stored :])
        self._stored = len(self.made.messages)
        return end


class OneOfSeveral(NatsConnection):
    """A connection to a server that is one of a cluster, where nothing that is republished arrives: it was stored last by a
    server that died, or before anybody listened."""

    of_several = True

    async def hear(
        self, to: Sequence[str], listener: Callable[[Msg], None], again: Callable[[], None]
    ) -> Any:
        """As NatsConnection's, and deaf."""
        return await super().hear(to, lambda _: None, again)
