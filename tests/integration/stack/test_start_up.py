"""What a stack reads at its start: what came after the fold's snapshot and the read model's checkpoint, and no more.

Counted by nats-server: the messages that it has delivered to each reader of the event log.
"""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import history
from services import fold_file
from services.parts import FOLD_FILE
from tests.support.stack import Stack, until
from trainshed_client.subjects import EVENTS_STREAM

RUNS, LIVE = 500, 10
FEW = 50
"""What starts and stops append themselves: an election, a join, a leave."""


def delivered(stack: Stack) -> list[int]:
    """How many messages each reader of the log (the fold, the projector) was sent, once none are left for it."""
    kept = json.loads((stack.state_dir / "nats" / "server.json").read_bytes())
    url = f"http://127.0.0.1:{kept['monitor_port']}/jsz?streams=true&consumers=true"

    def look() -> list[int]:
        with urllib.request.urlopen(url, timeout=5) as answer:
            (account,) = json.load(answer)["account_details"]
        readers = [
            consumer
            for stream in account["stream_detail"]
            if stream["name"] == EVENTS_STREAM
            for consumer in stream.get("consumer_detail") or ()
            if consumer["name"].startswith("feed-")
        ]
        if len(readers) != 2 or any(reader["num_pending"] for reader in readers):
            return []
        return sorted(reader["delivered"]["consumer_seq"] for reader in readers)

    return until(look, 30, what="two readers that have read all")


def snapshot_is_at(stack: Stack, seq: int) -> None:
    """Wait until the fold's snapshot has ``seq``: it is written some seconds after a change."""
    path = stack.state_dir / FOLD_FILE
    log_id = json.loads((stack.state_dir / "node.json").read_bytes())["log_id"]

    def look() -> bool:
        kept = fold_file.read(path, log_id)
        return kept is not None and kept.position >= seq

    until(look, 30, what=f"a snapshot at {seq}")


def is_sane(stack: Stack) -> None:
    """The runs that wait are those of the history, and the audit finds nothing."""
    runs = stack.trainshed("ls", "--status", "PENDING", json=True)["runs"]
    assert len(runs) == LIVE
    assert stack.trainshed("audit", "verify", json=True)["ok"]


def warnings(stack: Stack) -> list[str]:
    return [line["event"] for line in stack.warnings() if line["logger"].endswith("fold")]


@pytest.fixture
def long_log(new_stack: Callable[..., Stack], tmp_path: Path) -> tuple[Stack, int]:
    """A stack that is not started yet, on a log of some thousand events; and how many."""
    stack = new_stack(start=False, node=history.NODE, gpus=0)
    written = asyncio.run(history.write(tmp_path / "state", RUNS, LIVE))
    assert written.events > 2_000
    return stack, written.events


def test_a_start_reads_only_what_came_after_the_snapshot(long_log: tuple[Stack, int]) -> None:
    stack, events = long_log
    stack.start()
    assert delivered(stack)[0] >= events, "at first, all of it: nothing is kept yet"
    is_sane(stack)
    snapshot_is_at(stack, events)
    assert stack.stop() == 0
    stack.start()
    assert delivered(stack)[1] < FEW, "after a stop"
    stack.kill()
    stack.start()
    assert delivered(stack)[1] < FEW, "after kill -9"
    assert warnings(stack) == []
    assert "will rebuild" not in (stack.state_dir / "logs" / "nats-server.log").read_text(), (
        "nats-server, too, closes its store when `up` is killed with -9"
    )
    assert stack.stop() == 0
    path = stack.state_dir / FOLD_FILE
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    stack.start()
    few, all_ = delivered(stack)
    assert few < FEW and all_ >= events, "the read model needs no snapshot of the fold"
    assert warnings(stack) == ["the snapshot is not used; the log is folded from its start"]
    is_sane(stack)
