"""`path` and `artifacts` on a stack: what a run left, fetched whole from whatever node, inside a worker too."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.stack import TRAINSHED, Stack, alive, until

LEAVES = (
    "cd $TRAINSHED_RUN_DIR/artifacts; mkdir deep; head -c 300000 /dev/urandom > deep/model.bin; echo hello > 'a b.txt'; "
    "ln -s /etc/passwd link; ln -s /etc folder"
)


def hashed(stack: Stack, run: str) -> None:
    until(lambda: any(one["type"] == "artifacts_hashed" for one in stack.show(run)["timeline"]))


@pytest.fixture(scope="module")
def run(stack: Stack) -> str:
    run = stack.submit("--name", "leaves", shell=LEAVES)
    stack.wait(run)
    hashed(stack, run)
    return run


def test_the_path_is_one_line_for_cd(stack: Stack, run: str) -> None:
    assert stack.trainshed("path", "leaves").stdout == f"{stack.run_dir(run)}\n".encode()
    assert stack.trainshed("path", "--output", run[:8]).lines == [str(stack.run_dir(run) / "attempts/1")]
    waiting = stack.submit("--gpus", "2", "--after", stack.submit("--", "sleep", "60"), "--", "true")
    assert "has no folder yet" in stack.trainshed("path", waiting, code=4).stderr


def test_what_it_left_is_listed_and_fetched(stack: Stack, run: str, tmp_path: Path) -> None:
    listed = stack.trainshed("artifacts", run, json=True)
    assert (listed["v"], listed["run_id"], listed["attempt"], listed["node"]) == (1, run, 1, "box")
    assert {one["path"]: one["bytes"] for one in listed["artifacts"]} == {
        "a b.txt": 6,
        "deep/model.bin": 300_000,
    }
    assert all(one["sha256"] for one in listed["artifacts"])
    stack.trainshed("artifacts", "leaves", "get", "deep/model.bin", cwd=tmp_path)
    assert (tmp_path / "model.bin").read_bytes() == (
        stack.run_dir(run) / "artifacts/deep/model.bin"
    ).read_bytes()
    again = stack.trainshed("artifacts", "leaves", "get", "deep/model.bin", cwd=tmp_path, code=2)
    assert "there already" in again.stderr
    assert stack.trainshed("artifacts", run, "get", "a b.txt", "-o", "-").stdout == b"hello\n"


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("../artifacts.json", 2),
        ("/etc/passwd", 2),
        ("link", 4),
        ("folder/passwd", 4),
        ("nosuch", 4),
        ("deep", 4),
    ],
)
def test_nothing_beside_it_is_fetched(stack: Stack, run: str, tmp_path: Path, file: str, code: int) -> None:
    stack.trainshed("artifacts", run, "get", file, "-o", "m", cwd=tmp_path, code=code)
    assert os.listdir(tmp_path) == []


def test_a_shell_completes_get_and_the_files(stack: Stack, run: str) -> None:
    def offered(line: str, place: int) -> list[str]:
        asked = {"_TRAINSHED_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(place)}
        return [one.partition(",")[2] for one in stack.trainshed(environment=asked).lines if one]

    assert offered(f"trainshed artifacts {run} ", 3) == ["get"]
    assert offered(f"trainshed artifacts {run} get de", 4) == ["deep/model.bin"]
    assert offered(f"trainshed artifacts {run} get a x", 5) == []


def test_a_file_that_was_changed_since_is_refused(stack: Stack, tmp_path: Path) -> None:
    run = stack.submit(shell="echo one > $TRAINSHED_RUN_DIR/artifacts/m")
    stack.wait(run)
    hashed(stack, run)
    (stack.run_dir(run) / "artifacts/m").write_text("two")
    done = stack.trainshed("artifacts", run, "get", "m", cwd=tmp_path, code=2)
    assert "SHA-256" in done.stderr
    assert os.listdir(tmp_path) == []
    stack.trainshed("artifacts", run, "get", "m", "--unchecked", cwd=tmp_path)
    assert (tmp_path / "m").read_text() == "two"


def test_a_kill_leaves_no_half_of_a_file(stack: Stack, tmp_path: Path) -> None:
    run = stack.submit(shell="truncate -s 2G $TRAINSHED_RUN_DIR/artifacts/m; sleep 60")
    stack.running(run)
    until(lambda: stack.trainshed("artifacts", run, json=True)["artifacts"])
    fetching = subprocess.Popen(
        [TRAINSHED, "artifacts", run, "get", "m"], env=stack.environment, cwd=tmp_path
    )
    fds = Path(f"/proc/{fetching.pid}/fd")
    until(lambda: alive(fetching.pid) and any(str(tmp_path) in os.readlink(fd) for fd in _there(fds)))
    fetching.send_signal(signal.SIGKILL)
    fetching.wait()
    assert os.listdir(tmp_path) == []
    stack.trainshed("cancel", run)


def _there(fds: Path) -> list[Path]:
    return [fd for fd in fds.iterdir() if os.path.lexists(fd)]


def test_a_worker_fetches_what_its_own_runs_left_and_nothing_of_others(stack: Stack, run: str) -> None:
    script = (
        "$T run -- /bin/sh -c 'echo weights > $TRAINSHED_RUN_DIR/artifacts/w' >&2\n"
        "kid=$($T ls --all | tail -n 1 | cut -d ' ' -f 1)\n"
        "$T artifacts $kid get w -o -; $T path $kid; $T artifacts $kid --json\n"
        f"$T artifacts {run} 2>/dev/null; echo $?; $T path {run} 2>/dev/null; echo $?"
    )
    parent = stack.submit("--env", f"T={TRAINSHED}", shell=script)
    stack.wait(parent)
    weights, path, listed, *codes = stack.stdout(parent).splitlines()
    assert weights == "weights"
    assert path.startswith(str(stack.run_dir("")))
    assert [one["path"] for one in json.loads(listed)["artifacts"]] == ["w"]
    assert codes == ["4", "4"]


def test_a_file_of_another_node_is_fetched_through_its_agent(stack: Stack, tmp_path: Path) -> None:
    with stack.far_node(tmp_path / "far"):
        run = stack.submit("--gpus", "4", shell="echo far > $TRAINSHED_RUN_DIR/artifacts/m")
        stack.wait(run)
        assert stack.trainshed("artifacts", run, "get", "m", "-o", "-").stdout == b"far\n"
        assert stack.trainshed("path", run).lines == [str(tmp_path / "far/runs" / run)]
    # "does not answer" at once, or after a while where the stack's messages are listened to, as this one's are
    assert "the folder of run" in stack.trainshed("path", run, code=3).stderr
