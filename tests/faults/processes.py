"""What /proc says of the processes that one suite has started: every one bears its mark.

Owns looking and killing by pid; knows no fault and no check.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MARK = "FAULTS_MARK"
"""A variable that every process of a suite inherits, workers and their daemons included, and nothing else has."""


class Marked(NamedTuple):
    """A living process of the suite. `attempt`: of a worker or what it has forked; `cwd` names a shim's attempt."""

    pid: int
    parent: int
    started: int
    variables: dict[str, str]
    cwd: Path

    @property
    def attempt(self) -> tuple[str, int] | None:
        """(run id, number) where it belongs to an attempt's worker."""
        run_id = self.variables.get("TRAINSHED_RUN_ID")
        return (run_id, int(self.variables["TRAINSHED_ATTEMPT"])) if run_id else None

    @property
    def is_shim(self) -> bool:
        """A shim that has an attempt."""
        return self.attempt is None and "TRAINSHED_LOG_ID" in self.variables and "attempts" in self.cwd.parts


def marked(mark: str) -> Iterator[Marked]:
    """Every living process with that mark."""
    wanted = f"{MARK}={mark}".encode()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            environ = Path(f"/proc/{name}/environ").read_bytes().split(b"\0")
            if wanted not in environ:
                continue
            state, parent, started = facts(int(name))
            if state in "ZX":
                continue
            pairs = (os.fsdecode(word).partition("=") for word in environ if word)
            variables = {key: value for key, _, value in pairs}
            yield Marked(int(name), parent, started, variables, Path(os.readlink(f"/proc/{name}/cwd")))
        except (OSError, ValueError, IndexError):
            continue  # gone while we looked


def facts(pid: int) -> tuple[str, int, int]:
    """State letter, parent and start time (ticks since boot). Raises OSError where there is none."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return fields[0], int(fields[1]), int(fields[19])


def still(process: Marked) -> bool:
    """Whether that very process lives."""
    try:
        state, _, started = facts(process.pid)
    except OSError:
        return False
    return started == process.started and state not in "ZX"


def send(process: Marked, number: signal.Signals) -> bool:
    """Signal exactly that process; False where it is gone."""
    try:
        fd = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        if not still(process):
            return False
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(fd, number)
            return True
        return False
    finally:
        os.close(fd)


def end_all(mark: str) -> int:
    """SIGKILL whatever bears the mark, until nothing does; how many there were. Not the caller."""
    ended = 0
    for _ in range(50):
        left = [each for each in marked(mark) if each.pid != os.getpid()]
        if not left:
            return ended
        for each in left:
            ended += send(each, signal.SIGKILL)
    return ended
