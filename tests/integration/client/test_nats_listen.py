"""``listen``: a plain function hears messages while the socket is read, in order, whatever it raises."""

from __future__ import annotations

from nats.aio.msg import Msg

from tests.support import NatsServer, RawNats
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


async def test_what_a_gate_does_not_let_through_reaches_nobody_and_its_headers_are_not_read(
    nats_server: NatsServer,
) -> None:
    errors: list[Exception] = []
    nc = await connect(nats_server.endpoint, name="gate", on_error=errors.append)
    heard: list[bytes] = []
    asked: list[tuple[bytes, bytes]] = []

    def gate(subject: bytes, reply: bytes) -> bool:
        asked.append((subject, reply))
        if subject == b"test.raises":
            raise ValueError("no gate")
        return subject == b"test.open"

    async def hear(msg: Msg) -> None:
        heard.append(msg.data)

    try:
        nc.put_gate("test.*", gate)
        await nc.subscribe("test.*", cb=hear)
        await nc.subscribe("test.>", cb=hear)  # another subscription, which has no gate
        await nc.flush()
        async with RawNats(nats_server.endpoint) as raw:
            await raw.publish(b"test.shut", b"1", headers=b"NATS/1.0 \xff\xfe\r\n\r\n", reply=b"r")
            await raw.publish(b"test.raises", b"2")
            await raw.publish(b"test.open", b"3")
        await eventually(lambda: len(heard) == 4)
        assert sorted(heard) == [b"1", b"2", b"3", b"3"]
        assert asked == [(b"test.shut", b"r"), (b"test.raises", b""), (b"test.open", b"")]
        read = [str(error) for error in errors]
        assert sum("headers cannot be read" in text for text in read) == 1, "by the one without a gate"
        assert sum("no gate" in text for text in read) == 1
        nc.remove_gate("test.*")
        await nc.publish("test.shut", b"4")
        await eventually(lambda: heard.count(b"4") == 2)
    finally:
        await nc.close()
