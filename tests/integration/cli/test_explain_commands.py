"""Whatever command `explain` proposes is accepted as it stands: each is tried."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.support.stack import TRAINSHED, Stack, until


def proposed(stack: Stack, run: str) -> list[str]:
    """The commands in what `explain` says of the run, less `trainshed`."""
    return re.findall(r"^[a-z ]+: +trainshed (.+)$", stack.trainshed("explain", run).text, re.MULTILINE)


def test_each_command_that_explain_proposes_is_accepted(
    new_stack: Callable[..., Stack], tmp_path: Path
) -> None:
    stack = new_stack(gpus=1)
    gate = tmp_path / "go"
    waits = f"until [ -e {gate} ]; do sleep 0.02; done"
    failed = stack.submit(shell=f"[ -e {gate} ]")
    stack.wait(failed, code=1)
    unfit = stack.submit("--no-check", "--working-dir", "/no/such", "--", "/bin/true")
    stack.wait(unfit, code=125)
    middle = stack.submit("--after", failed, "--", "/bin/true")
    last = stack.submit("--after", middle, "--", "/bin/true")
    stack.wait(middle, last, code=125)
    running = stack.submit("--gpus", "1", shell=waits)
    stack.running(running)
    queued = stack.submit("--gpus", "1", "--", "/bin/true")
    after = stack.submit("--after", queued, "--", "/bin/true")
    backoff = stack.submit_config(
        {
            "entry_point": "/bin/false",
            "retry": {"max_attempts": 2, "backoff_s": 1e9, "on": ["exit_code"]},
            "run_name": "again",
        }
    )
    until(lambda: stack.record(backoff)["attempt"] == 2)
    cancelled = stack.submit("--gpus", "1", "--", "/bin/true")
    stack.trainshed("cancel", cancelled)
    stack.wait(cancelled, code=125)
    done = stack.submit("--", "/bin/true")
    stack.wait(done)
    stack.trainshed("drain", stack.node)
    drained = stack.submit("--", "/bin/true")

    assert "over 10 years" in stack.trainshed("explain", backoff).text
    short = [run[:6] for run in (failed, middle, last)]
    assert f"retry {' '.join(short)}" in proposed(stack, last)
    runs = (drained, running, queued, after, backoff, failed, unfit, middle, last, cancelled, done)
    commands = {run: proposed(stack, run) for run in runs}
    assert all(commands.values()), commands
    # Those that end a run come last, and the longest chain of retries first: then it is tried as it was proposed.
    ordered = sorted(
        {command for some in commands.values() for command in some},
        key=lambda command: (command.startswith("cancel"), -len(command)),
    )
    following = [
        subprocess.Popen([TRAINSHED, *shlex.split(command)], env=stack.environment, stdout=subprocess.DEVNULL)
        for command in ordered
        if command.startswith("logs -f")
    ]
    try:
        gate.touch()
        ended = {f"retry {' '.join(short[:length])}" for length in (1, 2)}  # live again by the chain of three
        for command in ordered:
            if not command.startswith("logs -f") and command not in ended:
                stack.trainshed(*shlex.split(command))
        assert f"resume {stack.node}" in ordered
        assert [process.wait(20) for process in following] == [0] * len(following)
    finally:
        for process in following:
            process.kill()
            process.wait()
    stack.wait(failed, middle, last)
