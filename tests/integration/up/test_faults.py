"""What may befall the parts of a running stack, one at a time, while runs go on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.stack import Stack, alive, until
from trainshed_client import Trainshed
from trainshed_client.endpoint import read_endpoint
from trainshed_client.nats_client import connect
from trainshed_client.nats_connection import NatsConnection

NewStack = Callable[..., Stack]


def _sweep(stack: Stack, count: int, name: str) -> list[str]:
    """Submit quick runs at once; each writes its attempt's number into its folder."""
    script = 'echo $TRAINSHED_ATTEMPT >> "$TRAINSHED_RUN_DIR/launched"'
    configs = [
        {"entry_point": "/bin/sh", "arguments": ["-c", script], "submission_key": f"{name}-{n}"}
        for n in range(count)
    ]
    path = stack.state_dir.with_name(f"{name}.jsonl")
    path.write_text("\n".join(json.dumps(config) for config in configs))
    return [line.split()[0] for line in stack.trainshed("submit", "-f", str(path)).lines]


def _launched(stack: Stack, run: str) -> list[str]:
    path = stack.run_dir(run) / "launched"
    return path.read_text().split() if path.exists() else []


def test_up_killed_in_the_middle_of_a_sweep_launches_no_attempt_twice_and_loses_none(
    new_stack: NewStack,
) -> None:
    stack = new_stack(cpus=8)
    runs: list[str] = []
    for kill in range(3):
        batch = _sweep(stack, 60, f"batch-{kill}")
        runs += batch
        enough = 5 * (kill + 1)
        until(lambda: sum(bool(_launched(stack, run)) for run in batch) >= enough)  # noqa: B023
        stack.kill()
        stack.start()
    records = stack.wait(*runs)
    assert len(records) == 180
    for record in records:
        launched = _launched(stack, record["run_id"])
        assert launched, record
        assert len(set(launched)) == len(launched), record
    assert stack.trainshed("audit", "verify", json=True)["ok"] is True
    assert stack.holders() == [None, None]


@pytest.mark.parametrize("part", ["spawner", "shim"])
def test_a_killed_part_of_the_agent_costs_at_most_its_own_attempt(new_stack: NewStack, part: str) -> None:
    stack = new_stack()
    run = stack.submit("--gpus", "1", "--", "sleep", "60")
    worker = int(stack.running(run)["pid"])
    if part == "shim":
        shim = int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(shim, signal.SIGKILL)
        (record,) = stack.wait(run, code=125)
        assert record["failure_reason"] == "shim_lost"
        assert not alive(worker)
    else:
        os.kill(stack.child("services.agent.shim.spawner"), signal.SIGKILL)
        stack.wait(stack.submit("--gpus", "1", "--", "true"))
        assert stack.record(run)["status"] == "RUNNING"
        assert alive(worker)
    stack.wait(*_sweep(stack, 10, "after"))


@pytest.mark.parametrize("state", ["stopped", "killed"])
def test_up_ends_in_time_where_nats_server_does_not_answer(new_stack: NewStack, state: str) -> None:
    stack = new_stack()
    run = stack.submit("--", "sleep", "60")
    worker = int(stack.running(run)["pid"])
    nats = stack.child("nats-server")
    os.kill(nats, signal.SIGSTOP if state == "stopped" else signal.SIGKILL)
    assert stack.stop() == 0
    assert not alive(nats)
    assert alive(worker)
    assert "Traceback" not in stack.said()
    stack.start()
    assert stack.record(run)["pid"] == worker


def test_a_node_that_comes_back_smaller_keeps_what_runs_and_is_granted_what_it_has(
    new_stack: NewStack,
) -> None:
    stack = new_stack()
    runs = [stack.submit("--gpus", "1", "--", "sleep", "60") for _ in range(2)]
    slots = {run: stack.running(run)["slots"] for run in runs}
    (upper,) = [run for run in runs if slots[run] == [1]]
    (lower,) = [run for run in runs if slots[run] == [0]]
    stack.stop()
    stack.start("--gpus", "1")
    assert stack.record(upper)["status"] == "RUNNING"
    queued = [stack.submit("--gpus", "1", "--", "true") for _ in range(2)]
    stack.trainshed("cancel", upper)
    stack.wait(upper, code=125)
    assert {stack.record(run)["status"] for run in queued} == {"PENDING"}
    stack.trainshed("cancel", lower)
    stack.wait(lower, code=125)
    assert [record["slots"] for record in stack.wait(*queued)] == [[0], [0]]
    stack.trainshed("submit", "--gpus", "2", "--", "true", code=2)


def test_a_node_keeps_its_name(new_stack: NewStack) -> None:
    stack = new_stack()
    stack.stop()
    begin = stack.log.stat().st_size
    stack.start("--node", "other", wait=False)
    code = stack.process.wait(20)
    said = stack.said(begin)
    assert code == 2, said
    assert "is the state folder of node box, not of other" in said


def test_any_state_folder_will_do(new_stack: NewStack) -> None:
    notify = (
        "import os, socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "s.connect(os.environ['NOTIFY_SOCKET']); s.send(b'X_STEP=3')"
    )
    stack = new_stack(f"state of 'a' \"researcher\" $HOME ü {'long' * 30}")
    run = stack.submit("--heartbeat", "notify", "--", sys.executable, "-c", notify)
    (record,) = stack.wait(run)
    assert record["step"] == 3
    assert stack.trainshed("audit", "verify").code == 0


def test_what_the_environment_says_of_another_server_is_not_for_up(
    new_stack: NewStack, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("of another server\n")
    others = {
        "NATS_URL": "nats://127.0.0.1:1",
        "TRAINSHED_NATS_USER": "someone",
        "TRAINSHED_NATS_PASSWORD_FILE": str(tmp_path / "password"),
    }
    stack = new_stack(environment=others)
    mine = dict.fromkeys(others, "")
    run = stack.trainshed("submit", "--new", "--", "true", json=True, environment=mine)["run_id"]
    stack.trainshed("wait", "-q", "--timeout", "20s", run, environment=mine)


async def test_fifty_submissions_of_one_config_at_once_are_one_run(new_stack: NewStack) -> None:
    stack = new_stack()
    spelled_out = {"priority": 0, "resources": {"gpus": {"requested": 0, "mandatory": True}, "cpus": 1}}
    base: dict[str, object] = {
        "entry_point": "/bin/sh",
        "arguments": ["-c", 'echo x >> "$TRAINSHED_RUN_DIR/launched"'],
    }
    shapes: list[dict[str, object]] = [
        base,
        {**spelled_out, **base},
        dict(reversed(base.items())),
        {**base, **spelled_out, "labels": {}},
    ]
    endpoint = read_endpoint(stack.state_dir)
    clients = [
        Trainshed(NatsConnection(await connect(endpoint, name=f"client-{n}"), endpoint.url)) for n in range(5)
    ]
    try:
        answers = await asyncio.gather(*(clients[n % 5].submit(shapes[n % len(shapes)]) for n in range(50)))
        assert len({answer.run_id for answer in answers}) == 1
        assert len({answer.seq for answer in answers}) == 1
        assert sum(answer.created for answer in answers) == 1
    finally:
        for client in clients:
            await client.nc.close()
    run = answers[0].run_id
    stack.wait(run)
    assert _launched(stack, run) == ["x"]
