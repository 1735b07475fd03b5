"""Ranges of metrics.jsonl, of whole lines and by offsets that stay what they are when the file is thinned.

Owns that numbering: it counts from the file's end, so whoever has read all goes on where new lines are added. Knows no NATS and no shim.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec

from services import beneath

_NOTE_BYTES = 512
_BLOCK = 64 * 1024
_CUT = re.compile(rb'"thinned":\{[^}]*"cut":(\d+)')


class MetricsRange(msgspec.Struct, frozen=True):
    """Whole lines, where they begin, and where the file ends now."""

    data: bytes
    offset: int
    size: int


EMPTY = MetricsRange(b"", 0, 0)


def read(path: Path, offset: int, limit: int, *, newest: bool = False) -> MetricsRange:
    """Lines from ``offset`` on, which counts from the end where it is negative, ``limit`` bytes at most: the first of them, or
    with ``newest`` the last. What was thinned out is passed over. Blocks; raises OSError, but where there is no file."""
    try:
        fd = beneath.open_file(str(path), os.O_RDONLY)
    except FileNotFoundError:
        return EMPTY
    try:
        cut = _cut(os.pread(fd, _NOTE_BYTES, 0))
        end = _whole_lines(fd, os.fstat(fd).st_size)
        size = cut + end
        at = offset if offset >= 0 else size + offset
        at = min(max(at, cut), size)
        if newest and size - at > limit:
            at = size - limit
            data = os.pread(fd, limit, at - cut)
            skipped = data.find(b"\n") + 1
            return MetricsRange(data[skipped:], at + skipped, size)
        data = os.pread(fd, min(limit, size - at), at - cut)
        return MetricsRange(data[: data.rfind(b"\n") + 1] or data, at, size)
    finally:
        os.close(fd)


def _cut(begin: bytes) -> int:
    """How many bytes were thinned out, by the file's first line."""
    found = _CUT.search(begin.partition(b"\n")[0])
    return 0 if found is None else int(found[1])


def _whole_lines(fd: int, size: int) -> int:
    while size > 0:
        begin = max(0, size - _BLOCK)
        last = os.pread(fd, size - begin, begin).rfind(b"\n")
        if last >= 0:
            return begin + last + 1
        size = begin
    return 0
