"""While no stack answers, what its state folder holds is read: said to be that, with exit code 3, and nothing written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.stack import Stack, until

NewStack = Callable[..., Stack]


def contents(stack: Stack) -> dict[str, Any]:
    """Name, time and bytes of what lies in the folder itself."""
    files = [one for one in stack.state_dir.iterdir() if one.is_file()]
    return {one.name: (one.stat().st_mtime_ns, one.read_bytes()) for one in files}


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_runs_and_their_output_are_read_without_a_stack(
    new_stack: NewStack, tmp_path: Path, end: str
) -> None:
    stack = new_stack()
    line = "echo out; echo err >&2; echo weights > $TRAINSHED_RUN_DIR/artifacts/m"
    ended = stack.submit("--name", "ended", shell=line)
    stack.wait(ended)
    failed = stack.submit("--name", "failed", shell="echo why >&2; exit 3")
    stack.wait(failed, code=3)
    live = stack.submit("--name", "live", shell="echo on; exec sleep 60")
    stack.running(live)
    until(lambda: stack.stdout(live))
    waiting = stack.submit("--name", "waits", "--after", live, "--", "true")
    until(lambda: any(one["type"] == "artifacts_hashed" for one in stack.show(ended)["timeline"]))
    seq = stack.trainshed("ls", json=True)["seq"]
    if end == "stop":
        stack.stop()
    else:
        stack.kill()
        until(lambda: not [pid for pid in stack.processes() if b"projector" in _command(pid)])
    before = contents(stack)

    listed = stack.trainshed("ls", code=3)
    assert [name in listed.text for name in ("ended", "failed", "waits")] == [True] * 3
    assert "trainshed up" in listed.stderr
    assert f"What {stack.state_dir} held when it was last written (event " in listed.stderr
    found = stack.trainshed("ls", json=True, code=3)
    assert found["seq"] >= seq and len(found["runs"]) == 4
    shown = stack.trainshed("show", "failed", code=3)
    assert "exit 3" in shown.text and "why" in shown.text
    assert stack.trainshed("show", waiting, json=True, code=3)["run"]["status"] == "PENDING"
    assert stack.trainshed("logs", "ended", code=3).stdout == b"out\nerr\n"
    assert stack.trainshed("logs", "-f", "--tail", "1", "--stderr", "ended", code=3).stdout == b"err\n"
    followed = stack.trainshed("logs", "-f", "live", code=3)  # what there is: nobody hears of more
    assert followed.stdout == b"on\n" and followed.stderr.count("Error: ") == 1
    assert "has not started" in stack.trainshed("logs", "-f", waiting, code=3).stderr
    assert stack.trainshed("path", "ended", code=3).lines == [str(stack.run_dir(ended))]
    stack.trainshed("artifacts", "ended", "get", "m", code=3, cwd=tmp_path)
    assert (tmp_path / "m").read_text() == "weights\n"
    assert "'nosuch'" in stack.trainshed("show", "nosuch", code=3).stderr
    for words in (("cancel", failed), ("explain", failed), ("wait", failed)):
        assert stack.trainshed(*words, code=3).stdout == b""
    assert contents(stack) == before

    named = stack.trainshed("ls", code=3, environment={"NATS_URL": "nats://127.0.0.1:1"})
    assert named.stdout == b""  # it is another stack that was asked


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_a_folder_without_a_read_model_says_so(tmp_path: Path, new_stack: NewStack) -> None:
    stack = new_stack(start=False)
    nothing = stack.trainshed("ls", code=3)
    assert "endpoint.json is missing" in nothing.stderr and "read model" not in nothing.stderr
    stack.state_dir.mkdir()
    (stack.state_dir / "node.json").write_text('{"log_id": "x", "node": "box"}')
    assert "PostgreSQL" in stack.trainshed("ls", code=3).stderr
    (stack.state_dir / "trainshed.db").write_text("damaged" * 1000)
    assert "cannot be read" in stack.trainshed("ls", code=3).stderr
