"""The callbacks for training frameworks, each once for real: a training on a real stack, and what its record has then.

Needs the frameworks: `make test-frameworks` installs them and runs this.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.frameworks import CLIENT, python_with
from tests.support.stack import Stack

HERE = Path(__file__).parent
SB3 = ("stable_baselines3",)
LIGHTNING = ("lightning",)
TRANSFORMERS = ("transformers", "accelerate")
pytestmark = pytest.mark.timeout(600)  # importing torch alone takes long on a busy machine


def trained(stack: Stack, needs: tuple[str, ...], script: str, *arguments: str) -> tuple[dict[str, Any], Any]:
    """The record of a training that has completed, and its history."""
    python = python_with(*needs)
    words = ("--env", f"PYTHONPATH={CLIENT}", "--heartbeat", "notify", "--", str(python), str(HERE / script))
    run = stack.submit(*words, *arguments)
    waiting = ("wait", "-q", "--timeout", "500s", run)
    (record,) = stack.trainshed(*waiting, json=True, code=None, within=510.0)["runs"]
    errors = (stack.run_dir(run) / "attempts/1/stderr.log").read_text()
    assert record["status"] == "COMPLETED", errors
    assert "trainshed_client.notify" not in errors  # no warning
    assert record["passed_over"] == {}
    assert record["ready_at"] is not None
    return record, stack.trainshed("metrics", run, json=True)


def test_stable_baselines3_reports_what_it_logs(stack: Stack) -> None:
    record, history = trained(stack, SB3, "train_sb3.py")
    assert (record["step"], record["progress"]) == (400, 1.0)
    assert record["status_text"] == "DQN on cpu"
    assert record["primary_metric"] == "rollout/ep_rew_mean"
    assert record["metrics"]["rollout/ep_rew_mean"] > 0
    assert {"train/loss", "train/value_loss", "time/fps"} <= record["metrics"].keys()
    assert "time/total_timesteps" not in record["metrics"]  # that is the step
    points = history["points"]
    logged = [one["step"] for one in points if "train/value_loss" in one["metrics"]]
    assert logged == list(range(100, 1501, 100))  # of two calls of learn(), each line once
    assert any(one["step"] == 1000 and one["progress"] == 1.0 for one in points)


def test_lightning_reports_what_is_logged(stack: Stack) -> None:
    record, history = trained(stack, LIGHTNING, "train_lightning.py")
    assert (record["step"], record["progress"], record["status_text"]) == (60, 1.0, "epoch 3 of 3")
    assert record["primary_metric"] == "val_loss"
    assert record["metrics"].keys() == {"loss_step", "loss_epoch", "half/loss", "val_loss"}
    steps = {
        name: [one["step"] for one in history["points"] if name in one["metrics"]]
        for name in record["metrics"]
    }
    assert steps["val_loss"] == steps["loss_epoch"] == [20, 40, 60]  # and not again at later steps
    assert sorted(set(steps["loss_step"])) == list(range(5, 61, 5))


def test_transformers_reports_what_it_logs(stack: Stack, tmp_path: Path) -> None:
    record, history = trained(stack, TRANSFORMERS, "train_transformers.py", str(tmp_path))
    assert (record["step"], record["progress"], record["status_text"]) == (24, 1.0, "epoch 2 of 2")
    assert record["primary_metric"] == "eval_loss"
    assert {"loss", "grad_norm", "learning_rate", "eval_loss", "train_loss"} <= record["metrics"].keys()
    losses = [one["step"] for one in history["points"] if "loss" in one["metrics"]]
    assert losses == [4, 8, 12, 16, 20, 24]
    assert [one["step"] for one in history["points"] if "eval_loss" in one["metrics"]] == [12, 24]


class Counted:
    """The other end of NOTIFY_SOCKET, which knows who sends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.socket.bind(str(path))
        self.socket.setblocking(False)

    def heard(self, process: subprocess.Popen[bytes]) -> dict[int, list[str]]:
        """What each process has sent until that one ended, by pid."""
        found: dict[int, list[str]] = {}
        ended = False
        while True:
            try:
                data, more, _, _ = self.socket.recvmsg(65_536, 100)
            except BlockingIOError:
                if ended:
                    return found
                try:
                    process.wait(0.02)
                except subprocess.TimeoutExpired:
                    continue
                ended = True
                continue
            pid = struct.unpack("iii", more[0][2])[0]
            found.setdefault(pid, []).append(data.decode())


@pytest.fixture
def counted(tmp_path: Path) -> Iterator[Counted]:
    one = Counted(tmp_path / "n")
    yield one
    one.socket.close()


@pytest.mark.parametrize(
    ("needs", "words"),
    [
        (LIGHTNING, [str(HERE / "train_lightning.py"), "2"]),
        (
            TRANSFORMERS,
            [
                *("-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"),
                *(str(HERE / "train_transformers.py"), "{out}"),
            ],
        ),
    ],
    ids=["lightning", "transformers"],
)
def test_of_two_processes_one_reports(
    counted: Counted, tmp_path: Path, needs: tuple[str, ...], words: list[str]
) -> None:
    python = python_with(*needs)
    environment = {**os.environ, "PYTHONPATH": str(CLIENT), "NOTIFY_SOCKET": str(counted.path)}
    with (tmp_path / "said").open("wb") as log:
        process = subprocess.Popen(
            [python, *(word.format(out=tmp_path) for word in words)],
            env=environment,
            stdout=log,
            stderr=log,
        )
        try:
            heard = counted.heard(process)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == 0, (tmp_path / "said").read_text()[-3000:]
    ((_, messages),) = heard.items()
    assert messages.count("READY=1") == 1
    assert "X_PROGRESS=1.0" in messages[-1]


@pytest.mark.parametrize("needs", [SB3, LIGHTNING, TRANSFORMERS], ids=lambda needs: needs[0])
def test_importing_the_client_imports_no_framework(needs: tuple[str, ...]) -> None:
    python = python_with(*needs)
    program = (
        "import sys, trainshed_client.notify, trainshed_client.integrations.reporting\nprint(*sys.modules)"
    )
    done = subprocess.run(
        [python, "-c", program],
        env={"PYTHONPATH": str(CLIENT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert not {"torch", *needs} & set(done.stdout.split())
