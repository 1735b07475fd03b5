"""A cgroup for each shim's worker, where one can be had (v2): whatever the worker forks is in it, and ends at one write.

Owns a leaf's files, from joining it to removing it; knows no attempt. The shim stays outside, so that it outlives a kill.
"""

from __future__ import annotations

import contextlib
import os


def leaf_of(parent: str, pid: int, started: int) -> str:
    """The path of that shim's leaf; empty where there is no parent. pid and start time name one process of this boot,
    so that whether a leaf has an owner is seen by its name."""
    return f"{parent}/{pid}-{started}" if parent else ""


def owner_of(name: str) -> tuple[int, int] | None:
    """The shim's pid and start time from its leaf's name; None for any other name."""
    pid, _, started = name.partition("-")
    return (int(pid), int(started)) if pid.isdecimal() and started.isdecimal() else None


def join(leaf: str) -> str:
    """Make the leaf and put this process there; the leaf, or an empty text where that cannot be done.

    It may wait milliseconds for the kernel, so it is done while there is no attempt yet.
    """
    if not leaf:
        return ""
    try:
        os.makedirs(leaf, exist_ok=True)
        if os.access(f"{leaf}/cgroup.kill", os.W_OK):  # Linux 5.14
            _write(f"{leaf}/cgroup.procs", b"0")
            return leaf
    except OSError:
        pass  # read-only, not ours, or threaded: it goes without
    remove(leaf)
    return ""


def kill(leaf: str) -> bool:
    """SIGKILL to every process of the leaf and below it, in one step for the kernel: who forks on and on is caught,
    and who has another user's rights too. False: there is no such leaf."""
    try:
        _write(f"{leaf}/cgroup.kill", b"1")
    except OSError:
        return False
    return True


def remove(leaf: str) -> None:
    """Remove an empty leaf with what its worker made below it, and its parent where it was the last; else nothing."""
    try:
        os.rmdir(leaf)  # almost always all there is to do
    except OSError:
        for folder, _, _ in os.walk(leaf, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
    with contextlib.suppress(OSError):
        os.rmdir(os.path.dirname(leaf))


def _write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
