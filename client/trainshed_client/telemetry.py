"""Telemetry lines in a worker's stdout: JSON objects with a ``type`` or an ``event``.

Owns how a stream of bytes is cut into lines and which of them count; knows no file and no NATS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Union

import msgspec

if TYPE_CHECKING:
    from trainshed_client.output_range import OutputChunk

MAX_LINE = 64 * 1024


class TelemetryEntry(NamedTuple):
    """A telemetry line of an attempt, where it begins in its stdout, and what it bears."""

    attempt: int
    offset: int
    data: dict[str, Any]


class Line(NamedTuple):
    """A telemetry line without its end, and its offset in stdout."""

    offset: int
    text: bytes


class _Marked(msgspec.Struct):
    type: Union[msgspec.Raw, msgspec.UnsetType] = msgspec.UNSET
    event: Union[msgspec.Raw, msgspec.UnsetType] = msgspec.UNSET


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


class TelemetryCutter:
    """Takes chunks of stdout, attempt after attempt, and gives each telemetry line with what it bears.

    ``since``: where a line begins, or later: the first chunk begins at the byte before it.
    """

    def __init__(self, since: int) -> None:
        self._attempt: int | None = None
        self._cutter = LineCutter(in_line=since > 0)
        self._end = max(0, since - 1)

    def feed(self, chunk: OutputChunk) -> list[TelemetryEntry]:
        """The lines that end in it."""
        if self._attempt not in (None, chunk.attempt):
            self._cutter, self._end = LineCutter(), 0
        self._attempt = chunk.attempt
        if chunk.offset != self._end:  # bytes are gone for good
            self._cutter.skip()
        self._end = chunk.offset + len(chunk.data)
        return [
            TelemetryEntry(chunk.attempt, line.offset, msgspec.json.decode(line.text))
            for line in self._cutter.feed(chunk.offset, chunk.data)
        ]
