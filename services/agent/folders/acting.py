"""Looking at files as a worker's user, in one thread of an agent that root runs.

Owns the thread's file system user, group and groups, which the kernel keeps for each thread; every other thread stays root's.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
from collections.abc import Iterator, Sequence

from services.agent.folders.files import WorkerUser

_SETGROUPS = {"x86_64": 116, "aarch64": 159, "riscv64": 159}
"""The call itself: the C library's has all threads follow."""
_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def acting_as(user: WorkerUser | None) -> Iterator[None]:
    """What this thread opens and looks at while the block lasts is what that user may; None: as ever. Blocks; raises OSError."""
    if user is None:
        yield
        return
    groups, gid, uid = os.getgroups(), os.getegid(), os.geteuid()
    try:
        _set_groups(user.groups)
        _set(_libc.setfsgid, user.gid)
        _set(_libc.setfsuid, user.uid)
        yield
    finally:
        _set(_libc.setfsuid, uid)
        _set(_libc.setfsgid, gid)
        _set_groups(groups)


def _set(call: ctypes._NamedFuncPointer, number: int) -> None:
    """These calls report no error: a second one that changes nothing says what holds."""
    call(number)
    if call(-1) != number:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


def _set_groups(groups: Sequence[int]) -> None:
    number = _SETGROUPS.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"not known how to on {platform.machine()}")
    given = (ctypes.c_uint32 * len(groups))(*groups)
    if _libc.syscall(number, len(groups), given) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
