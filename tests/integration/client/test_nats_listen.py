"""``listen``: a plain function hears messages while the socket is read, in order, whatever it raises."""

from __future__ import annotations

from nats.aio.msg import Msg

from tests.support import NatsServer
from tests.support.deadline import eventually
from trainshed_client.nats_client import connect


async def test_a_listener_hears_everything_in_order_until_it_unsubscribes(nats_server: NatsServer) -> None:
    nc, other = await nats_server.client(), await nats_server.client()
    heard: list[bytes] = []
    subscription = await nc.listen("test.>", lambda msg: heard.append(msg.data))
    await nc.flush()
    for number in range(500):
        await other.publish(f"test.{number}", b"%d" % number, headers={"A": "b"} if number % 2 else None)
    await eventually(lambda: len(heard) == 500)
    assert heard == [b"%d" % number for number in range(500)]
    await subscription.unsubscribe()
    await other.publish("test.more", b"more")
    await other.flush()
    await nc.flush()
    assert len(heard) == 500


async def test_what_a_listener_raises_is_told_and_the_next_message_arrives(nats_server: NatsServer) -> None:
    errors: list[Exception] = []
    nc = await connect(nats_server.endpoint, name="listener", on_error=errors.append)
    heard: list[bytes] = []

    def listener(msg: Msg) -> None:
        heard.append(msg.data)
        if msg.data == b"bad":
            raise ValueError("cannot be taken")

    try:
        await nc.listen("test.listen", listener)
        for data in (b"bad", b"good"):
            await nc.publish("test.listen", data)
        await eventually(lambda: len(heard) == 2)
        assert ["cannot be taken" in str(error) for error in errors] == [True]
        assert (await nc.request("$JS.API.INFO", b"", timeout=5)).data
    finally:
        await nc.close()
