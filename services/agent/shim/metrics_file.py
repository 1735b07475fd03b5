"""metrics.jsonl, the history of what an attempt's worker measured: how a line reads, and how lines are added to the file.

Owns the format and that a killed writer leaves a file that can be read; knows no worker, no thread and no agent.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time

from services.agent.shim.numbers import in_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

NAME = "metrics.jsonl"
_BLOCK = 64 * 1024
_OFFSET = re.compile(rb',"offset":(\d+)\}\Z')
_TIME = re.compile(rb'\{"time":"([^"]*)"')


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
    offset: int | None = None,
) -> bytes:
    """One line, with its end: what one message bore. ``at`` in microseconds since 1970; ``offset``: where the line of
    stdout begins that it is of."""
    record: dict[str, object] = {
        "time": rfc3339(at),
        "step": step,
        "progress": progress,
        "metrics": {name: in_json(value) for name, value in metrics},
    }
    if offset is not None:
        record["offset"] = offset
    return json.dumps(record, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def rfc3339(at: int) -> str:
    """Microseconds since 1970 as the time of a line."""
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(at // 1_000_000))}.{at % 1_000_000:06d}Z"


def offset_of(written: bytes) -> int | None:
    """Where the line of stdout begins that a line, without its end, is of; None: it is of no such line."""
    found = _OFFSET.search(written)
    return None if found is None else int(found[1])


def time_of(written: bytes) -> str:
    """The time of a line; empty where it has none."""
    found = _TIME.match(written)
    return "" if found is None else found[1].decode("ascii", "replace")


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


def lines_back(path: str) -> Iterator[bytes]:
    """The whole lines of the file without their ends, the last first; none where there is no file. Raises OSError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        at = whole_lines(fd, os.fstat(fd).st_size) - 1  # without the last line's end
        rest = b""
        while at > 0:
            begin = max(0, at - _BLOCK)
            rest, *whole = (os.pread(fd, at - begin, begin) + rest).split(b"\n")
            yield from reversed(whole)
            at = begin
        if at == 0:
            yield rest
    finally:
        os.close(fd)
