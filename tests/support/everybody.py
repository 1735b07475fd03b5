"""A real nats-server with everybody on it, each confined as in a stack, and one unconfined user of the control account."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from services.access.accounts import User, accounts_text, inbox_prefix
from services.access.identities import (
    CONTROL_ACCOUNT,
    Control,
    ControlRole,
    Known,
    NodeIdentity,
    Person,
    PersonRole,
    user_name,
)
from services.access.table import COLUMNS
from services.nats_server.embedded_nats import EmbeddedNats
from services.nats_server.web_socket import WebSocketListener
from tests.support.raw import RawNats
from trainshed_client import subjects
from trainshed_client.endpoint import Endpoint
from trainshed_client.nats_client import SafeClient, connect

EVE = Person("eve", PersonRole.SUBMITTER)
GPU02 = NodeIdentity("gpu02")
EVERYBODY: tuple[Known, ...] = (*COLUMNS.values(), EVE, GPU02)
PROBE = "probe"


class EverybodyRealm:
    """Their passwords are their names. A page connects without a web socket here."""

    store_account = CONTROL_ACCOUNT
    tls = False

    def __init__(self, identities: Iterable[Known] = EVERYBODY) -> None:
        self.identities = tuple(identities)

    def text(self, password: str, web: WebSocketListener | None) -> str:
        """See Realm."""
        users = [User(identity=one, password=user_name(one)) for one in self.identities]
        text = accounts_text(users).replace("[WEBSOCKET]", "[STANDARD]")
        return text.replace("users: [", f"users: [\n      {{ user: {PROBE}, password: {PROBE} }}", 1)

    def operator(self, url: str, password: str) -> Endpoint:
        """See Realm."""
        return endpoint_of(url, Control(ControlRole.OPERATOR))


def endpoint_of(url: str, who: Known) -> Endpoint:
    """How this one connects."""
    return Endpoint(url, user_name(who), user_name(who), inbox_prefix=inbox_prefix(who))


class EverybodyServer:
    """The server, and connections that end with it. ``refusals``: what the server refused to each of them."""

    def __init__(self, state_dir: Path) -> None:
        self.embedded = EmbeddedNats(state_dir, EverybodyRealm())
        self.refusals: list[str] = []
        self._clients: list[SafeClient] = []

    async def __aenter__(self) -> Self:
        await self.embedded.start()
        return self

    async def __aexit__(self, *unused: object) -> None:
        for client in self._clients:
            await client.close()
        await self.embedded.stop()

    async def client(self, who: Known) -> SafeClient:
        """A new connection of his."""
        return await self._connected(endpoint_of(self.embedded.url, who))

    async def probe(self) -> SafeClient:
        """One of the control account who may do everything."""
        return await self._connected(Endpoint(self.embedded.url, PROBE, PROBE))

    def raw(self, who: Known) -> RawNats:
        """One of his that sends what no library would."""
        return RawNats(endpoint_of(self.embedded.url, who))

    async def _connected(self, endpoint: Endpoint) -> SafeClient:
        client = await connect(endpoint, name="test", on_error=lambda error: self.refusals.append(str(error)))
        self._clients.append(client)
        return client


_BEGIN = {subjects.EVENTS_STREAM: subjects.EVENTS, subjects.HEARTBEATS_STREAM: subjects.HEARTBEATS}


async def stored_messages(probe: SafeClient, stream: str = subjects.EVENTS_STREAM) -> list[tuple[str, str]]:
    """Subject and body of all that a stream has, in its order, once all that was sent before has been stored."""
    ack = await probe.request(f"{_BEGIN[stream]}.last", b"", timeout=5)
    end = json.loads(ack.data)["seq"]
    inbox = probe.new_inbox()
    sub = await probe.subscribe(inbox)
    asked = json.dumps({"seq": 1, "batch": 1_000, "next_by_subj": ">"}).encode()
    await probe.publish(f"$JS.API.DIRECT.GET.{stream}", asked, reply=inbox)
    found: list[tuple[str, str]] = []
    while "Status" not in ((msg := await sub.next_msg(5)).headers or {}):
        assert msg.headers is not None
        found.append((msg.headers["Nats-Subject"], msg.data.decode()))
    await sub.unsubscribe()
    assert len(found) <= end
    return [one for one in found if one[0] != f"{_BEGIN[stream]}.last"]


async def settled(*clients: SafeClient) -> None:
    """What they sent has been handed on, and what is for them is here."""
    for _ in range(2):
        for client in clients:
            await client.flush()


async def heard(sub: Subscription) -> list[Msg]:
    """What has arrived."""
    return [await sub.next_msg(1) for _ in range(sub.pending_msgs)]
