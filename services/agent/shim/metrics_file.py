"""metrics.jsonl, the history of what an attempt's worker measured: how a line reads, and how lines are added to the file.

Owns the format and that a killed writer leaves a file that can be read; knows no worker, no thread and no agent.
"""

from __future__ import annotations

import contextlib
import json
import os
import time

from services.agent.shim.numbers import in_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

NAME = "metrics.jsonl"
_BLOCK = 64 * 1024


class LineTimes:
    """The times of one writer's lines, in microseconds since 1970: each later than the one before, whatever the clock does,
    so that a line is known by its time."""

    def __init__(self, last: int = 0) -> None:
        self._last = last

    def next(self) -> int:
        """The time of a line that is made now."""
        self._last = max(time.time_ns() // 1000, self._last + 1)
        return self._last


def line(
    at: int,
    step: int | None,
    progress: float | None,
    metrics: Iterable[tuple[str, float]],
) -> bytes:
    """One line, with its end: what one message bore. ``at`` in microseconds since 1970."""
    record = {
        "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(at // 1_000_000))}.{at % 1_000_000:06d}Z",
        "step": step,
        "progress": progress,
        "metrics": {name: in_json(value) for name, value in metrics},
    }
    return json.dumps(record, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def append(path: str, data: bytes) -> None:
    """Add whole lines to the file, which is made where there is none. A line that a killed writer tore is cut off first; of
    ``data`` nothing is left where it could not all be written. Raises OSError."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        size = os.fstat(fd).st_size
        end = whole_lines(fd, size)
        if end < size:
            os.ftruncate(fd, end)
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(fd, left) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(fd, end)
            raise
    finally:
        os.close(fd)


def whole_lines(fd: int, size: int) -> int:
    """Where the last whole line of the first ``size`` bytes ends; 0: there is none. Raises OSError."""
    end = size
    while end > 0:
        begin = max(0, end - _BLOCK)
        cut = os.pread(fd, end - begin, begin).rfind(b"\n")
        if cut >= 0:
            return begin + cut + 1
        end = begin
    return 0
