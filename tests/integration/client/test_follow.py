"""Following runs and their output over a real nats-server; the test plays the projector and the nodes' agents."""

from __future__ import annotations

import asyncio
import random
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from nats.aio.msg import Msg

from tests.support import NatsServer, eventually
from trainshed_client import subjects
from trainshed_client.client import Trainshed
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.follow import BUFFERED_BYTES
from trainshed_client.nats_client import SafeClient
from trainshed_client.nats_connection import NatsConnection
from trainshed_client.output_range import RANGE_BYTES, OutputChunk, stored_output, timed_lines
from trainshed_client.records import AttemptRecord, RunRecord
from trainshed_client.statuses import RunStatus

RUN = "k" * 26


class Records:
    """Plays the projector: answers run.get, and tells every change where the bucket is republished."""

    def __init__(self, nc: SafeClient) -> None:
        self._nc = nc
        self.asked = 0
        self.attempts: list[AttemptRecord] = []
        self.record = RunRecord(
            run_id=RUN,
            name="ppo",
            status=RunStatus.PENDING,
            attempt=1,
            digest="d",
            seq=1,
            submit_seq=1,
            priority=0,
            labels={},
        )

    async def serve(self) -> None:
        await self._nc.subscribe(subjects.api("run.get"), cb=self._answer)
        await self._nc.flush()

    async def _answer(self, msg: Msg) -> None:
        self.asked += 1
        view = {
            "v": 1,
            "seq": self.record.seq,
            "run": self.record,
            "config": {},
            "attempts": self.attempts,
            "timeline": [],
        }
        await msg.respond(msgspec.json.encode(view))

    def set(self, status: RunStatus, *, attempt: int = 1, node: str | None = None) -> None:
        """Change the record without telling anybody."""
        self.record = msgspec.structs.replace(
            self.record, status=status, attempt=attempt, node=node, seq=self.record.seq + 1
        )
        if node is not None and attempt > len(self.attempts):
            self.attempts.append(AttemptRecord(run_id=RUN, attempt=attempt, status=status, node=node))

    async def tell(self, status: RunStatus, *, attempt: int = 1, node: str | None = None) -> None:
        """Change the record and put it into the bucket."""
        self.set(status, attempt=attempt, node=node)
        await self._nc.publish(subjects.watch_run(RUN), msgspec.json.encode(self.record))
        await self._nc.flush()


class Node:
    """Plays an agent: the files of one attempt, the range service, and what is told of new output."""

    def __init__(self, nc: SafeClient, name: str, attempt: int = 1) -> None:
        self._nc = nc
        self.name = name
        self._attempt = attempt
        self.files = {"stdout": bytearray(), "stderr": bytearray(), "index": bytearray()}
        self._service: Any = None
        self.asked = 0
        self.most = RANGE_BYTES
        self.written = 1 << 40
        """How much of its files is there already."""
        self.gone = False
        """Whether somebody has deleted them."""

    async def serve(self) -> None:
        self._service = await self._nc.subscribe(subjects.node_output(self.name), cb=self._answer)
        await self._nc.flush()

    async def away(self) -> None:
        await self._service.unsubscribe()
        await self._nc.flush()

    async def _answer(self, msg: Msg) -> None:
        self.asked += 1
        request = msgspec.json.decode(msg.data)
        file = self.files[request["stream"]]
        assert (request["run_id"], request["attempt"]) == (RUN, self._attempt)
        if self.gone:
            await self._nc.publish(msg.reply, b'{"error": {"code": "not_found", "message": "it is gone"}}')
            return
        size = min(len(file), self.written)
        at = min(request["offset"], size)
        data = bytes(file[at : min(size, at + min(request["limit"], self.most))])
        headers = {subjects.OFFSET_HEADER: str(at), subjects.SIZE_HEADER: str(size)}
        await self._nc.publish(msg.reply, data, headers=headers)

    def write(self, data: bytes, stream: str = "stdout") -> tuple[int, bytes, str]:
        """Append to a file without telling anybody."""
        offset = len(self.files[stream])
        self.files[stream] += data
        return offset, data, stream

    async def tell(self, offset: int, data: bytes, stream: str = "stdout") -> None:
        subject = subjects.output(RUN, self._attempt, self.name, stream)
        await self._nc.publish(subject, data, headers={subjects.OFFSET_HEADER: str(offset)})
        await self._nc.flush()

    async def say(self, data: bytes, stream: str = "stdout") -> None:
        await self.tell(*self.write(data, stream))

    async def finish(self) -> None:
        for stream in ("stdout", "stderr"):
            size = str(len(self.files[stream]))
            headers = {subjects.OFFSET_HEADER: size, subjects.SIZE_HEADER: size}
            await self._nc.publish(
                subjects.output(RUN, self._attempt, self.name, stream), b"", headers=headers
            )
        await self._nc.flush()


