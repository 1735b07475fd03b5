"""`trainshed ls`: the live runs and the last ended ones, or all that match.

Owns which runs are asked for and the line that tells of the rest.
"""

from __future__ import annotations

import gc
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import click
import msgspec

from services.cli.as_of import MomentAsked, PastMoment, as_of, asked, at_option, clock_of, seq_of, tell
from services.cli.at_rest import reading
from services.cli.common import (
    json_option,
    nats_option,
    note,
    print_json,
    warn_if_stale,
)
from services.cli.listing import COLUMNS, rows
from services.cli.number import Number
from services.cli.table import Screen, print_lines, render
from services.cli.verb import verb
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.records import QueuedRunRecord
from trainshed_client.statuses import PLACED, RunStatus

if TYPE_CHECKING:
    from trainshed_client.answers import RunPage
    from trainshed_client.client import Trainshed
    from trainshed_client.fold_progress import FoldProgress

ENDED_SHOWN = 20
LIVE_SHOWN = 100
"""So many live runs the table shows for itself: those that run, and the newest that wait. ``--json`` has them all."""
PLACED_SHOWN = 500
_KNOWN = tuple(one.lower() for one in RunStatus if one is not RunStatus.UNSPECIFIED)
_RUN = msgspec.json.Decoder(QueuedRunRecord)


class _Key(msgspec.Struct, frozen=True):
    run_id: str
    submit_seq: int


_KEY = msgspec.json.Decoder(_Key)


class Listing(NamedTuple):
    """Runs, newest first, each the server's JSON, by run id; ``total``: how many match, shown or not."""

    seq: int
    stale: bool
    runs: dict[str, tuple[int, msgspec.Raw]]
    total: int
    progress: FoldProgress | None = None
    moment: PastMoment | None = None

    @property
    def raw(self) -> list[msgspec.Raw]:
        """The runs as they came."""
        return [raw for _, raw in self.runs.values()]

    @property
    def more(self) -> int:
        """How many match beside those that are here."""
        return max(0, self.total - len(self.runs))


class ListOptions(NamedTuple):
    """What was asked for."""

    everything: bool = False
    statuses: Sequence[RunStatus] = ()
    labels: Sequence[str] = ()
    name: str | None = None
    limit: int | None = None
    at: MomentAsked | None = None

    @property
    def filtered(self) -> bool:
        """Whether some runs are none of those that were asked for."""
        return bool(self.statuses or self.labels or self.name)

    @property
    def for_all(self) -> str:
        """The command that lists every one of them."""
        command = ["trainshed", "ls", "--all"]
        command += [value for status in self.statuses for value in ("--status", status.lower())]
        command += [value for label in self.labels for value in ("--label", label)]
        command += ["--name", self.name] if self.name is not None else []
        command += ["--at", self.at.text] if self.at is not None else []
        return shlex.join(command)


@verb(
    "trainshed ls",
    "trainshed ls --all --status failed --label sweep=a",
    "trainshed ls --at -2h",
    "trainshed ls --all --json",
)
@click.option("-a", "--all", "everything", is_flag=True, help="Every run, however long ago it ended.")
@click.option(
    "--status",
    multiple=True,
    metavar="STATUS",
    help="Only these, as in --status failed.",
    shell_complete=lambda ctx, param, incomplete: _statuses_from(incomplete),
)
@click.option("--label", "labels", multiple=True, metavar="K=V", help="Only runs with this label.")
@click.option("--name", help="Only runs of this name.")
@click.option("-n", "--limit", type=Number(least=1), help="The N newest, live or ended.", metavar="N")
@at_option
@json_option
@nats_option
def ls(
    everything: bool,
    status: tuple[str, ...],
    labels: tuple[str, ...],
    name: str | None,
    limit: int | None,
    at: str | None,
    as_json: bool,
) -> None:
    """List runs, the newest first: the live ones and the last that ended.

    LAST is what a worker told last, what a queued run waits for, or how a run ended. A run that nobody named is shown
    by its command.
    """
    for label in labels:
        _label(label)
    gc.disable()  # this process makes a list and ends; looking for cycles in 10,000 records costs a quarter of it
    statuses = [_status(value) for listed in status for value in listed.split(",")]
    wanted = ListOptions(everything or bool(statuses), statuses, labels, name, limit, asked(at))
    listing = reading(
        lambda trainshed: _read(trainshed, wanted, whole=as_json), of_the_past=wanted.at is not None
    )
    tell(listing.moment)
    warn_if_stale(listing.stale, listing.seq, listing.progress)
    if as_json:
        stale = {"stale": True, "progress": listing.progress} if listing.stale else {}
        print_json({"v": 1, "seq": listing.seq, **stale, "runs": listing.raw})
        return
    if not listing.runs and listing.stale:
        note("no run that was asked for is there yet; ask again: trainshed ls")
        return
    if not listing.runs:
        note(_nothing(wanted))
        return
    records = _decoded(listing.raw)
    print_lines(lines(records, clock_of(listing.moment), Screen.of(sys.stdout)))
    if listing.moment is not None and wanted.at is not None:  # `-2h` is another moment by then
        wanted = wanted._replace(at=wanted.at._replace(text=listing.moment.option))
    if remark := rest(listing.more, wanted):
        sys.stdout.flush()
        note(remark)
    if listing.moment is not None and any(record.status in PLACED for record in records):
        sys.stdout.flush()
        note(
            "what workers told of what was live then is in their nodes' files: "
            f"trainshed metrics --at {listing.moment.option} RUN"
        )


