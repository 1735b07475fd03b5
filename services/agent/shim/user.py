"""How a worker's process becomes its user: for a moment, to look and open as he may, and for good before exec.

Owns the order of that and its proof; knows no attempt. Every process here has one thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import os

from services.agent.shim import process_tree
from services.agent.shim.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

UMASK = 0o077
"""Of a worker that runs as a user who was chosen for it: what it leaves is that user's alone."""
PR_SET_NO_NEW_PRIVS = 38

_KEYCTL = {"x86_64": 250, "aarch64": 219, "riscv64": 219}
_JOIN_SESSION_KEYRING = 1

_syscall = ctypes.CDLL(None, use_errno=True).syscall
_prctl = ctypes.CDLL(None, use_errno=True).prctl


@value
class ShimUser:
    """As whom a worker runs."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str
    shell: str


@contextlib.contextmanager
def acting_as(user: ShimUser | None) -> Iterator[None]:
    """Look at files, open and make them as that user while the block lasts; None: as ourselves. Raises OSError.

    Saved and real user stay root's: nobody else may signal or trace this process meanwhile.
    """
    if user is None:
        yield
        return
    groups, gid, uid = os.getgroups(), os.getegid(), os.geteuid()
    try:
        os.setgroups(user.groups)
        os.setegid(user.gid)
        os.seteuid(user.uid)
        yield
    finally:
        os.seteuid(uid)
        os.setegid(gid)
        os.setgroups(groups)


def become(user: ShimUser | None, shim: int, *, no_new_privs: bool) -> None:
    """For good: exec follows. Raises OSError, also where there would be a way back."""
    if user is not None:
        _leave_keyring()
        os.setgroups(user.groups)
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
        if user.uid != 0 and _may_be_root():
            raise PermissionError(f"there is a way back from {user.name} to root")
        os.umask(UMASK)
        process_tree.die_with_parent(shim)  # the kernel forgets it where a process becomes another's
    if no_new_privs and _prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS)")


def _leave_keyring() -> None:
    """A session keyring of its own: who possesses that of root's session may read what it holds."""
    number = _KEYCTL.get(os.uname().machine)
    if number is not None:
        _syscall(
            number, _JOIN_SESSION_KEYRING, None
        )  # a kernel without keys, a container's filter: nothing to leave


def _may_be_root() -> bool:
    try:
        os.setuid(0)
    except PermissionError:
        return os.getuid() == 0 or 0 in os.getresuid()
    return True


def close_at_exec() -> None:
    """Every descriptor but the three that a program is started with, whoever left it to us."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            with contextlib.suppress(OSError):  # the listing's own
                os.set_inheritable(int(name), False)