class Follower:
    """Reads all that is followed, in a task of its own."""

    def __init__(self, trainshed: Trainshed, **options: Any) -> None:
        self.seen = {"stdout": b"", "stderr": b""}
        self.chunks: list[OutputChunk] = []
        self.missing: list[str] = []
        self.task = asyncio.create_task(self._follow(trainshed, options))

    async def _follow(self, trainshed: Trainshed, options: dict[str, Any]) -> RunStatus:
        async with trainshed.output(RUN, **options) as output:
            async for chunk in output:
                self.chunks.append(chunk)
                self.seen[chunk.stream] += chunk.data
            self.missing = output.missing
            return output.record.status

    async def end(self) -> RunStatus:
        return await asyncio.wait_for(self.task, 20)


@pytest.fixture
async def trainshed(nats_server: NatsServer) -> AsyncIterator[Trainshed]:
    yield Trainshed(NatsConnection(await nats_server.client("follower"), nats_server.endpoint.url))


@pytest.fixture
async def records(nats_server: NatsServer) -> Records:
    played = Records(await nats_server.client("projector"))
    await played.serve()
    return played


@pytest.fixture
async def node(nats_server: NatsServer) -> Node:
    played = Node(await nats_server.client("agent"), "gpu01")
    await played.serve()
    return played


async def test_a_run_is_followed_from_its_queue_to_its_end(
    trainshed: Trainshed, records: Records, node: Node
) -> None:
    follower = Follower(trainshed)
    await eventually(lambda: records.asked)
    await records.tell(RunStatus.DISPATCHING, node="gpu01")
    node.write(b"before anybody listened\n")
    await records.tell(RunStatus.RUNNING, node="gpu01")
    await eventually(lambda: follower.seen["stdout"])
    await node.say(b"\x00\xff noise\n")
    await node.say(b"warning\n", "stderr")
    await eventually(lambda: follower.seen["stderr"])
    await node.finish()
    await records.tell(RunStatus.COMPLETED, node="gpu01")
    assert await follower.end() is RunStatus.COMPLETED
    assert follower.seen == {
        "stdout": b"before anybody listened\n\x00\xff noise\n",
        "stderr": b"warning\n",
    }


async def test_what_is_never_told_is_read_from_the_file(
    trainshed: Trainshed, records: Records, node: Node
) -> None:
    records.set(RunStatus.RUNNING, node="gpu01")
    follower = Follower(trainshed)
    await node.say(b"a" * 10)
    await eventually(lambda: follower.seen["stdout"])
    node.write(b"b" * 300_000)  # the agent skips ahead
    await node.say(b"c" * 10)
    node.write(b"d" * 10)  # and the last is never told, nor the size
    await eventually(lambda: follower.seen["stdout"].endswith(b"c"))
    await records.tell(RunStatus.FAILED, node="gpu01")
    await follower.end()
    assert follower.seen["stdout"] == bytes(node.files["stdout"])


async def test_what_is_told_goes_on_where_its_files_were_deleted_and_that_is_said(
    trainshed: Trainshed, records: Records, node: Node
) -> None:
    records.set(RunStatus.RUNNING, node="gpu01")
    follower = Follower(trainshed)
    await node.say(b"before\n")
    await eventually(lambda: follower.seen["stdout"])
    node.gone = True
    lost = node.write(b"never told\n")
    await node.say(b"after\n")
    await eventually(lambda: follower.seen["stdout"].endswith(b"after\n"))
    await node.say(b"last\n", "stderr")
    await node.finish()
    await records.tell(RunStatus.COMPLETED, node="gpu01")
    assert await follower.end() is RunStatus.COMPLETED
    assert follower.seen == {"stdout": b"before\nafter\n", "stderr": b"last\n"} and lost[1]
    assert follower.missing == ["on gpu01: it is gone"]


async def test_output_told_twice_or_overlapping_is_handed_out_once(
    trainshed: Trainshed, records: Records, node: Node
) -> None:
    records.set(RunStatus.RUNNING, node="gpu01")
    follower = Follower(trainshed)
    await node.say(b"0123456789")
    await node.tell(0, b"0123456789")
    node.write(b"abcdef")
    await node.tell(5, b"56789abc")
    await node.tell(13, b"def")
    await records.tell(RunStatus.COMPLETED, node="gpu01")
    await follower.end()
    assert follower.seen["stdout"] == b"0123456789abcdef"


