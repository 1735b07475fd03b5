"""The record buckets and the heartbeats: what a watcher sees, and that it survives the server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from nats.aio.msg import Msg

from events.log import EventLog
from events.streams import ensure_streams
from events.types import GpuReading, NodeCosignature, NodeHeartbeat, NodeObjection, RunHeartbeat
from projections import records
from projections.read_model.database import Database
from tests.support import NatsServer, eventually
from tests.support.control import joined, say
from tests.support.read_model import dump, kept_hash, recomputed_hash
from tests.support.stored_log import ask, projecting
from tests.support.watched import StoredInParts, bucket, heartbeat
from trainshed_client.nats_client import SafeClient
from trainshed_client.subjects import Role


async def test_every_change_is_in_the_bucket_and_told_to_watchers(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    nc = await nats_server.client()
    await ensure_streams(nc)
    log = StoredInParts(nc)
    await log.store()
    told: list[dict[str, Any]] = []
    slots: list[tuple[str, dict[str, Any]]] = []

    async def heard(msg: Msg) -> None:
        told.append(msgspec.json.decode(msg.data))

    async def heard_slot(msg: Msg) -> None:
        slots.append((msg.subject, msgspec.json.decode(msg.data)))

    async with projecting(await nats_server.client(), tmp_path / "t.db", records=True):
        run_id = log.made.submit()
        await nc.subscribe(f"trainshed.watch.runs.{run_id}", cb=heard)
        await nc.subscribe("trainshed.watch.slots.gpu01.0", cb=heard_slot)
        await nc.flush()
        for step in ("submit", "dispatch", "start", "complete"):
            if step != "submit":
                getattr(log.made, step)(run_id)
            await log.store()
            await eventually(lambda: told and told[-1]["seq"] == log.made.seq)
        # the first may come twice, when the buckets are filled at the start: a watcher keeps the newest by (seq, updated_at)
        newest = {record["seq"]: record["status"] for record in told}
        assert list(newest.values()) == ["PENDING", "DISPATCHING", "RUNNING", "COMPLETED"]
        assert (await bucket(nc))[run_id] == told[-1] == (await ask(nc, "run.get", {"run_id": run_id}))["run"]
        await eventually(lambda: slots and slots[-1][1]["run_id"] is None and len(slots) > 1)
        assert slots[-2][1]["run_id"] == run_id
        assert set(await bucket(nc, "trainshed_slots")) == {"gpu01.0", "gpu01.1"}


async def test_only_the_projector_that_was_told_to_puts_records(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    nc = await nats_server.client()
    log_id = await ensure_streams(nc)
    log = StoredInParts(nc)
    async with projecting(await nats_server.client(), tmp_path / "plain.db"):
        run_id = log.made.submit()
        await log.store()
        assert (await ask(nc, "run.get", {"run_id": run_id}))["run"]["status"] == "PENDING"
        health = await ask(nc, "health")
        assert health["records"] is False
        assert (health["log_id"], health["last_seq"]) == (log_id, health["seq"])
    assert await bucket(nc) == {}
    async with projecting(await nats_server.client(), tmp_path / "records.db", records=True):

        async def is_there() -> bool:
            return run_id in await bucket(nc)

        await eventually(is_there)


async def test_the_buckets_hold_the_live_runs_and_the_last_ended_ones(
    nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "LAST_ENDED", 3)
    nc = await nats_server.client()
    await ensure_streams(nc)
    log = StoredInParts(nc)
    live = log.made.submit()
    await log.store()
    left: list[str] = []

    async def heard(msg: Msg) -> None:
        if not msg.data:
            left.append(msg.subject.rpartition(".")[2])

    async with projecting(await nats_server.client(), tmp_path / "t.db", records=True):

        async def is_filled() -> bool:
            return live in await bucket(nc)

        await eventually(is_filled)
        await nc.subscribe("trainshed.watch.runs.*", cb=heard)
        await nc.flush()
        ended = []
        for _ in range(5):
            run_id = log.made.submit()
            log.made.dispatch(run_id)
            log.made.start(run_id)
            log.made.complete(run_id)
            ended.append(run_id)
        await log.store()
        await eventually(lambda: left == ended[:2])
        assert set(await bucket(nc)) == {live, *ended[2:]}
        assert (await ask(nc, "run.get", {"run_id": ended[0]}))["run"]["status"] == "COMPLETED"


async def test_the_buckets_are_filled_again_after_a_server_restart_and_at_a_start(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    nc = await nats_server.client()
    await ensure_streams(nc)
    log = StoredInParts(nc)
    run_id = log.made.submit()
    await log.store()
    async with projecting(await nats_server.client(), tmp_path / "t.db", records=True):

        async def is_filled() -> bool:
            return run_id in await bucket(nc)

        await eventually(is_filled)
        await nats_server.restart()
        await eventually(lambda: nc.is_connected)

        async def is_filled_again() -> bool:
            try:
                return run_id in await bucket(nc) and len(await bucket(nc, "trainshed_slots")) == 2
            except Exception as error:  # noqa: BLE001  # no bucket yet
                assert "Bucket" in type(error).__name__, error
                return False

        await eventually(is_filled_again, 15)
    # what changed while no projector was there is put at its next start
    log.made.dispatch(run_id)
    await log.store()
    async with projecting(await nats_server.client(), tmp_path / "t.db", records=True):

        async def is_new() -> bool:
            return bool((await bucket(nc))[run_id]["status"] == "DISPATCHING")

        await eventually(is_new)


async def test_what_a_worker_told_reaches_its_live_attempt_alone(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    nc = await nats_server.client()
    await ensure_streams(nc)
    log = StoredInParts(nc)
    run_id = log.made.submit()
    log.made.dispatch(run_id)
    started = log.made.start(run_id)
    await log.store()
    path = tmp_path / "t.db"
    async with projecting(await nats_server.client(), path, records=True):
        before = (await ask(nc, "run.get", {"run_id": run_id}))["run"]
        told = RunHeartbeat(
            run_id=run_id,
            attempt=1,
            ready_at="2026-11-24T08:00:01.000000Z",
            last_heartbeat_at="2026-11-24T08:00:02.000000Z",
            step=7,
            progress=0.25,
            status_text="learning",
            metrics={"reward": 12.5},
        )
        await heartbeat(nc, told)

        async def has_told() -> bool:
            return bool((await ask(nc, "run.get", {"run_id": run_id}))["run"]["step"])

        await eventually(has_told)
        await heartbeat(nc, msgspec.structs.replace(told, attempt=2, step=99))
        await heartbeat(nc, msgspec.structs.replace(told, step=99), node="gpu02")
        await heartbeat(nc, NodeHeartbeat(node="gpu01", incarnation="gpu01-a"))

        async def has_read_all() -> bool:
            return (await ask(nc, "node.list"))["nodes"][0]["last_heartbeat_at"] is not None

        await eventually(has_read_all)
        answer = await ask(nc, "run.get", {"run_id": run_id})
        run, attempt = answer["run"], answer["attempts"][0]
        for record in (run, attempt):
            assert (record["step"], record["progress"], record["metrics"]) == (7, 0.25, {"reward": 12.5})
            assert (record["ready_at"], record["status_text"]) == (told.ready_at, "learning")
            assert record["last_heartbeat_at"] == told.last_heartbeat_at
        assert run["seq"] == before["seq"] == started
        assert run["updated_at"] > before["updated_at"]
        await eventually(lambda: _is_in_bucket(nc, run_id, run))
    assert kept_hash(dump(Database(path))) == recomputed_hash(dump(Database(path)))
    await heartbeat(nc, told)
    # a heartbeat is no part of the log: a read model made anew has it again from the heartbeats' stream
    async with projecting(await nats_server.client(), tmp_path / "again.db"):
        await eventually(has_told)
    assert kept_hash(dump(Database(path))) == kept_hash(dump(Database(tmp_path / "again.db")))


async def _is_in_bucket(nc: SafeClient, run_id: str, run: dict[str, Any]) -> bool:
    return bool((await bucket(nc)).get(run_id) == run)


async def test_a_heartbeat_waits_until_its_attempt_is_folded_and_never_outlives_it(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    nc = await nats_server.client()
    await ensure_streams(nc)
    log = StoredInParts(nc)
    first, second = log.made.submit(), log.made.submit()
    for place, run_id in enumerate((first, second)):
        log.made.dispatch(run_id, slots=(place,))
        log.made.start(run_id, slots=(place,))
    log.made.complete(first)
    await log.store()
    for run_id in (first, second):
        await heartbeat(nc, RunHeartbeat(run_id=run_id, attempt=1, step=7, metrics={"late": 1.0}))
    # everything, heartbeats included, is there before the projector is
    async with projecting(await nats_server.client(), tmp_path / "t.db"):

        async def has_told() -> bool:
            return bool((await ask(nc, "run.get", {"run_id": second}))["run"]["step"] == 7)

        await eventually(has_told)
        ended = (await ask(nc, "run.get", {"run_id": first}))["run"]
        assert (ended["step"], ended["metrics"]) == (1200, {"reward": 195.5})


async def test_a_nodes_heartbeat_sets_its_slots_readings(nats_server: NatsServer, tmp_path: Path) -> None:
    nc = await nats_server.client()
    await ensure_streams(nc)
    log = StoredInParts(nc)
    await log.store()
    async with projecting(await nats_server.client(), tmp_path / "t.db", records=True):
        before = (await ask(nc, "slot.list"))["slots"][0]
        reading = GpuReading(index=0, utilisation=97, memory_used_mb=12_000, other_pids=(4711,))
        ghost = NodeHeartbeat(node="gpu01", incarnation="another", gpus=(GpuReading(index=1, utilisation=1),))
        await heartbeat(nc, ghost)
        hashed = (await ask(nc, "health"))["state_hash"]
        said = NodeHeartbeat(node="gpu01", incarnation="gpu01-a", gpus=(reading,), disk_free_mb=74_000)
        await heartbeat(nc, said)

        async def is_read() -> bool:
            return bool((await ask(nc, "slot.list"))["slots"][0]["utilisation"] == 97)

        await eventually(is_read)
        slots = (await ask(nc, "slot.list"))["slots"]
        assert (slots[0]["memory_used_mb"], slots[0]["other_pids"]) == (12_000, [4711])
        assert (slots[0]["seq"], slots[1]["utilisation"]) == (before["seq"], None)
        assert slots[0]["updated_at"] > before["updated_at"]
        node = (await ask(nc, "node.list"))["nodes"][0]
        assert node["last_heartbeat_at"] is not None and node["disk_free_mb"] == 74_000
        assert (await ask(nc, "health"))["state_hash"] == hashed

        async def is_in_bucket() -> bool:
            return bool((await bucket(nc, "trainshed_slots"))["gpu01.0"]["utilisation"] == 97)

        await eventually(is_in_bucket)


async def test_what_a_node_says_as_a_witness_is_shown_until_it_joins_with_another_key(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    nc = await nats_server.client()
    await ensure_streams(nc)
    event_log = EventLog(nc)
    await say(event_log, Role.AGENT, replace(joined(), witness="k1"), "gpu01")
    seen = NodeCosignature(size=1, root="cm9vdA==", time=1_764_412_800, signature="c2ln")
    objection = NodeObjection(kind="rolled_back", kept_size=9, size=1, since="then", text="it was cut")
    own = (
        "witness",
        "witnessed_size",
        "witnessed_root",
        "witnessed_at",
        "witness_signature",
        "witness_objection",
    )

    async def is_shown(*expected: object) -> bool:
        (node,) = (await ask(nc, "node.list"))["nodes"]
        return tuple(node[name] for name in own) == expected

    path = tmp_path / "t.db"
    async with projecting(await nats_server.client(), path, records=True):
        hashed = (await ask(nc, "health"))["state_hash"]
        assert await is_shown("k1", None, None, None, None, None)
        await heartbeat(
            nc, NodeHeartbeat(node="gpu01", incarnation="a", cosignature=seen, objection=objection)
        )
        told = msgspec.to_builtins(objection)
        await eventually(lambda: is_shown("k1", 1, seen.root, seen.time, seen.signature, told), 10)
        health = await ask(nc, "health")
        assert (health["state_hash"], health["objections"], health["gap"]) == (hashed, ["gpu01"], None)
    async with projecting(await nats_server.client(), path, records=True):
        assert await is_shown("k1", 1, seen.root, seen.time, seen.signature, told)
        await heartbeat(nc, NodeHeartbeat(node="gpu01", incarnation="a", cosignature=seen))
        await eventually(lambda: is_shown("k1", 1, seen.root, seen.time, seen.signature, None), 10)
        await say(event_log, Role.AGENT, replace(joined(), witness="k1"), "gpu01")
        assert await is_shown("k1", 1, seen.root, seen.time, seen.signature, None)
        await say(event_log, Role.AGENT, replace(joined(), witness="k2"), "gpu01")
        assert await is_shown("k2", None, None, None, None, None)
        assert (await ask(nc, "health"))["objections"] == []


async def test_a_rebuild_puts_each_record_once_and_not_all_of_history(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    nc = await nats_server.client()
    await ensure_streams(nc)
    log = StoredInParts(nc)
    run_ids = []
    for _ in range(50):
        run_id = log.made.submit()
        log.made.dispatch(run_id)
        log.made.start(run_id)
        log.made.complete(run_id)
        run_ids.append(run_id)
    await log.store()
    puts: list[str] = []

    async def heard(msg: Msg) -> None:
        puts.append(msg.subject.rpartition(".")[2])

    await nc.subscribe("trainshed.watch.runs.*", cb=heard)
    await nc.flush()
    async with projecting(await nats_server.client(), tmp_path / "t.db", records=True):

        async def is_filled() -> bool:
            return set(await bucket(nc)) == set(run_ids)

        await eventually(is_filled)
        await asyncio.wait_for(nc.flush(), 5)
    assert sorted(puts) == sorted(run_ids)


async def test_an_end_sets_for_good_what_its_last_heartbeat_says(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    nc = await nats_server.client()
    await ensure_streams(nc)
    log = StoredInParts(nc)
    run_id = log.made.submit()
    log.made.dispatch(run_id)
    log.made.start(run_id)
    await log.store()
    async with projecting(await nats_server.client(), tmp_path / "t.db"):
        await heartbeat(nc, RunHeartbeat(run_id=run_id, attempt=1, step=7, status_text="half way"))

        async def has_told() -> bool:
            return bool((await ask(nc, "run.get", {"run_id": run_id}))["run"]["step"] == 7)

        await eventually(has_told)
        log.made.complete(run_id)
        await log.store()
        run = (await ask(nc, "run.get", {"run_id": run_id}))["run"]
        assert (run["status"], run["step"], run["status_text"]) == ("COMPLETED", 1200, None)
