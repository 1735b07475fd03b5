"""`trainshed prune` on a stack: which runs go, what is told of them afterwards, and that the log keeps everything."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest

from events.feed import ApiError, api_call
from tests.support.stack import Stack, until
from trainshed_client import subjects
from trainshed_client.endpoint import discover
from trainshed_client.nats_client import connect


def test_folders_go_the_log_stays_and_logs_says_when_they_went(stack: Stack) -> None:
    run = stack.submit(
        "--name", "old", shell='echo out; head -c 100000 /dev/zero > "$TRAINSHED_RUN_DIR/ckpt"'
    )
    stack.wait(run)
    live = stack.submit("--name", "live", shell='touch "$TRAINSHED_RUN_DIR/ckpt"; sleep 60')
    stack.running(live)
    until((stack.run_dir(live) / "ckpt").exists)

    assert (
        "nothing is left of runs that ended before" in stack.trainshed("prune", "--older-than", "30d").stderr
    )
    dry = stack.trainshed("prune", "--older-than", "0s", "--dry-run", json=True)
    (node,) = dry["nodes"]
    assert (dry["dry_run"], dry["runs"], node["node"], node["runs"]) == (True, 1, "box", [run])
    assert dry["bytes"] == node["bytes"] > 100_000
    assert (stack.run_dir(run) / "ckpt").exists()
    before = stack.events()

    done = stack.trainshed("prune", "--older-than", "0s")
    assert [line.split()[:2] for line in done.lines] == [["NODE", "RUNS"], ["box", "1"]]
    assert not stack.run_dir(run).exists()
    assert (stack.run_dir(live) / "ckpt").exists()
    assert stack.events() == before
    gone = stack.trainshed("logs", run, code=4)
    assert gone.stderr.startswith(f"Error: on box: the output of attempt 1 of run {run} was deleted at 20")
    assert gone.stderr.endswith(" UTC by `trainshed prune`\n")
    assert stack.record(run)["status"] == "COMPLETED"
    assert stack.trainshed("audit", "verify", json=True)["ok"] is True

    stack.trainshed("retry", run)
    until(lambda: stack.record(run)["status"] == "COMPLETED" and stack.record(run)["attempt"] == 2)
    assert stack.trainshed("logs", run).text == "out\n"
    stack.trainshed("cancel", live)
    stack.wait(live, code=125)


def test_rule_9_a_consumer_made_anew_after_the_pruning_has_nothing_launched_again(stack: Stack) -> None:
    """Somebody deletes the node's consumer; the dispatcher makes it again from the node's join."""
    marks = stack.state_dir / "launches"
    run = stack.submit("--name", "once", shell=f"echo x >> {marks}")
    stack.wait(run)
    stack.trainshed("prune", "--older-than", "0s")

    async def make_anew() -> None:
        nc = await connect(discover(state_dir=stack.state_dir), name="test")
        try:
            name = f"{subjects.EVENTS_STREAM}.{stack.node}"
            created = (await api_call(nc, f"CONSUMER.INFO.{name}"))["created"]
            await api_call(nc, f"CONSUMER.DELETE.{name}")
            async with asyncio.timeout(20):
                while True:
                    with contextlib.suppress(ApiError):  # not made yet
                        info = await api_call(nc, f"CONSUMER.INFO.{name}")
                        if info["created"] != created and not info["num_pending"] + info["num_ack_pending"]:
                            return
                    await asyncio.sleep(0.02)
        finally:
            await nc.close()

    asyncio.run(make_anew())
    stack.wait(stack.submit("--name", "after", "--", "true"))
    assert marks.read_text() == "x\n"
    words = [event["type"].split(".")[2] for event in stack.events(run)]
    assert words == ["submitted", "dispatched", "started", "completed"]


def test_without_an_age_nothing_is_deleted_and_an_age_that_is_none_is_named(stack: Stack) -> None:
    assert "--older-than" in stack.trainshed("prune", code=2).stderr
    assert "write seconds" in stack.trainshed("prune", "--older-than", "soon", code=2).stderr
    assert "before any run" in stack.trainshed("prune", "--older-than", "99999999d", code=2).stderr


def test_nodes_tells_how_much_room_there_is(stack: Stack) -> None:
    until(lambda: stack.trainshed("nodes", json=True)["nodes"][0]["disk_free_mb"], 20.0)
    heading, row = stack.trainshed("nodes").lines
    assert "DISK FREE" in heading
    assert " GB " in row or " TB " in row or " MB " in row


@pytest.mark.parametrize("time", ["yesterday", "2026-11-24T08:17:40"])
def test_a_time_that_is_none_is_refused_by_its_field(stack: Stack, time: str) -> None:
    async def ask() -> dict[str, object]:
        nc = await connect(discover(state_dir=stack.state_dir), name="test")
        try:
            answer = await nc.request(
                subjects.api("run.list"), json.dumps({"ended_before": time}).encode(), timeout=5
            )
            error: dict[str, object] = json.loads(answer.data)["error"]
            return error
        finally:
            await nc.close()

    error = asyncio.run(ask())
    assert (error["code"], error["path"]) == ("invalid", "ended_before")
