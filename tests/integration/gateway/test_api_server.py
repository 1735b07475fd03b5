"""Serving calls: a server that stands still is waited for, and one account's requests wait in a line of their own."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import nats.errors
import pytest

from services.access.identities import PersonRole
from services.admission import AT_ONCE, DEFAULT_RATE, REFUSED_RATE, TURN_WITHIN_S
from services.api import ApiServer, Call
from services.people import Rights
from tests.support import NatsServer, RawNats, eventually
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


async def test_what_one_account_has_under_way_holds_up_no_other_and_has_a_bound(
    nats_server: NatsServer,
) -> None:
    serving, asking = await nats_server.client("serving"), await nats_server.client("asking")
    release = asyncio.Event()
    at_work = 0

    async def hangs_for_sam(call: Call) -> object:
        nonlocal at_work
        if call.by == "sam":
            at_work += 1
            await release.wait()
        return call.by

    async def asked(account: str) -> Any:
        answer = await asking.request(f"trainshed.api.u.{account}.test.hang", b"{}", timeout=20)
        return json.loads(answer.data)

    async with asyncio.timeout(40), ApiServer(serving, "test", {"test.hang": hangs_for_sam}, max_bytes=1_000):
        async with asyncio.TaskGroup() as tasks:
            assert REFUSED_RATE.burst >= 9
            many = [tasks.create_task(asked("P_sam")) for _ in range(DEFAULT_RATE.waiting + 9)]
            refused = await eventually(lambda: [one for one in many if one.done()], 10)
            taken = DEFAULT_RATE.burst + DEFAULT_RATE.per_s * TURN_WITHIN_S
            assert DEFAULT_RATE.waiting + 9 < taken, "none of them is refused for the rate"
            for one in refused:
                assert one.result()["error"]["code"] == "too_many"
            assert await asked("P_ada") == "ada"
            assert await asked("P_local") == "local"
            assert await ask(asking, "test.hang", {}) == "local"
            assert at_work == AT_ONCE
            release.set()
        answers = [one.result() for one in many]
    assert answers.count("sam") == DEFAULT_RATE.waiting
    assert at_work == DEFAULT_RATE.waiting


@pytest.mark.parametrize(
    "subject", [b"trainshed.api.u.\xff\xfe.test.echo", b"trainshed.api.u.P_sam.test.echo"]
)
async def test_no_subject_and_no_reply_of_a_flood_ends_the_service(
    nats_server: NatsServer, subject: bytes
) -> None:
    serving, asking = await nats_server.client("serving"), await nats_server.client("asking")
    async with ApiServer(serving, "test", {"test.echo": _echo}, max_bytes=1_000):
        async with RawNats(nats_server.endpoint) as raw:
            for reply in (b"", b"\xff\xff", b"trainshed.x"):
                words = b" ".join(word for word in (b"PUB", subject, reply, b"2") if word)
                await raw.send((words + b"\r\n{}\r\n") * 300)
        assert await ask(asking, "test.echo", {"a": 1}) == {"echo": {"a": 1}}


async def test_who_awaits_each_answer_is_slowed_and_never_refused(nats_server: NatsServer) -> None:
    class Slow:
        def rights(self, name: str) -> Rights | None:
            return Rights(role=PersonRole.SUBMITTER, rate=10)

    serving, asking = await nats_server.client("serving"), await nats_server.client("asking")
    async with ApiServer(serving, "test", {"test.echo": _echo}, max_bytes=1_000, people=Slow()):
        begun = asyncio.get_running_loop().time()
        for number in range(25):
            answer = await asking.request("trainshed.api.u.P_sam.test.echo", b"{}", timeout=5)
            assert json.loads(answer.data) == {"echo": {}}, number
        assert asyncio.get_running_loop().time() - begun > 1.4
