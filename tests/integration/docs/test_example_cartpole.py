"""Claims about examples/cartpole.py, the worker of the demo: it learns, tells so, saves and goes on."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "examples" / "cartpole.py"
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gymnasium") is None or importlib.util.find_spec("numpy") is None,
    reason="the example needs gymnasium and numpy: not installed",
)


class Listener:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(30)

    def receive(self) -> dict[str, str]:
        lines = self.socket.recv(65536).decode().splitlines()
        return dict(line.split("=", 1) for line in lines)


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    listener = Listener(tmp_path / "n")
    yield listener
    listener.socket.close()


def start(*arguments: str, run_dir: Path | None = None, notify: Path | None = None) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
    if run_dir is not None:
        environment["TRAINSHED_RUN_DIR"] = str(run_dir)
    if notify is not None:
        environment["NOTIFY_SOCKET"] = str(notify)
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(worker: subprocess.Popen[str], expect: int = 0) -> list[dict[str, Any]]:
    output, errors = worker.communicate(timeout=60)
    assert worker.returncode == expect, errors
    return [json.loads(line) for line in output.splitlines()]


def weights(run_dir: Path) -> bytes:
    return (run_dir / "artifacts" / "weights.npy").read_bytes()


def test_the_reward_rises_and_the_same_seed_gives_the_same_run() -> None:
    first = finish(start("--seed", "3", "--lr", "4", "--iterations", "25"))
    rewards = [line["reward"] for line in first if line["type"] == "episode"]
    assert len(rewards) == 25
    assert rewards[-1] > 4 * rewards[0]
    assert finish(start("--seed", "3", "--lr", "4", "--iterations", "25")) == first


def test_its_heartbeats_tell_step_progress_and_rewards(tmp_path: Path, listener: Listener) -> None:
    worker = start("--iterations", "4", run_dir=tmp_path, notify=listener.path)
    told = [listener.receive() for _ in range(5)]
    lines = finish(worker)
    assert told[0]["READY"] == "1"
    last = told[-1]
    assert (last["WATCHDOG"], last["X_STEP"], last["X_PROGRESS"]) == ("1", "4", "1.000")
    assert float(last["X_METRIC_first_reward"]) == float(told[1]["X_METRIC_reward"])
    assert (
        float(last["X_METRIC_reward"]) == [line["reward"] for line in lines if line["type"] == "episode"][-1]
    )
    assert weights(tmp_path)


def test_stopped_by_sigterm_it_saves_and_the_next_attempt_ends_as_if_never_stopped(
    tmp_path: Path, listener: Listener
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    finish(start("--iterations", "60", run_dir=whole))
    worker = start("--iterations", "60", run_dir=parts, notify=listener.path)
    while listener.receive().get("X_STEP") != "3":
        pass
    worker.send_signal(signal.SIGTERM)
    stopped = finish(worker, expect=143)[-1]
    assert stopped["type"] == "stopped"
    assert 3 <= stopped["iteration"] < 60
    resumed = finish(start("--iterations", "60", run_dir=parts))
    assert (resumed[0]["resumed"], resumed[0]["iteration"]) == (True, stopped["iteration"])
    assert weights(parts) == weights(whole)


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    finish(start("--iterations", "2", run_dir=tmp_path))
    worker = start("--iterations", "2", "--seed", "9", run_dir=tmp_path)
    _, errors = worker.communicate(timeout=60)
    assert worker.returncode == 1
    assert "of another training" in errors


def test_it_fails_and_goes_silent_where_it_is_told_to(listener: Listener) -> None:
    assert len(finish(start("--fail-at", "2"), expect=3)) == 3
    worker = start("--hang-at", "2", notify=listener.path)
    while listener.receive().get("X_STEP") != "2":
        pass
    # Its word on stderr is its last before the silence; it is alive until it is stopped.
    assert worker.stderr is not None
    assert "going silent" in worker.stderr.readline()
    assert worker.poll() is None
    worker.send_signal(signal.SIGTERM)
    finish(worker, expect=143)
