"""A real `trainshed up` on a state folder of its own, for benchmarks: started, connected to, ended.

Owns that process and its folder; measures nothing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from trainshed_client.endpoint import Endpoint, read_credentials

ANOTHER_UP = "TRAINSHED_BENCH_UP"
"""Arguments for Python in place of `-m services.cli up`: to compare another arrangement of processes."""
READY_S = 30.0
END_S = 30.0
LOG_FILE = "up.log"


class Stack(msgspec.Struct, frozen=True):
    """A running stack: its folder, its main process, how to connect to it, and what its processes inherit."""

    state_dir: Path
    pid: int
    endpoint: Endpoint
    environment: dict[str, str]

    def service(self, name: str) -> Endpoint:
        """How a service of it connects: a role of the control side, or `agent`."""
        return read_credentials(self.state_dir / "credentials" / f"{name}.json", given_by="the benchmark")

    def output(self, run_id: str, stream: str = "stdout") -> Path:
        """Where the first attempt of a run writes."""
        return self.state_dir / "runs" / run_id / "attempts" / "1" / f"{stream}.log"


@contextlib.contextmanager
def running_stack(*, cpus: int = 8, node: str = "bench") -> Iterator[Stack]:
    """`trainshed up` without GPUs on a new folder; at the end it is stopped with its workers and the folder removed.

    Raises RuntimeError with its last words where it does not come up.
    """
    folder = Path(tempfile.mkdtemp(prefix="tsb-"))  # short: its sockets then fit in it, as in daily use
    try:
        process = launch(folder, "--stop-workers", cpus=cpus, node=node)
        try:
            yield stack_of(process, folder)
        finally:
            end(process)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def launch(folder: Path, *options: str, cpus: int = 8, node: str = "bench") -> subprocess.Popen[bytes]:
    """Start `trainshed up` on ``folder`` and do not wait for it; what it says goes to ``up.log`` there."""
    program = os.environ.get(ANOTHER_UP, "").split() or ["-m", "services.cli", "up"]
    command = [sys.executable, "-P", *program, *options]
    command += ["--cpus", str(cpus), "--memory", "100000", "--node", node]
    with open(folder / LOG_FILE, "wb") as stderr:
        return subprocess.Popen(
            command, env=_environment(folder), stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr
        )


def stack_of(process: subprocess.Popen[bytes], folder: Path, within_s: float = READY_S) -> Stack:
    """The stack that ``process`` is, once it says that it is ready.

    Raises RuntimeError with its last words where it does not come up; ends it then.
    """
    log = folder / LOG_FILE
    give_up = time.monotonic() + within_s
    while b"Trainshed is up" not in log.read_bytes():
        if process.poll() is not None or time.monotonic() > give_up:
            end(process)
            raise RuntimeError(f"the stack did not come up:\n{log.read_text(errors='replace')[-3000:]}")
        time.sleep(0.02)
    endpoint = msgspec.json.decode((folder / "endpoint.json").read_bytes())
    return Stack(
        folder,
        process.pid,
        Endpoint(endpoint["url"], endpoint.get("user"), endpoint.get("password")),
        _environment(folder),
    )


def end(process: subprocess.Popen[bytes]) -> None:
    """Stop it, or kill it where it does not heed that."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _environment(folder: Path) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TRAINSHED_", "NATS_")) and name != "VAR_LOGS_DIR"
    }
    own = {"TRAINSHED_STATE_DIR": str(folder), "CUDA_VISIBLE_DEVICES": "", "TRAINSHED_WORKER_USERS": "*=root"}
    return {**kept, **own}
