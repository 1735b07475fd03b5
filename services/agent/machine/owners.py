"""Whose a process on a device is: an attempt's, ours without one, or somebody else's.

Owns how that is told from /proc; knows no device. Everything here blocks: call it in a thread.
"""

from __future__ import annotations

import os
from pathlib import Path

from events.types import AttemptRef

Owner = AttemptRef | bool
"""The attempt whose process it is; else whether it is one of this log's at all."""

_FIRST_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO of the kernel: it has no other name
_MOST_PARENTS = 64


class Owners:
    """Who the processes of this machine belong to, by their environment, or that of those above them.

    One that has cleared its environment is found by its parents: the last of them is the attempt's shim, which bears the
    log's id and works in the attempt's folder.
    """

    def __init__(self, log_id: str, proc: Path = Path("/proc")) -> None:
        self._mark = f"TRAINSHED_LOG_ID={log_id}".encode()
        self._proc = proc

    def knows_pids(self) -> bool:
        """Whether the pids that a driver tells are those of this process's own /proc: in a container they are the host's."""
        try:
            return os.stat(self._proc / "self/ns/pid").st_ino == _FIRST_PID_NAMESPACE
        except OSError:
            return False

    def is_there(self, pid: int) -> bool:
        """Whether the process can be seen: one that has ended, or that /proc hides, cannot be told apart."""
        return (self._proc / str(pid)).exists()

    def owner_of(self, pid: int) -> Owner:
        """Whose this process is."""
        for _ in range(_MOST_PARENTS):
            if pid <= 1:
                return False
            variables = self._environment(pid)
            if self._mark in variables:
                return _attempt(variables) or self._of_shim(pid) or True
            parent = self._parent(pid)
            if parent is None:
                return False
            pid = parent
        return False

    def _environment(self, pid: int) -> set[bytes]:
        try:
            return set((self._proc / str(pid) / "environ").read_bytes().split(b"\0"))
        except OSError:
            return set()  # gone, or another user's

    def _parent(self, pid: int) -> int | None:
        try:
            stat = (self._proc / str(pid) / "stat").read_text(errors="replace")
            return int(stat.rpartition(")")[2].split()[1])  # the name before may hold anything
        except (OSError, ValueError, IndexError):
            return None

    def _of_shim(self, pid: int) -> AttemptRef | None:
        """The attempt in whose folder, ``attempts/<run id>/<number>``, this process of ours works."""
        try:
            folder = Path(os.readlink(self._proc / str(pid) / "cwd"))
        except OSError:
            return None
        if folder.parent.parent.name != "attempts" or not folder.name.isdecimal():
            return None
        return AttemptRef(folder.parent.name, int(folder.name))


def _attempt(variables: set[bytes]) -> AttemptRef | None:
    values = dict.fromkeys((b"TRAINSHED_RUN_ID", b"TRAINSHED_ATTEMPT"), b"")
    for variable in variables:
        name, _, value = variable.partition(b"=")
        if name in values:
            values[name] = value
    run_id, attempt = (os.fsdecode(value) for value in values.values())
    return AttemptRef(run_id, int(attempt)) if run_id and attempt.isdecimal() else None
