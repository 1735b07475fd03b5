"""Slots, CPUs and memory: who gets them, and that every way to end gives them back."""

from __future__ import annotations

import os
import signal
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.stack import Stack, alive, until

DEVICES = 'echo "[$CUDA_VISIBLE_DEVICES]"'


class Gate:
    """Holds workers until it is opened for one: they wait for a line of a named pipe."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def hold(self) -> tuple[str, Path]:
        """A line for the shell that tells its devices, waits and exits 0; and its pipe."""
        pipe = self._folder / uuid.uuid4().hex
        os.mkfifo(pipe)
        return f"{DEVICES}; read line < {pipe}", pipe

    def open(self, pipe: Path) -> None:
        """Let the worker behind that pipe go on."""
        with pipe.open("w") as file:
            file.write("go\n")


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


@pytest.fixture(autouse=True)
def all_free_afterwards(stack: Stack) -> Iterator[None]:
    """Every test gives back what it took."""
    yield
    live = [run["run_id"] for run in stack.trainshed("ls", json=True)["runs"] if run["ended_at"] is None]
    if live:
        stack.trainshed("cancel", *live)
        stack.trainshed("wait", "-q", "--timeout", "20s", *live, code=None)
    assert stack.holders() == [None, None]


def test_two_runs_side_by_side_get_a_device_each_and_a_third_waits_for_one(stack: Stack, gate: Gate) -> None:
    held = [gate.hold() for _ in range(3)]
    first, second, third = (stack.submit("--gpus", "1", shell=line) for line, _ in held)
    records = {run: stack.running(run) for run in (first, second)}
    assert sorted(record["slots"] for record in records.values()) == [[0], [1]]
    waiting = stack.record(third)
    assert waiting["status"] == "PENDING"
    assert waiting["waits_for"]["text"]
    assert set(stack.holders()) == {first, second}

    gate.open(held[0][1])
    record = stack.running(third)
    assert record["slots"] == records[first]["slots"]
    gate.open(held[1][1])
    gate.open(held[2][1])
    stack.wait(first, second, third)
    told = {run: stack.stdout(run).strip() for run in (first, second, third)}
    assert {told[first], told[second]} == {"[0]", "[1]"}
    assert told[third] == told[first]


def test_a_run_of_two_gets_both_and_waits_until_both_are_free(stack: Stack, gate: Gate) -> None:
    line, pipe = gate.hold()
    one = stack.submit("--gpus", "1", shell=line)
    stack.running(one)
    two = stack.submit("--gpus", "2", shell=DEVICES)
    assert stack.record(two)["status"] == "PENDING"
    gate.open(pipe)
    records = stack.wait(one, two)
    assert records[1]["slots"] == [0, 1]
    assert stack.stdout(two).strip() == "[0,1]"


def test_where_gpus_are_optional_a_run_starts_with_what_is_free(stack: Stack, gate: Gate) -> None:
    (first_line, first_pipe), (second_line, second_pipe) = gate.hold(), gate.hold()
    first = stack.submit("--gpus", "1", shell=first_line)
    stack.running(first)
    fewer = stack.submit("--gpus", "2", "--gpus-optional", shell=second_line)
    record = stack.running(fewer)
    assert len(record["slots"]) == 1
    none = stack.submit("--gpus", "1", "--gpus-optional", shell=DEVICES)
    assert stack.wait(none)[0]["slots"] == []
    assert stack.stdout(none).strip() == "[]"
    gate.open(first_pipe)
    gate.open(second_pipe)
    stack.wait(first, fewer)


def test_every_way_to_end_frees_the_slots(stack: Stack, tmp_path: Path) -> None:
    not_executable = tmp_path / "not-executable"
    not_executable.write_text("#!/bin/sh\n")
    sleep = ("--", "sleep", "60")
    # Each needs both slots, so that each starts only because the one before gave them back.
    both = ("--gpus", "2")
    ok = stack.submit(*both, "--", "true")
    failed = stack.submit(*both, shell="exit 3")
    killed = stack.submit(*both, *sleep)
    cancelled = stack.submit(*both, *sleep)
    silent = stack.submit(*both, "--heartbeat", "notify", "--heartbeat-timeout", "1s", *sleep)
    limited = stack.submit(*both, "--time-limit", "1s", *sleep)
    missing = stack.submit(*both, "--no-check", "--", "/no/such/program")
    refused = stack.submit(*both, "--no-check", "--", str(not_executable))
    last = stack.submit(*both, "--", "true")

    os.kill(stack.running(killed)["pid"], signal.SIGKILL)
    stack.running(cancelled)
    stack.trainshed("cancel", cancelled)

    runs = [ok, failed, killed, cancelled, silent, limited, missing, refused, last]
    records = stack.wait(*runs, code=137)
    how = [
        (record["status"], record["failure_reason"], record["exit_code"], record["signal"])
        for record in records
    ]
    assert how == [
        ("COMPLETED", None, 0, None),
        ("FAILED", "exit_code", 3, None),
        ("FAILED", "signal", None, 9),
        ("CANCELLED", None, None, 15),
        ("FAILED", "worker_timeout", None, 15),
        ("FAILED", "time_limit", None, 15),
        ("FAILED", "spawn_error", None, None),
        ("FAILED", "spawn_error", None, None),
        ("COMPLETED", None, 0, None),
    ]
    assert [record["slots"] for record in records] == [[0, 1]] * 9
    assert stack.holders() == [None, None]
    assert stack.workers() == {}
    assert "/no/such/program: no such file" in stack.trainshed("show", missing).text
    assert "not executable" in stack.trainshed("show", refused).text
    stack.trainshed("audit", "verify")


@pytest.mark.parametrize("resource", ["cpus", "memory"])
def test_cpus_and_memory_are_accounted_so_that_runs_without_gpus_queue_too(
    stack: Stack, gate: Gate, resource: str
) -> None:
    much, more, little = {"cpus": ("3", "2", "1"), "memory": ("3000", "2000", "1096")}[resource]
    line, pipe = gate.hold()
    holder = stack.submit(f"--{resource}", much, shell=line)
    stack.running(holder)
    (node,) = stack.trainshed("nodes", json=True)["nodes"]
    used = {"cpus": node["cpus_used"], "memory": node["memory_used_mb"]}
    assert used[resource] == int(much)
    queued = stack.submit(f"--{resource}", more, "--", "true")
    fits = stack.submit(f"--{resource}", little, "--priority", "1", "--", "true")
    stack.wait(fits)
    waiting = stack.record(queued)
    assert waiting["status"] == "PENDING"
    assert {"cpus": "CPU", "memory": "MB"}[resource] in waiting["waits_for"]["text"]
    gate.open(pipe)
    stack.wait(holder, queued)


TREE = """
import os, signal, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.chdir("/")
        for fd in (0, 1, 2):
            os.close(fd)
        with open(sys.argv[1] + ".new", "w") as file:
            file.write(str(os.getpid()))
        os.rename(sys.argv[1] + ".new", sys.argv[1])
        time.sleep(60)
    os._exit(0)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
