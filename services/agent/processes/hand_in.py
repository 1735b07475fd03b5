"""Lines of stdout that measure something, on their way to metrics.jsonl: to the shim that lives, or after it to the file itself.

Owns the datagrams, and that under an attempt's lock no line is lost and none counted twice; knows no NATS.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import filterfalse, islice
from pathlib import Path

import msgspec

from events.times import nanoseconds
from services.agent.folders import files
from services.agent.folders.files import ExitFile, ExitReason, HeartbeatFields
from services.agent.folders.paths import METRICS, OUTPUT_FILES
from services.agent.output.measured import LineReader, MeasuredLine
from services.agent.processes.finalise import LockHeld
from services.agent.shim import metrics_file, notify
from services.agent.shim.core import MAX_METRICS
from trainshed_client.not_finite import JsonNumber, from_json, in_json

DATAGRAM_BYTES = 48 * 1024
"""Of one datagram; a line is shorter by far."""


class _WrittenLine(msgspec.Struct, frozen=True):
    """A line of metrics.jsonl."""

    time: str
    step: int | None = None
    metrics: dict[str, JsonNumber] = {}


def messages(lines: Iterable[MeasuredLine]) -> Iterator[tuple[bytes, int]]:
    """The lines as datagrams to a shim, each with how many lines it bears."""
    waiting: list[bytes] = []
    size = 0
    for line in lines:
        names = [*islice(filter(notify.is_name, line.metrics), MAX_METRICS)]
        names += islice(
            filterfalse(notify.is_name, line.metrics), 1
        )  # the shim says that such are passed over
        metrics = {name[: 2 * notify.MAX_NAME]: in_json(line.metrics[name]) for name in names}
        text = msgspec.json.encode({"offset": line.offset, "step": line.step, "metrics": metrics})
        if waiting and size + len(text) > DATAGRAM_BYTES:
            yield notify.HANDED_IN + b"\n".join(waiting), len(waiting)
            waiting, size = [], 0
        waiting.append(text)
        size += len(text) + 1
    if waiting:
        yield notify.HANDED_IN + b"\n".join(waiting), len(waiting)


def last_handed_in(output_dir: Path) -> int:
    """Where the last line of stdout begins that is in metrics.jsonl; -1: none is. Blocks; raises OSError."""
    for written in metrics_file.lines_back(str(output_dir / METRICS)):
        if (offset := metrics_file.offset_of(written)) is not None:
            return offset
    return -1


class Rest(msgspec.Struct, frozen=True):
    """What the agent found and wrote after the shim: the attempt's last values, and whether that is all of stdout; else
    where in it to go on."""

    heartbeat: HeartbeatFields | None
    whole: bool
    position: int


def hand_in_rest(folder: Path, output_dir: Path, record: ExitFile, give_up: float, position: int = 0) -> Rest:
    """Write what is still to be handed in, in the place of a shim that has gone, until ``give_up`` (monotonic seconds).
    ``position``: so far stdout was looked at by this before.

    Blocks. Raises LockHeld where the shim has not gone, and OSError.
    """
    lock = os.open(folder / files.LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LockHeld(f"{folder}: its shim holds the lock") from None
        return _hand_in(output_dir, record, give_up, position)
    finally:
        os.close(lock)


def _hand_in(output_dir: Path, record: ExitFile, give_up: float, position: int) -> Rest:
    path = str(output_dir / METRICS)
    newer = _newer_than_end(path, record)
    names = dict.fromkeys(record.last_heartbeat.metrics) if record.last_heartbeat is not None else {}
    names.update((name, None) for line in newer for name in line.metrics)
    last_time = next((metrics_file.time_of(written) for written in metrics_file.lines_back(path)), "")
    times = metrics_file.LineTimes(_microseconds(last_time))
    handed_in = last_handed_in(output_dir)
    reader = LineReader(output_dir / OUTPUT_FILES[0], max(position, handed_in))
    values = _Values(record.last_heartbeat)
    for known in newer:
        values.add(known.step, {name: from_json(value) for name, value in known.metrics.items()})
    while True:
        lines = [line for line in reader.read() if line.offset > handed_in]
        data = b""
        for line in lines:
            metrics = _counted(line, names)
            if line.step is not None or metrics:
                data += metrics_file.line(times.next(), line.step, None, metrics.items(), line.offset)
                values.add(line.step, metrics)
        if data:
            metrics_file.append(path, data)
        if reader.at_end or (time.monotonic() > give_up and not reader.in_line):
            whole, position = reader.at_end, reader.position
            break
    if not whole:  # what the record shows is the last all the same
        for line in reader.last():
            values.add(line.step, _counted(line, names))
    return Rest(values.heartbeat, whole, position)


def _counted(line: MeasuredLine, names: dict[str, None]) -> dict[str, float]:
    """The metrics of a line that an attempt with these names may have; their names are among these then."""
    metrics = {}
    for name, value in notify.of_line(line.step, line.metrics.items()).metrics:
        if name in names or len(names) < MAX_METRICS:
            names[name] = None
            metrics[name] = value
    return metrics


def _newer_than_end(path: str, record: ExitFile) -> list[_WrittenLine]:
    """The lines of which exit.json knows nothing: an agent's, and all of them where no shim wrote it."""
    ended_at = (
        "" if record.reason is ExitReason.SHIM_LOST else metrics_file.rfc3339(int(record.ended_at * 1e6))
    )
    found = []
    for written in metrics_file.lines_back(path):
        at = metrics_file.time_of(written)
        if at and at <= ended_at:
            break
        with contextlib.suppress(msgspec.MsgspecError):
            found.append(msgspec.json.decode(written, type=_WrittenLine))
    return found[::-1]


def _microseconds(text: str) -> int:
    try:
        return nanoseconds(text) // 1000
    except ValueError:  # there is no line, or none that can be read
        return 0


class _Values:
    """The last value of each metric and the last step, over those that a heartbeat bears."""

    def __init__(self, heartbeat: HeartbeatFields | None) -> None:
        self.heartbeat = heartbeat

    def add(self, step: int | None, metrics: Mapping[str, float]) -> None:
        old = self.heartbeat or HeartbeatFields()
        self.heartbeat = msgspec.structs.replace(
            old,
            step=old.step if step is None else step,
            metrics={**old.metrics, **{name: in_json(value) for name, value in metrics.items()}},
        )
