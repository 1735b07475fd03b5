"""The nodes' bucket: it holds what `node.list` has, and heartbeats move its records without flooding who watches."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from nats.aio.msg import Msg

from events.streams import ensure_streams
from events.types import Completed, NodeHeartbeat, NodeLeft, NodeObjection, NodeRemoved
from tests.support import NatsServer, eventually
from tests.support.stored_log import ask, projecting
from tests.support.watched import StoredInParts, bucket, heartbeat
from trainshed_client.nats_client import SafeClient

BUCKET = "trainshed_nodes"


async def _are_alike(nc: SafeClient) -> bool:
    """Whether the bucket has the records of node.list, and no other."""
    listed = (await ask(nc, "node.list"))["nodes"]
    return await bucket(nc, BUCKET) == {node["node"]: node for node in listed}


async def test_the_bucket_holds_what_node_list_has(nats_server: NatsServer, tmp_path: Path) -> None:
    nc = await nats_server.client()
    await ensure_streams(nc)
    log = StoredInParts(nc)
    log.made.join("gpu02")
    await log.store()
    told: dict[str, list[bytes]] = {}

    async def heard(msg: Msg) -> None:
        told.setdefault(msg.subject, []).append(msg.data)

    await nc.subscribe("trainshed.watch.nodes.*", cb=heard)
    await nc.flush()
    async with projecting(await nats_server.client(), tmp_path / "t.db", records=True):
        await eventually(lambda: _are_alike(nc))
        assert set(await bucket(nc, BUCKET)) == {"gpu01", "gpu02"}
        run_id = log.made.submit()
        seq = log.made.dispatch(run_id)
        log.made.start(run_id)
        await log.store()
        await eventually(lambda: _are_alike(nc))
        record = msgspec.json.decode(told["trainshed.watch.nodes.gpu01"][-1])
        assert (record["slots_used"], record["seq"]) == (1, seq)
        assert record["updated_at"] > record["joined_at"]
        # one that leaves stays while it has an attempt, one that has none goes at once
        log.made.by_agent(NodeLeft(node="gpu01", incarnation="gpu01-a", upto=0), "gpu01")
        log.made.by_agent(NodeLeft(node="gpu02", incarnation="gpu02-a", upto=0), "gpu02")
        await log.store()
        await eventually(lambda: _is_gone(told, "gpu02"))
        assert await _are_alike(nc)
        assert (await bucket(nc, BUCKET))["gpu01"]["status"] == "left"
        log.made.by_agent(Completed(run_id=run_id, attempt=1, duration_s=1.0), "gpu01")
        await log.store()
        await eventually(lambda: _is_gone(told, "gpu01"))
        assert await bucket(nc, BUCKET) == {}
        log.made.join("gpu02", incarnation="b")
        log.made.by_gateway(NodeRemoved(node="gpu01", incarnation="gpu01-a"))
        await log.store()
        await eventually(lambda: _are_alike(nc))
        assert set(await bucket(nc, BUCKET)) == {"gpu02"}
    # who left while no projector was there has left at its next start
    log.made.by_agent(NodeLeft(node="gpu02", incarnation="b", upto=0), "gpu02")
    await log.store()
    async with projecting(await nats_server.client(), tmp_path / "t.db", records=True):
        await eventually(lambda: _is_gone(told, "gpu02"))
        assert await bucket(nc, BUCKET) == {}


def _is_gone(told: dict[str, list[bytes]], node: str) -> bool:
    return told[f"trainshed.watch.nodes.{node}"][-1] == b""


async def test_heartbeats_move_a_nodes_record_and_flood_nobody(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    nc = await nats_server.client()
    await ensure_streams(nc)
    log = StoredInParts(nc)
    await log.store()
    told: list[dict[str, Any]] = []

    async def heard(msg: Msg) -> None:
        told.append(msgspec.json.decode(msg.data))

    async def is_read(disk_free_mb: int) -> bool:
        (node,) = (await ask(nc, "node.list"))["nodes"]
        return bool(node["disk_free_mb"] == disk_free_mb)

    async with projecting(await nats_server.client(), tmp_path / "t.db", records=True):
        await eventually(lambda: _are_alike(nc))
        await nc.subscribe("trainshed.watch.nodes.gpu01", cb=heard)
        await nc.flush()
        for free in range(1, 8):  # a node's real heartbeats are two seconds apart
            await heartbeat(nc, NodeHeartbeat(node="gpu01", incarnation="gpu01-a", disk_free_mb=free))
            await eventually(partial(is_read, free))
        assert (
            1 <= len(told) <= 3
        )  # the first, and one more for each ten seconds of the clock that began meanwhile
        (node,) = (await ask(nc, "node.list"))["nodes"]
        assert node["updated_at"] == node["last_heartbeat_at"] > told[0]["joined_at"]
        objection = NodeObjection(kind="forked", kept_size=2, size=2, since="then", text="it is another")
        await heartbeat(nc, NodeHeartbeat(node="gpu01", incarnation="gpu01-a", objection=objection))
        await eventually(lambda: told[-1]["witness_objection"] is not None)
        await asyncio.wait_for(nc.flush(), 5)
        assert [one["updated_at"] for one in told] == sorted(one["updated_at"] for one in told)
        assert {one["seq"] for one in told} == {told[0]["seq"]}
