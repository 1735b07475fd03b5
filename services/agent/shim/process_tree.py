"""The tree of processes below this one: adopting, listing, signalling and killing it.

Owns the walk over /proc and every kill; knows no attempt, no file of ours and no limit.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


PF_FORKNOEXEC = 0x40
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
FREEZE_PASSES = 50

_prctl = ctypes.CDLL(None, use_errno=True).prctl


def become_subreaper() -> None:
    """Orphans below this process become its children, however they daemonised."""
    if _prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def die_with_parent(parent: int) -> None:
    """SIGKILL for this process when its parent ends; at once where the parent is no longer `parent`."""
    if _prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def start_time(pid: int) -> int:
    """Clock ticks since boot at which `pid` started (field 22 of /proc/<pid>/stat); with the pid it names one
    process of this boot. Raises OSError where there is no such process."""
    return facts(pid)[2]


def facts(pid: int) -> tuple[int, int, int]:
    """Parent, process group and start time. The command's name may hold blanks and brackets: split after the last one."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    return int(fields[1]), int(fields[2]), int(fields[19])


def before_exec(pid: int) -> bool:
    """Whether the process was forked and has not exec'd, by the kernel's own flag; also of a dead one that is not reaped."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return bool(int(file.read().rpartition(b")")[2].split()[6]) & PF_FORKNOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        return False


def descendants(root: int) -> dict[int, tuple[int, int]]:
    """Every process below `root`, parents before children: pid → (start time, process group)."""
    children: dict[int, list[int]] = {}
    known: dict[int, tuple[int, int]] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        pid = int(name)
        try:
            parent, group, started = facts(pid)
        except (OSError, IndexError, ValueError):
            continue  # gone while we looked
        children.setdefault(parent, []).append(pid)
        known[pid] = (started, group)
    found: dict[int, tuple[int, int]] = {}
    ahead = [root]
    while ahead:
        for pid in children.get(ahead.pop(), ()):
            if pid not in found:
                found[pid] = known[pid]
                ahead.append(pid)
    return found


def pidfd(pid: int, started: int) -> int | None:
    """A descriptor of exactly that process; None where it is gone, its pid perhaps another's by now, or a thread's."""
    try:
        fd = os.pidfd_open(pid)
    except OSError as error:
        if error.errno in (errno.ESRCH, errno.EINVAL, errno.ENOENT):  # the latter two: a thread, by kernel
            return None
        raise
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        if start_time(pid) == started:
            return fd
    os.close(fd)
    return None


def send(pid: int, started: int, number: int) -> bool:
    """Signal exactly that process: a pid that was given to another since is left alone. False: it is gone."""
    fd = pidfd(pid, started)
    if fd is None:
        return False
    try:
        signal.pidfd_send_signal(fd, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        # A set-user-id program of another user. The tree is not gone, so no end is written; said once.
        _complain(pid)
    finally:
        os.close(fd)
    return True


_complained: set[int] = set()


def _complain(pid: int) -> None:
    if pid not in _complained:
        _complained.add(pid)
        with contextlib.suppress(OSError):  # on a full disk: no reason to end an attempt
            os.write(2, b"not allowed to signal process %d; the attempt ends when it does\n" % pid)


def signal_tree(number: int) -> None:
    """`number` to every process below this one, and SIGCONT, so that stopped ones act on it too."""
    tree = descendants(os.getpid())
    for pid, (started, _) in tree.items():
        send(pid, started, number)
    if number not in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTSTP):
        for pid, (started, _) in tree.items():
            send(pid, started, signal.SIGCONT)


def kill_tree() -> None:
    """SIGKILL to every process below this one. What is born meanwhile is left to the next call."""
    root, own_group = os.getpid(), os.getpgrp()
    # Every group below the shim is the tree's own: the worker began a session, and no group spans two.
    kill_all(lambda: (descendants(root), {own_group}))


Found = dict[int, tuple[int, int]]
"""Processes to end: pid → (start time, process group)."""


def kill_all(look: Callable[[], tuple[Found, set[int]]]) -> Found:
    """Freeze what `look` finds until it finds nothing new (a fork bomb must lose), then kill it and return it.

    `look` answers with what to end and with the groups to spare. All other groups found are killed as well: that is
    one step for the kernel, so whoever forks on and on inside a group cannot slip through.
    """
    frozen: Found = {}
    spared: set[int] = {0, 1}
    for _ in range(FREEZE_PASSES):
        found, spared_now = look()
        spared |= spared_now
        new = {pid: facts for pid, facts in found.items() if frozen.get(pid) != facts}
        if not new:
            break
        for pid, (started, _group) in new.items():
            send(pid, started, signal.SIGSTOP)
        frozen.update(new)
    for group in {group for _, group in frozen.values()} - spared:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
    for pid, (started, _group) in frozen.items():
        send(pid, started, signal.SIGKILL)
    return frozen


def kill_children() -> None:
    """SIGKILL to the direct children, by the kernel's own short list: quick enough to catch a chain of forks whose
    links die faster than a walk over /proc takes. Whoever is orphaned by it is a direct child next time."""
    pid = os.getpid()
    with contextlib.suppress(OSError):  # a kernel without CONFIG_PROC_CHILDREN: the walk must do
        with open(f"/proc/{pid}/task/{pid}/children", "rb") as file:
            children = file.read().split()
        for child in children:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(int(child), signal.SIGKILL)  # ours and not reaped: the pid cannot be another's


def reap() -> tuple[list[tuple[int, int]], bool]:
    """Every child that ended, as (pid, wait status), and whether none is left: then the tree is gone, for this
    process is its subreaper."""
    ended: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended, True
        if pid == 0:
            return ended, False
        ended.append((pid, status))
