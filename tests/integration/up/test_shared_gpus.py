"""`--slots-per-gpu` on a real stack: who shares a GPU, who has it whole, and that the next start has the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.support.stack import Stack, marked

NewStack = Callable[..., Stack]
CUT = ("--gpus", "2", "--slots-per-gpu", "2")


def slots(stack: Stack) -> list[tuple[int, int]]:
    listed: dict[str, Any] = stack.trainshed("slots", json=True)
    return [(slot["index"], slot["gpu"]) for slot in listed["slots"]]


def test_gpus_and_their_slots_stay_as_they_were_said_and_all_undoes_it(new_stack: NewStack) -> None:
    stack = new_stack(start=False)
    stack.environment = {**marked(stack.environment, stack.mark), "CUDA_VISIBLE_DEVICES": ""}
    up = ("up", "--detach", "--cpus", "8")
    assert "4 slots on 2 GPUs" in stack.trainshed(*up, *CUT).stderr
    assert slots(stack) == [(0, 0), (1, 0), (2, 1), (3, 1)]

    held = [stack.submit("--gpus", "1", shell=f"echo $CUDA_VISIBLE_DEVICES; sleep 60; : {n}") for n in "ab"]
    assert [stack.running(run)["slots"] for run in held] == [[0], [2]]
    both = stack.submit("--gpus", "2", shell="echo $CUDA_VISIBLE_DEVICES $TRAINSHED_SLOTS")
    stack.wait(both)
    assert stack.stdout(both) == "0,1 1,3\n"
    whole = stack.submit("--gpus", "1", "--gpus-whole", shell="echo $CUDA_VISIBLE_DEVICES $TRAINSHED_SLOTS")
    small = stack.submit("--gpus", "2", "--", "true")
    assert stack.record(whole)["waits_for"]["text"] == "waiting for 1 whole GPU (0 of 2 free)"
    assert stack.record(small)["status"] == "PENDING", "a slot of one GPU is kept for the whole one"
    assert (
        "3 GPUs asked for, but no node has more than 2"
        in stack.trainshed("submit", "--gpus", "3", "--", "true", code=2).stderr
    )

    stack.trainshed("down")
    said = stack.trainshed(*up).stderr
    assert "4 slots on 2 GPUs" in said
    assert "As an earlier start said: --gpus 2 --slots-per-gpu 2" in said
    assert "--gpus all --slots-per-gpu 1" in said
    stack.trainshed("cancel", held[0])
    stack.wait(whole, small)
    assert stack.stdout(whole) == "0 0,1\n"
    stack.trainshed("cancel", held[1])
    stack.wait(held[1], code=None)
    stack.trainshed("audit", "verify")

    stack.trainshed("down")
    said = stack.trainshed(*up, "--gpus", "all").stderr
    assert "0 slots" in said and "--gpus 2" not in said
    stack.trainshed("down")
    assert "2 slots, 8 CPUs" in stack.trainshed(*up, "--gpus", "2", "--slots-per-gpu", "1").stderr
    stack.trainshed("down")
