"""What an OSError means, in a person's text: no number, the path, and of a limit or a full disk how much there is.

Owns that text, which begins small and fits into brackets or after a colon; knows no setting and no service.
"""

from __future__ import annotations

import errno
import os
import re
import resource
from collections.abc import Iterable

_NUMBER = re.compile(r"\[Errno (\d+)\]")
_FULL_BYTES = 1 << 20
"""A disk with less is one that is full: some of it may be kept for root."""
_OPEN_FILES = 65536
_OF_A_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE)
"""What the path that met it has no part in; of a full disk its folder is named."""

_OF_A_CLASS = {"TimeoutError": "no answer in time"}
"""Of asyncio's own, which is no OSError before Python 3.11."""
_TEXTS = {
    errno.ENFILE: "too many open files on this machine: `sysctl fs.file-max=1000000` allows more",
    errno.EEXIST: "something else bears that name",
    errno.ECONNREFUSED: "connection refused",  # asyncio's text is another
}


def cause(error: BaseException, folders: Iterable[str] = ()) -> str:
    """What went wrong, with the path where it names one. ``folders``: where it may have written, for a full disk without
    a path. Of another exception its own text."""
    what = why(error, folders)
    where = path_of(error) if isinstance(error, OSError) and error.errno not in _OF_A_MACHINE else None
    return f"{where}: {what}" if where else what


def why(error: BaseException, folders: Iterable[str] = ()) -> str:
    """The same where the message names the path already."""
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, OSError) and number is None:
        # Python's own, or asyncio's sum over the addresses of a host
        texts = dict.fromkeys(os.strerror(int(number)).lower() for number in _NUMBER.findall(str(error)))
        what = ", ".join(texts) or str(error).removeprefix("nats: ") or "no answer in time"
        return what[:1].lower() + what[1:]
    if not isinstance(error, OSError) or number is None:
        return str(error).removeprefix("nats: ").strip("'\" ") or _OF_A_CLASS.get(
            name := type(error).__name__, name
        )
    if number == errno.ENOSPC:
        return _full(folder_of(error, folders))
    if number == errno.EDQUOT:
        return f"the quota on {_disk(folder_of(error, folders))} is used up"
    if number == errno.EMFILE:
        return _too_many_files()
    if number == errno.ENOENT and path_of(error) is None and not has_cwd():
        return "the folder that this was started in was deleted meanwhile"
    return _TEXTS.get(number) or (error.strerror or os.strerror(number)).lower()


def path_of(error: OSError) -> str | None:
    """The path that it names, of two the one that was to be made."""
    name = error.filename2 if error.filename2 is not None else error.filename
    if isinstance(name, bytes):
        name = os.fsdecode(name)
    return name if isinstance(name, str) and name else None


def folder_of(error: OSError, folders: Iterable[str] = ()) -> str | None:
    """The folder on whose disk it happened: that of its path, else of what may have been written to that has no room."""
    if (path := path_of(error)) is not None:
        return _that_is_there(path)
    written = [os.path.dirname(os.path.realpath(f"/proc/self/fd/{number}")) for number in (1, 2)]
    places = (*written, *folders, os.environ.get("TMPDIR", "/tmp"))
    return next((there for place in places if _is_full(there := _that_is_there(place))), None)


def has_cwd() -> bool:
    """Whether the folder that this process is in is still there."""
    try:
        os.getcwd()
    except OSError:
        return False
    return True


def _too_many_files() -> str:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    more = min(hard, _OPEN_FILES) if hard > soft else max(4 * soft, _OPEN_FILES)
    return (
        f"too many open files: this process may have {soft}; `ulimit -n {more}` before its start, or LimitNOFILE={more} in "
        "its systemd unit, allows more"
    )


def _that_is_there(path: str) -> str:
    """The innermost folder above a path that can be looked at."""
    path = os.path.abspath(path) if has_cwd() else path
    while not os.path.isdir(path) and path not in ("", "/"):
        path = os.path.dirname(path)
    return path or "/"


def _is_full(folder: str) -> bool:
    try:
        disk = os.statvfs(folder)
    except OSError:
        return False
    if not disk.f_blocks:  # /proc and its like hold nothing: what is written there goes to a pipe
        return False
    return disk.f_bavail * disk.f_frsize < _FULL_BYTES or bool(disk.f_files and not disk.f_favail)


def _full(folder: str | None) -> str:
    if folder is None:
        return "the disk is full"
    try:
        disk = os.statvfs(folder)
    except OSError:
        return f"{_disk(folder)} is full"
    if disk.f_files and not disk.f_favail:
        return f"{_disk(folder)} is full: it can hold no more files (inodes)"
    return f"{_disk(folder)} is full: {disk.f_bavail * disk.f_frsize >> 20} MB are free"


def _disk(folder: str | None) -> str:
    return "the disk" if folder is None else f"the disk of {folder}"
