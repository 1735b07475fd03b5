"""The three sources of a heartbeat, as the read model tells them."""

from __future__ import annotations

import sys
from collections.abc import Callable

from tests.support.stack import Stack, until

NOTIFIES = """
import os, socket, sys, time
told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
told.connect(os.environ["NOTIFY_SOCKET"])
told.send(b"READY=1")
told.send(b"WATCHDOG=1\\nSTATUS=step 1200 reward 195\\nX_STEP=1200\\nX_PROGRESS=0.24\\nX_METRIC_reward=195.5\\nX_METRIC_loss=1e-3")
told.send(b"\\xff\\xfe\\nX_STEP=not a number\\nX_METRIC_loss=nan\\nX_PRIMARY=reward\\nX_STEPS=1")
told.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
told.send(b"X_METRIC_reward=195.5\\nSTATUS=" + b"x" * 70_000 + b"\\nX_METRIC_reward=1")
told.send(b"X_METRIC_reward=195.5\\n" * 2978 + b"X_METRIC_reward=1234567890123456789012345")
print(os.environ["WATCHDOG_USEC"], flush=True)
sys.stdin.close()
time.sleep(60)
"""
TOLD = {"reward": 195.5, "loss": "NaN"}


def _config(source: str, script: str, **more: object) -> dict[str, object]:
    return {
        "entry_point": sys.executable,
        "arguments": ["-c", script],
        "heartbeat": {"source": source, **more},
    }


def test_what_a_worker_notifies_is_shown_while_it_runs_and_kept_when_it_goes_silent(stack: Stack) -> None:
    run = stack.submit_config(_config("notify", NOTIFIES, timeout_s=3))

    def told() -> bool:
        record = stack.record(run)
        return bool(record["step"] is not None and record["status"] == "RUNNING")

    until(told)
    record = stack.record(run)
    assert (record["step"], record["progress"]) == (1200, 0.24)
    assert record["metrics"] in ({"reward": 195.5, "loss": 0.001}, TOLD)
    assert record["status_text"] == "step 1200 reward 195"
    assert record["ready_at"] is not None
    assert record["started_at"] <= record["ready_at"] <= record["last_heartbeat_at"]

    (ended,) = stack.wait(run, code=125)
    assert ended["failure_reason"] == "worker_timeout"
    assert ended["metrics"] == TOLD  # as `wait --json` prints a record that it has read
    assert stack.stdout(run) == "3000000\n"
    view = stack.show(run)
    (attempt,) = view["attempts"]
    for kept in (ended, attempt):
        assert (kept["step"], kept["metrics"], kept["primary_metric"]) == (1200, TOLD, "reward")
        assert kept["passed_over"] == {"value": "X_STEP=not a number", "cut": "", "key": "X_STEPS"}
        assert kept["last_heartbeat_at"] >= record["last_heartbeat_at"]
    assert "X_STEP=not a number is no whole number" in " ".join(stack.trainshed("show", run).text.split())


def test_a_line_of_output_counts_for_output_and_being_alive_is_enough_for_process(stack: Stack) -> None:
    talks = "import time\nfor _ in range(8): print('x', flush=True); time.sleep(0.25)\ntime.sleep(60)"
    quiet = "import time; time.sleep(2.5)"
    output = stack.submit_config(_config("output", talks, timeout_s=1))
    process = stack.submit_config(_config("process", quiet, timeout_s=1))
    records = stack.wait(output, process, code=125)
    assert records[0]["failure_reason"] == "worker_timeout"
    assert stack.stdout(output) == "x\n" * 8  # it outlived its time-out while it talked
    assert records[0]["last_heartbeat_at"] is not None
    assert records[1]["status"] == "COMPLETED"


def test_the_option_of_up_counts_for_runs_that_name_no_timeout(new_stack: Callable[..., Stack]) -> None:
    stack = new_stack(options=("--heartbeat-timeout", "1s"))
    silent = stack.submit("--heartbeat", "notify", "--", "sleep", "60")
    patient = stack.submit("--heartbeat", "notify", "--heartbeat-timeout", "1m", "--", "sleep", "2")
    records = stack.wait(silent, patient, code=125)
    assert records[0]["failure_reason"] == "worker_timeout"
    assert records[1]["status"] == "COMPLETED"
