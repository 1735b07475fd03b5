"""`trainshed prune`: what runs that ended long ago left on the nodes is deleted; the log keeps every event.

Owns which runs are meant, which nodes are asked, and what is told of it; what a node deletes is its agent's word.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import click
import msgspec

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
from trainshed_client.answers import Pruned
from trainshed_client.errors import ErrorCode, ExitCode, TrainshedError
from trainshed_client.statuses import NodeStatus

if TYPE_CHECKING:
    from trainshed_client.answers import RunPage
    from trainshed_client.client import Trainshed

ANSWERS_WITHIN_S = 5.0
WORKS_WITHIN_S = 600.0
"""A call ends after 2 s with what it has done; but a single run may have left millions of files."""
_KEPT_SHOWN = 5


class Sum:
    """What one node has deleted, or would."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.runs: list[str] = []
        self.bytes = 0
        self.kept: list[tuple[str, str]] = []
        self.error: str | None = None
        """Why it was not asked any further."""

    def add(self, answer: Pruned) -> None:
        """Count what a call has done."""
        self.runs += answer.runs
        self.bytes += answer.bytes
        self.kept += [(kept.run_id, kept.reason) for kept in answer.kept]

    @property
    def json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "node": self.node,
            "runs": self.runs,
            "bytes": self.bytes,
            "kept": [{"run_id": run_id, "reason": reason} for run_id, reason in self.kept],
            "error": self.error,
        }


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
    seq, sums = run_async(_prune(before, dry_run))
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
                "nodes": [one.json for one in sums],
            }
        )
    else:
        _print_sums(sums, before, dry_run)
    if any(one.error for one in sums):
        exit_with(ExitCode.NO_SERVICE)


def lines(sums: Sequence[Sum], dry_run: bool, screen: Screen) -> list[str]:
    """The table."""
    heading = "WOULD FREE" if dry_run else "FREED"
    return render(
        (Column("NODE"), Column("RUNS", right=True), Column(heading, right=True)),
        [[one.node, f"{len(one.runs)}", format_bytes(one.bytes)] for one in sums],
        screen,
    )


def _print_sums(sums: Sequence[Sum], before: str, dry_run: bool) -> None:
    asked = [one for one in sums if one.error is None or one.runs]
    if any(one.runs for one in asked):
        print_lines(lines(asked, dry_run, Screen.of(sys.stdout)))
        sys.stdout.flush()
    elif (asked or not sums) and not any(one.kept for one in sums):
        note(f"nothing is left of runs that ended before {time_of_day(before)}")
    for one in sums:
        for run_id, reason in one.kept[:_KEPT_SHOWN]:
            note(f"kept on {one.node}: {f'run {short(run_id)}, ' if run_id else ''}{reason}")
        if len(one.kept) > _KEPT_SHOWN:
            note(f"kept on {one.node}: {len(one.kept) - _KEPT_SHOWN} more (--json names them)")
    for one in sums:
        if one.error:
            warn(f"{one.node} was left out: {one.error}")
    if dry_run and any(one.runs for one in asked):
        note("nothing was deleted; without --dry-run it is")


async def _prune(before: str, dry_run: bool) -> tuple[int, list[Sum]]:
    async with connected() as trainshed:
        sums = await _who_answers(trainshed)
        ran_on: set[str] = set()
        first: RunPage | None = None
        async for page in trainshed.list_pages(ended_before=datetime.fromisoformat(before)):
            if page.stale and not dry_run:
                if first is None:
                    raise _behind()
                for one in sums:
                    one.error = one.error or _behind().message
                break
            if first is None:
                first = page
                warn_if_stale(page.stale, page.seq, page.progress)
            ran_on |= {record.node for record in page.records if record.node is not None}
            runs = {record.run_id: record.attempt for record in page.records}
            if not runs:
                continue
            # Every node: a run's earlier attempts may have been on others than its record names.
            async with asyncio.TaskGroup() as tasks:
                for one in sums:
                    if one.error is None:
                        tasks.create_task(_ask(trainshed, one, runs, dry_run))
        assert first is not None  # there is one page at least
        away = sorted(ran_on - {one.node for one in sums})
        if away:
            note(f"not asked, having left or been removed: {', '.join(away)}")
        return first.seq, sums


async def _who_answers(trainshed: Trainshed) -> list[Sum]:
    """Every node that is known; one that does not answer now is not waited for later."""
    nodes = (await trainshed.nodes()).nodes
    sums = [Sum(node.node) for node in nodes]

    async def look(one: Sum, status: NodeStatus) -> None:
        try:
            if status is NodeStatus.LOST:
                raise TrainshedError(ErrorCode.UNAVAILABLE, "it does not answer (lost)")
            one.add(await _call(trainshed, one.node, [], False, ANSWERS_WITHIN_S))
        except TrainshedError as error:
            one.error = error.message

    async with asyncio.TaskGroup() as tasks:
        for one, node in zip(sums, nodes, strict=True):
            tasks.create_task(look(one, node.status))
    return sums


async def _ask(trainshed: Trainshed, one: Sum, runs: dict[str, int], dry_run: bool) -> None:
    left = list(runs.items())
    while left:
        try:
            if not dry_run:
                # Asked for again each time: until its turn came a run may have been tried again.
                live = await _live(trainshed)
                left = [(run_id, attempt) for run_id, attempt in left if run_id not in live]
                if not left:
                    return
            answer = await _call(trainshed, one.node, left, dry_run, WORKS_WITHIN_S)
        except TrainshedError as error:
            one.error = error.message
            return
        one.add(answer)
        left = left[max(1, answer.handled) :]


async def _live(trainshed: Trainshed) -> set[str]:
    """The runs that have not ended. Raises TrainshedError, also where that is not known for sure."""
    live: set[str] = set()
    async for page in trainshed.list_pages(live=True):
        if page.stale:
            raise _behind()
        live |= {record.run_id for record in page.records}
    return live


def _behind() -> TrainshedError:
    return TrainshedError(
        ErrorCode.UNAVAILABLE,
        "the read side is behind the event log and may not know what was tried again; ask again later",
    )


async def _call(
    trainshed: Trainshed, node: str, runs: Sequence[tuple[str, int]], dry_run: bool, within_s: float
) -> Pruned:
    """Ask a node's agent; without runs only whether it is there."""
    asked = [{"run_id": run_id, "attempt": attempt} for run_id, attempt in runs]
    request = {"runs": asked, "dry_run": dry_run}
    body = await trainshed.call(f"node.{node}.prune", request, timeout=within_s)
    try:
        return msgspec.json.decode(body, type=Pruned)
    except msgspec.MsgspecError:
        raise TrainshedError(
            ErrorCode.UNAVAILABLE, "its agent answers with what this release does not understand"
        ) from None


def _earlier(time: str, seconds: float) -> str:
    moment = datetime.fromisoformat(time) - timedelta(seconds=seconds)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
