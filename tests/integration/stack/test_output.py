"""What workers write, byte for byte, and without memory growing with it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.support.stack import TRAINSHED, Stack, alive, rss_mb, until

MIB = 1024 * 1024
KEPT_MB = 90.0
"""What a command may have resident at most: Python, nats-py and a few chunks are about half of that."""


class Reader:
    """A `trainshed logs` whose stdout is hashed as it comes; tells how much memory it had at most."""

    def __init__(self, stack: Stack, *words: str) -> None:
        self._process = subprocess.Popen(
            [TRAINSHED, "logs", *words],
            env=stack.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        self.stdout = self._process.stdout
        assert self.stdout is not None

    def read_all(self) -> tuple[int, str, float]:
        """Length and SHA-256 of what came, and the most memory resident (MiB)."""
        assert self.stdout is not None and self._process.stderr is not None
        digest, length, most = hashlib.sha256(), 0, 0.0
        while chunk := self.stdout.read(MIB):
            digest.update(chunk)
            length += len(chunk)
            # Its rusage would count what pytest had when it forked.
            with contextlib.suppress(OSError, IndexError):  # it is gone
                most = max(most, rss_mb(self._process.pid))
        said = self._process.stderr.read()
        assert self._process.wait() == 0, said
        assert most > 0
        return length, digest.hexdigest(), most


def _python(script: str) -> tuple[str, ...]:
    return ("--", sys.executable, "-c", script)


def test_binary_noise_comes_out_as_it_went_in(stack: Stack, tmp_path: Path) -> None:
    noise = os.urandom(300_000) + b'\n\0\xff{"type": ' + bytes(range(256))
    (tmp_path / "noise").write_bytes(noise)
    run = stack.submit("--", "cat", str(tmp_path / "noise"))
    followed = stack.trainshed("logs", "-f", run).stdout
    stored = stack.trainshed("logs", run).stdout
    assert followed == noise
    assert stored == noise


def test_lines_of_a_megabyte_are_followed_whole(stack: Stack) -> None:
    run = stack.submit(*_python("for c in 'abc': print(c * 1024 * 1024, flush=True)"))
    expected = b"".join(letter * MIB + b"\n" for letter in (b"a", b"b", b"c"))
    assert stack.trainshed("logs", "-f", run).stdout == expected
    assert stack.trainshed("logs", run).stdout == expected


def test_both_streams_come_in_order_and_apart_where_one_is_asked_for(stack: Stack) -> None:
    script = "for n in 1 2 3; do echo out $n; echo err $n >&2; done"
    run = stack.submit(shell=script)
    stack.wait(run)
    assert stack.trainshed("logs", "--stdout", run).lines == ["out 1", "out 2", "out 3"]
    assert stack.trainshed("logs", "--stderr", run).lines == ["err 1", "err 2", "err 3"]
    assert sorted(stack.trainshed("logs", run).lines) == sorted(
        [f"{stream} {n}" for stream in ("out", "err") for n in (1, 2, 3)]
    )


def test_output_is_there_while_the_run_goes_on(stack: Stack, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    run = stack.submit(shell=f"echo first; cat {pipe}; echo last")
    reader = Reader(stack, "-f", run)
    assert reader.stdout is not None
    assert reader.stdout.read(6) == b"first\n"
    until(lambda: stack.trainshed("logs", run).stdout == b"first\n")
    with pipe.open("w") as file:
        file.write("middle\n")
        file.flush()
        assert reader.stdout.read(7) == b"middle\n"
    rest = b"last\n"
    assert reader.read_all()[:2] == (len(rest), hashlib.sha256(rest).hexdigest())


def test_a_hundred_megabytes_pass_through_without_being_kept(stack: Stack) -> None:
    # Numbered lines: a chunk lost, doubled or swapped changes the sum.
    script = (
        "import sys\n"
        "for block in range(100):\n"
        "    start = block * 65536\n"
        "    sys.stdout.write(''.join(f'{n:015d}\\n' for n in range(start, start + 65536)))\n"
    )
    digest = hashlib.sha256()
    for block in range(100):
        start = block * 65536
        digest.update("".join(f"{n:015d}\n" for n in range(start, start + 65536)).encode())
    expected = (100 * MIB, digest.hexdigest())
    before = rss_mb(stack.process.pid)
    run = stack.submit(*_python(script))
    followed = Reader(stack, "-f", run).read_all()
    stored = Reader(stack, run).read_all()
    assert followed[:2] == expected
    assert stored[:2] == expected
    assert max(followed[2], stored[2]) < KEPT_MB
    assert rss_mb(stack.process.pid) - before < 40
    (record,) = stack.wait(run)
    assert record["status"] == "COMPLETED"


def test_a_run_without_output_says_why(stack: Stack) -> None:
    blocker = stack.submit("--gpus", "2", "--", "sleep", "60")
    stack.running(blocker)
    queued = stack.submit("--gpus", "1", "--", "true")
    done = stack.trainshed("logs", queued)
    assert done.stdout == b""
    assert "has not started" in done.stderr
    stack.trainshed("cancel", blocker, queued)
    stack.wait(blocker, queued, code=125)


def test_var_logs_dir_takes_the_output_and_logs_finds_it(
    new_stack: Callable[..., Stack], tmp_path: Path
) -> None:
    elsewhere = tmp_path / "var-logs"
    stack = new_stack(environment={"VAR_LOGS_DIR": str(elsewhere)})
    run = stack.submit(shell="echo here; echo there >&2; echo $TRAINSHED_RUN_DIR")
    stack.wait(run)
    folder = elsewhere / run / "1"
    assert (folder / "stdout.log").read_text() == f"here\n{stack.run_dir(run)}\n"
    assert (folder / "stderr.log").read_text() == "there\n"
    assert stack.trainshed("logs", "--stdout", run).lines == ["here", str(stack.run_dir(run))]


def test_a_run_that_ended_before_a_restart_still_has_its_output(new_stack: Callable[..., Stack]) -> None:
    stack = new_stack()
    run = stack.submit(shell="echo kept")
    stack.wait(run)
    pid = stack.process.pid
    assert stack.stop() == 0
    assert not alive(pid)
    stack.start()
    assert stack.trainshed("logs", run).stdout == b"kept\n"
