"""A whole stack on a disk that is really full, and the gateway that refuses before it comes to that."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from events.streams import ensure_streams
from services.nats_server.room import on_server
from tests.support import NatsServer
from tests.support.small_disk import SmallDisk, small_disk
from tests.support.stack import Stack, run_trainshed, until

NewStack = Callable[..., Stack]
MIB = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """64 MiB for a state folder."""
    with small_disk(tmp_path / "disk", 64) as mounted:
        yield mounted


def _until_file(path: Path) -> str:
    return f"until [ -e {path} ]; do sleep 0.05; done"


def test_a_full_disk_loses_nothing_and_after_there_is_room_all_goes_on_by_itself(
    new_stack: NewStack, disk: SmallDisk, tmp_path: Path
) -> None:
    stack = new_stack("disk", environment={"TRAINSHED_MIN_FREE_MB": "0"})
    go, fail = tmp_path / "go", tmp_path / "fail"
    done = stack.submit("--name", "done", shell=_until_file(go))
    wrong = stack.submit("--name", "wrong", shell=f"{_until_file(fail)}; exit 7")
    goes_on = stack.submit("--name", "goes-on", "--", "sleep", "120")
    for run in (done, wrong, goes_on):
        stack.running(run)
    disk.fill()
    go.touch()
    fail.touch()
    until(lambda: set(stack.workers()) == {goes_on}, 20, what="the workers end while the disk is full")

    def refused() -> bool:
        disk.fill()  # again: what was begun had some room left, and servers tidy up
        padded = ("submit", "--name", "late", "--label", f"x={'x' * 4_000}", "--", "true")
        return bool(stack.trainshed(*padded, code=None).code == 3)

    until(refused, 60, what="nothing is stored any more")
    until(lambda: "nats-server's disk is full" in stack.said(), 20, what="it is told")
    told = stack.trainshed(
        "ls", code=None
    )  # from what was read before, or not at all; never a hang or a traceback
    assert told.code in (0, 3), told
    disk.free()
    until(lambda: stack.trainshed("ls", code=None).code == 0, 30)
    (record,) = stack.wait(done, timeout="60s")
    assert (record["status"], record["exit_code"]) == ("COMPLETED", 0)
    (record,) = stack.wait(wrong, code=7, timeout="60s")
    assert (record["failure_reason"], record["exit_code"]) == ("exit_code", 7)
    late = stack.trainshed("submit", "--name", "late", "--", "true", json=True)["run_id"]
    stack.wait(late)
    assert stack.record(late)["attempt"] == 1
    assert stack.trainshed("audit", "verify", json=True)["ok"] is True
    assert stack.process.poll() is None
    (line,) = [line for line in stack.warnings() if "nats-server's disk is full" in line["event"]]
    assert str(disk.folder) in line["disk"]
    assert "Traceback" not in stack.said()


def test_with_too_little_room_new_work_is_refused_and_what_runs_ends_as_ever(
    new_stack: NewStack, disk: SmallDisk
) -> None:
    """A limit above what the disk has; one run is there from before."""
    stack = new_stack("disk", environment={"TRAINSHED_MIN_FREE_MB": "8"})
    words = ("submit", "--name", "one", "--", "/bin/sh", "-c", "exit 0")
    done = stack.trainshed(*words, json=True)["run_id"]
    stack.wait(done)
    waits = stack.submit("--", "sleep", "120")
    stack.running(waits)
    batch = disk.folder.with_name("batch.jsonl")
    batch.write_text(json.dumps({"entry_point": "/bin/true"}))
    disk.fill(but=4 * MIB)
    until(lambda: stack.trainshed("submit", "--new", "--", "true", code=None).code == 3, 20)
    for refused in (
        ("submit", "--new", "--", "true"),
        ("submit", "--dry-run", "--new", "--", "true"),
        ("submit", "-f", str(batch)),
        ("run", "--new", "--", "true"),
        ("retry", done),
    ):
        told = stack.trainshed(*refused, code=3).stderr
        for word in (str(stack.state_dir), " MB left", "below 8 MB", "trainshed prune"):
            assert word in told, told
    # a run that exists is answered, and what ends work is never refused
    assert stack.trainshed(*words, json=True)["created"] is False
    stack.trainshed("drain", stack.node)
    stack.trainshed("resume", stack.node)
    stack.trainshed("cancel", waits)
    (record,) = stack.wait(waits, code=125)
    assert record["status"] == "CANCELLED"
    disk.free()
    until(lambda: stack.trainshed("submit", "--new", "--", "true", code=None).code == 0, 20)
    told_log = [line for line in stack.warnings() if "submissions are refused" in line["event"]]
    assert len(told_log) == 1


def test_up_on_a_disk_that_is_full_already_says_so(new_stack: NewStack, disk: SmallDisk) -> None:
    stack = new_stack("disk", start=False)
    disk.fill()
    told = run_trainshed("up", environment=stack.environment, code=3).stderr
    assert re.search(r"the disk of \S+ is full: 0 MB are free\. Make room first.* df -h /", told), told


async def test_a_server_elsewhere_is_asked_how_much_it_may_still_store(nats_server: NatsServer) -> None:
    nc = await nats_server.client()
    await ensure_streams(nc)
    await nc.request("trainshed.events.run.x.gateway.submitted._", bytes(5_000), timeout=5)
    monitor_url = nats_server.embedded.monitor_url
    room = await on_server(nc, monitor_url)()
    assert room is not None
    assert monitor_url in room.where
    assert 0 < (1 << 40) - room.free < 100_000  # the embedded server's max_file_store less what was stored
    # an account without a limit tells nothing, and neither does a server whose monitoring is elsewhere
    assert await on_server(nc, None)() is None
    assert await on_server(nc, "http://127.0.0.1:1")() is None