async def test_the_output_of_an_ended_run_is_read_whole(
    trainshed: Trainshed, records: Records, node: Node
) -> None:
    node.write(bytes(range(256)) * 3000)
    node.write(b"oops", "stderr")
    records.set(RunStatus.FAILED, node="gpu01")
    follower = Follower(trainshed)
    await follower.end()
    assert follower.seen == {name: bytes(node.files[name]) for name in ("stdout", "stderr")}


async def test_following_goes_on_over_attempts_and_nodes(
    trainshed: Trainshed, records: Records, node: Node, nats_server: NatsServer
) -> None:
    second = Node(await nats_server.client("agent 2"), "gpu02", attempt=2)
    await second.serve()
    records.set(RunStatus.RUNNING, node="gpu01")
    follower = Follower(trainshed)
    await node.say(b"one ")
    await eventually(lambda: follower.seen["stdout"])
    node.write(b"more ")
    # Faster than anybody can follow: attempt 2 has begun when the end of attempt 1 is noticed.
    records.set(RunStatus.PENDING, attempt=2)
    second.write(b"two")
    await records.tell(RunStatus.RUNNING, attempt=2, node="gpu02")
    await eventually(lambda: follower.seen["stdout"].endswith(b"two"))
    await records.tell(RunStatus.COMPLETED, attempt=2, node="gpu02")
    await follower.end()
    assert follower.seen["stdout"] == b"one more two"
    assert [(chunk.attempt, chunk.node) for chunk in follower.chunks][-1] == (2, "gpu02")


async def test_it_begins_with_the_latest_attempt_or_the_one_asked_for(
    trainshed: Trainshed, records: Records, node: Node, nats_server: NatsServer
) -> None:
    second = Node(await nats_server.client("agent 2"), "gpu02", attempt=2)
    await second.serve()
    node.write(b"one ")
    second.write(b"two")
    records.set(RunStatus.FAILED, node="gpu01")
    records.set(RunStatus.COMPLETED, attempt=2, node="gpu02")
    latest, first = Follower(trainshed), Follower(trainshed, first_attempt=1)
    await latest.end()
    await first.end()
    assert latest.seen["stdout"] == b"two"
    assert first.seen["stdout"] == b"one two"


async def test_callbacks_of_output_are_plain_functions_or_coroutine_functions(
    trainshed: Trainshed, records: Records, node: Node
) -> None:
    heard: list[object] = []

    async def attempt(number: int, name: str) -> None:
        heard.append((number, name))

    async def record(one: RunRecord) -> None:
        heard.append(one.status)

    records.set(RunStatus.COMPLETED, node="gpu01")
    for on_attempt, on_record in (
        (attempt, record),
        (lambda number, name: heard.append((number, name)), lambda one: heard.append(one.status)),
    ):
        async with trainshed.output(RUN, on_attempt=on_attempt, on_record=on_record) as output:
            assert [chunk async for chunk in output] == []
        assert heard == [RunStatus.COMPLETED, (1, "gpu01")]
        heard.clear()


async def test_a_run_cancelled_in_its_queue_has_no_output(trainshed: Trainshed, records: Records) -> None:
    follower = Follower(trainshed)
    await eventually(lambda: records.asked)
    await records.tell(RunStatus.CANCELLED)
    assert await follower.end() is RunStatus.CANCELLED
    assert follower.chunks == []


async def test_an_agent_that_is_away_is_waited_for_while_the_attempt_lives(
    trainshed: Trainshed, records: Records, node: Node
) -> None:
    await node.away()
    records.set(RunStatus.RUNNING, node="gpu01")
    follower = Follower(trainshed)
    await node.say(b"written while the agent was away ")
    await node.serve()
    await eventually(lambda: follower.seen["stdout"], within=10)
    await records.tell(RunStatus.COMPLETED, node="gpu01")
    await follower.end()
    assert follower.seen["stdout"] == b"written while the agent was away "
    assert follower.missing == []


async def test_output_on_a_machine_that_is_gone_is_named_and_passed_over(
    trainshed: Trainshed, records: Records
) -> None:
    records.set(RunStatus.FAILED, node="gpu09")
    follower = Follower(trainshed)
    assert await follower.end() is RunStatus.FAILED
    (missing,) = follower.missing
    assert "gpu09" in missing


