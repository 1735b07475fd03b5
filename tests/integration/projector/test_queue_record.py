"""The queue's record on a real server: what explain says of each run, on change alone, and there for who comes late."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
from nats.aio.msg import Msg
from nats.js.errors import BucketNotFoundError

from events.streams import ensure_streams
from events.types import CancelRequested, Failed, RunHeartbeat
from services.projector import queue_record
from tests.support import NatsServer, eventually
from tests.support.builders import needs
from tests.support.stored_log import ask, projecting
from tests.support.watched import StoredInParts, bucket, heartbeat
from trainshed_client.nats_client import SafeClient
from trainshed_client.records import QueueRecord
from trainshed_client.statuses import FailureReason

GPU: dict[str, object] = {"entry_point": "/bin/true", "resources": needs(1)}


class Watcher:
    """What was republished of the queue."""

    def __init__(self, nc: SafeClient) -> None:
        self._nc = nc
        self.told: list[QueueRecord] = []

    async def watch(self) -> None:
        async def heard(msg: Msg) -> None:
            self.told.append(msgspec.json.decode(msg.data, type=QueueRecord))

        await self._nc.subscribe("trainshed.watch.queue", cb=heard)
        await self._nc.flush()

    @property
    def last(self) -> list[tuple[str, int | None]]:
        return [(one.run_id, one.place) for one in self.told[-1].runs] if self.told else []


async def _kept(nc: SafeClient) -> Any:
    return (await bucket(nc, "trainshed_queue")).get("queue")


async def test_the_queue_is_put_as_explain_has_it_and_on_change_alone(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    nc = await nats_server.client()
    await ensure_streams(nc)
    log = StoredInParts(nc)
    watcher = Watcher(nc)
    await watcher.watch()
    async with projecting(await nats_server.client(), tmp_path / "t.db", records=True):
        await log.store()
        await eventually(lambda: watcher.told)
        assert (watcher.told[-1].total, watcher.told[-1].runs) == (0, [])
        running = [log.made.submit({**GPU, "submission_key": f"k{place}"}) for place in range(2)]
        for place, run_id in enumerate(running):
            log.made.dispatch(run_id, slots=(place,))
            log.made.start(run_id, slots=(place,))
        first, second = (log.made.submit({**GPU, "submission_key": f"q{place}"}) for place in range(2))
        after = log.made.submit({**GPU, "after": [first]})
        end = await log.store()
        await eventually(lambda: watcher.last == [(first, 1), (second, 2), (after, None)])
        record = watcher.told[-1]
        assert (record.seq, record.total) == (end, 3)
        for one in record.runs:
            answer = (await ask(nc, "run.explain", {"run_id": one.run_id}))["waiting"]
            assert msgspec.to_builtins(one.waiting) == {
                name: answer[name] for name in ("reason", "numbers", "runs", "nodes")
            }
            assert one.place == answer["place"]
        assert await _kept(nc) == msgspec.to_builtins(record)
        # neither a heartbeat nor an event that changes nothing of the queue is news of it
        count = len(watcher.told)
        for step in range(3):
            await heartbeat(nc, RunHeartbeat(run_id=running[0], attempt=1, step=step))
        log.made.by_gateway(CancelRequested(run_id=running[1]))
        await log.store()
        await asyncio.sleep(3 * queue_record.EVERY_S)
        assert len(watcher.told) == count
        log.made.complete(running[0])
        log.made.dispatch(first)
        await log.store()
        await eventually(lambda: watcher.last == [(second, 1), (after, None)])


async def test_a_back_off_that_is_over_gives_a_run_its_place_without_any_event(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    nc = await nats_server.client()
    await ensure_streams(nc)
    log = StoredInParts(nc)
    watcher = Watcher(nc)
    await watcher.watch()
    async with projecting(await nats_server.client(), tmp_path / "t.db", records=True):
        run_id = log.made.submit({**GPU, "retry": {"max_attempts": 2, "backoff_s": 1.5}})
        log.made.dispatch(run_id)
        log.made.start(run_id)
        failed = Failed(run_id=run_id, attempt=1, failure_reason=FailureReason.EXIT_CODE, exit_code=1)
        log.made.by_agent(failed, "gpu01")
        end = await log.store()
        await eventually(lambda: watcher.last == [(run_id, None)])
        await eventually(lambda: watcher.last == [(run_id, 1)])
        assert watcher.told[-1].seq == end


async def test_who_comes_late_finds_it_also_after_a_restart_of_the_server(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    nc = await nats_server.client()
    await ensure_streams(nc)
    log = StoredInParts(nc)
    run_id = log.made.submit(GPU)
    end = await log.store()

    async def is_there() -> bool:
        try:
            kept = await _kept(nc)
        except BucketNotFoundError:
            return False
        return kept is not None and (kept["seq"], kept["runs"][0]["run_id"]) == (end, run_id)

    async with projecting(await nats_server.client(), tmp_path / "t.db", records=True):
        await eventually(is_there)
        watcher = Watcher(nc)
        await watcher.watch()
        await nats_server.restart()
        await eventually(lambda: nc.is_connected)
        await eventually(is_there, 15)
        await eventually(lambda: watcher.last == [(run_id, 1)])
    log.made.dispatch(run_id)
    end = await log.store()
    async with projecting(await nats_server.client(), tmp_path / "t.db", records=True):
        await eventually(lambda: watcher.told[-1].total == 0)
        assert watcher.told[-1].seq == end


async def test_many_changes_are_few_messages_and_the_last_is_among_them(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    nc = await nats_server.client()
    await ensure_streams(nc)
    log = StoredInParts(nc)
    watcher = Watcher(nc)
    await watcher.watch()
    async with projecting(await nats_server.client(), tmp_path / "t.db", records=True):
        await eventually(lambda: watcher.told)
        begun = asyncio.get_running_loop().time()
        for place in range(60):
            log.made.submit({**GPU, "submission_key": f"k{place}"})
            await log.store()
        await eventually(lambda: watcher.told[-1].total == 60)
        took = asyncio.get_running_loop().time() - begun
    assert len(watcher.told) <= 2 + took / queue_record.EVERY_S
    assert [one.seq for one in watcher.told] == sorted(one.seq for one in watcher.told)