def _nothing(wanted: ListOptions) -> str:
    if wanted.filtered:
        return "no run matches"
    if wanted.at is not None:
        return "no run had been submitted by then"
    return "no runs yet; begin with: trainshed submit -- CMD ..."


def lines(records: Sequence[QueuedRunRecord], at: str, screen: Screen) -> list[str]:
    """The table."""
    return render(COLUMNS, rows(records, at, whole_ids=not screen.is_terminal), screen)


def rest(more: int, wanted: ListOptions) -> str | None:
    """The last line: how many more there are, and how to list them."""
    return f"... and {more:,} more: {wanted.for_all}" if more else None


def _decoded(raw: Sequence[msgspec.Raw]) -> list[QueuedRunRecord]:
    return [_RUN.decode(one) for one in raw]


async def _read(trainshed: Trainshed, wanted: ListOptions, *, whole: bool) -> Listing:
    moment = await as_of(trainshed, wanted.at)
    found = await _listed(trainshed, wanted, seq_of(moment), whole=whole)
    return found._replace(moment=moment)


async def _listed(trainshed: Trainshed, wanted: ListOptions, at: int | None, *, whole: bool) -> Listing:
    if wanted.everything or wanted.limit is not None:
        return await _collect(trainshed, wanted, at, wanted.statuses, limit=wanted.limit)
    # The live ones first: a run that ends between the two questions is in both, and none in neither.
    live = await _collect(trainshed, wanted, at, live=True, limit=None if whole else LIVE_SHOWN)
    found = [live]
    if live.more:
        found.append(await _collect(trainshed, wanted, at, PLACED, live=True, limit=PLACED_SHOWN))
    ended = await _collect(trainshed, wanted, at, ended=True, limit=ENDED_SHOWN)
    return _merged([*found, ended], _total(live, ended))


async def _collect(
    trainshed: Trainshed,
    wanted: ListOptions,
    at: int | None,
    status: Sequence[RunStatus] = (),
    *,
    live: bool = False,
    ended: bool = False,
    limit: int | None,
) -> Listing:
    """All pages up to ``limit`` runs."""
    first: RunPage | None = None
    runs: dict[str, tuple[int, msgspec.Raw]] = {}
    labels = dict(_label(label) for label in wanted.labels)
    async for page in trainshed.list_pages(
        status=status, labels=labels, name=wanted.name, live=live, ended=ended, limit=limit, at=at
    ):
        first = first or page
        for raw in page.runs:
            key = _KEY.decode(raw)
            runs[key.run_id] = (key.submit_seq, raw)
    assert first is not None  # there is one page at least
    total = len(runs) if first.total is None else first.total
    return Listing(first.seq, first.stale, runs, total, first.progress)


def _total(live: Listing, ended: Listing) -> int:
    """How many there are in both, a run that ended between the two questions counted once."""
    return live.total + ended.total - len(live.runs.keys() & ended.runs.keys())


def _merged(parts: Sequence[Listing], total: int) -> Listing:
    """The newest of several listings; where a run is in two, as the later one has it."""
    every: dict[str, tuple[int, msgspec.Raw]] = {}
    for part in parts:
        every |= part.runs
    newest = sorted(every.items(), key=lambda item: -item[1][0])
    stale = [part for part in parts if part.stale]
    progress = stale[0].progress if stale else None
    return Listing(parts[0].seq, bool(stale), dict(newest), total, progress)


def _label(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise TrainshedError(
            ErrorCode.INVALID,
            f"--label is {text!r}, which has no value; write: trainshed ls --label NAME=VALUE",
        )
    return name, value


def _status(value: str) -> RunStatus:
    if value.strip().lower() not in _KNOWN:
        known = ", ".join(_KNOWN)
        raise TrainshedError(
            ErrorCode.INVALID, f"--status is {value!r}; known: {known}. Write: trainshed ls --status failed"
        )
    return RunStatus(value.strip().upper())


def _statuses_from(begun: str) -> list[str]:
    """What the last of several words with commas may become."""
    before, comma, last = begun.rpartition(",")
    return [f"{before}{comma}{one}" for one in _KNOWN if one.startswith(last.lower())]
