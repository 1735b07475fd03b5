"""`trainshed metrics`: what a run measured, from its first step to its last.

Owns how a run's metrics are laid out for people, as CSV and as JSON; which values count is the client's.
"""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

import click

from services.cli.as_of import MomentAsked, PastMoment, as_of, asked, at_option, of_then, seq_of, tell, until
from services.cli.at_rest import reading
from services.cli.common import (
    exit_with,
    json_option,
    nats_option,
    note,
    print_json,
    warn,
    warn_if_stale,
)
from services.cli.run_argument import RUN
from services.cli.table import Cell, Column, Screen, print_lines, render
from services.cli.text import clean, count, metric, short, time_of_day
from services.cli.verb import verb
from trainshed_client.errors import ErrorCode, ExitCode, TrainshedError
from trainshed_client.not_finite import in_json
from trainshed_client.times import utc_text

if TYPE_CHECKING:
    from trainshed_client.answers import RunView
    from trainshed_client.client import Trainshed
    from trainshed_client.metrics import AttemptMetrics, MeasuredValue, MetricsPoint, MetricSummary
    from trainshed_client.records import RunRecord

_BARS = "▁▂▃▄▅▆▇█"
_BARS_SHOWN = 16


class RunMetrics(NamedTuple):
    """What could be read of a run's metrics, and what could not."""

    view: RunView
    attempts: list[AttemptMetrics]
    missing: list[TrainshedError]
    moment: PastMoment | None = None


@verb(
    "trainshed metrics ppo-cartpole",
    "trainshed metrics k3f2q7 --csv | head",
    "trainshed metrics k3f2q7 --json | jq '.points[-1].metrics'",
)
@click.argument("run", metavar="RUN", type=RUN)
@click.option("--csv", "as_csv", is_flag=True, help="Every step as a line: step, time, a column a metric.")
@at_option
@json_option
@nats_option
def metrics(run: str, as_csv: bool, at: str | None, as_json: bool) -> None:
    """Show what a run measured: of each metric the first value, the last, the lowest and the highest.

    It is read from the machines where the run is or was. Attempts are joined by step: of what several measured at one
    step, the latest attempt's counts. With --at it is what had been measured by then, by the clocks of these machines.
    """
    if as_csv and as_json:
        raise click.UsageError("--csv and --json: choose one of them")
    wanted = asked(at)
    found = reading(lambda trainshed: _read(trainshed, run, wanted), of_the_past=wanted is not None)
    from trainshed_client.metrics import joined

    points = joined(found.attempts)
    tell(found.moment)
    warn_if_stale(found.view.stale, found.view.seq, found.view.progress)
    if as_json:
        print_json(_json(found, points))
    elif as_csv:
        sys.stdout.write(csv_text(points))
    elif not points and found.moment is not None:
        note(f"run {short(found.view.run.run_id)} had told no metric by then")
    elif not points:
        note(
            f"run {short(found.view.run.run_id)} has told no metric. A worker tells a metric by its notify socket "
            "(X_STEP=, X_METRIC_loss=) or prints a line of JSON: see docs/contracts/worker.md"
        )
    else:
        print_lines(lines(points, found.view.run, Screen.of(sys.stdout)))
    for attempt in found.attempts:
        if attempt.left_out:
            note(
                f"attempt {attempt.attempt} measured more than is kept (16 MB): {attempt.left_out:,} messages are left out, "
                "none with a metric's first, last, lowest or highest value"
            )
    for error in found.missing:
        warn(error.message)
    if any(error.code is ErrorCode.UNAVAILABLE for error in found.missing):
        exit_with(ExitCode.NO_SERVICE)


async def _read(trainshed: Trainshed, run: str, wanted: MomentAsked | None) -> RunMetrics:
    """Raises where nothing of it can be read."""
    from trainshed_client.metrics import stored_metrics

    moment = await as_of(trainshed, wanted)
    view = await of_then(trainshed.get(run, at=seq_of(moment)), moment)
    found = RunMetrics(view, [], [], moment)
    for one in view.attempts:
        try:
            clock = until(moment, one)
            by = None if clock is None else datetime.fromisoformat(clock)
            found.attempts.append(
                await stored_metrics(trainshed, one.run_id, one.attempt, one.node, until=by)
            )
        except TrainshedError as error:
            where = f"the metrics of attempt {one.attempt} are on {one.node}: {error.message}"
            found.missing.append(TrainshedError(error.code, where))
    if found.missing and not found.attempts:
        raise found.missing[-1]
    return found


