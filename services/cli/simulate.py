"""`trainshed simulate`: what if there were other nodes, or another policy?

Owns the options and what is printed; the simulation is services.simulation's.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from services.cli.common import (
    connected,
    exit_with,
    json_option,
    log_errors,
    nats_option,
    note,
    print_json,
    run_async,
    stored_log,
)
from services.cli.how_far import HowFar, how_far
from services.cli.verb import verb
from trainshed_client.errors import ErrorCode, ExitCode, TrainshedError
from trainshed_client.os_errors import why

if TYPE_CHECKING:
    from events.types import NodeJoined
    from services.dispatcher.decided_again import DecidedAgain
    from services.simulation.csv_table import CsvTable
    from services.simulation.figures import Figures
    from services.simulation.recorded import Recording
    from services.simulation.trace import Task
    from services.simulation.what_if import WhatIf

SHOWN_EVERY = 1_000
USUAL_BYTES = 600
"""Of an event in a file."""
FORMATS = ("csv", "openb")
POLICIES = ("default", "fifo")
_FILE = click.Path(dir_okay=False, path_type=Path)


@verb(
    "trainshed simulate --nodes 4x8      what has run here, on these nodes",
    "trainshed simulate --trace jobs.csv --nodes 4x8 --gantt jobs.svg",
    "trainshed simulate --trace jobs.csv --map submit_s=queued --map duration_s=end-begin --nodes nodes.csv --policy fifo",
)
@click.option(
    "--log",
    type=_FILE,
    metavar="FILE",
    help="A log as `trainshed events` printed it, instead of the live one.",
)
@click.option("--trace", type=_FILE, metavar="FILE", help="A CSV file of jobs: submit_s,duration_s,gpus.")
@click.option(
    "--map",
    "mappings",
    metavar="COLUMN=NAME",
    multiple=True,
    help="What a column is called in the trace, or the difference of two: duration_s=end-begin.",
)
@click.option("--format", "form", type=click.Choice(FORMATS), help="openb: the public trace's own columns.")
@click.option(
    "--nodes", "nodes", metavar="4x8|FILE", help="Nodes with so many GPUs each, or a CSV file of them."
)
@click.option(
    "--policy",
    type=click.Choice(POLICIES),
    default="default",
    help="fifo: by submission alone, and who is first and does not fit blocks all others.",
)
@click.option(
    "--gantt", type=_FILE, metavar="FILE.svg", help="Draw who ran where and when, as it was and as simulated."
)
@json_option
@nats_option
def simulate(
    log: Path | None,
    trace: Path | None,
    mappings: tuple[str, ...],
    form: str | None,
    nodes: str | None,
    policy: str,
    gantt: Path | None,
    as_json: bool,
) -> None:
    """Let the scheduler decide over the runs of a log, or the jobs of a trace, again: on other nodes, or by another policy.

    A job gets all of its GPUs on one node, and lasts as long as it did. With nothing changed each grant of the log is
    decided again from what its dispatcher saw; exit code 1 where one comes out otherwise.
    """
    from services.simulation.what_if import Policy, of_log, of_trace

    there = None if nodes is None else _nodes(nodes)
    if trace is None:
        if mappings or form is not None:
            raise _refused(
                "--map" if mappings else "--format", "is of a trace; expected --trace FILE with it"
            )
        changed = there is not None or policy != Policy.DEFAULT
        found = of_log(_recording(log, changed=changed), there, Policy(policy))
        if not found.simulated.jobs and not found.unplaceable:
            raise _refused("--log" if log else "the log", "has no run that ever began; expected one at least")
    else:
        if log is not None:
            raise _refused("--log", "and --trace are two sources; expected one of them")
        if there is None:
            raise _refused("--nodes", "is missing, and a trace names no nodes; expected 4x8, or a CSV file")
        tasks = _tasks(trace, mappings, form)
        if not tasks:
            raise _refused(str(trace), "has no jobs; expected a line for each below the header")
        found = of_trace(tasks, there, Policy(policy))
    if gantt is not None:
        _draw(gantt, found, policy)
    for line in _remarks(found, form):
        note(line)
    if as_json:
        print_json({"v": 1, **_plain(found.figures)})
    else:
        _print(found, policy)
    if found.again is not None and found.again.different:
        exit_with(ExitCode.VIOLATION)


def _recording(path: Path | None, *, changed: bool) -> Recording:
    from services.simulation.log_lines import messages_of
    from services.simulation.recorded import Recording

    recording = Recording(changed=changed)
    with how_far("reading", sys.stderr.isatty()) as progress:
        if path is None:
            run_async(_read_live(recording, progress))
            return recording
        try:
            with path.open("rb") as lines:
                for stored in messages_of(_shown(lines, progress), str(path)):
                    recording.take(stored)
        except OSError as error:
            raise _refused(
                "--log", f"{path}: {why(error)}; expected what `trainshed events` printed"
            ) from None
    recording.close()
    return recording


def _shown(lines: BinaryIO, progress: HowFar) -> Iterator[bytes]:
    """A file's lines, telling of every so many how far they are by its size, as events of the usual length."""
    size, done = os.fstat(lines.fileno()).st_size, 0
    for place, line in enumerate(lines, 1):
        done += len(line)
        if place % SHOWN_EVERY == 0:
            progress(done // USUAL_BYTES, size // USUAL_BYTES)
        yield line
    progress(size // USUAL_BYTES, size // USUAL_BYTES)


async def _read_live(recording: Recording, progress: HowFar) -> None:
    async with connected(of_runs=False) as trainshed:
        with log_errors(trainshed):
            log = stored_log(trainshed)
            end = await log.end()
            async for stored in log.read(last=end):
                recording.take(stored)
                if stored.seq % SHOWN_EVERY == 0:
                    progress(stored.seq, end)
    recording.close()


def _draw(path: Path, found: WhatIf, policy: str) -> None:
    from services.simulation.gantt import Panel, gantt

    panels = [Panel("What happened", found.happened)] if found.happened is not None else []
    if found.again is None:
        panels.append(Panel(f"Simulated: {found.nodes:,} nodes, policy {policy}", found.simulated))
    try:
        path.write_text(gantt(panels), encoding="utf-8")
    except OSError as error:
        raise _refused("--gantt", f"{path}: {why(error)}; expected a file that can be written") from None


def _refused(where: str, message: str) -> TrainshedError:
    return TrainshedError(ErrorCode.INVALID, message, where)


def _nodes(text: str) -> list[NodeJoined]:
    from services.simulation.nodes import EXPECTED, nodes_of_shape, nodes_of_table

    there = nodes_of_shape(text)
    if there is not None:
        return there
    if not Path(text).exists():
        raise _refused("--nodes", f"{text!r:.80} is neither a shape nor a file; {EXPECTED}")
    return nodes_of_table(_table(Path(text), "--nodes"))


def _tasks(path: Path, mappings: tuple[str, ...], form: str | None) -> list[Task]:
    from services.simulation.trace import openb_tasks, parse_mapping, tasks_of

    if form == "openb":
        if mappings:
            raise _refused(
                "--map", "goes without --format openb, whose columns are known; leave one of them out"
            )
        return openb_tasks(_table(path, "--trace"))
    return tasks_of(_table(path, "--trace"), parse_mapping(mappings))


def _table(path: Path, option: str) -> CsvTable:
    from services.simulation.csv_table import read_table

    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            return read_table(lines, str(path))
    except OSError as error:
        raise _refused(option, f"{path}: {why(error)}; expected a CSV file") from None


def _remarks(found: WhatIf, form: str | None) -> list[str]:
    """What must be known of the figures."""
    lines = []

    def jobs(count: int) -> str:
        return "1 job" if count == 1 else f"{count:,} jobs"

    if form == "openb":
        lines.append(
            "shares of a GPU are rounded up to whole ones; which models of GPU would do is passed over"
        )
        never = sum(not job.spans for job in found.happened.jobs.values()) if found.happened else 0
        if never:
            lines.append(
                f"never scheduled: {jobs(never)}; simulated they last from creation to deletion, and HAPPENED counts no wait of them"
            )
    if found.again is not None:
        lines += _decided_again(found.again)
    if found.censored:
        lines.append(
            f"durations are censored of {jobs(found.censored)}: ended by others, how much longer it would have been is not known"
        )
    if found.unknown:
        lines.append(
            f"left out: {jobs(found.unknown)} that never began, so that nobody knows how long it lasts"
        )
    if found.waiting:
        lines.append(f"not begun at the end of the simulation: {jobs(found.waiting)}")
    if found.unplaceable:
        lines.append(
            f"left out: {jobs(found.unplaceable)} for which no node is large enough, even when it is empty"
        )
    return lines


def _decided_again(again: DecidedAgain) -> list[str]:
    from services.dispatcher.decided_again import UNCHECKED

    decided = again.same + again.different
    lines = [f"nothing is changed: of {decided:,} grants decided again {again.same:,} came out as recorded"]
    if again.unchecked:
        lines.append(f"not decided again: {again.unchecked:,} grants, since {UNCHECKED}")
    for first in again.differences[:1]:
        lines.append(f"the first that did not, at {first.seq}: {first}")
    return lines


def _plain(figures: Figures) -> dict[str, object]:
    import msgspec

    return {
        name: round(value, 6) if isinstance(value, float) else value
        for name, value in msgspec.structs.asdict(figures).items()
    }


def _print(found: WhatIf, policy: str) -> None:
    from services.cli.table import Column, Screen, print_lines, render
    from services.simulation.figures import figures_of
    from trainshed_client.rendering.durations import format_duration

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:,.1f}"

    def share(value: float | None) -> str:
        return "-" if value is None else f"{value:.1%}"

    def time(value: float | None) -> str:
        return "-" if value is None else format_duration(value)

    shown: tuple[tuple[str, str, Callable[..., str]], ...] = (
        ("jobs", "jobs", lambda value: f"{value:,}"),
        ("makespan", "makespan_s", time),
        ("mean wait", "mean_wait_s", time),
        ("95 % waited at most", "p95_wait_s", time),
        ("longest wait", "max_wait_s", time),
        ("mean slowdown", "mean_slowdown", number),
        ("GPUs in use", "gpu_utilisation", share),
        ("unplaceable", "unplaceable", lambda value: f"{value:,}"),
    )
    columns = [Column(""), Column("SIMULATED", right=True)]
    figures = [found.figures]
    if found.happened is not None:
        columns.insert(1, Column("HAPPENED", right=True))
        figures.insert(0, figures_of(found.happened))
    rows = [[label, *(text(getattr(one, name)) for one in figures)] for label, name, text in shown]
    nodes = "1 node" if found.nodes == 1 else f"{found.nodes:,} nodes"
    gpus = "1 GPU" if found.slots == 1 else f"{found.slots:,} GPUs"
    click.echo(f"{nodes} with {gpus}, policy {policy}")
    print_lines(render(columns, rows, Screen.of(sys.stdout)))
