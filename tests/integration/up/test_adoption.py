"""`trainshed up` killed with -9 over running workers, and a reboot: what the next start makes of them (docs/protocol.md rules 8, 9, 14)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from services.agent.shim import process_tree
from tests.support.shims import DAEMON
from tests.support.stack import Stack, alive, until

NewStack = Callable[..., Stack]

WORKER = f"""
import os, signal, socket, sys, time
{DAEMON}
kind, told = sys.argv[1:]
run_dir = os.environ["TRAINSHED_RUN_DIR"]
with open(f"{{run_dir}}/launched", "a") as file:
    file.write(f"{{os.getpid()}}\\n")

def wait():
    while not os.path.exists(f"{{told}}/{{kind}}"):
        time.sleep(0.01)

match kind:
    case "lines":
        count = 0
        def say(more):
            global count
            for count in range(count + 1, count + 1 + more):
                print(f"out {{count}}" + "x" * (count % 100))
                print(f"err {{count}}", file=sys.stderr)
            sys.stdout.flush()
        while not os.path.exists(f"{{told}}/lines"):
            say(20)
            time.sleep(0.005)
        say(20_000)
        with open(f"{{run_dir}}/count", "w") as file:
            file.write(str(count))
    case "daemon":
        daemonise(f"{{run_dir}}/daemon")
        wait()
    case "silent":
        tell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        while not os.path.exists(f"{{told}}/silent"):
            tell.sendto(b"WATCHDOG=1", os.environ["NOTIFY_SOCKET"])
            time.sleep(0.05)
        time.sleep(600)
    case "limit" | "cancelled":
        time.sleep(600)
    case "again" if os.environ["TRAINSHED_ATTEMPT"] == "2":
        print("again")
    case "signal":
        wait()
        os.kill(os.getpid(), signal.SIGKILL)
    case _:
        wait()
        sys.exit(int(kind.partition("-")[2] or 0))
