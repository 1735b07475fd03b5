"""The ordered reader on a real nats-server: every message once and in order, whatever happens to server and consumer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from events import feed as feeds
from events.feed import ApiError, Feed, api_call
from events.log import EventLog
from events.types import CancelRequested
from tests.support import NatsServer, RawNats, eventually
from tests.support.control import kill_and_start_again, new_log, say, stopped
from trainshed_client import subjects
from trainshed_client.direct_get import Message
from trainshed_client.subjects import Role


async def fill(log: EventLog, many: int, *, run_id: str = "r1") -> None:
    for _ in range(many):
        await say(log, Role.GATEWAY, CancelRequested(run_id=run_id))


async def collect(feed: Feed, upto: int, into: list[Message]) -> None:
    while not into or into[-1].seq < upto:
        into += await feed.batch()


def seqs(messages: list[Message]) -> list[int]:
    return [message.seq for message in messages]


@pytest.fixture
async def log(nats_server: NatsServer) -> AsyncIterator[EventLog]:
    yield await new_log(nats_server, timeout_s=1.0)


async def test_it_delivers_what_is_stored_and_then_what_comes(log: EventLog) -> None:
    await fill(log, 5)
    async with log.follow(3) as feed:
        got: list[Message] = []
        await collect(feed, 5, got)
        assert seqs(got) == [3, 4, 5]
        assert feed.position == 6
        coming = asyncio.create_task(feed.batch())
        await fill(log, 1)
        (message,) = await asyncio.wait_for(coming, 5)
        assert (message.seq, message.subject) == (6, "trainshed.events.run.r1.gateway.cancel_requested._")


async def test_a_batch_is_never_larger_than_its_limit_and_never_empty(log: EventLog) -> None:
    await fill(log, 50)
    got: list[Message] = []
    async with log.follow(1) as feed:
        while len(got) < 50:
            batch = await feed.batch(7)
            assert 1 <= len(batch) <= 7
            got += batch
    assert seqs(got) == list(range(1, 51))


async def test_to_end_it_does_not_wait_for_more(log: EventLog) -> None:
    async with log.follow(1) as feed:
        assert await asyncio.wait_for(feed.batch(to_end=True), 5) == []
    await fill(log, 20)
    async with log.follow(1) as feed:
        got: list[Message] = []
        while batch := await asyncio.wait_for(feed.batch(3, to_end=True), 5):
            got += batch
        assert seqs(got) == list(range(1, 21))
        await fill(log, 1)
        assert seqs(await feed.batch()) == [21]


async def test_filters_select_and_the_order_is_the_streams(log: EventLog) -> None:
    for number in range(12):
        await fill(log, 1, run_id=f"r{number % 3}")
    async with log.follow(1, (subjects.run_events("r0"), subjects.run_events("r2"))) as feed:
        got: list[Message] = []
        await collect(feed, 12, got)
    assert seqs(got) == [1, 3, 4, 6, 7, 9, 10, 12]


async def test_more_than_flow_control_lets_out_at_once_arrives_whole(log: EventLog) -> None:
    writer = [
        log.nc.publish(
            "trainshed.events.run.r1.gateway.cancel_requested._",
            b"x" * 20_000,
            headers={"Nats-Msg-Id": str(number)},
        )
        for number in range(1_500)
    ]
    for publishing in writer:
        await publishing
    await log.nc.flush()
    await eventually(lambda: _end_is(log, 1_500), within=20)
    got: list[Message] = []
    async with log.follow(1) as feed:
        while len(got) < 1_500:
            got += await asyncio.wait_for(feed.batch(100), 20)
            assert len(feed._queue) <= 1_500
    assert seqs(got) == list(range(1, 1_501))


async def test_it_survives_a_killed_server_without_gap_or_duplicate(
    nats_server: NatsServer, log: EventLog
) -> None:
    await fill(log, 10)
    got: list[Message] = []
    async with log.follow(1) as feed:
        got += await feed.batch(4)
        await kill_and_start_again(nats_server)
        await collect(feed, 10, got)
        await eventually(lambda: log.nc.is_connected, within=10)
        for _ in range(2):
            following = asyncio.create_task(collect(feed, got[-1].seq + 10, got))
            await fill(log, 10)
            await asyncio.wait_for(following, 20)
            await kill_and_start_again(nats_server)
            await eventually(lambda: log.nc.is_connected, within=10)
    assert seqs(got) == list(range(1, len(got) + 1))
    assert len(got) == 30


async def test_it_survives_a_server_that_stands_still(nats_server: NatsServer, log: EventLog) -> None:
    await fill(log, 3)
    got: list[Message] = []
    async with log.follow(1) as feed:
        await collect(feed, 3, got)
        following = asyncio.create_task(collect(feed, 6, got))
        with stopped(nats_server.pid):
            # longer than it waits for the server's idle heartbeats: it takes the consumer for lost
            await eventually(lambda: feed._generation > 1, within=20)
        await fill(log, 3)
        await asyncio.wait_for(following, 30)
    assert seqs(got) == [1, 2, 3, 4, 5, 6]


async def test_a_consumer_that_is_gone_is_made_again(log: EventLog) -> None:
    await fill(log, 3)
    got: list[Message] = []
    async with log.follow(1) as feed:
        await collect(feed, 3, got)
        await api_call(log.nc, f"CONSUMER.DELETE.{subjects.EVENTS_STREAM}.{feed._consumer}")
        await fill(log, 3)
        await asyncio.wait_for(collect(feed, 6, got), 20)
    assert seqs(got) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("tail", [True, False])
async def test_a_delivery_that_was_lost_on_the_way_is_read_again(
    log: EventLog, tail: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lost in the middle the next message shows it, lost at the end the server's idle heartbeat."""
    await fill(log, 1)
    got: list[Message] = []
    lost = 0
    async with log.follow(1) as feed:
        await collect(feed, 1, got)
        process = log.nc._process_msg

        async def lossy(sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
            nonlocal lost
            if lost == 0 and reply.startswith(b"$JS.ACK."):
                lost += 1
                return
            await process(sid, subject, reply, data, headers)

        monkeypatch.setattr(log.nc, "_process_msg", lossy)
        await fill(log, 1 if tail else 3)
        await asyncio.wait_for(collect(feed, 2 if tail else 4, got), 20)
    assert lost == 1
    assert seqs(got) == ([1, 2] if tail else [1, 2, 3, 4])


async def test_a_message_that_is_not_utf8_is_delivered_and_its_followers_too(
    nats_server: NatsServer, log: EventLog
) -> None:
    await fill(log, 1)
    async with RawNats(nats_server.endpoint) as raw:
        await raw.publish(b"trainshed.events.run.\xff\xfe.gateway.submitted._", b"a")
        await raw.publish(
            b"trainshed.events.run.x.gateway.submitted._", b"b", headers=b"NATS/1.0\r\n\xff: \xff\r\n\r\n"
        )
    await fill(log, 1)
    got: list[Message] = []
    async with log.follow(1) as feed:
        await asyncio.wait_for(collect(feed, 4, got), 20)
    assert seqs(got) == [1, 2, 3, 4]
    assert [message.body for message in got[1:3]] == [b"a", b"b"]


async def test_a_forged_delivery_is_neither_handed_out_nor_the_end_of_it(log: EventLog) -> None:
    await fill(log, 2)
    got: list[Message] = []
    async with log.follow(1) as feed:
        await collect(feed, 2, got)
        assert feed._inbox is not None
        for reply in ("$JS.ACK.x", "$JS.ACK.S.c.1.99.99.1.0", "$JS.ACK.S.c.1.x.y.z.0"):
            await log.nc.publish(feed._inbox.subject, b"forged", reply=reply)
        await fill(log, 2)
        await asyncio.wait_for(collect(feed, 4, got), 20)
    assert seqs(got) == [1, 2, 3, 4]


async def test_last_per_subject_begins_with_the_last_of_each_and_does_so_again_after_a_loss(
    nats_server: NatsServer, log: EventLog
) -> None:
    for run_id in ("r1", "r2", "r1", "r3"):
        await fill(log, 1, run_id=run_id)
    async with Feed(log.nc, subjects.EVENTS_STREAM, (subjects.ALL_EVENTS,), last_per_subject=True) as feed:
        got: list[Message] = []
        await collect(feed, 4, got)
        assert seqs(got) == [2, 3, 4]
        await kill_and_start_again(nats_server)
        again: list[Message] = []
        await asyncio.wait_for(collect(feed, 4, again), 20)
        assert seqs(again) == [2, 3, 4]


async def test_a_stream_that_is_not_there_is_told(nats_server: NatsServer) -> None:
    nc = await nats_server.client()
    with pytest.raises(ApiError) as caught:
        async with Feed(nc, "NO_SUCH", ("x.>",)):
            raise AssertionError("unreachable")
    assert caught.value.http_code == 404
    with pytest.raises(ApiError, match="10059"):
        await api_call(nc, "STREAM.INFO.NO_SUCH")


async def test_a_refusal_that_passes_is_waited_out(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that has no leader yet, or is still reading its store, answers 503."""
    await fill(log, 1)
    refusals = 2
    real = feeds.api_call

    async def sometimes(nc: object, call: str, request: object = None) -> dict[str, object]:
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise ApiError(10008, 503, "system temporarily unavailable")
        return await real(nc, call, request)  # type: ignore[arg-type]

    monkeypatch.setattr(feeds, "api_call", sometimes)
    async with log.follow(1) as feed:
        assert seqs(await feed.batch()) == [1]
    assert refusals == 0


async def test_left_it_leaves_no_subscription_hook_or_consumer_behind(log: EventLog) -> None:
    hooks = set(log.nc.reconnect_hooks)
    async with log.follow(1) as feed:
        consumer = feed._consumer
    assert log.nc.reconnect_hooks == hooks

    async def gone() -> bool:
        answer = await log.nc.request(f"$JS.API.CONSUMER.INFO.{subjects.EVENTS_STREAM}.{consumer}", b"")
        return "error" in msgspec.json.decode(answer.data)

    await eventually(gone)


async def _end_is(log: EventLog, seq: int) -> bool:
    return await log.end() == seq