async def test_a_restart_of_the_server_loses_nothing(
    trainshed: Trainshed, records: Records, node: Node, nats_server: NatsServer
) -> None:
    records.set(RunStatus.RUNNING, node="gpu01")
    follower = Follower(trainshed)
    await node.say(b"before ")
    await eventually(lambda: follower.seen["stdout"])
    await nats_server.embedded.stop()
    node.write(b"meanwhile ")  # told to nobody
    await nats_server.embedded.start()
    await eventually(lambda: follower.seen["stdout"] == b"before meanwhile ", within=10)
    await nats_server.embedded.stop()
    node.write(b"at last")
    records.set(RunStatus.COMPLETED, node="gpu01")
    await nats_server.embedded.start()
    await follower.end()
    assert follower.seen["stdout"] == b"before meanwhile at last"


async def test_a_file_cut_short_by_its_worker_is_followed_from_its_new_end(
    trainshed: Trainshed, records: Records, node: Node
) -> None:
    records.set(RunStatus.RUNNING, node="gpu01")
    follower = Follower(trainshed)
    await node.say(b"x" * 100)
    await eventually(lambda: len(follower.seen["stdout"]) == 100)
    node.files["stdout"].clear()
    await node.say(b"anew")
    await records.tell(RunStatus.COMPLETED, node="gpu01")
    await follower.end()
    assert len(follower.seen["stdout"]) <= 104


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_is_told_in_whatever_pieces_every_byte_comes_once_and_in_order(
    trainshed: Trainshed, records: Records, node: Node, seed: int
) -> None:
    chance = random.Random(seed)
    node.most = chance.choice([7, 1000, RANGE_BYTES])
    records.set(RunStatus.RUNNING, node="gpu01")
    follower = Follower(trainshed)
    for _ in range(150):
        stream = chance.choice(["stdout", "stderr"])
        told = node.write(chance.randbytes(chance.choice([1, 3, 40, 500])), stream)
        match chance.randrange(4):
            case 0:
                pass
            case 1:
                await node.tell(*told)
                await node.tell(*told)
            case _:
                await node.tell(*told)
    if chance.random() < 0.5:
        await node.finish()
    await records.tell(RunStatus.COMPLETED, node="gpu01")
    await follower.end()
    assert follower.seen == {name: bytes(node.files[name]) for name in ("stdout", "stderr")}


async def test_a_slow_follower_of_much_output_keeps_little_of_it_in_memory(
    trainshed: Trainshed, records: Records, node: Node
) -> None:
    piece = bytes(64 * 1024)
    until_full = BUFFERED_BYTES // len(piece) + 1
    size = 1 + 20 * until_full * len(piece)  # the last piece is the one that does not fit any more
    node.files["stdout"] = bytearray(size)
    node.written = 0
    records.set(RunStatus.RUNNING, node="gpu01")
    seen = 0
    async with trainshed.output(RUN) as output:
        first = asyncio.create_task(anext(output))
        await eventually(lambda: node.asked >= 2)  # both files were looked at and are empty
        await node.tell(0, bytes(1))
        seen += len((await first).data)
        node.written = size
        tracemalloc.start()
        try:
            for offset in range(seen, size, len(piece)):
                await node.tell(offset, piece)
            assert tracemalloc.get_traced_memory()[0] < 4 * BUFFERED_BYTES
            while seen < size:  # though nothing more is told
                seen += len((await asyncio.wait_for(anext(output), 10)).data)
            await records.tell(RunStatus.COMPLETED, node="gpu01")
            assert [chunk async for chunk in output] == []
            assert tracemalloc.get_traced_memory()[1] < 12 * BUFFERED_BYTES
        finally:
            tracemalloc.stop()
    assert seen == size


# --- stored output -----------------------------------------------------------------------------------------


async def test_stored_streams_are_merged_by_the_index_and_lose_nothing(
    trainshed: Trainshed, node: Node
) -> None:
    node.write(b"one\ntwo\nthree\n")
    node.write(b"warning\nerror\n", "stderr")
    node.write(
        b'{"time":"2026-11-24T09:00:01.000000Z","stream":"stdout","offset":4}\n'
        b'{"time":"2026-11-24T09:00:02.000000Z","stream":"stderr","offset":8}\n'
        b'{"time":"2026-11-24T09:00:02.000000Z", torn\n'
        b'{"time":"2026-11-24T09:00:03.000000Z","stream":"stdout","offset":8}\n'
        b'{"time":"2026-11-24T09:00:04.000000Z","stream":"stdout","offset":900}\n',
        "index",
    )
    chunks = [chunk async for chunk in stored_output(trainshed, RUN, 1, "gpu01")]
    assert [(chunk.data, chunk.time and chunk.time.second) for chunk in chunks] == [
        (b"one\n", 1),
        (b"warning\n", 2),
        (b"two\n", 3),
        (b"three\n", 4),
        (b"error\n", None),
    ]
    timed = [chunk.data async for chunk in timed_lines(stored_output(trainshed, RUN, 1, "gpu01"))]
    assert b"".join(timed).decode().splitlines() == [
        "2026-11-24T09:00:01.000000Z stdout one",
        "2026-11-24T09:00:02.000000Z stderr warning",
        "2026-11-24T09:00:03.000000Z stdout two",
        "2026-11-24T09:00:04.000000Z stdout three",
        "- stderr error",
    ]


