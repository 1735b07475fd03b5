"""A cgroup for each shim's worker, where one can be had (v2): whatever the worker forks is in it, and ends at one write.

Owns a worker cgroup's files, from joining it to removing it; knows no attempt. The shim stays outside, so that it outlives a kill.
"""

from __future__ import annotations

import contextlib
import os


def path_of(parent: str, pid: int, started: int) -> str:
    """The path of that shim's worker cgroup; empty where there is no parent. pid and start time name one process of
    this boot, so that whether one has an owner is seen by its name."""
    return f"{parent}/{pid}-{started}" if parent else ""


def owner_of(name: str) -> tuple[int, int] | None:
    """The shim's pid and start time from the name of its worker's cgroup; None for any other name."""
    pid, _, started = name.partition("-")
    return (int(pid), int(started)) if pid.isdecimal() and started.isdecimal() else None


def join(path: str) -> str:
    """Make the cgroup and put this process there; its path, or an empty text where that cannot be done.

    It may wait milliseconds for the kernel, so it is done while there is no attempt yet.
    """
    if not path:
        return ""
    try:
        os.makedirs(path, exist_ok=True)
        if os.access(f"{path}/cgroup.kill", os.W_OK):  # Linux 5.14
            _write(f"{path}/cgroup.procs", b"0")
            return path
    except OSError:
        pass  # read-only, not ours, or threaded: it goes without
    remove(path)
    return ""


def kill(path: str) -> bool:
    """SIGKILL to every process of the cgroup and below it, in one step for the kernel: who forks on and on is caught,
    and who has another user's rights too. False: there is no such cgroup."""
    try:
        _write(f"{path}/cgroup.kill", b"1")
    except OSError:
        return False
    return True


def cpu_s(path: str) -> float | None:
    """Seconds of CPU time of all that ever was in the cgroup; None where that is not known."""
    used = _numbers(f"{path}/cpu.stat").get("usage_usec") if path else None
    return None if used is None else used / 1e6


def remove(path: str) -> None:
    """Remove an empty cgroup with what its worker made below it, and its parent where it was the last; else nothing."""
    try:
        os.rmdir(path)  # almost always all there is to do
    except OSError:
        for folder, _, _ in os.walk(path, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
    with contextlib.suppress(OSError):
        os.rmdir(os.path.dirname(path))


def _numbers(path: str) -> dict[str, int]:
    """A file of lines "name number"; empty where it cannot be read."""
    try:
        with open(path) as file:
            return {name: int(number) for name, number in map(str.split, file)}
    except (OSError, ValueError):
        return {}


def _write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
