"""`trainshed logs` against a running stack: which lines, of which attempt, and following from before the start on."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from tests.support.stack import TRAINSHED, Stack, until


@contextmanager
def following(stack: Stack, *words: str) -> Iterator[subprocess.Popen[str]]:
    """`trainshed logs -f` (or `run`) as a process, killed where a test leaves it behind."""
    process = subprocess.Popen(
        [TRAINSHED, *(words if words[0] == "run" else ("logs", "-f", *words))],
        env=stack.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def told(process: subprocess.Popen[str], what: str) -> str:
    """The next line of stderr that has these words."""
    assert process.stderr is not None
    for line in process.stderr:
        if what in line:
            return line
    raise AssertionError(f"it ended without saying {what!r}")


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def until_there(path: Path) -> str:
    return f"until [ -e {path} ]; do sleep 0.02; done"


def test_following_a_queued_run_says_what_it_waits_for_and_begins_by_itself(
    stack: Stack, tmp_path: Path
) -> None:
    holder = stack.submit("--gpus", "2", shell=until_there(tmp_path / "free"))
    stack.running(holder)
    run = stack.submit("--gpus", "1", shell="echo begun; echo warned >&2")
    with following(stack, run) as process:
        assert "free GPU" in told(process, f"run {run[:6]} has not started: ")
        (tmp_path / "free").touch()
        assert {line(process), line(process)} == {"begun\n", "warned\n"}
        assert "COMPLETED" in told(process, f"run {run[:6]} ")
        assert process.wait(10) == 0
    stack.wait(holder)


def test_run_says_what_it_waits_for_too(stack: Stack, tmp_path: Path) -> None:
    holder = stack.submit("--gpus", "2", shell=until_there(tmp_path / "free"))
    stack.running(holder)
    words = ("run", "--new", "--gpus", "1", "--", "/bin/sh", "-c", "echo begun")
    with following(stack, *words) as process:
        assert "free GPU" in told(process, "has not started: ")
        (tmp_path / "free").touch()
        assert process.communicate(timeout=20)[0] == "begun\n"
        assert process.returncode == 0
    stack.wait(holder)


def test_following_goes_on_over_a_retry_and_ends_with_the_run(stack: Stack, tmp_path: Path) -> None:
    script = f"echo attempt $TRAINSHED_ATTEMPT; {until_there(tmp_path / 'go')}; exit 3"
    run = stack.submit_config(
        {"entry_point": "/bin/sh", "arguments": ["-c", script], "retry": {"max_attempts": 2, "backoff_s": 0}}
    )
    stack.running(run)
    with following(stack, run) as process:
        assert line(process) == "attempt 1\n"
        (tmp_path / "go").touch()
        out, err = process.communicate(timeout=20)
        assert out == "attempt 2\n"
        assert "-- attempt 2 on box --\n" in err
        assert err.rstrip().endswith(": exit 3")
        assert process.returncode == 0


def test_following_may_begin_with_an_attempt_that_is_yet_to_come(stack: Stack, tmp_path: Path) -> None:
    script = f"echo attempt $TRAINSHED_ATTEMPT; {until_there(tmp_path / 'go')}; exit 3"
    run = stack.submit_config(
        {"entry_point": "/bin/sh", "arguments": ["-c", script], "retry": {"max_attempts": 2, "backoff_s": 0}}
    )
    stack.running(run)
    with following(stack, "--attempt", "2", run) as process:
        (tmp_path / "go").touch()
        assert process.communicate(timeout=20)[0] == "attempt 2\n"


def test_following_ends_with_the_outcome_also_of_a_run_that_had_ended(stack: Stack) -> None:
    run = stack.submit(shell="echo out; echo no data >&2; exit 3")
    with following(stack, run) as process:
        live = process.communicate(timeout=20)[1]
    done = stack.trainshed("logs", "-f", run)
    assert sorted(done.lines) == ["no data", "out"]
    for said in (live, done.stderr):
        assert re.fullmatch(rf"run {run[:6]} FAILED after .*s: exit 3: no data", said.splitlines()[-1])
    assert "FAILED" not in stack.trainshed("logs", run).stderr


def test_ctrl_c_says_how_to_stop_the_run_and_leaves_it(stack: Stack) -> None:
    run = stack.submit(shell="echo up; sleep 60")
    with following(stack, run) as process:
        assert line(process) == "up\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10)
        assert err.endswith(f"detached; to stop it: trainshed cancel {run[:6]}\n")
        assert process.returncode == 130
    assert stack.record(run)["status"] == "RUNNING"
    stack.trainshed("cancel", run)
    stack.wait(run, code=125)


def test_tail_begins_with_the_last_lines_and_following_goes_on_from_there(
    stack: Stack, tmp_path: Path
) -> None:
    script = f"seq 1 5000; echo last >&2; {until_there(tmp_path / 'go')}; echo more"
    run = stack.submit(shell=script)
    until(lambda: "last" in stack.trainshed("logs", "--stderr", run, code=None).text, what="stderr is there")
    assert stack.trainshed("logs", "--stdout", "--tail", "3", run).lines == ["4998", "4999", "5000"]
    assert "last" in stack.trainshed("logs", "--stdout", "--stderr", "--tail", "3", run).lines
    assert stack.trainshed("logs", "--tail", "0", run).lines == []
    with following(stack, "--tail", "2", "--stdout", run) as process:
        assert [line(process), line(process)] == ["4999\n", "5000\n"]
        (tmp_path / "go").touch()
        assert process.communicate(timeout=20)[0] == "more\n"
    assert stack.trainshed("logs", "--tail", "1", run).lines == ["more"]
    assert len(stack.trainshed("logs", run).lines) == 5002


def test_streams_and_attempts_are_chosen_and_what_is_not_there_is_said(stack: Stack) -> None:
    config = {
        "entry_point": "/bin/sh",
        "arguments": ["-c", "echo out $TRAINSHED_ATTEMPT; echo err >&2; exit 1"],
        "retry": {"max_attempts": 2, "backoff_s": 0},
    }
    run = stack.submit_config(config)
    stack.wait(run, code=1)
    latest = stack.trainshed("logs", run)
    assert sorted(latest.lines) == ["err", "out 2"]
    assert latest.stderr == "-- attempt 2 on box --\n"
    first = stack.trainshed("logs", "--stdout", "--attempt", "1", run)
    assert (first.lines, first.stderr) == (["out 1"], "")
    assert stack.trainshed("logs", "--stderr", run).lines == ["err"]
    missing = stack.trainshed("logs", "--attempt", "3", run, code=4)
    assert f"has no attempt 3, only 2; see: trainshed show {run[:6]}" in missing.stderr


def test_timestamps_stand_before_every_line_stored_or_followed(stack: Stack, tmp_path: Path) -> None:
    run = stack.submit(shell=f"echo one; echo two >&2; {until_there(tmp_path / 'go')}; echo three")
    until(lambda: len(stack.trainshed("logs", run, code=None).lines) == 2, what="both lines are there")
    with following(stack, "--timestamps", run) as process:
        shown = [line(process), line(process)]
        (tmp_path / "go").touch()
        shown += process.communicate(timeout=20)[0].splitlines(keepends=True)
    stored = stack.trainshed("logs", "--timestamps", run).lines
    for lines in (shown, stored):
        parts = [text.split() for text in lines]
        assert sorted((stream, word) for _, stream, word in parts) == [
            ("stderr", "two"), ("stdout", "one"), ("stdout", "three"),
        ]  # fmt: skip
        assert all(time.startswith("20") and datetime.fromisoformat(time).tzinfo for time, _, _ in parts)


def test_a_run_that_waits_has_no_output_yet_and_one_that_never_started_says_where_to_ask(
    stack: Stack,
) -> None:
    stack.trainshed("drain", "box")
    try:
        run = stack.submit(shell="true")
        waiting = stack.trainshed("logs", run)
        assert waiting.stdout == b""
        assert f"run {run[:6]} has not started: " in waiting.stderr
        assert waiting.stderr.endswith(f"trainshed logs -f {run[:6]}\n")
        stack.trainshed("cancel", run)
        stack.wait(run, code=125)
    finally:
        stack.trainshed("resume", "box")
    assert stack.trainshed("logs", run).stderr.endswith(f"never started; why: trainshed explain {run[:6]}\n")
    assert json.loads(stack.trainshed("explain", "--json", run).text)["run"]["status"] == "CANCELLED"
