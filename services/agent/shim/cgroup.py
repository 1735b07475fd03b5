"""A cgroup for each shim's worker, where one can be had: whatever the worker forks is in it.

Owns a worker cgroup's files, from joining it to removing it; knows no attempt. The shim stays outside, so that it outlives a kill.

Two are asked for: one of v2, which ends at one write, and one in which memory is counted and can be limited. They are
the same where v2 has the memory controller; else the second is of v1's hierarchy of memory.
"""

from __future__ import annotations

import contextlib
import os

AGENT_CGROUP = "trainshed-agent"
"""The cgroup beside those of its workers that an agent is in, where these are to have the memory controller."""


def path_of(parent: str, pid: int, started: int) -> str:
    """The path of that shim's worker cgroup; empty where there is no parent. pid and start time name one process of
    this boot, so that whether one has an owner is seen by its name."""
    return f"{parent}/{pid}-{started}" if parent else ""


def owner_of(name: str) -> tuple[int, int] | None:
    """The shim's pid and start time from the name of its worker's cgroup; None for any other name."""
    pid, _, started = name.partition("-")
    return (int(pid), int(started)) if pid.isdecimal() and started.isdecimal() else None


def join(path: str, memory_path: str = "") -> tuple[str, str]:
    """Make the cgroups and put this process there; their paths, each an empty text where that cannot be done.

    It may wait milliseconds for the kernel, so it is done while there is no attempt yet.
    """
    if path == memory_path:
        joined = _join(path, "cgroup.kill", with_memory=True)
        return joined, joined if os.access(f"{joined}/memory.max", os.W_OK) else ""
    return _join(path, "cgroup.kill"), _join(memory_path, "memory.limit_in_bytes")


def make(path: str, *, with_memory: bool = False) -> None:
    """Make the cgroup, its parent too; ``with_memory``: of v2, so that it has the memory controller if its parent has.

    Raises OSError.
    """
    parent = os.path.dirname(path)
    os.makedirs(parent, exist_ok=True)
    if with_memory:
        with contextlib.suppress(OSError):
            _write(f"{parent}/cgroup.subtree_control", b"+memory")
    os.makedirs(path, exist_ok=True)


def _join(path: str, needed: str, *, with_memory: bool = False) -> str:
    if not path:
        return ""
    try:
        make(path, with_memory=with_memory)
        if os.access(f"{path}/{needed}", os.W_OK):  # cgroup.kill: Linux 5.14
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


def limit_memory(path: str, size: int) -> bool:
    """From now on the kernel lets the cgroup have no more than ``size`` bytes, and no swap: it ends what needs more, with
    all that is in the cgroup (v2). False: there is no such cgroup, or it does not let itself be limited."""
    if not path:
        return False
    number = b"%d" % size
    try:
        if os.path.exists(f"{path}/memory.max"):
            _write(f"{path}/memory.oom.group", b"1")
            with contextlib.suppress(FileNotFoundError):  # a kernel without accounting of swap
                _write(f"{path}/memory.swap.max", b"0")
            _write(f"{path}/memory.max", number)
        else:
            _write(f"{path}/memory.limit_in_bytes", number)
            with contextlib.suppress(FileNotFoundError):
                _write(f"{path}/memory.memsw.limit_in_bytes", number)
    except OSError:
        return False
    return True


def oom_kills(path: str) -> int:
    """How many processes of the cgroup the kernel ended for want of memory."""
    return (_numbers(f"{path}/memory.events") or _numbers(f"{path}/memory.oom_control")).get("oom_kill", 0)


def limit_reached(path: str) -> bool:
    """Whether the cgroup asked for more than its own limit; else it was one above that had no memory left."""
    events = _numbers(f"{path}/memory.events.local") or _numbers(f"{path}/memory.events")
    if events:
        return events.get("oom", 0) > 0
    # v1's memory.failcnt stays 0 with recent kernels. A page is charged to the limit, or some of them at once are not.
    peak, limit = _number(f"{path}/memory.max_usage_in_bytes"), _number(f"{path}/memory.limit_in_bytes")
    return peak is not None and limit is not None and peak > limit - (1 << 20)


def memory_peak(path: str) -> int | None:
    """The most bytes that the cgroup ever had, page cache included; None where that is not known."""
    if not path:
        return None
    peak = _number(f"{path}/memory.peak")
    return _number(f"{path}/memory.max_usage_in_bytes") if peak is None else peak


def cpu_s(path: str) -> float | None:
    """Seconds of CPU time of all that ever was in the cgroup (v2); None where that is not known."""
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


def _number(path: str) -> int | None:
    """A file of one number; None where it cannot be read."""
    try:
        with open(path) as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


def _write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
