"""Bugs that queues and supervisors are known for, each with a test that bears its name: none of them is ours.

Two more have their tests where the part is tested (`ELSEWHERE`).
"""

from __future__ import annotations

import hashlib
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from events.types import Completed
from tests.integration.agent.stage import Stage, new_ref, python
from tests.support import NatsServer
from tests.support.stack import TRAINSHED, Stack, alive, rss_mb, until

NewStack = Callable[..., Stack]

ELSEWHERE = {
    "an end, then Started": (
        "tests.unit.test_evolve:test_rule_7_a_start_after_the_end_changes_nothing",
        "tests.unit.test_evolve:test_a_run_may_end_without_its_start_having_been_told",
    ),
    "a restart between grant and launch": (
        "tests.integration.agent.test_session:test_what_was_written_down_and_never_launched_is_not_started",
        "tests.integration.agent.test_session:test_a_grant_older_than_the_join_is_never_launched",
    ),
}

MIB = 1024 * 1024
LINES = """
import os, sys
lines = b"".join(b"%015d\\n" % n for n in range(65536))
for block in range(int(sys.argv[1])):
    data = b"%07d" % block + lines[7:]
    while data:
        data = data[os.write(1, data):]
"""
"""Writes as many MiB as it is told, each its own, and never waits for a reader."""


def _block(number: int) -> bytes:
    """What LINES writes as that MiB."""
    return b"%07d" % number + b"".join(b"%015d\n" % n for n in range(65536))[7:]


def _writer(stack: Stack, blocks: int) -> str:
    return stack.submit("--gpus", "1", "--", sys.executable, "-S", "-c", LINES, str(blocks))


@pytest.mark.parametrize("bug", ELSEWHERE)
def test_those_that_are_tested_elsewhere_are(bug: str) -> None:
    for name in ELSEWHERE[bug]:
        module, _, function = name.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


def test_a_publish_that_fails_after_the_own_state_has_moved_on(new_stack: NewStack, tmp_path: Path) -> None:
    """Elsewhere the slot is free in one place and held in the other for good, or the end is never told."""
    stack = new_stack(gpus=1)
    gate = tmp_path / "gate"
    script = f'echo x >> "$TRAINSHED_RUN_DIR/launched"; while [ ! -e {gate} ]; do sleep 0.02; done; exit 3'
    first = stack.submit("--gpus", "1", shell=script)
    stack.running(first)
    second = stack.submit("--gpus", "1", "--", "true")
    nats = stack.child("nats-server")
    os.kill(nats, signal.SIGSTOP)
    gate.touch()
    until(
        (stack.state_dir / "attempts" / first / "1" / "exit.json").exists
    )  # here it is over, in the log it runs
    stack.kill()
    os.kill(nats, signal.SIGKILL)
    until(lambda: not alive(nats))
    stack.start()
    ended, next_one = stack.wait(first, second, code=3)
    assert (ended["status"], ended["exit_code"], ended["attempt"]) == ("FAILED", 3, 1)
    assert next_one["status"] == "COMPLETED"
    assert (stack.run_dir(first) / "launched").read_text() == "x\n"
    assert stack.holders() == [None]
    assert stack.trainshed("audit", "verify", json=True)["ok"] is True


@pytest.fixture
async def stage(nats_server: NatsServer, tmp_path: Path) -> Stage:
    return await Stage.set_up(nats_server, tmp_path)


async def test_a_finished_run_after_a_restart_is_not_started_again(stage: Stage, tmp_path: Path) -> None:
    """Elsewhere the queue delivers it to the new worker process, which has no memory of it."""
    ref, witness = new_ref(), tmp_path / "witness"
    launch = python(f"open({str(witness)!r}, 'a').write('x')")
    async with stage.agent() as first:
        await stage.dispatch(ref, launch)
        assert isinstance(await stage.ended(ref), Completed)
        await first.kill()
    async with stage.agent():
        await stage.deliver_all_again()
        after = new_ref(2)
        await stage.dispatch(after, python(""))
        await stage.ended(after)
    assert witness.read_text() == "x"
    assert await stage.words(ref) == ["started", "completed"]


