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
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from services.settings import Settings
from services.up.log_file import open_log, up_log
from services.up.state_lock import holder, running_already, unusable
from services.up.waiting_caller import StartReport, start_report
from trainshed_client.errors import ErrorCode, ExitCode, TrainshedError
from trainshed_client.os_errors import why

PRINT_AFTER_S = 5.0
PRINT_EVERY_S = 10.0
LOOK_EVERY_S = 0.25
END_WITHIN_S = 10.0


def start_detached(settings: Settings, arguments: Sequence[str], show: Callable[[str], None]) -> int:
    """Start ``trainshed up`` with these options in the background and wait until it is ready; an exit code.

    It outlives the terminal: a session of its own without one, its output in the log file, the state folder as its
    working directory. ``show`` is given what it complains of meanwhile, and what it prints when it is ready. Raises
    TrainshedError where another stack is running, the folder cannot be used, or it ended by one; nothing runs then.
    """
    if (pid := holder(settings.state_dir)) is not None:
        raise running_already(settings.state_dir, pid)
    path = up_log(settings.state_dir)
    try:
        settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        log = open_log(path)
    except OSError as error:
        raise unusable(settings.state_dir, error) from None
    written = _Written(path, os.fstat(log).st_size)
    read, write = os.pipe()
    try:
        process = _spawn(settings, arguments, log, write)
    finally:
        os.close(log)
        os.close(write)
    try:
        report = _until_ready(read, written, show)
    except KeyboardInterrupt:
        _end(process)
        raise
    finally:
        os.close(read)
    if report.ready:
        written.show_new(show)
        show(report.ready)
        show(f"It runs in the background (pid {process.pid}); log in {path}. Stop it:  trainshed down")
        return ExitCode.OK
    code = process.wait()
    written.show_new(show)
    if report.refusal is None:
        for line in written.printed:
            show(line)
    show(f"the stack did not start; its log is {path}")
    if report.refusal is not None:
        raise report.refusal
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
            ErrorCode.UNAVAILABLE, f"{sys.executable} could not be started ({why(error)})"
        ) from None


def _until_ready(read: int, written: _Written, show: Callable[[str], None]) -> StartReport:
    """What is reported until the pipe's other end is closed: nothing where it ended and could not say why."""
    late = time.monotonic() + PRINT_AFTER_S
    heard, report = b"", StartReport()
    while True:
        if select.select([read], [], [], LOOK_EVERY_S)[0]:
            if not (data := os.read(read, 4096)):
                return report
            *lines, heard = (heard + data).split(b"\n")
            for line in lines:
                report = start_report(line)
        written.show_new(show)
        if time.monotonic() >= late and not (report.ready or report.error):
            late = time.monotonic() + PRINT_EVERY_S
            show(f"{report.starting or 'still starting'}; its log is {written.path}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ctrl-C while it starts: nothing is left behind."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_WITHIN_S)


class _Written:
    """What the stack writes on stderr, from ``begin`` of its log file on. ``printed``: lines that are no log lines."""

    def __init__(self, path: Path, begin: int) -> None:
        self.path = path
        self.printed: list[str] = []
        self._position = begin
        self._part = b""
        self._shown: set[str] = set()

    def show_new(self, show: Callable[[str], None]) -> None:
        """Show the log lines from WARNING on that were not shown yet; one that is repeated is shown once."""
        try:
            with self.path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                file.seek(self._position if self._position <= size else 0)  # it is cut where it grew too long
                new = file.read()
                self._position = file.tell()
        except OSError:
            return  # taken away under it: what it writes is nowhere to be read
        *lines, self._part = (self._part + new).split(b"\n")
        for line in lines:
            complaint = self._complaint(line.decode(errors="replace"))
            if complaint is not None and complaint not in self._shown:
                self._shown.add(complaint)
                show(complaint)

    def _complaint(self, line: str) -> str | None:
        try:
            logged = json.loads(line)
        except ValueError:
            logged = None
        if not isinstance(logged, dict):
            self.printed.append(line)
            return None
        if logged.get("level") in ("debug", "info"):
            return None
        more = {k: v for k, v in logged.items() if k not in ("time", "level", "logger", "event")}
        return " ".join([f"{logged.get('event')}", *(f"{k}={v}" for k, v in more.items())])
