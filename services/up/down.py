"""Stopping what runs on a state folder from outside, a stack or an agent alone: who holds its lock, the signal, and the wait until it is gone.

Owns that, and the request that goes with the signal (`<state>/down.json`); knows no service.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from services.agent.identity import LOCK_FILE as AGENT_LOCK_FILE
from services.up.state_lock import LOCK_FILE, holder
from services.up.systemd_unit import UNIT
from trainshed_client.endpoint import write_private
from trainshed_client.errors import ErrorCode, TrainshedError

REQUEST_FILE = "down.json"
GONE_WITHIN_S = 20.0
"""Far more than a stop may take that leaves the workers alone."""
PRINT_AFTER_S = 3.0
LOOK_EVERY_S = 1.0
EXITS_WITHIN_S = 1.0
"""Far more than a process takes from letting go of the state folder to its end."""


class _Request(msgspec.Struct, frozen=True):
    """What whoever sends SIGTERM wants beyond it, of the process with this pid."""

    pid: int
    stop_workers: bool = False
    v: int = 1


class StoppedProcess(NamedTuple):
    """What was stopped."""

    pid: int
    agent_alone: bool


def down(state_dir: Path, *, stop_workers: bool, show: Callable[[str], None]) -> StoppedProcess | None:
    """Stop what runs on ``state_dir`` and wait until its process is gone; None where nothing runs.

    ``stop_workers``: its workers are stopped first, for as long as their grace periods take; ``show`` is given that it
    takes long. Raises TrainshedError: CONFLICT where systemd would start it again, DENIED where it is another user's,
    UNAVAILABLE where it does not end.
    """
    for lock_file in (LOCK_FILE, AGENT_LOCK_FILE):  # of a stack the one process holds both
        while (pid := holder(state_dir, lock_file)) is not None:
            try:
                process = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            try:
                if holder(state_dir, lock_file) != pid:  # it ended meanwhile, and its number may be another's
                    continue
                if _unit(pid) == UNIT:
                    raise TrainshedError(
                        ErrorCode.CONFLICT,
                        f"this stack is the service {UNIT}, which systemd would start again. "
                        f"Stop it with: systemctl --user stop {UNIT.removesuffix('.service')}",
                    )
                _stop(process, pid, state_dir / lock_file, stop_workers, show)
            finally:
                os.close(process)
            return StoppedProcess(pid, agent_alone=lock_file == AGENT_LOCK_FILE)
    return None


def _stop(process: int, pid: int, lock: Path, stop_workers: bool, show: Callable[[str], None]) -> None:
    if stop_workers:
        write_private(lock.with_name(REQUEST_FILE), msgspec.json.encode(_Request(pid, stop_workers=True)))
    try:
        signal.pidfd_send_signal(process, signal.SIGTERM)
    except ProcessLookupError:
        return
    except PermissionError:
        raise TrainshedError(
            ErrorCode.DENIED, f"what runs on {lock.parent} (pid {pid}) is another user's; ask them"
        ) from None
    if _gone(process, pid, lock, PRINT_AFTER_S):
        return
    show(
        f"waiting for the workers to end (pid {pid}); Ctrl-C stops the waiting"
        if stop_workers
        else f"waiting for pid {pid} to end"
    )
    if not _gone(process, pid, lock, None if stop_workers else GONE_WITHIN_S - PRINT_AFTER_S):
        raise TrainshedError(
            ErrorCode.UNAVAILABLE,
            f"pid {pid} does not end. `kill -9 {pid}` is safe: what was acknowledged is on disk, and workers go on",
        )


def _gone(process: int, pid: int, lock: Path, within_s: float | None) -> bool:
    """Whether the process of this pidfd ends within ``within_s`` seconds (None: however long it takes).

    One that has let go of the folder has ended as well: threads that storage holds in the kernel keep its number, and
    nothing ends them before that storage answers.
    """
    deadline = math.inf if within_s is None else time.monotonic() + within_s
    poller = select.poll()
    poller.register(process, select.POLLIN)
    while True:
        left = max(0.0, min(deadline - time.monotonic(), LOOK_EVERY_S))
        if poller.poll(left * 1000):
            return True
        if holder(lock.parent, lock.name) != pid:
            poller.poll(EXITS_WITHIN_S * 1000)
            return True
        if time.monotonic() >= deadline:
            return False


def _unit(pid: int) -> str:
    """The systemd unit that a process belongs to, by its control group; "" where it is not known."""
    try:
        return unit_of(Path(f"/proc/{pid}/cgroup").read_text())
    except OSError:
        return ""


def unit_of(cgroup: str) -> str:
    """The last unit in the text of ``/proc/<pid>/cgroup`` (of systemd's hierarchy, or the only one)."""
    for line in cgroup.splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers in ("", "name=systemd"):
            units = [part for part in path.split("/") if part.endswith((".service", ".scope"))]
            if units:
                return units[-1]
    return ""


def take_request(state_dir: Path, pid: int | None = None) -> bool:
    """Whether the stop that has come asks to stop the workers too; the request is used up by the asking."""
    path = state_dir / REQUEST_FILE
    try:
        request = msgspec.json.decode(path.read_bytes(), type=_Request)
    except (OSError, msgspec.MsgspecError):
        return False
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
    return request.stop_workers and request.pid == (os.getpid() if pid is None else pid)
