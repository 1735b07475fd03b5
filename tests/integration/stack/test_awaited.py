"""A client that waits for a stack which is not up yet, and does not wait for what will never be."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.support.stack import Stack
from trainshed_client import ErrorCode, Trainshed, TrainshedError
from trainshed_client.endpoint import read_endpoint


async def test_it_waits_until_the_stack_answers_commands_and_queries(
    new_stack: Callable[..., Stack], monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = new_stack(start=False)
    for name in ("NATS_URL", "TRAINSHED_NATS_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TRAINSHED_STATE_DIR", str(stack.state_dir))
    heard: list[str | None] = []
    connecting = asyncio.create_task(
        Trainshed.connect(wait=True, on_waiting=lambda service, why: heard.append(why))
    )
    while not heard:
        await asyncio.sleep(0.05)
    assert heard[0] is not None and "endpoint.json is missing" in heard[0] and not connecting.done()
    stack.start(wait=False)
    async with await asyncio.wait_for(connecting, 30) as trainshed:
        assert (await trainshed.submit({"entry_point": "/bin/true"})).created
    assert heard[-1] is None
    stack.wait_ready()


async def test_what_waiting_does_not_mend_is_an_error_at_once(stack: Stack) -> None:
    endpoint = read_endpoint(stack.state_dir)
    wrong = endpoint.url.replace("://", f"://{endpoint.user}:wrong@")
    for url, code, text in (
        (wrong, ErrorCode.DENIED, "refuses user"),
        ("http://127.0.0.1:4222", ErrorCode.INVALID, "no NATS URL"),
        ("tls://no-such-host.invalid:4222", ErrorCode.UNAVAILABLE, "no host has the name"),
    ):
        with pytest.raises(TrainshedError, match=text) as refused:
            await asyncio.wait_for(Trainshed.connect(url, wait=True), 10)
        assert refused.value.code is code


async def test_it_waits_no_longer_than_it_was_asked_to(unused_tcp_port: int) -> None:
    with pytest.raises(TrainshedError, match=r"not up after 0\.3 s: no Trainshed answers") as refused:
        await Trainshed.connect(f"nats://127.0.0.1:{unused_tcp_port}", wait=0.3)
    assert refused.value.code is ErrorCode.UNAVAILABLE
