"""The streams and buckets on a real nats-server: made once, brought up to date, and never weakened."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from events.feed import ApiError, api_call
from events.log import EventLog
from events.streams import ensure_streams, events_stream
from events.types import CancelRequested
from tests.support import NatsServer, eventually
from tests.support.control import say
from trainshed_client import subjects
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.nats_client import SafeClient
from trainshed_client.subjects import Role

EVENTS = subjects.EVENTS_STREAM


async def stored_config(nc: SafeClient, stream: str = EVENTS) -> dict[str, Any]:
    return dict((await api_call(nc, f"STREAM.INFO.{stream}"))["config"])


@pytest.fixture
async def nc(nats_server: NatsServer) -> SafeClient:
    return await nats_server.client()


async def test_the_event_log_is_as_designed(nc: SafeClient) -> None:
    log_id = await ensure_streams(nc)
    config = await stored_config(nc)
    assert config["subjects"] == ["trainshed.events.>"]
    for field, value in {
        "storage": "file",
        "retention": "limits",
        "discard": "new",
        "compression": "s2",
        "deny_delete": True,
        "deny_purge": True,
        "allow_atomic": True,
        "allow_direct": True,
        "max_age": 0,
        "max_msgs": -1,
        "max_bytes": -1,
        "max_msgs_per_subject": -1,
        "duplicate_window": 120_000_000_000,
        "num_replicas": 1,
    }.items():
        assert config[field] == value, field
    assert not config.get("allow_msg_ttl") and not config.get("allow_msg_schedules")
    assert config["republish"] == {"src": "trainshed.events.>", "dest": "trainshed.log.>"}
    assert config["metadata"]["log_id"] == log_id == await EventLog(nc).log_id()


async def test_heartbeats_and_buckets_are_as_designed(nc: SafeClient) -> None:
    await ensure_streams(nc)
    heartbeats = await stored_config(nc, subjects.HEARTBEATS_STREAM)
    assert heartbeats["subjects"] == ["trainshed.heartbeats.>"]
    assert (heartbeats["max_msgs_per_subject"], heartbeats["discard"]) == (100, "old")
    assert heartbeats["max_age"] == 24 * 3_600 * 1_000_000_000
    for bucket, watch in (
        (subjects.RUNS_BUCKET, "runs"),
        (subjects.SLOTS_BUCKET, "slots"),
        (subjects.NODES_BUCKET, "nodes"),
    ):
        config = await stored_config(nc, f"KV_{bucket}")
        assert config["storage"] == "memory"
        assert config["republish"]["dest"] == f"trainshed.watch.{watch}.>"


async def test_the_queue_has_one_key_that_is_republished_to_one_subject(nc: SafeClient) -> None:
    await ensure_streams(nc)
    config = await stored_config(nc, f"KV_{subjects.QUEUE_BUCKET}")
    assert config["republish"] == {"src": "$KV.trainshed_queue.queue", "dest": "trainshed.watch.queue"}
    assert config["storage"] == "memory"


async def test_what_is_appended_is_republished_for_those_who_watch(nc: SafeClient) -> None:
    await ensure_streams(nc)
    watcher = await nc.subscribe("trainshed.log.>")
    await say(EventLog(nc), Role.GATEWAY, CancelRequested(run_id="r1"))
    message = await watcher.next_msg(timeout=5)
    assert message.subject == "trainshed.log.run.r1.gateway.cancel_requested._"
    assert (message.headers or {})["Nats-Sequence"] == "1"


async def test_made_twice_nothing_changes_and_nothing_is_updated(nc: SafeClient) -> None:
    log_id = await ensure_streams(nc)
    before = await stored_config(nc)
    updates = await nc.subscribe("$JS.EVENT.ADVISORY.STREAM.>")
    assert await ensure_streams(nc) == log_id
    assert await stored_config(nc) == before
    await nc.flush()
    assert updates.pending_msgs == 0


async def test_made_by_many_at_once_there_is_one_log(nats_server: NatsServer) -> None:
    clients = [await nats_server.client() for _ in range(8)]
    ids = await asyncio.gather(*(ensure_streams(nc) for nc in clients))
    assert len(set(ids)) == 1


async def test_an_update_keeps_the_log_its_id_and_what_is_not_ours(nc: SafeClient) -> None:
    log_id = await ensure_streams(nc)
    await say(EventLog(nc), Role.GATEWAY, CancelRequested(run_id="r1"))
    changed = await stored_config(nc)
    changed["max_msgs_per_subject"] = 5
    changed["duplicate_window"] = 1_000_000_000
    changed["description"] = "kept by the site"
    changed["metadata"] = {**changed["metadata"], "site": "lab"}
    await api_call(nc, f"STREAM.UPDATE.{EVENTS}", changed)
    assert await ensure_streams(nc) == log_id
    config = await stored_config(nc)
    assert (config["max_msgs_per_subject"], config["duplicate_window"]) == (-1, 120_000_000_000)
    assert config["description"] == "kept by the site"
    assert config["metadata"]["site"] == "lab"
    assert await EventLog(nc).end() == 1


@pytest.mark.parametrize(
    ("field", "there"),
    [
        ("storage", "memory"),
        ("deny_purge", False),
        ("deny_delete", False),
        ("discard", "old"),
        ("max_age", 3_600_000_000_000),
        ("retention", "workqueue"),
        ("allow_msg_ttl", True),
    ],
)
async def test_another_storage_or_safety_setting_is_refused_with_both_values_and_left_as_it_is(
    nc: SafeClient, field: str, there: object
) -> None:
    await api_call(nc, f"STREAM.CREATE.{EVENTS}", {**events_stream(1), field: there})
    before = await stored_config(nc)
    with pytest.raises(TrainshedError) as caught:
        await ensure_streams(nc)
    assert caught.value.code is ErrorCode.CONFLICT
    assert EVENTS in caught.value.message
    assert f"{field} {there!r}" in caught.value.message
    assert repr(events_stream(1)[field]) in caught.value.message
    assert await stored_config(nc) == before


async def test_nothing_in_the_log_can_be_deleted_or_purged(nc: SafeClient) -> None:
    await ensure_streams(nc)
    log = EventLog(nc)
    await say(log, Role.GATEWAY, CancelRequested(run_id="r1"))
    for call, request in (
        (f"STREAM.PURGE.{EVENTS}", {}),
        (f"STREAM.MSG.DELETE.{EVENTS}", {"seq": 1}),
        (f"STREAM.UPDATE.{EVENTS}", {**await stored_config(nc), "deny_purge": False}),
        (f"STREAM.UPDATE.{EVENTS}", {**await stored_config(nc), "deny_delete": False}),
    ):
        with pytest.raises(ApiError):
            await api_call(nc, call, request)
    assert await log.end() == 1
    config = await stored_config(nc)
    assert config["deny_purge"] and config["deny_delete"]


async def test_a_stream_that_cannot_be_made_says_the_servers_own_reason(nc: SafeClient) -> None:
    await api_call(
        nc, "STREAM.CREATE.OTHER", {"name": "OTHER", "subjects": ["trainshed.events.>"], "storage": "file"}
    )
    with pytest.raises(ApiError, match="overlap"):
        await ensure_streams(nc)


async def test_the_log_outlives_a_restart_of_the_server(nats_server: NatsServer, nc: SafeClient) -> None:
    log_id = await ensure_streams(nc)
    await say(EventLog(nc), Role.GATEWAY, CancelRequested(run_id="r1"))
    await nats_server.restart()
    await eventually(lambda: nc.is_connected, within=10)
    assert await ensure_streams(nc) == log_id
    assert await EventLog(nc).end() == 1


async def test_copies_on_a_server_that_is_none_of_several_are_refused_at_once(nc: SafeClient) -> None:
    with pytest.raises(ApiError, match="non-clustered"):
        await asyncio.wait_for(ensure_streams(nc, replicas=3), 10)
