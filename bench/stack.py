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

from trainshed_client.endpoint import Endpoint

ANOTHER_UP = "TRAINSHED_BENCH_UP"
"""Arguments for Python in place of `-m services.cli up`: to compare another arrangement of processes."""
READY_S = 30.0
END_S = 30.0


class Stack(msgspec.Struct, frozen=True):
    """A running stack: its folder, its main process, how to connect to it, and what its processes inherit."""

    state_dir: Path
    pid: int
    endpoint: Endpoint
    environment: dict[str, str]

    def output(self, run_id: str, stream: str = "stdout") -> Path:
        """Where the first attempt of a run writes."""
        return self.state_dir / "runs" / run_id / "attempts" / "1" / f"{stream}.log"


@contextlib.contextmanager
def running_stack(*, cpus: int = 8, node: str = "bench") -> Iterator[Stack]:
    """`trainshed up` without GPUs on a new folder; at the end it is stopped with its workers and the folder removed.

    Raises RuntimeError with its last words where it does not come up.
    """
    folder = Path(tempfile.mkdtemp(prefix="tsb-"))  # short: its sockets then fit in it, as in daily use
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TRAINSHED_", "NATS_")) and name != "VAR_LOGS_DIR"
    }
    environment.update(TRAINSHED_STATE_DIR=str(folder), CUDA_VISIBLE_DEVICES="")
    program = os.environ.get(ANOTHER_UP, "").split() or ["-m", "services.cli", "up"]
    command = [sys.executable, "-P", *program, "--stop-workers"]
    command += ["--cpus", str(cpus), "--memory", "100000", "--node", node]
    log = folder / "up.log"
    with open(log, "wb") as stderr:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr
        )
    try:
        _await_ready(process, log)
        endpoint = msgspec.json.decode((folder / "endpoint.json").read_bytes())
        yield Stack(
            folder,
            process.pid,
            Endpoint(endpoint["url"], endpoint.get("user"), endpoint.get("password")),
            environment,
        )
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _await_ready(process: subprocess.Popen[bytes], log: Path) -> None:
    give_up = time.monotonic() + READY_S
    while b"Trainshed is up" not in log.read_bytes():
        if process.poll() is not None or time.monotonic() > give_up:
            raise RuntimeError(f"the stack did not come up:\n{log.read_text(errors='replace')[-3000:]}")
        time.sleep(0.02)
