"""`trainshed prune`: what runs that ended long ago left on the nodes is deleted; the log keeps every event.

Owns the command and what is told of it; which nodes are asked for which runs is the client's.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from services.cli.clock import now
from services.cli.common import (
    connected,
    exit_with,
    json_option,
    nats_option,
    note,
    print_json,
    run_async,
    warn,
    warn_if_stale,
)
from services.cli.table import Column, Screen, print_lines, render
from services.cli.text import format_bytes, short, time_of_day
from services.cli.verb import verb
from services.durations import parse_duration
from trainshed_client.errors import ErrorCode, ExitCode, TrainshedError

if TYPE_CHECKING:
    from trainshed_client.prune import NodePruned, PruneReport

_KEPT_SHOWN = 5


@verb("trainshed prune --older-than 30d --dry-run", "trainshed prune --older-than 30d")
@click.option(
    "--older-than", required=True, metavar="D", help="Of runs that ended so long ago, as in 30d or 12h."
)
@click.option("--dry-run", is_flag=True, help="Say what would be deleted, and delete nothing.")
@json_option
@nats_option
def prune(older_than: str, dry_run: bool, as_json: bool) -> None:
    """Delete the folders of runs that ended long ago, with output and checkpoints, on every node that is up.

    Never an event: the runs stay in `ls`, `show` and every audit, and `logs` then says when their output went. What
    runs, waits or was tried again since is kept. A retry of such a run begins without its checkpoints. Ends with exit
    code 3 where a node could not be asked; the others have done it then, and it is safe to ask again. (With --dry-run
    nodes that share a folder each count what lies in it.)
    """
    seconds = parse_duration(older_than, given_by="--older-than")
    try:
        before = _earlier(now(), seconds)
    except OverflowError:
        raise TrainshedError(
            ErrorCode.INVALID,
            f"--older-than is {older_than!r}, which is before any run; write: --older-than 30d",
        ) from None
    report = run_async(_prune(datetime.fromisoformat(before), dry_run))
    seq, sums = report.seq, report.nodes
    if as_json:
        every = {run_id for one in sums for run_id in one.runs}
        print_json(
            {
                "v": 1,
                "seq": seq,
                "before": before,
                "dry_run": dry_run,
                "runs": len(every),
                "bytes": sum(one.bytes for one in sums),
                "nodes": [_json(one) for one in sums],
            }
        )
    else:
        _print_sums(sums, before, dry_run)
    if any(one.error for one in sums):
        exit_with(ExitCode.NO_SERVICE)


def _json(one: NodePruned) -> dict[str, Any]:
    return {
        "node": one.node,
        "runs": one.runs,
        "bytes": one.bytes,
        "kept": [{"run_id": kept.run_id, "reason": kept.reason} for kept in one.kept],
        "error": one.error,
    }


def lines(sums: Sequence[NodePruned], dry_run: bool, screen: Screen) -> list[str]:
    """The table."""
    heading = "WOULD FREE" if dry_run else "FREED"
    return render(
        (Column("NODE"), Column("RUNS", right=True), Column(heading, right=True)),
        [[one.node, f"{len(one.runs)}", format_bytes(one.bytes)] for one in sums],
        screen,
    )


def _print_sums(sums: Sequence[NodePruned], before: str, dry_run: bool) -> None:
    asked = [one for one in sums if one.error is None or one.runs]
    if any(one.runs for one in asked):
        print_lines(lines(asked, dry_run, Screen.of(sys.stdout)))
        sys.stdout.flush()
    elif (asked or not sums) and not any(one.kept for one in sums):
        note(f"nothing is left of runs that ended before {time_of_day(before)}")
    for one in sums:
        for kept in one.kept[:_KEPT_SHOWN]:
            run = f"run {short(kept.run_id)}, " if kept.run_id else ""
            note(f"kept on {one.node}: {run}{kept.reason}")
        if len(one.kept) > _KEPT_SHOWN:
            note(f"kept on {one.node}: {len(one.kept) - _KEPT_SHOWN} more (--json names them)")
    for one in sums:
        if one.error:
            warn(f"{one.node} was left out: {one.error}")
    if dry_run and any(one.runs for one in asked):
        note("nothing was deleted; without --dry-run it is")


async def _prune(before: datetime, dry_run: bool) -> PruneReport:
    async with connected() as trainshed:
        report = await trainshed.prune(ended_before=before, dry_run=dry_run)
    warn_if_stale(report.stale, report.seq, report.progress)
    if report.not_asked:
        note(f"not asked, having left or been removed: {', '.join(report.not_asked)}")
    return report


def _earlier(time: str, seconds: float) -> str:
    moment = datetime.fromisoformat(time) - timedelta(seconds=seconds)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
