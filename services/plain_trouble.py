"""Plain trouble at the edge of a command: every OSError and lost connection as an error that says what to do.

Owns which of them stays wrong until it is mended (exit code 2) and which may pass (3); knows no verb and no service.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from trainshed_client.errors import Advised, ErrorCode, TrainshedError
from trainshed_client.os_errors import cause, folder_of, has_cwd, path_of

_NAMED_WRONG = frozenset(
    [
        *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG),
        *(errno.ELOOP, errno.EACCES, errno.EPERM, errno.EROFS, errno.EINVAL, errno.ENOEXEC),
    ]
)
"""A path or a permission that stays wrong however often it is tried: bad input, and systemd does not try again."""


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
            return _lost(cause(error))
        case ConnectionError():
            return _lost(cause(error))
        case OSError():
            return refusal(error)
        case MemoryError():
            return _passing("no memory is left on this machine for it. Look who has it: free -m")
        case RuntimeError() if "can't start new thread" in str(error):
            return _passing("no thread can be started. Look at the limits: ulimit -u")
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


def may_pass(error: OSError) -> bool:
    """Whether it is the system's trouble (no descriptors, no room, storage that fails) and no path or content to mend."""
    return error.errno not in _NAMED_WRONG


def refusal(error: OSError) -> TrainshedError:
    """The error for people of what the system refused."""
    text = cause(error, _folders())
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            folder = folder_of(error, _folders())
            return _passing(
                f"{text}. Make room first; how much is left: df -h{f' {folder}' if folder else ''}"
            )
        case errno.EMFILE | errno.ENFILE:
            return _passing(f"{text}. Then try again")
        case errno.ENOMEM | errno.EAGAIN:
            return _passing(f"{text}. Look at memory and limits: free -m; ulimit -a")
        case _ if not may_pass(error):
            return Advised(ErrorCode.INVALID, f"{text}. {_other(error)}")
        case _:
            where = path_of(error)
            return _passing(f"{text}. Try again{f', and look at its storage: df {where}' if where else ''}")


def _other(error: OSError) -> str:
    """What to do about a path that cannot be used: its setting, where it comes of one."""
    where = path_of(error)
    if where is None:
        return "Try: trainshed --help" if has_cwd() else "Go to a folder that is there: cd"
    for variable, folder in _setting_folders():
        if _of_one_branch(Path(where), folder):
            return f"It is of {variable} ({folder}): mend it, or name another folder: {variable}=DIR trainshed ..."
    return f"Look at it: ls -ld {where}"


def _setting_folders() -> Iterator[tuple[str, Path]]:
    """The folders that settings name, the innermost first."""
    from services.settings import Settings

    try:
        settings = Settings.read()
    except (TrainshedError, OSError):
        return
    if settings.var_logs_dir is not None:
        yield "VAR_LOGS_DIR", settings.var_logs_dir
    if os.environ.get("TRAINSHED_RUNS_DIR"):
        yield "TRAINSHED_RUNS_DIR", settings.runs_dir
    yield "TRAINSHED_STATE_DIR", settings.state_dir


def _folders() -> list[str]:
    return [str(folder) for _, folder in _setting_folders()]


def _of_one_branch(path: Path, folder: Path) -> bool:
    """Whether one lies in the other: a folder's parents are made with it."""
    return path.is_relative_to(folder) or (path != Path("/") and folder.is_relative_to(path))


def _lost(why: str) -> TrainshedError:
    return _passing(f"the connection to the stack failed ({why}). Is it up? trainshed up")


def _passing(text: str) -> TrainshedError:
    return Advised(ErrorCode.UNAVAILABLE, text)
