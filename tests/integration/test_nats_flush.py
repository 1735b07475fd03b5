"""``flush`` of our client is a barrier: what was sent before it has reached the server."""

from __future__ import annotations

from nats.aio.msg import Msg

from tests.support import NatsServer


async def test_after_a_flush_the_server_knows_every_subscription_made_before_it(nats_server: NatsServer) -> None:
    asking, answering = await nats_server.client(), await nats_server.client()

    async def answer(msg: Msg) -> None:
        await msg.respond(b"here")

    for number in range(200):
        subject = f"test.flush.{number}"
        for filler in range(20):
            await answering.subscribe(f"test.filler.{number}.{filler}", cb=answer)
        await answering.subscribe(subject, cb=answer)
        await answering.flush()
        assert (await asking.request(subject, b"", timeout=5)).data == b"here"
