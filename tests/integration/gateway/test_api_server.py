"""Serving calls while the server stands still: a service waits for it, and does not end for it."""

from __future__ import annotations

import asyncio
from typing import Any

import nats.errors
import pytest

from services.api import ApiServer, Call
from tests.support import NatsServer, eventually
from tests.support.control import ask, stopped
from trainshed_client.nats_client import SafeClient


async def _echo(call: Call) -> object:
    return {"echo": call.body}


async def _asked(asking: SafeClient) -> Any:
    """The answer; None while the server has not heard of the service yet."""
    try:
        return await ask(asking, "test.echo", {"a": 1})
    except nats.errors.NoRespondersError:
        return None


async def test_a_service_that_begins_while_the_server_stands_still_serves_when_it_goes_on(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving, asking = await nats_server.client("serving"), await nats_server.client("asking")
    flush = SafeClient.flush

    async def soon(self: SafeClient, *args: Any, **options: Any) -> None:
        await flush(self, timeout=0.2)  # as it is, 10 s

    monkeypatch.setattr(SafeClient, "flush", soon)
    async with asyncio.timeout(30):
        with stopped(nats_server.pid):
            server = ApiServer(serving, "test", {"test.echo": _echo}, max_bytes=1_000)
            await server.__aenter__()
        try:
            assert await eventually(lambda: _asked(asking), 20) == {"echo": {"a": 1}}
        finally:
            await server.__aexit__(None, None, None)
