"""`trainshed up` in the background: started in a session of its own, watched until it is ready.

Owns the hand-over from the terminal to the log file; knows no service.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from services.settings import Settings
from services.up.log_file import open_log, up_log
from services.up.state_lock import holder, running_already, unusable
from trainshed_client.errors import ErrorCode, ExitCode, TrainshedError

PRINT_AFTER_S = 5.0
END_WITHIN_S = 10.0
_SHOWN_BYTES = 64 * 1024


def start_detached(settings: Settings, arguments: Sequence[str], show: Callable[[str], None]) -> int:
    """Start ``trainshed up`` with these options in the background and wait until it is ready; an exit code.

    It outlives the terminal: a session of its own without one, its output in the log file, the state folder as its
    working directory. ``show`` is given what it prints when it is ready, or why it did not get that far: then the code is
    its own, and nothing runs. Raises TrainshedError where another stack is running, or the folder cannot be used.
    """
    if (pid := holder(settings.state_dir)) is not None:
        raise running_already(settings.state_dir, pid)
    path = up_log(settings.state_dir)
    try:
        settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        log = open_log(path)
    except OSError as error:
        raise unusable(settings.state_dir, error) from None
    begin = os.fstat(log).st_size
    read, write = os.pipe()
    try:
        process = _spawn(settings, arguments, log, write)
    finally:
        os.close(log)
        os.close(write)
    try:
        text = _until_ready(read, lambda: show(f"still starting; its log is {path}"))
    except KeyboardInterrupt:
        _end(process)
        raise
    finally:
        os.close(read)
    if text:
        for line in _complaints(path, begin, log_lines_only=True):
            show(line)
        show(text)
        show(f"It runs in the background (pid {process.pid}); log in {path}. Stop it:  trainshed down")
        return ExitCode.OK
    code = process.wait()
    for line in _complaints(path, begin):
        show(line)
    show(f"the stack did not start; its log is {path}")
    return 128 - code if code < 0 else code or ExitCode.NO_SERVICE


def _spawn(settings: Settings, arguments: Sequence[str], log: int, ready: int) -> subprocess.Popen[bytes]:
    # Its working directory is another one, so no folder may be relative to ours.
    folders = {"TRAINSHED_STATE_DIR": settings.state_dir, "TRAINSHED_RUNS_DIR": settings.runs_dir}
    if settings.var_logs_dir is not None:
        folders["VAR_LOGS_DIR"] = settings.var_logs_dir
    try:
        # The leader of a session would be given the next terminal that it opened; nothing of ours opens one.
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "services.cli", "up", *arguments, "--ready-fd", str(ready)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=settings.state_dir,
            env={**os.environ, **{name: str(folder) for name, folder in folders.items()}},
            pass_fds=(ready,),
            start_new_session=True,
        )
    except OSError as error:
        raise TrainshedError(
            ErrorCode.UNAVAILABLE, f"{sys.executable} could not be started ({error.strerror})"
        ) from None


def _until_ready(read: int, late: Callable[[], None]) -> str:
    """What is written to the pipe until its other end is closed: something once it is ready, nothing if it ended."""
    if not select.select([read], [], [], PRINT_AFTER_S)[0]:
        late()
    with os.fdopen(os.dup(read), "rb") as pipe:
        return pipe.read().decode(errors="replace").strip()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ctrl-C while it starts: nothing is left behind."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_WITHIN_S)


def _complaints(path: Path, begin: int, *, log_lines_only: bool = False) -> list[str]:
    """What was printed on stderr from ``begin`` on; of the log lines, those from WARNING on."""
    with path.open("rb") as file:
        file.seek(begin)
        text = file.read(_SHOWN_BYTES).decode(errors="replace")
    printed = []
    for line in text.splitlines():
        try:
            logged = json.loads(line)
        except ValueError:
            logged = None
        if not isinstance(logged, dict):
            if not log_lines_only:
                printed.append(line)
        elif logged.get("level") not in ("debug", "info"):
            more = {k: v for k, v in logged.items() if k not in ("time", "level", "logger", "event")}
            printed.append(" ".join([f"{logged.get('event')}", *(f"{k}={v}" for k, v in more.items())]))
    return printed