if sys.argv[2] == "stay":
    time.sleep(60)
"""
"""Leaves a daemon (own session, reparented, deaf to SIGTERM) and stays, or exits 0 at once."""


@pytest.mark.parametrize("worker", ["stay", "leave"])
def test_the_slot_is_not_free_before_a_deaf_daemonised_grandchild_is_gone(
    stack: Stack, tmp_path: Path, worker: str
) -> None:
    told = tmp_path / "grandchild"
    run = stack.submit_config(
        {
            "entry_point": sys.executable,
            "arguments": ["-c", TREE, str(told), worker],
            "resources": {"gpus": {"requested": 2}},
            "stop": {"grace_s": 1},
        }
    )
    grandchild = until(lambda: int(told.read_text()) if told.exists() else 0)
    try:
        if worker == "stay":
            stack.running(run)
            stack.trainshed("cancel", run)

        def free() -> bool:
            holders = stack.holders()
            lives = alive(grandchild)  # looked at later: it may be gone before its slot is free, never after
            assert holders != [None, None] or not lives
            return holders == [None, None]

        until(free, 20)
        (record,) = stack.wait(run, code=125 if worker == "stay" else 0)
    finally:
        if alive(grandchild):
            os.kill(grandchild, signal.SIGKILL)
    assert record["status"] == {"stay": "CANCELLED", "leave": "COMPLETED"}[worker]


def test_a_run_that_no_node_could_hold_is_refused(stack: Stack) -> None:
    for option, value, named in (
        ("--gpus", "3", "resources.gpus.requested"),
        ("--cpus", "5", "resources.cpus"),
        ("--memory", "5000", "resources.memory_mb"),
    ):
        done = stack.trainshed("submit", option, value, "--", "true", code=2)
        assert named in done.stderr
