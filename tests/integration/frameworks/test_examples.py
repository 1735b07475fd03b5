"""The examples that need torch and Stable-Baselines3, shortened, on a real stack: they train and report."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.frameworks import CLIENT, ROOT, python_with
from tests.support.stack import Stack


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("name", "reward"),
    [("cleanrl_ppo", "reward"), ("sb3", "rollout/ep_rew_mean")],
    ids=["cleanrl_ppo", "sb3"],
)
def test_an_example_trains_and_reports(stack: Stack, tmp_path: Path, name: str, reward: str) -> None:
    python = python_with("torch", "stable_baselines3", "gymnasium")
    text = (ROOT / f"examples/{name}.yaml").read_text()
    for steps in ('"100000"', '"50000"'):
        text = text.replace(steps, '"4096"')
    short = tmp_path / f"{name}.yaml"
    short.write_text(text)
    words = ("--working-dir", ".", "--env", f"PYTHONPATH={CLIENT}", "--set", f"entry_point={python}")
    run = stack.trainshed("submit", "-f", str(short), *words, json=True, cwd=ROOT)["run_id"]
    waiting = ("wait", "-q", "--timeout", "500s", run)
    (record,) = stack.trainshed(*waiting, json=True, code=None, within=510.0)["runs"]
    assert record["status"] == "COMPLETED", record["error"]
    assert record["step"] >= 4000
    assert record["progress"] == 1.0
    assert record["metrics"][reward] > 0
