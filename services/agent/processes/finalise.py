"""How an attempt is closed that no shim answers for: under its lock, with its tree ended.

Owns that order, and the wait for the lock; knows no agent and no NATS.
"""

from __future__ import annotations

import fcntl
import os
import signal
import time
from pathlib import Path

from services.agent.folders import files
from services.agent.folders.files import ExitFile, ExitReason, HeartbeatFields, StartedFile
from services.agent.processes import sweep
from services.agent.shim import cgroup, process_tree

LOCK_S = 2.0
"""Seconds that a shim which leaves at once may hold the lock."""


class LockHeld(OSError):
    """The attempt's lock is held: its shim is at work, so the attempt is not to be finalised."""


def finalise(
    marks: sweep.Marks,
    boot_id: str,
    folder: Path,
    reason: ExitReason,
    known: StartedFile | None,
    heartbeat: HeartbeatFields | None,
) -> ExitFile:
    """See `Workers.finalise`. `known`: what started.json said, where that has vanished. Blocks."""
    files.prepare_folder(folder)  # it may have vanished
    lock = os.open(folder / files.LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _take(lock, folder)
        written = files.read_exit(folder)
        if written is not None:
            return written
        give_up = time.monotonic() + sweep.LONGEST_S
        started = files.read_started(folder) or known
        # The lock is free a moment before the kernel ends the worker of a killed shim: see that it is gone.
        # Only what started.json names can have exec'd.
        named = named_in(started, boot_id)
        for pid, start_time in named:
            process_tree.send(pid, start_time, signal.SIGKILL)
        sweep.await_gone(named, give_up)
        if named and started is not None and started.cgroup:
            sweep.end_worker_cgroup(started.cgroup, give_up)
        sweep.end(marks, lambda processes: sweep.of_attempt(processes, folder))
        if named and started is not None and started.memory_cgroup:
            cgroup.remove(started.memory_cgroup)
        stop = files.read_stop(folder)
        record = ExitFile(
            reason=reason,
            stop_reason=None if stop is None else stop.reason,
            ended_at=time.time(),
            last_heartbeat=heartbeat,
        )
        files.write_exit(folder, record)
        return record
    finally:
        os.close(lock)


def named_in(started: StartedFile | None, boot_id: str) -> list[tuple[int, int]]:
    """Worker and shim by pid and start time; none where these mean nothing, being another boot's."""
    if started is None or started.boot_id != boot_id:
        return []
    return [(started.pid, started.start_time), (started.shim_pid, started.shim_start_time)]


def _take(lock: int, folder: Path) -> None:
    give_up = time.monotonic() + LOCK_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > give_up:
                raise LockHeld(f"{folder}: its shim is alive and holds the lock") from None
            time.sleep(0.01)  # a second shim, about to leave
