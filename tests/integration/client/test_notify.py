"""A training script that reports by `trainshed_client.notify` on a real stack: its record and its history have it all."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.stack import Stack

ROOT = Path(__file__).resolve().parents[3]
TRAINS = """
import math
from trainshed_client import notify

notify.ready()
notify.primary("eval/reward")
for step in range(1, 2001):
    notify.step(step, progress=step / 2000, reward=step / 2, loss=math.nan if step == 2000 else 1 / step)
notify.step(2000, metrics={"eval/reward": 195.5, "a=b": 1})
notify.status("saving")
"""


@pytest.fixture
def script(tmp_path: Path) -> str:
    script = tmp_path / "train.py"
    script.write_text(TRAINS)
    return str(script)


def test_what_a_script_reports_is_in_its_record_and_its_history(stack: Stack, script: str) -> None:
    run = stack.submit("--", sys.executable, script)
    (record,) = stack.wait(run)
    assert record["ready_at"] is not None
    assert (record["step"], record["progress"], record["status_text"]) == (2000, 1.0, "saving")
    assert record["metrics"] == {"reward": 1000.0, "loss": "NaN", "eval/reward": 195.5}
    assert (record["primary_metric"], record["passed_over"]) == ("eval/reward", {})
    found = stack.trainshed("metrics", run, json=True)
    points = found["points"]
    assert (points[-1]["step"], points[-1]["metrics"]["eval/reward"]) == (2000, 195.5)
    assert points[0]["step"] == 1
    errors = (stack.run_dir(run) / "attempts/1/stderr.log").read_text()
    assert errors.count("'a=b' is no metric's name") == 1
    assert "train.py:9: UserWarning" in errors


def test_the_script_of_the_workers_page_reports_what_it_calls(stack: Stack, tmp_path: Path) -> None:
    page = (ROOT / "docs/contracts/worker.md").read_text()
    (found,) = re.findall(r"(?ms)^```python\n(from trainshed_client import notify\n.*?)^```", page)
    (tmp_path / "train.py").write_text(found)
    (record,) = stack.wait(stack.submit("--", sys.executable, str(tmp_path / "train.py")))
    assert record["ready_at"] is not None
    assert (record["step"], record["progress"], record["status_text"]) == (100, 1.0, "saving")
    assert record["metrics"] == {"reward": 50.0, "loss": 0.01, "eval/reward": 49.5}
    assert record["primary_metric"] == "eval/reward"


def test_without_trainshed_the_same_script_is_silent(script: str) -> None:
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=30, check=True, env={}
    )
    assert (done.stdout, done.stderr) == ("", "")
