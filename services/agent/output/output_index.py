"""The index beside an attempt's output: when how much of each stream was there.

Owns index.jsonl, which the agent alone writes; knows no NATS. A line {"time", "stream", "offset"} says that at
``time`` the agent had seen the first ``offset`` bytes of ``stream``: what came since the line before lies between.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from services import beneath

INDEX = "index.jsonl"
_BLOCK = 64 * 1024


class Seen(msgspec.Struct, frozen=True):
    """One line."""

    time: str
    stream: str
    offset: int


class OutputIndex:
    """Appends lines to one attempt's index. Raises OSError."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / INDEX
        self._fd = -1

    def append(self, seen: Seen) -> None:
        """One line, in one write."""
        if self._fd < 0:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
            self._fd = beneath.open_file(str(self._path), flags, 0o644)
            size = os.fstat(self._fd).st_size
            if size and os.pread(self._fd, 1, size - 1) != b"\n":
                os.write(self._fd, b"\n")  # a line that a power cut tore
        os.write(self._fd, msgspec.json.encode(seen) + b"\n")

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def ends(folder: Path, streams: tuple[str, ...]) -> dict[str, int]:
    """Where the index ends for each stream (0: it does not name it). Reads backwards, no more than it must."""
    found = dict.fromkeys(streams, 0)
    missing = set(streams)
    try:
        fd = beneath.open_file(str(folder / INDEX), os.O_RDONLY)
    except OSError:
        return found
    try:
        at = os.fstat(fd).st_size
        rest = b""
        while at > 0 and missing:
            size = min(_BLOCK, at)
            at -= size
            block = os.pread(fd, size, at) + rest
            first, _, whole = block.partition(b"\n") if at else (b"", b"", block)
            rest = first + b"\n" if at else b""
            for line in reversed(whole.splitlines()):
                seen = _parse(line)
                if seen is not None and seen.stream in missing:
                    found[seen.stream] = seen.offset
                    missing.discard(seen.stream)
        return found
    finally:
        os.close(fd)


def _parse(line: bytes) -> Seen | None:
    try:
        return msgspec.json.decode(line, type=Seen)
    except msgspec.MsgspecError:
        return None
