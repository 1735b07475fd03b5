"""Inside a worker: it submits runs to the stack that runs it, and sees those, by the socket that its agent keeps."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.stack import TRAINSHED, Stack, until

ROOT = Path(__file__).resolve().parents[3]
NewStack = Callable[..., Stack]


def shell(stack: Stack, script: str, *words: str) -> tuple[str, list[str]]:
    """The run of a shell script in which `$T` is the command line, and what it printed once it has completed."""
    run = stack.submit("--retries", "0", *words, "--env", f"T={TRAINSHED}", shell=script)
    stack.wait(run)
    return run, stack.stdout(run).splitlines()


def python(stack: Stack, script: str, *words: str) -> tuple[str, Any]:
    """The run of a Python script with a connected `trainshed`, and the last line that it printed, as JSON."""
    whole = (
        "import asyncio, json, sys\nfrom trainshed_client import Trainshed, TrainshedError\n"
        "async def main():\n    async with await Trainshed.connect() as trainshed:\n"
        + "".join(f"        {line}\n" for line in script.splitlines())
        + "asyncio.run(main())\n"
    )
    run = stack.submit(*words, "--", sys.executable, "-c", whole)
    stack.wait(run)
    return run, json.loads(stack.stdout(run).splitlines()[-1])


def test_the_command_line_inside_a_worker_submits_and_sees_its_own_runs_alone(stack: Stack) -> None:
    other = stack.submit(shell="exit 0")
    stack.wait(other)
    parent, lines = shell(
        stack,
        "$T submit --json --name kid --label a=b -- /bin/sh -c 'echo hello; exit 3'\n"
        "$T wait -q kid; echo $?\n"
        "$T ls --all --json; $T show $TRAINSHED_RUN_ID --json; $T logs kid\n"
        f"$T show {other} 2>&1; echo $?; $T cancel {other} 2>/dev/null; echo $?; $T slots 2>&1; echo $?\n"
        f"$T logs {other} 2>/dev/null; echo $?",
    )
    submitted = json.loads(lines[0])
    kid = submitted["run_id"]
    assert submitted["created"] is True
    assert lines[2] == "3"  # after the line of `wait`
    assert [record["run_id"] for record in json.loads(lines[3])["runs"]] == [kid]
    assert json.loads(lines[4])["run"]["run_id"] == parent
    assert lines[5] == "hello"
    assert f"no run has the id or the name '{other}'" in lines[6]
    codes = [line for line in lines[7:] if line.isdigit()]
    assert codes == ["4", "4", "2", "4"]
    record = stack.record(kid)
    assert record["labels"] == {"a": "b", "parent": parent}
    assert record["submitted_by"] == f"run/{parent}"


def test_the_metrics_of_what_it_runs_are_read_as_its_output_is(stack: Stack) -> None:
    line = '{"type": "step", "step": 1, "loss": 2}'
    _, lines = shell(
        stack, f"$T submit --name measures -- echo '{line}'\n$T wait -q measures; $T metrics --csv measures"
    )
    assert lines[-2] == "step,time,loss"
    assert (lines[-1].startswith("1,"), lines[-1].endswith(",2.0")) == (True, True)


def test_the_output_of_what_it_runs_comes_byte_for_byte(stack: Stack) -> None:
    _, lines = shell(stack, "$T run --no-code -- /bin/sh -c 'seq 1 60000' | cksum; seq 1 60000 | cksum")
    assert lines[0] == lines[1]


def test_a_program_that_is_not_there_is_refused_inside_a_worker_as_outside(stack: Stack) -> None:
    _, lines = shell(stack, "$T submit -- ./not-there 2>&1; echo $?")
    assert "not-there" in lines[0]
    assert lines[-1] == "2"


def test_a_script_finds_the_command_line_of_its_stack_last_in_its_path(stack: Stack, tmp_path: Path) -> None:
    _, lines = shell(stack, "trainshed submit -- true | wc -l; command -v trainshed; ls ${PATH##*:}")
    own = stack.state_dir / "bin"
    assert lines == ["1", f"{own}/trainshed", "trainshed"]
    mine = tmp_path / "trainshed"
    mine.symlink_to("/bin/true")
    run = stack.submit(
        "--", "/bin/sh", "-c", "command -v trainshed", environment={"PATH": f"{tmp_path}:/bin"}
    )
    stack.wait(run)
    assert stack.stdout(run) == f"{mine}\n"


def test_a_workers_environment_names_the_socket_and_holds_no_credential(stack: Stack) -> None:
    _, lines = shell(stack, "env; stat -c '%a %F' $TRAINSHED_SOCKET")
    names = dict(line.split("=", 1) for line in lines if "=" in line)
    path = Path(names["TRAINSHED_SOCKET"])
    assert len(os.fsencode(path)) < 108
    assert lines[-1] == "600 socket"
    assert not [name for name in names if "NATS" in name or "PASSWORD" in name]
    endpoint = json.loads((stack.state_dir / "endpoint.json").read_text())
    assert not [
        value for value in names.values() if endpoint["password"] in value or endpoint["url"] in value
    ]
    until(lambda: not path.exists(), what="the socket of an ended attempt is removed")


def test_run_says_once_that_a_worker_gets_no_input_and_reads_none(stack: Stack, tmp_path: Path) -> None:
    words = ("run", "--new", "--", "/bin/cat")
    (tmp_path / "input").write_bytes(b"first\nsecond\n")
    left = f"{{ {TRAINSHED} {' '.join(words)}; read line; echo $line; }} < {tmp_path / 'input'}"
    done = subprocess.run(
        ["/bin/sh", "-c", left], env=stack.environment, capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "first\n"  # of the shell, after the run
    assert done.stderr.count("standard input") == 1
    assert "standard input" in stack.trainshed(*words, stdin=b"hello").stderr
    assert "standard input" not in stack.trainshed(*words).stderr  # a pipe at its end


def test_every_call_of_a_worker_works_as_over_nats(stack: Stack) -> None:
    parent, answer = python(
        stack,
        """
