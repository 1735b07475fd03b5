"""`trainshed agent --detach`: the agent in a session of its own, watched until it is ready.

Owns the hand-over: which command line goes on in the background, where its log is, and what is printed if it ends before.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from services.up.log_file import open_log
from trainshed_client.errors import ErrorCode, TrainshedError

READY_WITHIN_S = 60.0
SHOWN_BYTES = 2000
_READY = b"r"


def agent_log(state_dir: Path) -> Path:
    """Where an agent in the background writes."""
    return state_dir / "logs" / "agent.log"


def start(state_dir: Path, arguments: Sequence[str]) -> int:
    """Start `trainshed agent` with these arguments in the background; its pid once it is ready.

    Raises TrainshedError: INVALID with the end of its log where it ended before, UNAVAILABLE where it still waits for
    something (it goes on).
    """
    path = agent_log(state_dir)
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    log = open_log(path)
    begin = os.fstat(log).st_size
    ours, its = os.pipe()
    try:
        child = subprocess.Popen(
            [sys.executable, "-m", "services.cli", "agent", *arguments, "--ready-fd", str(its)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(its,),
            start_new_session=True,
        )
        os.close(its)
        readable, _, _ = select.select([ours], [], [], READY_WITHIN_S)
        if readable and os.read(ours, 1) == _READY:
            return child.pid
    finally:
        os.close(ours)
        os.close(log)
    if not readable:
        raise TrainshedError(
            ErrorCode.UNAVAILABLE,
            f"the agent (pid {child.pid}) is not ready after {READY_WITHIN_S:.0f} s and goes on trying; see {path}",
        )
    child.wait()
    raise TrainshedError(
        ErrorCode.INVALID, f"the agent ended before it was ready. The end of {path}:\n{_end(path, begin)}"
    )


def report_ready(fd: int) -> None:
    """Tell whoever started us so."""
    try:
        os.write(fd, _READY)
    except OSError:
        pass  # it has gone, or waited for too long
    finally:
        os.close(fd)


def _end(path: Path, begin: int) -> str:
    with path.open("rb") as file:
        file.seek(max(begin, file.seek(0, os.SEEK_END) - SHOWN_BYTES))
        return file.read().decode(errors="replace").strip()
