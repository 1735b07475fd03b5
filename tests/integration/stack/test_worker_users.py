"""A root agent's workers run as their submitters' users: what they may, what they may not, and what they leave behind."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.stack import Stack, until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="takes root")

USER, OTHER = pwd.getpwnam("daemon"), pwd.getpwnam("nobody")
PYTHON = "/usr/bin/python3"
"""The machine's own: whatever runs the tests may be root's alone."""
SLEEP = "touch $TRAINSHED_RUN_DIR/up; exec sleep 600"


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder that everybody can come to; pytest's own are its user's alone."""
    made = Path(tempfile.mkdtemp(prefix="trainshed-users-", dir="/var/tmp"))
    made.chmod(0o755)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def settings(place: Path, **more: str) -> dict[str, str]:
    users = {"TRAINSHED_RUNS_DIR": str(place / "runs"), "TRAINSHED_WORKER_USERS": f"local={USER.pw_name}"}
    return {**users, **{f"TRAINSHED_{name}": value for name, value in more.items()}}


@pytest.fixture(scope="module")
def stack(place: Path) -> Iterator[Stack]:
    made = Stack(place / "state", environment=settings(place))
    made.start()
    try:
        yield made
    finally:
        made.close()


def printed(stack: Stack, script: str, *options: str) -> list[str]:
    """What a worker prints, whatever it exits with."""
    run = stack.submit(*options, shell=f"cd /; {script}")
    stack.wait(run, code=None)
    lines: list[str] = stack.trainshed("logs", run).lines
    return lines


def user_of(pid: int) -> set[int]:
    """Real, effective, saved and file system user of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("Uid:"):
            return set(map(int, line.split()[1:]))
    raise AssertionError(pid)


# --- what a worker is ------------------------------------------------------------------------------------------


def test_it_is_that_user_with_its_groups_and_no_right_of_roots(stack: Stack) -> None:
    script = "id -u; id -g; id -G; umask; grep -E '^(Uid|Gid|CapEff|CapPrm|NoNewPrivs):' /proc/self/status; echo $HOME $USER $LOGNAME $SHELL"
    lines = printed(stack, script)
    groups = " ".join(map(str, os.getgrouplist(USER.pw_name, USER.pw_gid)))
    assert lines[:4] == [str(USER.pw_uid), str(USER.pw_gid), groups, "0077"]
    status = {line.split()[0]: set(line.split()[1:]) for line in lines[4:9]}
    assert status == {
        "Uid:": {str(USER.pw_uid)},
        "Gid:": {str(USER.pw_gid)},
        "CapPrm:": {"0" * 16},
        "CapEff:": {"0" * 16},
        "NoNewPrivs:": {"1"},
    }
    assert lines[9] == f"{USER.pw_dir} {USER.pw_name} {USER.pw_name} {USER.pw_shell}"


def test_it_has_no_descriptor_but_the_three_that_every_program_has(stack: Stack) -> None:
    assert printed(stack, "exec ls /proc/self/fd") == ["0", "1", "2", "3"]  # the last is the listing's own


def test_a_set_user_id_program_gives_it_nothing(place: Path, stack: Stack) -> None:
    program = place / "as-root"
    shutil.copy("/usr/bin/id", program)
    program.chmod(0o4755)
    assert printed(stack, f"{program} -u") == [str(USER.pw_uid)]


def test_its_folder_is_its_own_and_what_it_leaves_is_fetched(stack: Stack, tmp_path: Path) -> None:
    script = "mkdir -p artifacts/deep && echo w >artifacts/deep/model && stat -c '%u %a' . artifacts attempts attempts/1 attempts/1/*.log artifacts/deep/model"
    run = stack.submit(shell=f"cd $TRAINSHED_RUN_DIR; {script}")
    (record,) = stack.wait(run)
    lines = stack.trainshed("logs", run).lines
    assert lines[0] == f"{USER.pw_uid} 700", "the run's folder"
    assert {line.split()[0] for line in lines} == {str(USER.pw_uid)}
    folder = Path(record["folder"])
    until(lambda: (folder / "artifacts.json").exists(), what="artifacts are hashed")
    stack.trainshed("artifacts", run, "get", "deep/model", "-o", str(tmp_path / "got"))
    assert (tmp_path / "got").read_text() == "w\n"


def test_it_reports_and_submits_by_sockets_that_are_its_users_alone(stack: Stack, place: Path) -> None:
    script = f"""{PYTHON} -c '
