"""``flush`` of our client is a barrier: what was sent before it has reached the server when it returns."""

from __future__ import annotations

import asyncio

import nats.errors
import pytest

from tests.support import NatsServer
from tests.support.control import stopped
from trainshed_client.endpoint import Endpoint
from trainshed_client.nats_client import connect

INFO = b'INFO {"server_id":"x","server_name":"x","version":"2.15.1","proto":1,"headers":true,"max_payload":1048576}\r\n'


async def test_a_flush_asks_the_server_after_all_that_was_sent_before_it() -> None:
    """On the wire, since a real server hides it nearly always: nats-py's own PING overtakes what is pending."""
    lines: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(INFO)
        while line := await reader.readline():
            lines.append(line.split()[0])
            if line == b"PING\r\n":
                writer.write(b"PONG\r\n")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1") as server:
        port = server.sockets[0].getsockname()[1]
        nc = await connect(Endpoint(f"nats://127.0.0.1:{port}"), name="test")
        lines.clear()
        await nc.subscribe("a")
        await nc.publish("b", b"c")
        await nc.flush(timeout=5)
        await nc.close()
    assert lines[:4] == [b"SUB", b"PUB", b"c", b"PING"]


async def test_an_answer_to_a_flush_that_gave_up_breaks_no_connection(nats_server: NatsServer) -> None:
    client = await nats_server.client()
    connections = client.stats["reconnects"]
    with stopped(nats_server.pid), pytest.raises(nats.errors.FlushTimeoutError):
        await client.flush(timeout=0.2)
    await client.flush()
    assert client.is_connected
    assert client.stats["reconnects"] == connections
