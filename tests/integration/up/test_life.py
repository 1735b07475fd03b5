"""Start, stop, crash and restart of `trainshed up`, with workers that outlive it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.support.stack import TRAINSHED, Stack, alive, run_trainshed, until

NewStack = Callable[..., Stack]

COUNTS = """
import sys, time
for n in range(int(sys.argv[1])):
    print(n, flush=True)
    time.sleep(0.01)
while True:
    with open(sys.argv[2]) as pipe:
        word = pipe.read().strip()
    print(word, flush=True)
    if word == "end":
        sys.exit(int(sys.argv[3]))
"""
"""Writes numbers, then every word that comes through the pipe, and exits with a code at "end"."""


class Worker:
    """A run that can be spoken to, whatever becomes of the stack."""

    def __init__(self, stack: Stack, folder: Path, *, code: int = 0, numbers: int = 50) -> None:
        self._stack = stack
        self._pipe = folder / f"pipe-{stack.node}-{code}"
        os.mkfifo(self._pipe)
        self._numbers = numbers
        command = (sys.executable, "-c", COUNTS, str(numbers), str(self._pipe), str(code))
        self.run = stack.submit("--gpus", "1", "--", *command)
        self.pid = int(stack.running(self.run)["pid"])

    def say(self, word: str) -> None:
        """Write a word to it, once it listens."""

        def open_pipe() -> int:
            try:
                return os.open(self._pipe, os.O_WRONLY | os.O_NONBLOCK)
            except OSError:
                return 0

        fd = until(open_pipe, what="the worker reads its pipe")
        os.write(fd, word.encode())
        os.close(fd)

    def written(self, *words: str) -> bytes:
        """What it must have written by now."""
        lines = [*map(str, range(self._numbers)), *words]
        return "".join(f"{line}\n" for line in lines).encode()


def test_a_stop_leaves_the_workers_and_the_next_start_goes_on_with_them(
    new_stack: NewStack, tmp_path: Path
) -> None:
    stack = new_stack()
    worker = Worker(stack, tmp_path, code=7)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        assert stack.stop(number) == 0
        assert "Traceback" not in stack.said()
        # Of the stack, only shim and worker are left.
        until(lambda: len(stack.processes()) == 2)
        assert alive(worker.pid)
        run_trainshed("ls", environment=stack.environment, code=3)
        worker.say(f"alone after {number.name}")

        stack.start()
        record = stack.record(worker.run)
        assert (record["status"], record["pid"], record["attempt"]) == ("RUNNING", worker.pid, 1)
        assert worker.run in stack.holders()
    worker.say("end")
    (ended,) = stack.wait(worker.run, code=7)
    assert (ended["status"], ended["exit_code"], ended["pid"]) == ("FAILED", 7, worker.pid)
    assert stack.trainshed("logs", worker.run).stdout == worker.written(
        *(f"alone after {name}" for name in ("SIGTERM", "SIGINT", "SIGHUP")), "end"
    )
    assert stack.holders() == [None, None]
    stack.trainshed("audit", "verify")


def test_after_a_kill_of_up_the_next_start_goes_on_with_the_workers(
    new_stack: NewStack, tmp_path: Path
) -> None:
    stack = new_stack()
    lives = Worker(stack, tmp_path, code=0)
    ends = Worker(stack, tmp_path, code=5)
    queued = stack.submit("--gpus", "2", "--", "true")
    following = subprocess.Popen(
        [TRAINSHED, "wait", ends.run], env=stack.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert following.stderr is not None
    assert b"RUNNING" in following.stderr.readline()
    nats, projector = stack.child("nats-server"), stack.child("projector")
    stack.kill()
    until(lambda: not alive(nats) and not alive(projector), what="nothing of the stack serves on")
    ends.say("end")
    until(lambda: not alive(ends.pid))

    stack.start()  # the lock of the dead one does not block
    assert stack.record(lives.run)["pid"] == lives.pid
    (ended,) = stack.wait(ends.run, code=5)
    assert ended["exit_code"] == 5
    following.communicate(timeout=20)
    assert following.returncode == 5  # who waited has waited it out
    lives.say("end")
    stack.wait(lives.run, queued)
    assert stack.trainshed("logs", ends.run).stdout == ends.written("end")
    assert stack.trainshed("logs", lives.run).stdout == lives.written("end")
    stack.trainshed("audit", "verify")


def test_stop_workers_ends_them_and_gives_the_node_back(new_stack: NewStack, tmp_path: Path) -> None:
    stack = new_stack(options=("--stop-workers",))
    worker = Worker(stack, tmp_path)
    retried = stack.submit_config(
        {"entry_point": "sleep", "arguments": ["60"], "retry": {"max_attempts": 2, "backoff_s": 0}}
    )
    stack.running(retried)
    assert stack.stop(within=15) == 0
    assert not alive(worker.pid)
    until(lambda: stack.processes() == [])
    stack.start()
    (ended,) = stack.wait(worker.run, code=125)
    assert (ended["status"], ended["failure_reason"]) == ("FAILED", "node_reclaimed")
    assert stack.running(retried)["attempt"] == 2
    stack.trainshed("audit", "verify")


def test_a_second_up_on_the_folder_is_refused_while_the_first_lives(new_stack: NewStack) -> None:
    stack = new_stack()
    second = run_trainshed("up", "--gpus", "1", environment=stack.environment, code=2)
    assert f"a stack is running already on {stack.state_dir} (pid {stack.process.pid})" in second.stderr
    assert "TRAINSHED_STATE_DIR=" in second.stderr
    stack.wait(stack.submit("--", "true"))


def test_a_state_folder_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    environment = {**os.environ, "TRAINSHED_STATE_DIR": str(tmp_path / "file")}
    done = run_trainshed("up", environment=environment, code=2)
    assert f"the state folder {tmp_path / 'file'} cannot be used" in done.stderr


def test_a_stop_while_it_starts_is_a_clean_one(new_stack: NewStack) -> None:
    stack = new_stack()
    stack.stop()
    # At every step of a start: the lock is taken, the server is up, the endpoint is written.
    for sign in ("up.lock", "nats/server.pid", "endpoint.json"):
        (stack.state_dir / sign).unlink(missing_ok=True)
        stack.start(wait=False)
        until(lambda sign=sign: (stack.state_dir / sign).exists())  # type: ignore[misc]
        assert stack.stop() == 0
        assert stack.processes() == []
    assert "Traceback" not in stack.said()
    stack.start()
    stack.wait(stack.submit("--", "true"))


def test_a_killed_nats_server_is_started_again_and_no_run_is_touched(
    new_stack: NewStack, tmp_path: Path
) -> None:
    stack = new_stack()
    worker = Worker(stack, tmp_path, code=3)
    follower = subprocess.Popen(
        [TRAINSHED, "logs", "-f", worker.run],
        env=stack.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    for word in ("once", "twice"):
        nats = stack.child("nats-server")
        os.kill(nats, signal.SIGKILL)
        worker.say(word)
        until(lambda nats=nats: stack.child("nats-server") != nats)  # type: ignore[misc]
        until(lambda: stack.trainshed("ls", code=None).code == 0)
        assert stack.record(worker.run)["pid"] == worker.pid
    worker.say("end")
    out, _ = follower.communicate(timeout=30)
    assert out == worker.written("once", "twice", "end")
    (ended,) = stack.wait(worker.run, code=3)
    assert ended["exit_code"] == 3
    stack.wait(stack.submit("--gpus", "2", "--", "true"))
    assert any("nats-server ended" in str(line["event"]) for line in stack.warnings())
    stack.trainshed("audit", "verify")


def test_a_submission_right_after_a_restart_knows_what_was_there(new_stack: NewStack, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"entry_point": "/bin/true"}')
    stack = new_stack()
    first = stack.trainshed("submit", "-f", str(config), json=True)
    stack.wait(first["run_id"])
    stack.kill()
    stack.start()
    again = stack.trainshed("submit", "-f", str(config), json=True)
    assert (again["run_id"], again["created"], again["status"]) == (first["run_id"], False, "COMPLETED")


def test_a_drained_node_is_drained_after_a_restart_and_a_loan_that_ended_is_forgotten(
    new_stack: NewStack, tmp_path: Path
) -> None:
    """docs/protocol.md rule 18, as an operator sees it; the tables and a replay agree about both."""
    stack = new_stack(gpus=1)
    environment = stack.other_node(tmp_path / "loan")

    def nodes() -> dict[str, bool]:
        listed = stack.trainshed("nodes", json=True)["nodes"]
        return {one["node"]: one["drained"] for one in listed}

    words = ("agent", "--node", "loan", "--gpus", "1", "--borrowed")
    with (tmp_path / "loan.log").open("wb") as log:
        loan = subprocess.Popen([TRAINSHED, *words], env=environment, stdout=log, stderr=log)
    try:
        until(lambda: "loan" in nodes(), 20.0)
        stack.trainshed("drain", "box")
        (ended,) = stack.wait(stack.submit("--gpus", "1", "--", "true"))
        assert ended["node"] == "loan"
    finally:
        loan.terminate()
        loan.wait(20)
    until(lambda: nodes() == {"box": True}, what="the loan is forgotten")
    assert stack.stop() == 0
    stack.start()
    assert nodes() == {"box": True}
    waits = stack.submit("--gpus", "1", "--", "true")
    assert stack.record(waits)["waiting"]["reason"] == "no_node"
    stack.trainshed("audit", "verify")
    stack.trainshed("resume", "box")
    (ended,) = stack.wait(waits)
    assert ended["node"] == "box"
    stack.trainshed("audit", "verify")


def test_down_stops_an_agent_alone_and_its_workers_where_that_is_asked(
    new_stack: NewStack, tmp_path: Path
) -> None:
    stack = new_stack(gpus=0)
    environment = stack.other_node(tmp_path / "gpu01")

    def there(*words: str) -> str:
        done = subprocess.run(
            [TRAINSHED, *words], env=environment, capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout + done.stderr

    agent = ("agent", "--node", "gpu01", "--gpus", "1", "--detach")
    there(*agent)
    run = stack.submit("--gpus", "1", shell="sleep 600")
    until(lambda: stack.record(run)["status"] == "RUNNING")
    assert "`trainshed agent` finds them again" in there("down")
    there(*agent)
    assert stack.record(run)["status"] == "RUNNING"
    stopped = there("down", "--stop-workers")
    assert stopped.splitlines()[-1].endswith(")") and "stopped (pid " in stopped
    (record,) = stack.wait(run, code=None)
    assert (record["status"], record["failure_reason"]) == ("FAILED", "node_reclaimed")