def test_a_reader_slower_than_the_writer(stack: Stack) -> None:
    """Elsewhere the worker blocks on its output, or the reader loses lines, or someone keeps them all in memory."""
    size = 32
    run = _writer(stack, size)
    expected = hashlib.sha256(b"".join(map(_block, range(size)))).hexdigest()
    with subprocess.Popen(
        [TRAINSHED, "logs", "-f", run], env=stack.environment, stdout=subprocess.PIPE
    ) as reader:
        assert reader.stdout is not None
        read = [reader.stdout.read(1)]
        (record,) = stack.wait(run)  # it has written all, and its slot is free, while the reader has a byte
        assert record["status"] == "COMPLETED"
        assert run not in stack.holders()
        assert rss_mb(reader.pid) < 90
        while chunk := reader.stdout.read(MIB):
            read.append(chunk)
        assert reader.wait(30) == 0
    assert hashlib.sha256(b"".join(read)).hexdigest() == expected


def test_1_gb_on_stdout(stack: Stack) -> None:
    """Elsewhere it goes through a pipe into the supervisor's memory, or into the queue's database."""
    before = rss_mb(stack.process.pid)
    log = stack.state_dir / "nats" / "jetstream"
    run = _writer(stack, 1024)
    (record,) = stack.wait(run, timeout="50s")
    output = stack.run_dir(run) / "attempts" / "1" / "stdout.log"
    try:
        assert record["status"] == "COMPLETED"
        assert output.stat().st_size == 1024 * MIB
        with output.open("rb") as file:
            for number in (0, 500, 1023):
                file.seek(number * MIB)
                assert file.read(MIB) == _block(number)
        tail = stack.trainshed("logs", "--tail", "65536", run).stdout
        assert tail == _block(1023)
        assert rss_mb(stack.process.pid) - before < 64
        assert log.is_dir()
        assert sum(path.stat().st_size for path in log.rglob("*") if path.is_file()) < 64 * MIB
    finally:
        output.unlink()


def test_cancel_of_a_run_whose_worker_lives_in_another_process_group(stack: Stack, tmp_path: Path) -> None:
    """Elsewhere the signal goes to the process group that was started, and the training runs on."""
    pids = tmp_path / "pids"
    leaves = f"import os, time; os.setsid(); open({str(pids)!r}, 'a').write(f'{{os.getpid()}}\\n'); time.sleep(600)"
    group = leaves.replace("setsid()", "setpgid(0, 0)")
    run = stack.submit(
        "--gpus",
        "1",
        shell=f'{sys.executable} -S -c "{leaves}" & {sys.executable} -S -c "{group}" & wait',
    )
    stack.running(run)
    until(lambda: pids.exists() and len(pids.read_text().splitlines()) == 2)
    others = [int(pid) for pid in pids.read_text().split()]
    groups = {os.getpgid(pid) for pid in others}
    assert groups == set(others)
    stack.trainshed("cancel", run)
    (record,) = stack.wait(run, code=125)
    assert record["status"] == "CANCELLED"
    assert [pid for pid in others if alive(pid)] == []
    assert run not in stack.holders()


def test_a_time_out_that_frees_the_gpu_before_the_kill(stack: Stack, tmp_path: Path) -> None:
    """Elsewhere the run is marked as timed out at once, and the next one finds its GPU's memory in use."""
    pid = tmp_path / "pid"
    first = stack.submit_config(
        {
            "entry_point": "/bin/sh",
            "arguments": ["-c", f"trap '' TERM; echo $$ > {pid}; while :; do sleep 0.1; done"],
            "resources": {"gpus": {"requested": 2}},
            "heartbeat": {"source": "notify", "timeout_s": 0.5},
            "stop": {"grace_s": 1.5},
        }
    )
    look = f'kill -0 $(cat {pid}) 2>/dev/null && echo "still there" || echo gone'
    second = stack.submit("--gpus", "1", shell=look)
    timed_out, _ = stack.wait(first, second, code=125)
    assert (timed_out["failure_reason"], timed_out["signal"]) == ("worker_timeout", signal.SIGKILL)
    assert stack.stdout(second) == "gone\n"
    assert _time(timed_out["ended_at"]) <= _time(stack.record(second)["dispatched_at"])


def _time(text: Any) -> datetime:
    return datetime.fromisoformat(str(text))
