"""`trainshed ls`: the live runs and the last ended ones, or all that match.

Owns which runs are asked for and the line that tells of the rest.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NamedTuple

import click
import msgspec

from services.cli.clock import now
from services.cli.common import (
    connected,
    json_option,
    nats_option,
    note,
    print_json,
    run_async,
    warn_if_stale,
)
from services.cli.listing import COLUMNS, rows
from services.cli.table import print_table
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.records import QueuedRunRecord
from trainshed_client.statuses import RunStatus

if TYPE_CHECKING:
    from trainshed_client.answers import RunPage
    from trainshed_client.client import Trainshed

ENDED_SHOWN = 20
ENDED = tuple(status for status in RunStatus if status.ended)


class Listing(NamedTuple):
    """Runs, newest first, as records and as the server's JSON; ``more``: there are others that match."""

    seq: int
    stale: bool
    runs: dict[str, tuple[QueuedRunRecord, msgspec.Raw]]
    more: bool


@click.command()
@click.option("-a", "--all", "everything", is_flag=True, help="Every run, however long ago it ended.")
@click.option("--status", multiple=True, metavar="STATUS", help="Only these, as in --status failed.")
@click.option("--label", "labels", multiple=True, metavar="K=V", help="Only runs with this label.")
@click.option("--name", help="Only runs of this name.")
@click.option("-n", "--limit", type=click.IntRange(min=1), help="At most so many, the newest.")
@json_option
@nats_option
def ls(
    everything: bool,
    status: tuple[str, ...],
    labels: tuple[str, ...],
    name: str | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """List runs, the newest first: the live ones and the last that ended.

    LAST is what a worker told last, what a queued run waits for, or how a run ended.
    """
    wanted_labels = dict(_label(label) for label in labels)
    statuses = [_status(word) for part in status for word in part.split(",")]
    listing = run_async(_read(everything or bool(statuses), statuses, wanted_labels, name, limit))
    warn_if_stale(listing.stale, listing.seq)
    if as_json:
        print_json({"v": 1, "seq": listing.seq, "runs": [raw for _, raw in listing.runs.values()]})
        return
    records = [record for record, _ in listing.runs.values()]
    if not records:
        filtered = statuses or labels or name
        note("no run matches" if filtered else "no runs yet; begin with: trainshed submit -- CMD ...")
        return
    print_table(COLUMNS, rows(records, now(), whole_ids=not sys.stdout.isatty()))
    if listing.more:
        sys.stdout.flush()
        note(
            "... and older ones: trainshed ls --all" if limit is None else "... and older ones: raise --limit"
        )


async def _read(
    everything: bool, status: list[RunStatus], labels: dict[str, str], name: str | None, limit: int | None
) -> Listing:
    async with connected() as trainshed:
        if everything:
            return await _collect(trainshed, status, labels, name, live=False, limit=limit)
        # The live ones first: a run that ends between the two questions is in both, and none in neither.
        live = await _collect(trainshed, [], labels, name, live=True, limit=limit)
        ended_limit = ENDED_SHOWN if limit is None else limit
        ended = await _collect(trainshed, list(ENDED), labels, name, live=False, limit=ended_limit)
        return _merged(live, ended, limit)


async def _collect(
    trainshed: Trainshed,
    status: list[RunStatus],
    labels: dict[str, str],
    name: str | None,
    *,
    live: bool,
    limit: int | None,
) -> Listing:
    """All pages; one run more than ``limit`` is asked for, to know whether there are others."""
    first: RunPage | None = None
    runs: dict[str, tuple[QueuedRunRecord, msgspec.Raw]] = {}
    asked = None if limit is None else limit + 1
    async for page in trainshed.run_pages(status=status, labels=labels, name=name, live=live, limit=asked):
        first = first or page
        for record, raw in zip(page.records, page.runs, strict=True):
            runs[record.run_id] = (record, raw)
    assert first is not None  # there is one page at least
    more = limit is not None and len(runs) > limit
    return Listing(first.seq, first.stale, dict(list(runs.items())[:limit]), more)


def _merged(live: Listing, ended: Listing, limit: int | None) -> Listing:
    both = {**live.runs, **ended.runs}  # where a run is in both, as ended
    newest = sorted(both.items(), key=lambda item: -item[1][0].submit_seq)
    more = live.more or ended.more or (limit is not None and len(newest) > limit)
    return Listing(live.seq, live.stale or ended.stale, dict(newest[:limit]), more)


def _label(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise TrainshedError(ErrorCode.INVALID, f"--label is {text!r}; write --label NAME=VALUE")
    return name, value


def _status(word: str) -> RunStatus:
    status = RunStatus(word.strip().upper())
    if status is RunStatus.UNSPECIFIED:
        known = ", ".join(one for one in RunStatus if one is not RunStatus.UNSPECIFIED)
        raise TrainshedError(ErrorCode.INVALID, f"--status is {word!r}; known: {known}")
    return status
