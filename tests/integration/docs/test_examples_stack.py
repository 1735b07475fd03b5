"""The configs of examples/ on a real stack, with stand-ins for the programs; with the real frameworks: tests/integration/frameworks."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.stack import Stack

ROOT = Path(__file__).resolve().parents[3]
NewStack = Callable[..., Stack]
ECHO = '#!/bin/sh\nfor word in "$@"; do printf "%s\\n" "$word"; done\nprintf "devices %s\\n" "$CUDA_VISIBLE_DEVICES"\n'
"""Tells its arguments, a line each, and its devices."""


@pytest.fixture
def stand_ins(new_stack: NewStack, tmp_path: Path) -> Stack:
    """A stack whose PATH has a python3 and a torchrun that only tell what they were given."""
    (tmp_path / "bin").mkdir()
    for name in ("python3", "torchrun"):
        (tmp_path / "bin" / name).write_text(ECHO)
        (tmp_path / "bin" / name).chmod(0o755)
    return new_stack(cpus=8, memory=16_000, environment={"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"})


def submitted(stack: Stack, *words: str) -> list[dict[str, object]]:
    done = stack.trainshed("submit", "--json", *words, cwd=ROOT)
    return [json.loads(line) for line in done.lines]


def test_the_sweep_is_accepted_whole_runs_once_and_is_refused_whole(stand_ins: Stack, tmp_path: Path) -> None:
    sweep = (ROOT / "examples/sweep.jsonl").read_text()
    before = len(stand_ins.events())
    bad = tmp_path / "bad.jsonl"
    bad.write_text(sweep + '{"entry_point": "python3", "resources": {"gpus": {"requested": -1}}}\n')
    done = stand_ins.trainshed("submit", "-f", str(bad), cwd=ROOT, code=2)
    assert "bad.jsonl, line 7: resources.gpus.requested" in done.stderr
    assert len(stand_ins.events()) == before

    words = ("-f", "examples/sweep.jsonl", "--working-dir", ".")
    first = submitted(stand_ins, *words)
    runs = [str(answer["run_id"]) for answer in first]
    assert [answer["created"] for answer in first] == [True] * 6
    stand_ins.wait(*runs)
    said = [stand_ins.stdout(run).splitlines() for run in runs]
    asked = [json.loads(line)["arguments"] for line in sweep.splitlines()]
    assert [lines[:-1] for lines in said] == asked
    assert {lines[-1] for lines in said} <= {"devices 0", "devices 1", "devices "}
    again = submitted(stand_ins, *words)
    assert [(answer["run_id"], answer["created"]) for answer in again] == [(run, False) for run in runs]


def test_each_config_starts_its_program_and_torchrun_has_both_gpus(stand_ins: Stack) -> None:
    runs = {}
    for name in ("cleanrl_ppo", "sb3", "torchrun"):
        (answer,) = submitted(stand_ins, "-f", f"examples/{name}.yaml", "--working-dir", ".")
        runs[name] = str(answer["run_id"])
    stand_ins.wait(*runs.values())
    said = {name: stand_ins.stdout(run).splitlines() for name, run in runs.items()}
    assert said["cleanrl_ppo"][0] == "examples/cleanrl_ppo.py"
    assert said["sb3"][0] == "examples/sb3.py"
    assert said["sb3"][-1] == "devices "
    assert said["torchrun"][:4] == ["--standalone", "--nproc-per-node", "gpu", "examples/ddp.py"]
    assert said["torchrun"][-1] == "devices 0,1"


def test_the_pipeline_runs_as_it_is(new_stack: NewStack) -> None:
    stack = new_stack()
    (answer,) = submitted(stack, "-f", "examples/pipeline.yaml")
    run = str(answer["run_id"])
    stack.wait(run)
    slope, offset = map(float, (stack.run_dir(run) / "artifacts" / "line").read_text().split())
    assert abs(slope - 3) < 0.1
    assert abs(offset - 2) < 0.1


@pytest.mark.skipif(
    importlib.util.find_spec("optuna") is None,
    reason="optuna is not installed (it is not needed by Trainshed; tried by hand)",
)
def test_an_optuna_study_that_was_killed_goes_on_with_the_trials_that_there_are(new_stack: NewStack) -> None:
    stack = new_stack(cpus=6)
    command = f"{sys.executable} examples/optuna_search.py --trials 8 --seconds 0.3"
    kill = "[ $TRAINSHED_ATTEMPT = 2 ] || (sleep 3; kill -9 $$) & "
    (answer,) = submitted(stack, "--retries", "1", "--", "/bin/sh", "-c", f"{kill}exec {command}")
    run = str(answer["run_id"])
    (record,) = stack.wait(run, timeout="60s")
    assert record["status"] == "COMPLETED"
    trials = stack.trainshed("ls", "--all", "--label", f"parent={run}", json=True)["runs"]
    assert sorted(one["name"] for one in trials) == [f"trial-{number}" for number in range(8)]
