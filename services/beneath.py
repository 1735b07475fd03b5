"""Opening what lies in a run's folder, where its worker may have put anything: links, pipes, devices, others' files.

Owns that no way there leads out of the folder and that nothing opened there hangs; knows no run's files by name.

A path is trusted up to the folder that is named after a run; from there on nothing is followed: by openat2 (Linux 5.6), else,
also where a container's filter forbids that, folder by folder.

A file may have a second name there, and its worker may have taken that away again by now (where fs.protected_hardlinks is 0), so
root, who may open all, goes by whose it is: it writes to files of the run folder's owner alone, to whom it gives what it makes,
and reads beside them what everybody may.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import re
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

RUN_FOLDER = re.compile(r"[a-z2-7]{26}")
"""How a run's folder is called."""
_OPENAT2 = 437
"""The same on every kind of machine."""
_NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH = 0x02, 0x04, 0x08
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC

_syscall = ctypes.CDLL(None, use_errno=True).syscall


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def split(path: str) -> tuple[str, str]:
    """The folder that is trusted, and the way from there: it begins with the run's folder. Of a path without one the last
    part alone is not trusted."""
    parts = path.split("/")
    for place, part in enumerate(parts):
        if RUN_FOLDER.fullmatch(part):
            return "/".join(parts[:place]) or ("/" if place else "."), "/".join(parts[place:])
    folder, _, name = path.rpartition("/")
    return folder or ("/" if path.startswith("/") else "."), name


def open_file(path: str, flags: int, mode: int = 0o600) -> int:
    """A descriptor of a regular file that is made if ``flags`` say so. It never blocks.

    Raises OSError: ELOOP for a link on the way, EINVAL for what is no regular file, EPERM for another's.
    """
    root, below = split(path)
    within = os.open(root, _FOLDER)
    try:
        fd = _opened(within, below, flags | os.O_NONBLOCK, mode)
        try:
            _check(fd, within, below, flags)
        except BaseException:
            os.close(fd)
            raise
        return fd
    finally:
        os.close(within)


def _opened(within: int, below: str, flags: int, mode: int) -> int:
    while flags & os.O_CREAT:
        with contextlib.suppress(FileNotFoundError):
            return open_at(within, below, flags & ~os.O_CREAT)
        with contextlib.suppress(FileExistsError):
            fd = open_at(within, below, flags | os.O_EXCL, mode)
            _give(fd, within, below)
            return fd
    return open_at(within, below, flags)


def _give(fd: int, within: int, below: str) -> None:
    """What root makes belongs to whom the run's folder belongs to."""
    top = below.partition("/")[0]
    if os.geteuid() == 0 and top != below:
        owner = os.stat(top, dir_fd=within, follow_symlinks=False)
        os.fchown(fd, owner.st_uid, owner.st_gid)


def open_folder(path: str, flags: int = os.O_PATH) -> int:
    """A descriptor of a folder. Raises OSError: ELOOP or ENOTDIR for a link on the way or in its place."""
    root, below = split(path)
    within = os.open(root, _FOLDER)
    try:
        return open_at(within, below, flags | os.O_DIRECTORY)
    finally:
        os.close(within)


@contextlib.contextmanager
def opened_folder(path: str) -> Iterator[int]:
    """The same while the block lasts; also to list it."""
    fd = open_folder(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def make_file(within: int, name: str, mode: int) -> int:
    """A descriptor, for writing, of a new file of this name in the place of what is there: a link goes, and not what it leads
    to. It belongs to the folder's owner. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=within)
    fd = os.open(
        name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=within
    )
    if os.geteuid() == 0:
        owner = os.fstat(within)
        os.fchown(fd, owner.st_uid, owner.st_gid)
    return fd


def look(path: str) -> os.stat_result:
    """What is there, itself where it is a link. Raises OSError."""
    folder, _, name = path.rpartition("/")
    within = open_folder(folder or "/")
    try:
        return os.stat(name, dir_fd=within, follow_symlinks=False)
    finally:
        os.close(within)


def open_at(within: int, below: str, flags: int, mode: int = 0) -> int:
    """What is there below a folder; no link is followed and no `..` gone. Raises OSError."""
    parts = below.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise OSError(errno.EINVAL, "no way that leads down", below)
    flags |= os.O_NOFOLLOW | os.O_CLOEXEC
    if flags & os.O_CREAT == 0:
        mode = 0
    return _openat2(within, below, flags, mode) if _has_openat2() else walk(within, parts, flags, mode)


def walk(within: int, parts: list[str], flags: int, mode: int) -> int:
    """The same, folder by folder."""
    opened = [os.dup(within)]
    try:
        for part in parts[:-1]:
            opened.append(os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=opened[-1]))
        return os.open(parts[-1], flags, mode, dir_fd=opened[-1])
    finally:
        for fd in opened:
            os.close(fd)


def _check(fd: int, within: int, below: str, flags: int) -> None:
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", below)
    if os.geteuid() == 0:
        owner = os.stat(below.partition("/")[0], dir_fd=within, follow_symlinks=False)
        reads = flags & os.O_ACCMODE == os.O_RDONLY
        if found.st_uid != owner.st_uid and not (reads and found.st_mode & stat.S_IROTH):
            raise PermissionError(errno.EPERM, "it is the file of another user", below)


def _openat2(within: int, below: str, flags: int, mode: int) -> int:
    how = _How(flags, mode, _BENEATH | _NO_SYMLINKS | _NO_MAGICLINKS)
    while True:
        fd = int(_syscall(_OPENAT2, within, os.fsencode(below), ctypes.byref(how), ctypes.sizeof(how)))
        if fd >= 0:
            return fd
        number = ctypes.get_errno()
        if number not in (errno.EINTR, errno.EAGAIN):
            raise OSError(number, os.strerror(number), below)


@functools.cache
def _has_openat2() -> bool:
    root = os.open("/", _FOLDER)
    try:
        os.close(_openat2(root, ".", _FOLDER, 0))
    except OSError:  # an older kernel's ENOSYS, a filter's EPERM
        return False
    finally:
        os.close(root)
    return True