configs = [{"entry_point": "/bin/sh", "arguments": ["-c", f"exit {code}"]} for code in (0, 5)]
many = await trainshed.submit_many(configs)
again = await trainshed.submit_many(configs)
sleeper = await trainshed.submit({"entry_point": "/bin/sleep", "arguments": ["60"], "run_name": "sleeper"})
check = await trainshed.check(configs[0])
ended = await trainshed.wait([one.run_id for one in many], timeout=20)
cancelled = await trainshed.cancel("sleeper", reason="enough")
(stopped,) = await trainshed.wait([sleeper.run_id], timeout=20)
seen = [record.run_id async for record in trainshed.list()]
view = await trainshed.get(sleeper.run_id)
refused = []
for work in (
    lambda: trainshed.retry(sleeper.run_id),
    lambda: trainshed.drain("box"),
    lambda: trainshed.submit({**configs[0], "labels": {"parent": "other"}}),
    lambda: trainshed.submit({"entry_point": "/bin/true", "labels": []}),
    lambda: trainshed.submit({"entry_point": "/bin/true", "pets": 1}),
):
    try:
        await work()
    except TrainshedError as error:
        refused.append([error.code, error.path])
print(json.dumps({
    "created": [one.created for one in (*many, *again)],
    "same": [one.run_id for one in many] == [one.run_id for one in again],
    "new": check.new,
    "ended": [[one.status, one.exit_code] for one in ended],
    "stopped": stopped.status,
    "seen": sorted(seen) == sorted([*(one.run_id for one in many), sleeper.run_id]),
    "by": view.run.submitted_by,
    "refused": refused,
}))
""",
    )
    assert answer == {
        "created": [True, True, False, False],
        "same": True,
        "new": False,
        "ended": [["COMPLETED", 0], ["FAILED", 5]],
        "stopped": "CANCELLED",
        "seen": True,
        "by": f"run/{parent}",
        "refused": [
            ["denied", None],
            ["denied", None],
            ["invalid", "labels.parent"],
            ["invalid", "labels"],
            ["invalid", "pets"],
        ],
    }


def test_a_retried_controller_finds_its_trials_again(stack: Stack) -> None:
    script = ROOT / "examples" / "random_search.py"
    command = f"{sys.executable} {script} --trials 3 --seconds 0 && [ $TRAINSHED_ATTEMPT = 2 ]"
    run = stack.submit_config(
        {
            "entry_point": "/bin/sh",
            "arguments": ["-c", command],
            "retry": {"max_attempts": 2, "backoff_s": 0},
        }
    )
    (record,) = stack.wait(run)
    assert record["attempt"] == 2
    first, second = (stack.stdout(run, attempt).splitlines() for attempt in (1, 2))
    assert first[0] == "3 of 3 trials are new"
    assert second[0] == "0 of 3 trials are new"
    assert first[1] == second[1]
    assert record["metrics"]["loss"] < 1
    listed = stack.trainshed("ls", "--all", "--label", f"parent={run}", json=True)["runs"]
    assert sorted(one["name"] for one in listed) == ["trial-0", "trial-1", "trial-2"]


def test_a_controller_outlives_its_agent_and_the_loss_of_its_socket(new_stack: NewStack) -> None:
    stack = new_stack()
    script = (
        "set -e; echo $TRAINSHED_SOCKET; $T submit --name one -- /bin/sleep 2; $T wait -q one; echo waited; "
        "until [ -e $TRAINSHED_RUN_DIR/go ]; do sleep 0.05; done; $T submit --name two -- /bin/true; $T wait -q two"
    )
    run = stack.submit("--env", f"T={TRAINSHED}", shell=script)
    until(lambda: stack.running(run) and len(stack.stdout(run).splitlines()) == 2, what="one is submitted")
    path = Path(stack.stdout(run).splitlines()[0])
    stack.kill()  # in the middle of the wait
    stack.start()
    until(lambda: "waited" in stack.stdout(run), within=30.0, what="the wait goes on")
    path.unlink()
    (stack.run_dir(run) / "go").touch()
    (record,) = stack.wait(run)
    assert (record["attempt"], record["status"]) == (1, "COMPLETED")
    assert "two  COMPLETED" in stack.stdout(run)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
