"""`up --detach`, `down`, the end of an ssh session, systemd's view, and settings that are none."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import signal
import socket
import subprocess
import sys
from asyncio.subprocess import PIPE
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import NatsServer
from tests.support.stack import TRAINSHED, Done, Stack, alive, clean_environment, marked, until

NewStack = Callable[..., Stack]
UP = ("up", "--detach", "--node", "box", "--gpus", "2", "--cpus", "4", "--memory", "4096")


@pytest.fixture
def detached(new_stack: NewStack) -> Callable[..., tuple[Stack, int]]:
    """Starts a stack with `up --detach`; the stack and the pid in its lock file."""

    def start(**options: object) -> tuple[Stack, int]:
        stack = new_stack(start=False, **options)
        stack.environment = marked(stack.environment, stack.mark)
        stack.trainshed(*UP)
        return stack, pid_of(stack)

    return start


def pid_of(stack: Stack) -> int:
    return int((stack.state_dir / "up.lock").read_text())


def up_log(stack: Stack) -> str:
    return (stack.state_dir / "logs" / "up.log").read_text()


def test_up_in_the_background_serves_when_it_returns_and_has_no_tie_to_the_terminal(
    new_stack: NewStack, tmp_path: Path
) -> None:
    stack = new_stack(start=False)
    stack.environment = marked(stack.environment, stack.mark)
    done: Done = stack.trainshed(*UP, cwd=tmp_path)
    assert done.stdout == b""
    assert "Trainshed is up: node box, 2 slots, 4 CPUs, 4096 MB" in done.stderr
    assert "Ctrl-C" not in done.stderr
    pid = pid_of(stack)
    log = stack.state_dir / "logs" / "up.log"
    assert f"(pid {pid}); log in {log}" in done.stderr
    stack.trainshed("ls")  # it serves: reads and commands
    run = stack.submit("--gpus", "1", "--", "true")
    stack.wait(run)

    assert os.getsid(pid) == pid != os.getsid(0)
    assert os.readlink(f"/proc/{pid}/cwd") == str(stack.state_dir)
    assert Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[4] == "0"  # no terminal
    assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"
    assert {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (1, 2)} == {str(log)}
    assert log.stat().st_mode & 0o777 == 0o600
    assert run in up_log(stack)


def test_down_stops_it_and_leaves_the_workers_which_the_next_up_finds(
    detached: Callable[..., tuple[Stack, int]],
) -> None:
    stack, pid = detached()
    worker = int(stack.running(stack.submit("--", "sleep", "60"))["pid"])
    done = stack.trainshed("down")
    assert f"stopped (pid {pid})" in done.stderr
    assert not alive(pid)
    assert alive(worker)
    until(lambda: len(stack.processes()) == 2, what="only shim and worker are left")
    again = stack.trainshed("down")
    assert f"nothing runs on {stack.state_dir}" in again.stderr
    stack.trainshed(*UP)
    assert pid_of(stack) != pid
    assert stack.record("sleep")["pid"] == worker


def test_down_with_stop_workers_ends_them_first(detached: Callable[..., tuple[Stack, int]]) -> None:
    stack, pid = detached()
    run = stack.submit("--gpus", "1", "--", "sleep", "60")
    queued = stack.submit("--gpus", "2", "--", "true")
    worker = int(stack.running(run)["pid"])
    stack.trainshed("down", "--stop-workers")
    assert not alive(pid)
    assert not alive(worker)
    until(lambda: stack.processes() == [])
    assert not (stack.state_dir / "down.json").exists()
    stack.trainshed(*UP)
    (ended,) = stack.wait(run, code=125)
    assert ended["failure_reason"] == "node_reclaimed"
    stack.wait(queued)
    stack.trainshed("down")  # the request was for that stop alone
    assert "--stop-workers" in stack.trainshed("down", "--stop-workers").stderr


def test_down_stops_one_in_the_foreground_too(new_stack: NewStack) -> None:
    stack = new_stack()
    assert f"stopped (pid {stack.process.pid})" in stack.trainshed("down").stderr
    assert stack.process.wait(5) == 0


def test_down_touches_no_process_that_only_has_the_number(new_stack: NewStack) -> None:
    stack = new_stack()
    stack.kill()
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        (stack.state_dir / "up.lock").write_text(f"{bystander.pid}\n")
        assert "nothing runs" in stack.trainshed("down").stderr
        with (stack.state_dir / "up.lock").open() as lock:  # held, by one that does not say who it is
            fcntl.flock(lock, fcntl.LOCK_EX)
            done = stack.trainshed("down", code=2)
            assert f"pid {bystander.pid}, which cannot be seen from here" in done.stderr
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_look_at_the_lock_keeps_no_stack_from_starting(new_stack: NewStack) -> None:
    stack = new_stack()
    stack.kill()
    with (stack.state_dir / "up.lock").open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        stack.start(wait=False)
        until(lambda: _has_open(stack.process.pid, stack.state_dir / "up.lock"))
    stack.wait_ready(len(stack.said()))


def _has_open(pid: int, path: Path) -> bool:
    with contextlib.suppress(OSError):
        return any(os.readlink(entry.path) == str(path) for entry in os.scandir(f"/proc/{pid}/fd"))
    return False


def test_what_keeps_it_from_starting_is_shown_and_nothing_is_left(
    new_stack: NewStack, tmp_path: Path
) -> None:
    stack = new_stack()
    running = stack.trainshed(*UP, code=2)
    assert f"a stack is running already on {stack.state_dir} (pid {stack.process.pid})" in running.stderr
    stack.stop()
    stack.environment = marked(stack.environment, stack.mark)
    other = stack.trainshed("up", "--detach", "--node", "other", code=2)
    assert "is the state folder of node box, not of other" in other.stderr
    assert f"the stack did not start; its log is {stack.state_dir}/logs/up.log" in other.stderr
    assert '"level"' not in other.stderr
    until(lambda: stack.processes() == [])
    assert "TRAINSHED_NODE_LOST_S is 'soon'" in (
        stack.trainshed(*UP, code=2, environment={"TRAINSHED_NODE_LOST_S": "soon"}).stderr
    )
    (tmp_path / "file").touch()
    environment = {"TRAINSHED_STATE_DIR": str(tmp_path / "file")}
    assert "cannot be used" in stack.trainshed(*UP, code=2, environment=environment).stderr


def test_ctrl_c_while_it_starts_leaves_nothing(new_stack: NewStack) -> None:
    stack = new_stack()
    stack.stop()
    stack.environment = marked(stack.environment, stack.mark)
    with (stack.state_dir / "nats" / "lock").open() as lock:  # nats-server waits for its store
        fcntl.flock(lock, fcntl.LOCK_EX)
        starting = subprocess.Popen([TRAINSHED, *UP], env=stack.environment, stderr=subprocess.PIPE)
        try:
            until(
                lambda: (stack.state_dir / "up.lock").read_text().strip() not in ("", str(stack.process.pid))
            )
            starting.send_signal(signal.SIGINT)
            _, said = starting.communicate(timeout=10)
        finally:
            starting.kill()
            starting.wait()
    assert starting.returncode == 130, said
    until(lambda: stack.processes() == [])


def test_relative_folders_mean_the_callers(new_stack: NewStack, tmp_path: Path) -> None:
    stack = new_stack(start=False)
    stack.environment = marked(stack.environment, stack.mark)
    environment = {"TRAINSHED_STATE_DIR": "state", "TRAINSHED_RUNS_DIR": "my runs", "TRAINSHED_HTTP": "1"}
    done = stack.trainshed(*UP, cwd=tmp_path, environment=environment)
    assert "no such setting; it is passed over variable=TRAINSHED_HTTP" in done.stderr
    run = stack.submit("--", "true")
    stack.wait(run)
    assert (tmp_path / "my runs" / run).is_dir()


def test_the_end_of_an_ssh_session_is_a_clean_stop(new_stack: NewStack) -> None:
    """The kernel sends SIGHUP to the processes of a terminal that is gone, and what they write to it fails."""
    stack = new_stack()
    worker = int(stack.running(stack.submit("--", "sleep", "60"))["pid"])
    stack.stop()
    environment = marked(stack.environment, stack.mark)
    pid, terminal = pty.fork()
    if pid == 0:  # the session leader: nothing but exec is safe here
        os.execve(TRAINSHED, [str(TRAINSHED), "up", "--node", "box", "--gpus", "2"], environment)
    seen = b""
    while b"Trainshed is up" not in seen:
        seen += os.read(terminal, 4096)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, seen
    assert alive(worker)
    stack.start()
    assert stack.record("sleep")["pid"] == worker


def test_systemd_is_told_when_it_is_ready_and_when_it_stops(new_stack: NewStack, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "systemd"))
        systemd.settimeout(30)
        stack = new_stack(start=False, environment={"NOTIFY_SOCKET": str(tmp_path / "systemd")})
        stack.start(wait=False)
        assert systemd.recv(4096).split(b"\n") == [b"READY=1", b"STATUS=node box, 2 slots"]
        stack.trainshed("ls")  # and so it is
        tell = "import os; print(os.environ['NOTIFY_SOCKET'])"
        run = stack.submit("--", sys.executable, "-c", tell)
        stack.wait(run)
        assert stack.stdout(run).strip() not in ("", str(tmp_path / "systemd"))
        assert b"NOTIFY_SOCKET" not in Path(f"/proc/{stack.child('projector')}/environ").read_bytes()
        assert stack.stop() == 0
        assert systemd.recv(4096) == b"STOPPING=1"
        systemd.setblocking(False)
        with pytest.raises(BlockingIOError):
            systemd.recv(4096)


def test_a_setting_that_is_none_is_told_with_what_was_meant(new_stack: NewStack) -> None:
    stack = new_stack(environment={"TRAINSHED_STATEDIR": "/tmp/x", "TRAINSHED_XYZZY": "1"})
    told = [
        (line["level"], line["variable"], line.get("did_you_mean"))
        for line in stack.warnings()
        if "no such setting" in str(line["event"])
    ]
    assert told == [
        ("warning", "TRAINSHED_STATEDIR", "TRAINSHED_STATE_DIR"),
        ("warning", "TRAINSHED_XYZZY", None),
    ]


@pytest.mark.parametrize("service", ["gateway", "dispatcher", "projector", "agent"])
async def test_a_single_service_tells_of_a_setting_that_is_none(
    nats_server: NatsServer, tmp_path: Path, service: str
) -> None:
    endpoint = nats_server.endpoint
    environment = clean_environment(
        tmp_path / "other",
        {
            "NATS_URL": endpoint.url,
            "TRAINSHED_NATS_USER": endpoint.user or "",
            "TRAINSHED_NATS_PASSWORD": endpoint.password or "",
            "TRAINSHED_REPLICATES": "3",
        },
    )
    process = await asyncio.create_subprocess_exec(TRAINSHED, service, env=environment, stderr=PIPE)
    assert process.stderr is not None
    try:
        line = json.loads(await process.stderr.readline())
    finally:
        process.terminate()
        await process.communicate()
    assert (line["level"], line["variable"], line["did_you_mean"]) == (
        *("warning", "TRAINSHED_REPLICATES", "TRAINSHED_REPLICAS"),
    )
