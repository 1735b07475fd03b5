"""Lines of JSON that a worker prints, as what they measure: a step and metrics, with the offset of the line in stdout.

Owns which numbers of a line count, and that every whole line is looked at once; knows no NATS and no shim.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from services import beneath
from trainshed_client.not_finite import from_json
from trainshed_client.telemetry import MAX_LINE

NO_METRICS = frozenset({"step", "time", "timestamp", "episode", "seed"})
"""Numbers that say where or when a line was printed, or with what."""
READ_BYTES = 1 << 20
_MARKS = (b'"type"', b'"event"')
_NOT_FINITE = frozenset({"NaN", "Infinity", "-Infinity"})
_LARGEST_STEP = 2**53 - 1


class MeasuredLine(NamedTuple):
    """A line of stdout that begins at ``offset`` and bears a step, metrics or both."""

    offset: int
    step: int | None
    metrics: Mapping[str, float]


def measured(line: bytes, offset: int) -> MeasuredLine | None:
    """What a line measures: its numbers at the top level. None for one that is no object with a ``type`` or an ``event``, or
    bears neither step nor metric.

    NaN and the infinities may stand there as Python writes them, or as the strings that mean them in JSON.
    """
    if len(line) > MAX_LINE or not any(mark in line for mark in _MARKS) or not line.lstrip().startswith(b"{"):
        return None
    try:
        found = _decode(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or ("type" not in found and "event" not in found):
        return None
    metrics = {
        name: number
        for name, value in found.items()
        if name not in NO_METRICS and (number := _number(value)) is not None and _is_text(name)
    }
    step = _number(found.get("step"))
    if step is not None and (not step.is_integer() or abs(step) > _LARGEST_STEP):
        step = None
    if step is None and not metrics:
        return None
    return MeasuredLine(offset, None if step is None else int(step), metrics)


def _decode(line: bytes) -> Any:
    if b"NaN" in line or b"Infinity" in line:
        return json.loads(line)
    return msgspec.json.decode(line)


def _is_text(name: str) -> bool:
    """Half a surrogate pair is none, which JSON can spell all the same."""
    return name.isascii() or not any("\ud800" <= character <= "\udfff" for character in name)


def _number(value: object) -> float | None:
    match value:
        case bool():
            return None
        case int() | float():
            try:
                return float(value)
            except OverflowError:
                return None
        case str() if value in _NOT_FINITE:
            return from_json(value)
        case _:
            return None


class LineReader:
    """Reads a stdout from a line's beginning on, piece by piece. Blocks; not for two threads at once."""

    def __init__(self, path: Path, position: int = 0) -> None:
        self._path = path
        self.position = position
        """The line that begins here is the next to be looked at."""
        self.at_end = False
        """Whether the last piece was all that there is yet."""
        self.in_line = False
        """Whether ``position`` is within a line that is too long."""

    def seek(self, position: int) -> None:
        """Go on from another line's beginning."""
        self.position, self.in_line = position, False

    def read(self) -> list[MeasuredLine]:
        """What the next piece measures, of whole lines. Raises OSError; where there is no file there is nothing."""
        try:
            fd = beneath.open_file(str(self._path), os.O_RDONLY)
        except FileNotFoundError:
            self.at_end = True
            return []
        try:
            data = os.pread(fd, READ_BYTES, self.position)
        finally:
            os.close(fd)
        self.at_end = len(data) < READ_BYTES
        begin, end = 0, data.rfind(b"\n") + 1
        if self.in_line:
            begin = data.find(b"\n") + 1
        if (
            not end and len(data) > MAX_LINE
        ):  # a line that is too long: what is left of it does not count either
            self.position, self.in_line = self.position + len(data), True
            return []
        found = _measured_in(data[begin:end], self.position + begin)
        if end:
            self.position, self.in_line = self.position + end, False
        return found

    def last(self) -> list[MeasuredLine]:
        """What the last lines of all measure, wherever the reading is. Raises OSError."""
        size = beneath.look(str(self._path)).st_size
        self.position = max(self.position, size - min(2 * MAX_LINE, READ_BYTES) + 1)
        self.in_line = self.position > 0
        return self.read()


def _measured_in(data: bytes, offset: int) -> list[MeasuredLine]:
    if not any(mark in data for mark in _MARKS):
        return []
    found = []
    for line in data.split(b"\n"):
        if (one := measured(line, offset)) is not None:
            found.append(one)
        offset += len(line) + 1
    return found
