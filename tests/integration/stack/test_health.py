"""The pages over HTTP, asked as nobody should ask."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from services.observe import health
from services.observe.health import HealthServer
from services.setting_values import Listen
from trainshed_client.errors import TrainshedError

LACKING: list[str] = []


async def no_metrics() -> tuple[bytes, str]:
    raise RuntimeError("a metric that fails")


@pytest.fixture
async def server() -> AsyncIterator[HealthServer]:
    """On a free port of this machine."""
    one = HealthServer(Listen("127.0.0.1", 0), lambda: LACKING, no_metrics)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(one.run())
        await asyncio.wait_for(one.ready.wait(), 5)
        yield one
        one.stop()


async def ask(server: HealthServer, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request)
    try:
        return await asyncio.wait_for(reader.read(), 5)
    finally:
        writer.close()


async def test_it_says_what_is_lacking(server: HealthServer) -> None:
    assert b" 200 OK\r\n" in await ask(server, b"GET /readyz HTTP/1.1\r\n\r\n")
    LACKING.append("gateway is starting")
    try:
        answer = await ask(server, b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 503 " in answer and answer.endswith(b"not ready: gateway is starting\n")
        assert b" 200 " in await ask(server, b"GET /healthz HTTP/1.0\r\n\r\n")
    finally:
        LACKING.clear()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"\r\n\r\n", b" 400 "),
        (b"\xff\xfe\x00 /healthz\r\n\r\n", b" 400 "),
        (b"GET /healthz SPDY/1\r\n\r\n", b" 400 "),
        (b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", b" 400 "),
        (b"DELETE /metrics HTTP/1.1\r\n\r\n", b" 405 "),
        (b"GET /../../etc/passwd HTTP/1.1\r\n\r\n", b" 404 "),
        (b"GET /metrics HTTP/1.1\r\n\r\n", b" 500 "),
        (b"HEAD /healthz?a=b HTTP/1.1\r\n\r\n", b" 200 "),
    ],
)
async def test_whatever_is_asked_is_answered(server: HealthServer, request_: bytes, status: bytes) -> None:
    assert status in (await ask(server, request_)).partition(b"\r\n")[0] + b" "
    assert b"200" in await ask(server, b"GET /healthz HTTP/1.1\r\n\r\n")


async def test_who_never_finishes_asking_is_hung_up_on(
    server: HealthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "REQUEST_WITHIN_S", 0.1)
    assert await ask(server, b"GET /heal") == b""


async def test_an_address_that_cannot_be_had_is_told() -> None:
    with pytest.raises(TrainshedError, match="192.0.2.1:80"):
        await HealthServer(Listen("192.0.2.1", 80), list, no_metrics).run()
