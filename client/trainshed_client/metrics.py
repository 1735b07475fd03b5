"""The history of a run's metrics: lines of its attempts' metrics.jsonl, read from their nodes and joined by step.

Owns how a line reads, and which attempt's values count for a step; knows nothing of how they are shown.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, Optional, Union

import msgspec

from trainshed_client.not_finite import JsonNumber, from_json
from trainshed_client.output_range import OutputChunk, Requests, read_range
from trainshed_client.times import Time


class Thinned(msgspec.Struct, frozen=True):
    """What the first line of a file says that had become too large: so many lines were left out, and bytes."""

    lines: int
    cut: int


class MetricsLine(msgspec.Struct, frozen=True):
    """One message of a worker's: the step and progress that it bore, or None, and its metrics."""

    time: Time
    step: Union[int, float, None] = None
    progress: Optional[float] = None
    metrics: dict[str, JsonNumber] = {}
    thinned: Optional[Thinned] = None


class MetricsPoint(NamedTuple):
    """What was measured at a step (None: no step was told yet). ``time``: when its first metric came."""

    attempt: int
    time: datetime
    step: int | float | None
    progress: float | None
    metrics: Mapping[str, float]


class AttemptMetrics(NamedTuple):
    """The lines of one attempt, in the order of their writing. ``left_out``: so many more there were, of which none bore a
    metric's first, last, lowest or highest value."""

    attempt: int
    lines: Sequence[MetricsLine]
    left_out: int = 0


_LINE = msgspec.json.Decoder(MetricsLine)


def parse_line(line: bytes) -> MetricsLine | None:
    """A line of the file; None for one that cannot be read: torn by a killed writer, or another's."""
    try:
        return _LINE.decode(line)
    except msgspec.MsgspecError:
        return None


class MetricsCutter:
    """Takes pieces of a metrics.jsonl and gives each of its lines once, in their order.

    A line is known by its time, which is later than that of the line before: so what is read again, as after the file was
    thinned, does no harm.
    """

    def __init__(self) -> None:
        self.left_out = 0
        """So many lines were thinned out of the file."""
        self._rest = b""
        self._end = 0
        self._last: datetime | None = None

    def feed(self, offset: int, data: bytes) -> list[MetricsLine]:
        """The new lines that end in ``data``, which begins at ``offset``."""
        if offset != self._end:
            self._rest = b""
        self._end = offset + len(data)
        *whole, self._rest = (self._rest + data).split(b"\n")
        found = []
        for text in whole:
            line = parse_line(text)
            if line is None:
                continue
            if line.thinned is not None:
                self.left_out = line.thinned.lines
            elif self._last is None or line.time > self._last:
                self._last = line.time
                found.append(line)
        return found


async def stored_metrics(
    asks: Requests, run_id: str, attempt: int, node: str, *, until: datetime | None = None
) -> AttemptMetrics:
    """What an attempt's metrics.jsonl holds now; ``until``: what had come by that time, by its node's clock.
    Raises as `read_range`."""
    lines: list[MetricsLine] = []
    cutter = MetricsCutter()
    position = 0
    while True:
        found = await read_range(asks, node, run_id, attempt, "metrics", position)
        if not found.data:
            return AttemptMetrics(attempt, lines, cutter.left_out)
        lines += cutter.feed(found.offset, found.data)
        if until is not None and lines and lines[-1].time > until:
            return AttemptMetrics(attempt, [one for one in lines if one.time <= until], cutter.left_out)
        position = found.offset + len(found.data)


async def metrics_lines(output: AsyncIterator[OutputChunk]) -> AsyncIterator[tuple[int, MetricsLine]]:
    """The lines of a run's stream ``metrics`` as it is followed, each with its attempt."""
    attempt, cutter = 0, MetricsCutter()
    async for chunk in output:
        if chunk.attempt != attempt:
            attempt, cutter = chunk.attempt, MetricsCutter()
        for line in cutter.feed(chunk.offset, chunk.data):
            yield attempt, line


class PointsCutter:
    """Takes chunks of a run's stream ``metrics`` as it is followed, and gives each line as a point of its attempt."""

    def __init__(self) -> None:
        self._attempt = 0
        self._cutter = MetricsCutter()

    def feed(self, chunk: OutputChunk) -> list[MetricsPoint]:
        """The lines that end in it. The step is as the line has it: None where it has none."""
        if chunk.attempt != self._attempt:
            self._attempt, self._cutter = chunk.attempt, MetricsCutter()
        return [
            _point(chunk.attempt, line, line.step) for line in self._cutter.feed(chunk.offset, chunk.data)
        ]


def joined(attempts: Iterable[AttemptMetrics]) -> list[MetricsPoint]:
    """The points of a run, by step: of what several attempts measured at one step, the latest attempt's counts.

    A message without a step is of the step that its attempt told last; before any was told it is a point of its own. Messages
    of one step are one point, unless they bear the same metric.
    """
    by_step: dict[int | float | None, list[MetricsPoint]] = {}
    without: list[MetricsPoint] = []
    for attempt in sorted(attempts, key=lambda each: each.attempt):
        mine: dict[int | float | None, list[MetricsPoint]] = {}
        for point in _points(attempt):
            points = mine.setdefault(point.step, [])
            if points and point.step is not None and not points[-1].metrics.keys() & point.metrics.keys():
                points[-1] = _together(points[-1], point)
            else:
                points.append(point)
        without += mine.pop(None, [])
        by_step.update(mine)
    steps = sorted(step for step in by_step if step is not None)
    return without + [point for step in steps for point in by_step[step]]


def _points(attempt: AttemptMetrics) -> Iterable[MetricsPoint]:
    step: int | float | None = None
    for line in attempt.lines:
        step = step if line.step is None else line.step
        yield _point(attempt.attempt, line, step)


def _point(attempt: int, line: MetricsLine, step: float | None) -> MetricsPoint:
    metrics = {name: from_json(value) for name, value in line.metrics.items()}
    return MetricsPoint(attempt, line.time, step, line.progress, metrics)


def _together(first: MetricsPoint, second: MetricsPoint) -> MetricsPoint:
    return first._replace(
        progress=first.progress if second.progress is None else second.progress,
        metrics={**first.metrics, **second.metrics},
    )


class MeasuredValue(NamedTuple):
    """A value of a metric, and where it was measured."""

    value: float
    point: MetricsPoint


class MetricSummary(NamedTuple):
    """One metric of a run. Minimum and maximum pass NaN over, where there is anything else."""

    name: str
    first: MeasuredValue
    last: MeasuredValue
    lowest: MeasuredValue
    highest: MeasuredValue
    values: Sequence[float]


def summaries(points: Iterable[MetricsPoint]) -> list[MetricSummary]:
    """Each metric of a run, in the order of their coming."""
    found: dict[str, list[MeasuredValue]] = {}
    for point in points:
        for name, value in point.metrics.items():
            found.setdefault(name, []).append(MeasuredValue(value, point))
    return [_summary(name, seen) for name, seen in found.items()]


def _summary(name: str, seen: list[MeasuredValue]) -> MetricSummary:
    compared = [each for each in seen if not math.isnan(each.value)] or seen
    return MetricSummary(
        name,
        seen[0],
        seen[-1],
        min(compared, key=lambda each: each.value),
        max(compared, key=lambda each: each.value),
        [each.value for each in seen],
    )
