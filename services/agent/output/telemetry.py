"""Telemetry lines in a worker's stdout: JSON objects with a ``type`` or an ``event``.

Owns how a stream of bytes is cut into lines and which of them count; knows no file and no NATS.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

MAX_LINE = 64 * 1024


class Line(NamedTuple):
    """A telemetry line without its end, and its offset in stdout."""

    offset: int
    text: bytes


class _Marked(msgspec.Struct):
    type: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    event: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_DECODER = msgspec.json.Decoder(_Marked)


def is_telemetry(line: bytes) -> bool:
    """Whether a line of stdout is one."""
    if len(line) > MAX_LINE or not line.lstrip().startswith(b"{"):
        return False
    if b'"type"' not in line and b'"event"' not in line:
        return False
    try:
        marked = _DECODER.decode(line)
    except (msgspec.MsgspecError, RecursionError):
        return False
    return marked.type is not msgspec.UNSET or marked.event is not msgspec.UNSET


class LineCutter:
    """Takes chunks in order and gives the telemetry lines that they complete; holds no more than one line's limit."""

    def __init__(self, *, in_line: bool = False) -> None:
        self._rest = b""
        self._skipping = in_line

    def skip(self) -> None:
        """The next chunk does not follow the one before: what comes up to its first line end is no whole line."""
        self._rest = b""
        self._skipping = True

    def feed(self, offset: int, chunk: bytes) -> list[Line]:
        """The telemetry lines that end in ``chunk``, which begins at ``offset``."""
        if self._skipping:
            cut = chunk.find(b"\n")
            if cut < 0:
                return []
            self._skipping = False
            offset, chunk = offset + cut + 1, chunk[cut + 1 :]
        start = offset - len(self._rest)
        data = self._rest + chunk if self._rest else chunk
        end = data.rfind(b"\n")
        lines: list[Line] = []
        if end >= 0:
            at = start
            for line in data[:end].split(b"\n"):
                if is_telemetry(line):
                    lines.append(Line(at, line.rstrip(b"\r")))
                at += len(line) + 1
        self._rest = data[end + 1 :]
        if len(self._rest) > MAX_LINE:
            self.skip()
        return lines