async def test_stored_output_is_the_files_to_the_byte(trainshed: Trainshed, node: Node) -> None:
    node.write(random.Random(1).randbytes(700_001))
    chunks = [chunk.data async for chunk in stored_output(trainshed, RUN, 1, "gpu01")]
    assert b"".join(chunks) == bytes(node.files["stdout"])
    assert max(map(len, chunks)) <= RANGE_BYTES


async def test_stored_output_of_a_node_that_is_away_is_refused_by_its_name(trainshed: Trainshed) -> None:
    with pytest.raises(TrainshedError, match="the agent of gpu07 does not answer") as caught:
        _ = [chunk async for chunk in stored_output(trainshed, RUN, 1, "gpu07")]
    assert caught.value.code is ErrorCode.UNAVAILABLE


# --- records -----------------------------------------------------------------------------------------------


async def test_waiting_ends_with_the_run_and_asks_once(trainshed: Trainshed, records: Records) -> None:
    waiting = asyncio.create_task(trainshed.wait([RUN]))
    await eventually(lambda: records.asked)
    await records.tell(RunStatus.RUNNING, node="gpu01")
    await records.tell(RunStatus.COMPLETED, node="gpu01")
    (record,) = await asyncio.wait_for(waiting, 10)
    assert record.status is RunStatus.COMPLETED
    assert records.asked == 1


async def test_waiting_gives_up_after_its_time(trainshed: Trainshed, records: Records) -> None:
    with pytest.raises(TimeoutError):
        await trainshed.wait([RUN], timeout=0.05)


async def test_a_record_that_leaves_the_bucket_is_read_again(
    trainshed: Trainshed, records: Records, nats_server: NatsServer
) -> None:
    nc = await nats_server.client("bucket")
    waiting = asyncio.create_task(trainshed.wait([RUN]))
    await eventually(lambda: records.asked)
    records.set(RunStatus.COMPLETED)  # told to nobody
    await nc.publish(subjects.watch_run(RUN), b"")
    (record,) = await asyncio.wait_for(waiting, 10)
    assert record.status is RunStatus.COMPLETED


async def test_after_a_restart_of_the_server_the_present_is_read_again(
    trainshed: Trainshed, records: Records, nats_server: NatsServer
) -> None:
    waiting = asyncio.create_task(trainshed.wait([RUN]))
    await eventually(lambda: records.asked)
    records.set(RunStatus.COMPLETED)
    await nats_server.restart()
    (record,) = await asyncio.wait_for(waiting, 20)
    assert record.status is RunStatus.COMPLETED


async def test_a_run_that_is_not_there_is_told_at_once(trainshed: Trainshed, nats_server: NatsServer) -> None:
    nc = await nats_server.client("projector")

    async def refuse(msg: Msg) -> None:
        await msg.respond(b'{"error":{"code":"not_found","message":"no such run","path":"run_id"}}')

    await nc.subscribe(subjects.api("run.get"), cb=refuse)
    await nc.flush()
    with pytest.raises(TrainshedError, match="run_id: no such run") as caught:
        await trainshed.wait([RUN])
    assert caught.value.code is ErrorCode.NOT_FOUND


async def test_where_nobody_answers_the_missing_service_is_named(trainshed: Trainshed) -> None:
    with pytest.raises(TrainshedError, match="no gateway answers at .*trainshed up") as caught:
        await trainshed.submit({"entry_point": "x"})
    assert caught.value.code is ErrorCode.UNAVAILABLE
    with pytest.raises(TrainshedError, match="no projector answers"):
        await trainshed.slots()


async def test_a_request_over_the_servers_limit_is_refused_here(trainshed: Trainshed) -> None:
    with pytest.raises(TrainshedError, match="split it") as caught:
        await trainshed.submit_many([{"entry_point": "x" * 600_000}] * 2)
    assert caught.value.code is ErrorCode.TOO_LARGE
