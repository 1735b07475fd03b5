"""Plain trouble in a person's text: what the system refused, where, and what to do about it.

Owns what each kind of OSError and of lost connection means, and its exit code; knows no verb and no service.
"""

from __future__ import annotations

import errno
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

from trainshed_client.errors import ErrorCode, TrainshedError

_NAMED_WRONG = frozenset(
    [
        *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG),
        *(errno.ELOOP, errno.EACCES, errno.EPERM, errno.EROFS, errno.EINVAL, errno.ENOEXEC),
    ]
)
"""A path or a permission that stays wrong however often it is tried: bad input, and systemd does not try again."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_BYTES = 1 << 20
"""A disk with less is one that is full: some of it may be kept for root."""


def cause(error: OSError) -> str:
    """What went wrong as a part of a sentence, without the number of the error."""
    match error.errno:
        case errno.ENOSPC:
            return _full(_folder_of(error))
        case errno.EDQUOT:
            return f"the quota on {_disk(_folder_of(error))} is used up"
        case errno.EMFILE:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            return f"too many open files: this process may have {soft}, and {hard} at the most"
        case errno.ENFILE:
            return "too many open files on this machine (fs.file-max)"
        case errno.ENOENT if _path_of(error) is None and not _has_cwd():
            return "the folder that this was started in was deleted meanwhile"
        case _:
            what = (error.strerror or str(error) or type(error).__name__).lower()
            where = _path_of(error)
            return f"{where}: {what}" if where else what


def plain(error: BaseException) -> TrainshedError | None:
    """The error for people that says what to do; None where it is none of these but a fault of the program.

    INVALID is what stays wrong until somebody mends a path, a permission or a setting; UNAVAILABLE what may pass.
    """
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    match error:
        case TrainshedError():
            return error
        case UnicodeEncodeError():
            text = str(error.object.encode("utf-8", "surrogateescape"))[2:-1]
            return TrainshedError(ErrorCode.INVALID, f"not UTF-8, and so no text: {text:.200}")
        case TimeoutError() if error.errno is None:
            return _lost("no answer in time")
        case ConnectionError():
            return _lost((error.strerror or str(error) or "it was closed").lower())
        case OSError():
            return _refused(error)
        case MemoryError():
            return TrainshedError(
                ErrorCode.UNAVAILABLE, "no memory is left on this machine for it. Look who has it: free -m"
            )
        case RuntimeError() if "can't start new thread" in str(error):
            return TrainshedError(
                ErrorCode.UNAVAILABLE, "no thread can be started. Look at the limits: ulimit -u"
            )
        case _ if _is_of_the_connection(error):
            return _lost(str(error).removeprefix("nats: ") or "no answer in time")
        case _:
            return None


def _is_of_the_connection(error: BaseException) -> bool:
    """Whether it is of nats-py or of an append; asks without loading them, for who raised it has."""
    log = sys.modules.get("events.log")
    return type(error).__module__.startswith("nats.") or (
        log is not None and isinstance(error, log.UnknownOutcome)
    )


def _refused(error: OSError) -> TrainshedError:
    text = cause(error)
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            folder = _folder_of(error)
            look = f"df -h {folder}" if folder is not None else "df -h"
            return TrainshedError(ErrorCode.UNAVAILABLE, f"{text}. Make room first; how much is left: {look}")
        case errno.EMFILE:
            return TrainshedError(
                ErrorCode.UNAVAILABLE,
                f"{text}. Raise it where this is started: ulimit -n 65536 (systemd: LimitNOFILE=65536)",
            )
        case errno.ENFILE:
            return TrainshedError(ErrorCode.UNAVAILABLE, f"{text}. Raise it: sysctl fs.file-max=1000000")
        case errno.ENOMEM | errno.EAGAIN:
            return TrainshedError(
                ErrorCode.UNAVAILABLE, f"{text}. Look at memory and limits: free -m; ulimit -a"
            )
        case number if number in _NAMED_WRONG:
            return TrainshedError(ErrorCode.INVALID, f"{text}. {_other(error)}")
        case _:
            where = _path_of(error)
            return TrainshedError(
                ErrorCode.UNAVAILABLE,
                f"{text}. Try again{f', and look at its storage: df {where}' if where else ''}",
            )


def _other(error: OSError) -> str:
    """What to do about a path that cannot be used: its setting, where it comes of one."""
    where = _path_of(error)
    if where is None:
        return "Go to a folder that is there: cd" if not _has_cwd() else "Try: trainshed --help"
    for variable, folder in _setting_folders():
        if _of_one_branch(Path(where), folder):
            return f"It is of {variable} ({folder}): mend it, or name another folder: {variable}=DIR trainshed ..."
    return f"Look at it: ls -ld {where}"


def _setting_folders() -> Iterator[tuple[str, Path]]:
    """The folders that settings name, the innermost first."""
    from services.settings import Settings

    try:
        settings = Settings.read()
    except TrainshedError:
        return
    if settings.var_logs_dir is not None:
        yield "VAR_LOGS_DIR", settings.var_logs_dir
    if os.environ.get("TRAINSHED_RUNS_DIR"):
        yield "TRAINSHED_RUNS_DIR", settings.runs_dir
    yield "TRAINSHED_STATE_DIR", settings.state_dir


def _of_one_branch(path: Path, folder: Path) -> bool:
    """Whether one lies in the other: a folder's parents are made with it."""
    return path.is_relative_to(folder) or (path != Path("/") and folder.is_relative_to(path))


def _path_of(error: OSError) -> str | None:
    """The path that it names, of two the one that was to be made."""
    name = error.filename2 if error.filename2 is not None else error.filename
    if isinstance(name, bytes):
        name = os.fsdecode(name)
    return name if isinstance(name, str) and name else None


def _folder_of(error: OSError) -> str | None:
    """The folder on whose disk it happened: that of the path, else of what is written to that has no room."""
    if (path := _path_of(error)) is not None:
        return _that_is_there(path)
    written = [os.path.dirname(os.path.realpath(f"/proc/self/fd/{number}")) for number in (1, 2)]
    folders = (*written, *(str(folder) for _, folder in _setting_folders()), os.environ.get("TMPDIR", "/tmp"))
    return next((there for folder in folders if (there := _that_is_there(folder)) and _is_full(there)), None)


def _that_is_there(path: str) -> str:
    """The innermost folder above a path that can be looked at."""
    path = os.path.abspath(path) if _has_cwd() else path
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


def _has_cwd() -> bool:
    try:
        os.getcwd()
    except OSError:
        return False
    return True


def _lost(why: str) -> TrainshedError:
    return TrainshedError(
        ErrorCode.UNAVAILABLE, f"the connection to the stack failed ({why}). Is it up? trainshed up"
    )
