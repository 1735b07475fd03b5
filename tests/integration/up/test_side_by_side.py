"""Two stacks on one machine never touch each other's runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.stack import TRAINSHED, Stack, alive, until

NewStack = Callable[..., Stack]


@pytest.fixture
def pair(new_stack: NewStack) -> tuple[Stack, Stack]:
    """Two stacks whose nodes even bear the same name."""
    return new_stack("one"), new_stack("two")


def _sleeper(stack: Stack) -> tuple[str, int]:
    run = stack.submit("--gpus", "1", "--", "sleep", "60")
    return run, int(stack.running(run)["pid"])


def test_what_happens_to_one_does_not_touch_the_other(pair: tuple[Stack, Stack]) -> None:
    one, two = pair
    kept, kept_pid = _sleeper(two)
    ours, _ = _sleeper(one)
    assert [run["run_id"] for run in one.trainshed("ls", json=True)["runs"]] == [ours]
    assert one.trainshed("cancel", kept, code=4)

    one.trainshed("cancel", ours)
    one.wait(ours, code=125)
    assert alive(kept_pid)
    one.kill()
    one.start()  # sweeps what no attempt of its own owns
    assert alive(kept_pid)
    one.stop()
    one.start("--stop-workers")
    _, left_pid = _sleeper(one)
    assert one.stop(within=15) == 0
    assert not alive(left_pid)
    assert alive(kept_pid)

    assert two.record(kept)["status"] == "RUNNING"
    assert [run["run_id"] for run in two.trainshed("ls", json=True)["runs"]] == [kept]
    two.trainshed("cancel", kept)
    two.wait(kept, code=125)
    assert not alive(kept_pid)


def test_a_worker_may_use_its_own_stack(new_stack: NewStack) -> None:
    stack = new_stack()
    script = f"{TRAINSHED} submit --new --name inner -- true"
    outer = stack.submit("--env", f"TRAINSHED_STATE_DIR={stack.state_dir}", shell=script)
    inner = until(lambda: stack.trainshed("ls", "--name", "inner", json=True)["runs"])
    stack.wait(outer, inner[0]["run_id"])
