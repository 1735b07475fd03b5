"""Between `up --detach` and the stack that it started: how the start goes, over a pipe that no full disk can stop.

Owns what is written on it, at both ends; knows neither what is started nor what is shown.
"""

from __future__ import annotations

import contextlib
import os

import msgspec

from trainshed_client.errors import ErrorCode, TrainshedError


class StartReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the pipe: how far it is, that it is ready (with what it prints then), or the error that it ends by."""

    starting: str = ""
    ready: str = ""
    error: str = ""
    code: ErrorCode = ErrorCode.UNAVAILABLE
    path: str | None = None

    @property
    def refusal(self) -> TrainshedError | None:
        """The error that it ends by."""
        return TrainshedError(self.code, self.error, self.path) if self.error else None


def start_report(line: bytes) -> StartReport:
    """What a line of the pipe says."""
    return msgspec.json.decode(line, type=StartReport)


class WaitingCaller:
    """The end of who starts, where somebody waits for it; ``fd`` None: nobody does."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd
        if fd is not None:
            os.set_inheritable(fd, False)

    def starting(self, text: str) -> None:
        """How far it is."""
        self._write(StartReport(starting=text))

    def ready(self, text: str) -> None:
        """It serves. Nobody waits any longer."""
        self._write(StartReport(ready=text))
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def refused(self, error: TrainshedError) -> None:
        """It ends."""
        self._write(StartReport(error=error.message, code=error.code, path=error.path))

    def _write(self, report: StartReport) -> None:
        if self._fd is not None:
            with contextlib.suppress(BrokenPipeError):  # whoever started it is gone; it goes on
                os.write(self._fd, msgspec.json.encode(report) + b"\n")
