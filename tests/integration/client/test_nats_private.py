"""What SafeClient leans on inside nats-py: it is there as we know it, and the library really comes by our overrides.

A new minor version of nats-py may change any of it, so the version is pinned, and this falls where the pin is moved.
"""

from __future__ import annotations

import ast
import inspect
from collections import Counter
from pathlib import Path
from typing import Any

import nats.aio.client
import pytest
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport

from tests.support import NatsServer, RawNats, eventually
from trainshed_client import nats_client
from trainshed_client.nats_client import SafeClient

PLAIN = nats.aio.client.Client
OWN = {
    "listen",
    "listen_raw",
    "_raw_listeners",
    "abandon",
    "_next_turn",
    "reconnect_hooks",
    "_listeners",
    "_answers_sid",
    "_written",
    "_endpoint",
    "put_gate",
    "remove_gate",
    "_gates",
}
"""What SafeClient adds. All else that it defines is the library's: derived from what the library has, a renamed one would pass."""
OVERRIDDEN = sorted(
    name
    for name, value in vars(SafeClient).items()
    if inspect.isfunction(value) and name not in OWN and name != "__init__"
)


def private_names() -> list[str]:
    """Every private attribute of nats-py's client that SafeClient's code names."""
    tree = ast.parse(Path(nats_client.__file__).read_bytes())
    (ours,) = (
        node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == SafeClient.__name__
    )
    names = {
        node.attr
        for node in ast.walk(ours)
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
        and ast.unparse(node.value) in ("self", "super()")
    }
    return sorted(names - OWN)


@pytest.mark.parametrize("name", sorted(OWN))
def test_what_we_add_hides_nothing_of_a_plain_client(name: str) -> None:
    assert not hasattr(PLAIN(), name)


@pytest.mark.parametrize("name", private_names())
def test_what_is_used_of_a_plain_client_is_there(name: str) -> None:
    assert hasattr(PLAIN(), name)


@pytest.mark.parametrize("name", [name for name in OVERRIDDEN if name not in ("request", "flush")])
def test_an_override_takes_what_the_library_passes(name: str) -> None:
    def shape(method: Any) -> list[tuple[str, Any]]:
        return [(p.name, p.default) for p in inspect.signature(method).parameters.values()]

    assert shape(getattr(SafeClient, name)) == shape(getattr(PLAIN, name))
    assert inspect.iscoroutinefunction(getattr(SafeClient, name)) == inspect.iscoroutinefunction(
        getattr(PLAIN, name)
    )


def test_a_subscription_and_a_message_are_made_as_we_make_them() -> None:
    assert "_id" in vars(Subscription(PLAIN(), 7))
    assert "_io_writer" in vars(TcpTransport())  # type: ignore[no-untyped-call]
    assert list(inspect.signature(PLAIN._build_message).parameters) == [
        "self",
        "sid",
        "subject",
        "reply",
        "data",
        "headers",
    ]


async def test_the_library_comes_by_each_override(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[str] = Counter()

    def counted(name: str) -> Any:
        ours = getattr(SafeClient, name)

        async def method(self: SafeClient, *args: Any, **options: Any) -> Any:
            calls[name] += 1
            return await ours(self, *args, **options)

        return method

    for name in OVERRIDDEN:
        monkeypatch.setattr(SafeClient, name, counted(name))
    client = await nats_server.client("watched")

    async def answer(msg: Msg) -> None:
        await msg.respond(b"pong")

    await client.subscribe("ask", cb=answer)
    assert (await client.request("ask", b"ping", timeout=5, headers={"A": "b"})).data == b"pong"
    await client.flush()
    async with RawNats(nats_server.endpoint) as raw:
        await raw.publish(b"ask", b"x")
    await client._send_command(b"NONSENSE\r\n")  # the server answers -ERR and hangs up
    await client._flush_pending()
    await eventually(lambda: client.stats["reconnects"] == 1 and client.is_connected)
    await client.close()
    assert {name for name in OVERRIDDEN if not calls[name]} == set()