def lines(points: Sequence[MetricsPoint], run: RunRecord, screen: Screen) -> list[str]:
    """A line a metric, that one first which `ls` shows; a terminal gets a small picture of each."""
    from trainshed_client.metrics import summaries
    from trainshed_client.rendering.progress import shown_metric

    pictures = screen.is_terminal and (sys.stdout.encoding or "").lower().startswith("utf")
    columns = [
        Column("METRIC", shrink=12),
        Column("VALUES", right=True),
        Column("FIRST", right=True),
        Column("LAST", right=True),
        Column("MIN", right=True),
        Column("MAX", right=True),
        *([Column("")] if pictures else []),
    ]
    found = summaries(points)
    first = shown_metric([one.name for one in found], run.primary_metric, run.labels)
    found = sorted(found, key=lambda one: one.name != first)
    return render(columns, [list(_row(each, pictures)) for each in found], screen)


def _row(one: MetricSummary, pictures: bool) -> Iterator[str | Cell]:
    yield Cell(clean(one.name), "bold")
    yield f"{len(one.values):,}"
    for seen in (one.first, one.last, one.lowest, one.highest):
        yield _value(seen)
    if pictures:
        yield Cell(picture(one.values), "cyan")


def _value(seen: MeasuredValue) -> str:
    point = seen.point
    return f"{metric(seen.value)} @ {time_of_day(point.time) if point.step is None else count(point.step)}"


def picture(values: Sequence[float], width: int = _BARS_SHOWN) -> str:
    """The course of a metric as bars, each the mean of its share of the values; a share that is not finite is an ``x``."""
    shares = [
        values[begin * len(values) // width : max(1, (begin + 1) * len(values) // width)]
        for begin in range(width)
        if len(values) >= width or begin < len(values)
    ]
    if len(values) < width:
        shares = [[value] for value in values]
    means = [
        math.fsum(share) / len(share) if all(map(math.isfinite, share)) else math.nan for share in shares
    ]
    finite = [mean for mean in means if math.isfinite(mean)]
    if not finite:
        return "x" * len(means)
    lowest, span = min(finite), (max(finite) - min(finite)) or 1.0
    return "".join(
        _BARS[int((mean - lowest) / span * (len(_BARS) - 1) + 0.5)] if math.isfinite(mean) else "x"
        for mean in means
    )


def csv_text(points: Sequence[MetricsPoint]) -> str:
    """A line a point, under a heading: step, time, then every metric; empty where a point has none."""
    names = list(dict.fromkeys(name for point in points for name in point.metrics))
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["step", "time", *names])
    for point in points:
        values = [point.metrics.get(name) for name in names]
        rows.writerow(
            [
                "" if point.step is None else point.step,
                utc_text(point.time),
                *("" if value is None else repr(value) for value in values),
            ]
        )
    return text.getvalue()


def _json(found: RunMetrics, points: Sequence[MetricsPoint]) -> dict[str, object]:
    from trainshed_client.metrics import summaries

    run = found.view.run
    return {
        "v": 1,
        "seq": found.view.seq,
        "run_id": run.run_id,
        "name": run.name,
        "status": run.status,
        "metrics": {
            one.name: {
                "count": len(one.values),
                **{
                    name: {"value": in_json(seen.value), "step": seen.point.step, "time": seen.point.time}
                    for name, seen in (
                        ("first", one.first),
                        ("last", one.last),
                        ("min", one.lowest),
                        ("max", one.highest),
                    )
                },
            }
            for one in summaries(points)
        },
        "points": [
            {**point._asdict(), "metrics": {name: in_json(value) for name, value in point.metrics.items()}}
            for point in points
        ],
        "left_out": sum(attempt.left_out for attempt in found.attempts),
        "missing": [error.message for error in found.missing],
    }
