"""metrics.jsonl, the history of what an attempt's worker measured: how a line reads, and how lines are added to the file.

Owns the format and that a killed writer leaves a file that can be read; knows no worker, no thread and no agent.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import time

from services import beneath
from services.agent.shim.numbers import in_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

NAME = "metrics.jsonl"
LIMIT = 16_000_000
"""Bytes that an attempt's file has at most; where a line more would exceed that, about half of its lines are left out."""
_NOTE_BYTES = 240
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


def append(path: str, data: bytes, left_out: int = 0) -> None:
    """Add whole lines to the file, which is made where there is none. A line that a killed writer tore is cut off first; of
    ``data`` nothing is left where it could not all be written. ``left_out``: lines that the caller had to leave out before
    these. Raises OSError."""
    fd, end = _opened(path)
    try:
        if left_out or (end and end + len(data) > LIMIT):
            os.close(fd)
            fd = -1
            thin(path, left_out)
            fd, end = _opened(path)
        try:
            _write(fd, data)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(fd, end)
            raise
    finally:
        if fd >= 0:
            os.close(fd)


def _opened(path: str) -> tuple[int, int]:
    """The file, without what was torn at its end, and its size."""
    fd = beneath.open_file(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(fd).st_size
        end = whole_lines(fd, size)
        if end < size:
            os.ftruncate(fd, end)
    except OSError:
        os.close(fd)
        raise
    return fd, end


def _write(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]


def thin(path: str, left_out: int = 0) -> None:
    """Leave about half of the lines out, never one that `kept` keeps. The file's first line says then how many were left
    out in all, with ``left_out`` from elsewhere. Whole or not at all. Raises OSError.

    ``cut`` in that line is how many bytes there are fewer than were ever written: by it an offset from the time before still
    leads to the same place, counted from the end.
    """
    folder, _, name = path.rpartition("/")
    temporary = f"{name}.tmp"
    with (
        open(beneath.open_file(path, os.O_RDONLY), "rb") as old,
        beneath.opened_folder(folder) as within,
        open(beneath.make_file(within, temporary, 0o644), "wb") as new,
    ):
        first = old.readline()
        before = _thinned(first)
        old_size = os.fstat(old.fileno()).st_size
        begin = len(first) if before else 0
        old.seek(begin)
        keep = kept(old)
        old.seek(begin)
        new.write(b" " * _NOTE_BYTES)
        at = time_of(first) if not before else before["time"]
        for one, stays in zip(old, keep):
            if stays:
                new.write(one)
        lines = before.get("lines", 0) + left_out + len(keep) - sum(keep)
        cut = before.get("cut", 0) + max(0, old_size - new.tell())
        note = {
            "time": at,
            "step": None,
            "progress": None,
            "metrics": {},
            "thinned": {"lines": lines, "cut": cut},
        }
        new.seek(0)
        new.write(json.dumps(note, separators=(",", ":")).encode().ljust(_NOTE_BYTES - 1) + b"\n")
        new.flush()
        os.rename(temporary, name, src_dir_fd=within, dst_dir_fd=within)


def _thinned(first: bytes) -> dict[str, Any]:
    """What the first line of a thinned file says, with its time; empty where it is an ordinary one."""
    try:
        note = json.loads(first)
        return {**note["thinned"], "time": note["time"]}
    except (ValueError, KeyError, TypeError):
        return {}


def kept(lines: Iterable[bytes]) -> bytearray:
    """Which of the lines stay, a 1 for each: of each metric the first, the last, the lowest and the highest value and the
    first NaN, the first and the last line of all and the last of stdout; of the others every second that bears the same metrics.
    What cannot be read does not stay."""
    stays = bytearray()
    always: dict[object, int] = {}
    lowest: dict[str, float] = {}
    highest: dict[str, float] = {}
    seen: dict[tuple[str, ...], int] = {}
    for place, one in enumerate(lines):
        try:
            metrics = {name: float(value) for name, value in json.loads(one)["metrics"].items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            stays.append(0)
            continue
        # Each kind of line begins with the other half, so that many of few lines each are halved too.
        names = tuple(metrics)
        seen[names] = count = seen.get(names, len(seen)) + 1
        stays.append(count % 2)
        always.setdefault("first", place)
        always["last"] = place
        if offset_of(one.rstrip(b"\n")) is not None:
            always["printed"] = place
        for name, value in metrics.items():
            always.setdefault((name, "first"), place)
            always[name, "last"] = place
            if math.isnan(value):
                always.setdefault((name, "nan"), place)
                continue
            if name not in lowest or value < lowest[name]:
                lowest[name], always[name, "lowest"] = value, place
            if name not in highest or value > highest[name]:
                highest[name], always[name, "highest"] = value, place
    for place in always.values():
        stays[place] = 1
    return stays


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
        fd = beneath.open_file(path, os.O_RDONLY)
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