"""


def _submit(stack: Stack, told: Path, kinds: dict[str, dict[str, Any]]) -> dict[str, str]:
    """One run of each kind, all at once: kind → run."""
    told.mkdir(exist_ok=True)
    configs = [
        {
            "run_name": kind,
            "entry_point": sys.executable,
            "arguments": ["-S", "-c", WORKER, kind, str(told)],
            "stop": {"grace_s": 0.2},
            **more,
        }
        for kind, more in kinds.items()
    ]
    path = told.with_suffix(".jsonl")
    path.write_text("\n".join(map(json.dumps, configs)))
    runs = [line.split()[0] for line in stack.trainshed("submit", "-f", str(path)).lines]
    return dict(zip(kinds, runs, strict=True))


def _records(stack: Stack) -> dict[str, dict[str, Any]]:
    return {record["name"]: record for record in stack.trainshed("ls", "--all", json=True)["runs"]}


def _all_running(stack: Stack, runs: dict[str, str]) -> dict[str, dict[str, Any]]:
    until(lambda: all((stack.run_dir(run) / "launched").exists() for run in runs.values()), 30.0)

    def look() -> dict[str, dict[str, Any]] | None:
        records = _records(stack)
        return records if {each["status"] for each in records.values()} == {"RUNNING"} else None

    records = until(look, 30.0, what="all are told of as running")
    assert records is not None
    return records


def _exit_file(stack: Stack, run: str) -> Path:
    return stack.state_dir / "attempts" / run / "1" / "exit.json"


def _launched(stack: Stack, run: str) -> list[int]:
    return [int(pid) for pid in (stack.run_dir(run) / "launched").read_text().split()]


def _holders(stack: Stack) -> list[str]:
    """Runs by name in the order of their slots; a free slot is left out."""
    names = {record["run_id"]: name for name, record in _records(stack).items()}
    return sorted(names[run] for run in stack.holders() if run is not None)


def test_ten_workers_of_a_killed_up_are_adopted_and_what_ended_meanwhile_is_told(
    new_stack: NewStack, tmp_path: Path
) -> None:
    stack = new_stack(gpus=6, cpus=16)
    gpu = {"resources": {"gpus": {"requested": 1}}}
    told = tmp_path / "told"
    runs = _submit(
        stack,
        told,
        {
            "lines": {},
            "daemon": {},
            "signal": {},
            "code-3": gpu,
            "code-0": gpu,
            "cancelled": gpu,
            "away-7": gpu,
            "silent": {**gpu, "heartbeat": {"source": "notify", "timeout_s": 2}},
            "plain": {},
        },
    )
    before = _all_running(stack, runs)
    assert _holders(stack) == ["away-7", "cancelled", "code-0", "code-3", "silent"]
    runs |= _submit(stack, told, {"limit": {**gpu, "schedule": {"max_duration_seconds": 4}}})
    until((stack.run_dir(runs["limit"]) / "launched").exists)
    stack.kill()
    for kind in ("away-7", "silent"):
        (told / kind).touch()
    ended = ("away-7", "silent", "limit")
    until(lambda: all(_exit_file(stack, runs[kind]).exists() for kind in ended), 40.0)
    lived = [kind for kind in runs if kind not in ended]
    assert all(alive(before[kind]["pid"]) for kind in lived)

    stack.start()
    stack.wait(*(runs[kind] for kind in ended), code=125)
    after = _records(stack)
    assert {kind: (after[kind]["status"], after[kind]["pid"]) for kind in lived} == {
        kind: ("RUNNING", before[kind]["pid"]) for kind in lived
    }
    assert _holders(stack) == ["cancelled", "code-0", "code-3"]
    daemon = int((stack.run_dir(runs["daemon"]) / "daemon").read_text())
    assert alive(daemon)
    for kind in lived:
        (told / kind).touch()
    stack.trainshed("cancel", runs["cancelled"])
    stack.wait(*runs.values(), code=None)

    records = _records(stack)
    keys = ("status", "exit_code", "signal", "failure_reason")
    assert {kind: tuple(record[key] for key in keys) for kind, record in records.items()} == {
        "lines": ("COMPLETED", 0, None, None),
        "daemon": ("COMPLETED", 0, None, None),
        "signal": ("FAILED", None, signal.SIGKILL, "signal"),
        "code-3": ("FAILED", 3, None, "exit_code"),
        "code-0": ("COMPLETED", 0, None, None),
        "cancelled": ("CANCELLED", None, signal.SIGTERM, None),
        "away-7": ("FAILED", 7, None, "exit_code"),
        "silent": ("FAILED", None, signal.SIGTERM, "worker_timeout"),
        "limit": ("FAILED", None, signal.SIGTERM, "time_limit"),
        "plain": ("COMPLETED", 0, None, None),
    }
    starts = [event["subject"] for event in stack.events() if event["type"] == "trainshed.run.started.v1"]
    assert sorted(starts) == sorted(runs.values())
    for kind, run in runs.items():
        assert _launched(stack, run) == [records[kind]["pid"]]
    assert not alive(daemon)
    assert stack.workers() == {}
    assert stack.holders() == [None] * 6
    count = int((stack.run_dir(runs["lines"]) / "count").read_text())
    out = "".join(f"out {n}{'x' * (n % 100)}\n" for n in range(1, count + 1))
    err = "".join(f"err {n}\n" for n in range(1, count + 1))
    assert stack.trainshed("logs", runs["lines"], "--stdout").stdout == out.encode()
    assert stack.trainshed("logs", runs["lines"], "--stderr").stdout == err.encode()
    assert stack.trainshed("audit", "verify", json=True)["ok"] is True


def test_after_a_reboot_an_attempt_ended_as_its_exit_file_says_or_is_lost_and_tried_again(
    new_stack: NewStack, tmp_path: Path
) -> None:
    stack = new_stack(gpus=3)
    gpu = {"resources": {"gpus": {"requested": 1}}}
    told = tmp_path / "told"
    again = {"max_attempts": 2, "backoff_s": 0}
    runs = _submit(stack, told, {"code-3": gpu, "again": {**gpu, "retry": again}, "lost": gpu})
    before = _all_running(stack, runs)
    stack.kill()
    (told / "code-3").touch()
    until(_exit_file(stack, runs["code-3"]).exists)
    with subprocess.Popen(["sleep", "600"]) as innocent:
        try:
            _reboot(stack, runs, before, innocent.pid)
            stack.start()
            stack.wait(*runs.values(), code=None)
            assert innocent.poll() is None
        finally:
            innocent.kill()
    records = _records(stack)
    keys = ("status", "attempt", "exit_code", "failure_reason")
    assert {kind: tuple(record[key] for key in keys) for kind, record in records.items()} == {
        "code-3": ("FAILED", 1, 3, "exit_code"),
        "again": ("COMPLETED", 2, 0, None),
        "lost": ("FAILED", 1, None, "shim_lost"),
    }
    first = stack.show(runs["again"])["attempts"][0]
    assert (first["attempt"], first["failure_reason"]) == (1, "shim_lost")
    assert stack.stdout(runs["again"], 2) == "again\n"
    assert [len(_launched(stack, runs[kind])) for kind in ("code-3", "again", "lost")] == [1, 2, 1]
    assert stack.holders() == [None] * 3
    assert stack.trainshed("audit", "verify", json=True)["ok"] is True


def _reboot(stack: Stack, runs: dict[str, str], records: dict[str, dict[str, Any]], innocent: int) -> None:
    """Leave the folders as a reboot does: no process of ours is left, the boot was another, and its pids name others."""
    for kind, run in runs.items():
        folder = stack.state_dir / "attempts" / run / "1"
        started = json.loads((folder / "started.json").read_text())
        if not _exit_file(stack, run).exists():
            os.kill(started["shim_pid"], signal.SIGKILL)
            until(lambda: not alive(started["shim_pid"]) and not alive(records[kind]["pid"]))  # noqa: B023
        for key in ("pid", "shim_pid"):
            started[key] = innocent
            started[key.replace("pid", "start_time")] = process_tree.start_time(innocent)
        (folder / "started.json").write_text(json.dumps({**started, "boot_id": "the boot before"}))
        intent = json.loads((folder / "intent.json").read_text())
        (folder / "intent.json").write_text(json.dumps({**intent, "boot_id": "the boot before"}))
