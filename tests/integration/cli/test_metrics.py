"""`trainshed metrics` of runs that wait, run, ended or are gone, and while no stack answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.support.stack import Stack, until

NewStack = Callable[..., Stack]
LINE = '{"type": "step", "step": %d, "loss": %d}'


def test_metrics_are_shown_whatever_became_of_the_run_and_the_stack(new_stack: NewStack) -> None:
    stack = new_stack()
    run = stack.submit(
        "--name",
        "ppo",
        shell=f"echo '{LINE % (1, 5)}'; while [ ! -e $TRAINSHED_RUN_DIR/go_on ]; do sleep 0.02; done; echo '{LINE % (2, 3)}'",
    )
    until(lambda: stack.trainshed("metrics", "ppo", json=True)["points"])
    first = stack.trainshed("metrics", "ppo", json=True)
    assert first["status"] == "RUNNING" and first["metrics"]["loss"]["last"]["value"] == 5
    waits = stack.submit("--after", run, shell="exit 0")
    said = stack.trainshed("metrics", waits)
    assert said.stdout == b"" and "has told no metric" in said.stderr
    assert stack.trainshed("metrics", waits, "--csv").lines == ["step,time"]
    assert stack.trainshed("metrics", waits, json=True)["points"] == []
    (stack.run_dir(run) / "go_on").touch()
    stack.wait(run, waits)
    ended = stack.trainshed("metrics", "ppo", json=True)
    assert {name: seen["value"] for name, seen in ended["metrics"]["loss"].items() if name != "count"} == {
        "first": 5,
        "last": 3,
        "min": 3,
        "max": 5,
    }
    assert stack.trainshed("metrics", "ppo").lines == [
        "METRIC  VALUES  FIRST   LAST    MIN    MAX",
        "loss         2  5 @ 1  3 @ 2  3 @ 2  5 @ 1",
    ]
    assert "choose one" in stack.trainshed("metrics", "ppo", "--csv", "--json", code=2).stderr

    stack.stop()
    away = stack.trainshed("metrics", "ppo", "--csv", code=3)
    assert len(away.lines) == 3 and "what has happened since is not known" in away.stderr
    stack.start()
    assert stack.trainshed("prune", "--older-than", "0", json=True)["runs"]
    gone = stack.trainshed("metrics", "ppo", code=4)
    assert "deleted" in gone.stderr and gone.stdout == b""


def test_metrics_of_another_node_come_from_there_and_of_one_that_is_away_it_is_said(
    new_stack: NewStack, tmp_path: Path
) -> None:
    stack = new_stack()
    with stack.far_node(tmp_path / "far"):
        run = stack.submit("--gpus", "4", shell=f"echo '{LINE % (1, 5)}'")
        stack.wait(run)
        assert stack.trainshed("metrics", run, json=True)["metrics"]["loss"]["last"]["value"] == 5
    said = stack.trainshed("metrics", run, code=3)
    assert "the metrics of attempt 1 are on far: the agent of far does not answer" in said.stderr
    assert said.stdout == b""