import os, socket, json
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.sendto(b"READY=1\\nX_STEP=7\\nX_METRIC_loss=0.5", os.environ["NOTIFY_SOCKET"])
stack = socket.socket(socket.AF_UNIX)
stack.connect(os.environ["TRAINSHED_SOCKET"])
print(len(os.listdir("/proc/self/fd")))
' && stat -c '%u %a' $NOTIFY_SOCKET $TRAINSHED_SOCKET; {SLEEP}"""
    run = stack.submit(shell=script)
    until(lambda: stack.record(run)["step"] == 7, what="its step is reported")
    environ = Path(f"/proc/{stack.running(run)['pid']}/environ").read_bytes().split(b"\0")
    paths = [
        value.split(b"=", 1)[1].decode()
        for value in environ
        if value.startswith((b"NOTIFY_", b"TRAINSHED_SOCKET="))
    ]
    assert len(paths) == 2
    for path in paths:
        assert (os.stat(path).st_uid, os.stat(path).st_mode & 0o777) == (USER.pw_uid, 0o600)
        for uid, may in ((USER.pw_uid, True), (OTHER.pw_uid, False)):
            assert comes_in(path, uid) == may, (path, uid)
    stack.trainshed("cancel", run)
    (record,) = stack.wait(run, code=None)
    assert record["status"] == "CANCELLED"


def comes_in(path: str, uid: int) -> bool:
    """Whether a process of that user gets through."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                try:
                    socket.socket(socket.AF_UNIX, kind).connect(path)
                    code = 0
                except OSError:
                    continue
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_what_it_submits_runs_as_its_own_user(stack: Stack, place: Path) -> None:
    program = place / "submits.py"
    program.write_text(
        """import os, socket
stack = socket.socket(socket.AF_UNIX)
stack.connect(os.environ["TRAINSHED_SOCKET"])
launch = b'{"entry_point": "/usr/bin/id", "arguments": ["-u"], "run_name": "child"}'
stack.sendall(b'{"call": "run.submit", "request": ' + launch + b'}\\n')
print(stack.recv(65536).decode())
"""
    )
    lines = printed(stack, f"{PYTHON} {program}")
    answer = json.loads(lines[0])
    assert "error" not in answer, answer
    stack.wait(answer["run_id"])
    assert stack.trainshed("logs", answer["run_id"]).lines == [str(USER.pw_uid)]


# --- what it may not -------------------------------------------------------------------------------------------


def test_it_reads_nothing_of_the_agents_and_writes_in_no_folder_but_its_own(
    stack: Stack, place: Path
) -> None:
    other = stack.submit(shell=SLEEP)
    folder = Path(stack.running(other)["folder"])
    os.chown(folder, OTHER.pw_uid, OTHER.pw_gid)  # as if it were another user's
    state = stack.state_dir
    script = f"""
for path in {state} {state}/endpoint.json {state}/attempts {state}/attempts/{other}/1/intent.json {state}/s {folder}; do
  head -c 1 $path >/dev/null 2>&1 || ls $path >/dev/null 2>&1 && echo read $path; done
head -c 1 /proc/{stack.process.pid}/environ >/dev/null 2>&1 && echo read environ
for path in {folder}/x {place}/runs/x {state}/x {place}/runs/.blank/x {place}/runs/.pruned/x; do touch $path 2>/dev/null && echo wrote $path; done
kill -0 {stack.process.pid} 2>/dev/null && echo killed; echo tried"""
    assert printed(stack, script) == ["tried"]
    stack.trainshed("cancel", other)
    stack.wait(other, code=None)


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ("--secret=S=file:/etc/shadow", "permission denied"),
        ("--secret=S=env:TRAINSHED_WORKER_USERS", "is the agent's own"),
        ("--working-dir=/root", "permission denied"),
    ],
)
def test_the_agents_rights_read_nothing_for_it(stack: Stack, option: str, why: str) -> None:
    run = stack.submit(option, shell="true")
    (record,) = stack.wait(run, code=None)
    assert (record["status"], why in json.dumps(record)) == ("FAILED", True), record


def test_a_submitter_who_is_not_in_the_map_is_told_the_setting(place: Path) -> None:
    stack = Stack(
        place / "another", node="other", environment=settings(place, WORKER_USERS=f"sam={USER.pw_name}")
    )
    stack.start()
    try:
        run = stack.submit(shell="true")
        (record,) = stack.wait(run, code=None)
        assert "TRAINSHED_WORKER_USERS" in json.dumps(record), record
        assert stack.trainshed("nodes", json=True)["nodes"][0]["status"] == "up"
    finally:
        stack.close()


ATTACK = """
cd "$TRAINSHED_RUN_DIR"
mkdir -p artifacts/below attempts/2
ln -s /etc/shadow artifacts/shadow
ln -s /etc artifacts/below/etc
ln -s ../../../.. artifacts/up
mkfifo artifacts/pipe
echo own >artifacts/own
for file in attempts/1/index.jsonl attempts/1/metrics.jsonl attempts/1/metrics.jsonl.tmp artifacts.json .artifacts.json.$1 attempts/2/stdout.log; do
  rm -f $file; ln -s $2 $file
done
echo '{"type": "x", "step": 1, "loss": 2}'
exit $3
"""


@pytest.mark.parametrize("code", [0, 1])
def test_links_and_pipes_that_it_leaves_lead_root_nowhere(stack: Stack, place: Path, code: int) -> None:
    victim = place / f"victim-{code}"
    victim.write_text("as it was")
    victim.chmod(0o600)
    command = ["/bin/sh", "-c", ATTACK, "sh", str(stack.process.pid), str(victim), str(code)]
    run = stack.submit("--retries", "1", "--", *command) if code else stack.submit("--", *command)
    stack.wait(run, code=None)
    if not code:
        folder = place / "runs" / run
        until(lambda: not (folder / "artifacts.json").is_symlink(), what="artifacts are hashed")
        assert stack.record(run)["artifacts"]["count"] == 1, "`own` alone is a file of its own"
        listed = stack.trainshed("artifacts", run).text
        assert "own" in listed and "shadow" not in listed and "passwd" not in listed and "pipe" not in listed
    for path in ("shadow", "below/etc/passwd", "up/state/endpoint.json", "pipe", "../artifacts.json"):
        got = stack.trainshed("artifacts", run, "get", path, "-o", "-", code=None)
        assert (got.code != 0, got.stdout) == (True, b""), path
    for words in (("logs", run), ("metrics", run), ("show", run)):
        stack.trainshed(*words, code=None)
    assert victim.read_text() == "as it was"
    folder = place / "runs" / run
    if not code:  # what looks like a younger attempt keeps a run
        shutil.rmtree(folder / "attempts/2")
    pruned = stack.trainshed("prune", "--older-than", "0s", code=None)
    assert not folder.exists(), pruned
    assert victim.read_text() == "as it was"


@pytest.mark.parametrize(
    "left",
    [
        "ln -s / attempts/2",
        "touch attempts/2",
        "mkdir -p attempts/2/stdout.log",
        "mkdir attempts/2; mkfifo attempts/2/stdout.log",
        "mkdir attempts/2; ln -s $0 attempts/2/stdout.log",
    ],
)
def test_what_keeps_its_next_attempt_from_starting_is_its_own_fault(
    stack: Stack, place: Path, left: str
) -> None:
    victim = place / "log-of-root"
    victim.write_text("as it was")
    victim.chmod(0o600)
    run = stack.submit(
        "--retries", "1", "--", "/bin/sh", "-c", f"cd $TRAINSHED_RUN_DIR; {left}; exit 1", str(victim)
    )
    (record,) = stack.wait(run, code=None)
    ends = [event for event in stack.show(run)["timeline"] if event["type"] == "failed"]
    assert record["status"] == "FAILED", record
    assert len(ends) > 1, ends
    assert {end["data"].get("at_fault") for end in ends} == {None}, ends
    assert victim.read_text() == "as it was"


# --- root is left nowhere --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "point", ["agent.intent_written", "agent.handed_over", "shim.locked", "shim.started_written"]
)
def test_a_kill_in_the_middle_of_a_launch_leaves_nothing_of_the_run_as_root(place: Path, point: str) -> None:
    once = Path(tempfile.mkdtemp(dir=place))
    stack = Stack(
        Path(tempfile.mkdtemp(dir=place)) / "state",
        environment=settings(place, FAILPOINTS=f"{point}=kill", FAILPOINTS_ONCE_IN=str(once)),
    )
    stack.start()
    try:
        run = stack.submit(shell="id -u; exec sleep 600") if point.startswith("shim") else submit_dying(stack)
        until(lambda: any(once.iterdir()), what=f"{point} strikes")
        if stack.process.poll() is not None or not point.startswith("shim"):
            stack.process.wait(10)
            assert all(user_of(pid) == {USER.pw_uid} for pids in stack.workers().values() for pid in pids)
            stack.start()
        until(lambda: stack.record(run)["status"] in ("RUNNING", "FAILED"), 30.0, what="it went on, or ended")
        until(
            lambda: all(user_of(pid) == {USER.pw_uid} for pids in stack.workers().values() for pid in pids),
            what="no worker is root",
        )
    finally:
        stack.close()


def submit_dying(stack: Stack) -> str:
    """A run of which the stack dies; its answer may be lost."""
    stack.trainshed("submit", "--name", "dying", "--", "/bin/sh", "-c", "id -u; exec sleep 600", code=None)
    return "dying"
