"""`trainshed wait`: until runs have ended, live on a terminal, a line a change elsewhere.

Owns what is shown meanwhile and the exit code; that nothing is polled is trainshed_client.watching's.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import click

from services.cli.clock import now
from services.cli.common import connected, exit_with, json_option, nats_option, note, print_json, run_async
from services.cli.describe import exit_code_of, summary
from services.cli.run_argument import RUN
from services.cli.text import clean, short
from services.cli.verb import verb
from services.durations import parse_duration
from trainshed_client.errors import ExitCode
from trainshed_client.records import RunRecord, json_of

if TYPE_CHECKING:
    from trainshed_client.client import Trainshed
    from trainshed_client.watching.watch import RecordWatch

Show = Callable[[RunRecord], None]


@verb("trainshed wait k3f2q7", "trainshed wait --timeout 2h run-a run-b && echo both completed")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=RUN)
@click.option("--timeout", metavar="DURATION", help="Give up after this time, with exit code 124.")
@click.option("-q", "--quiet", is_flag=True, help="Show nothing meanwhile.")
@json_option
@nats_option
def wait(runs: tuple[str, ...], timeout: str | None, quiet: bool, as_json: bool) -> None:
    """Wait until these runs have ended; of several exit codes the highest counts.

    0 for a completed run, the worker's own code, 128 + n for signal n, 125 for a run that ended without a code
    (cancelled, timed out, lost, not started), 124 where the wait itself timed out. Ctrl-C ends only the wait.
    """
    seconds = None if timeout is None else parse_duration(timeout, given_by="--timeout")
    exit_with(run_async(_wait(runs, seconds, quiet, as_json)))


async def _wait(runs: Sequence[str], timeout: float | None, quiet: bool, as_json: bool) -> int:
    latest: dict[str, RunRecord] = {}
    run_ids: list[str] = []
    limit = asyncio.timeout(timeout)
    async with connected(patient=True) as trainshed:
        try:
            async with limit:  # also for what is asked first: a service that does not answer is waited for
                run_ids = list(dict.fromkeys([await _run_id(trainshed, run) for run in runs]))
                async with trainshed.watch_runs(run_ids) as watch:
                    with _shown(quiet, run_ids) as show:
                        await _until_ended(watch, set(run_ids), latest, show)
        except TimeoutError:
            if not limit.expired():
                raise
        except asyncio.CancelledError:
            run = short(run_ids[0]) if run_ids else runs[0]
            note(f"\nstopped waiting; the runs go on. To stop one: trainshed cancel {run}")
            raise
    records = [latest[run_id] for run_id in run_ids if run_id in latest]
    if records or as_json:
        _print(records, as_json)
    if limit.expired():
        left = len(run_ids or runs) - sum(record.status.ended for record in records)
        still = f"{left} of {len(run_ids or runs)} still go on" if records else "nothing was answered"
        note(f"timed out; {still}. Wait again: trainshed wait {' '.join(runs)}")
        return ExitCode.TIMED_OUT
    return max(exit_code_of(record) for record in records)


async def _run_id(trainshed: Trainshed, run: str) -> str:
    from trainshed_client.naming import is_run_id

    return run if is_run_id(run) else (await trainshed.resolve(run)).run_id


async def _until_ended(
    watch: RecordWatch[RunRecord], left: set[str], latest: dict[str, RunRecord], show: Show
) -> None:
    async for record in watch:
        if not isinstance(record, RunRecord):
            continue
        latest[record.run_id] = record
        show(record)
        if record.status.ended:
            left.discard(record.run_id)
        if not left:
            return


def _print(records: Sequence[RunRecord], as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "v": 1,
                "seq": max((record.seq for record in records), default=0),
                "runs": [json_of(one) for one in records],
            }
        )
        return
    for record in records:
        click.echo(f"{record.run_id}  {clean(record.name)}  {clean(summary(record, now()))}")


@contextlib.contextmanager
def _shown(quiet: bool, run_ids: Sequence[str]) -> Iterator[Show]:
    """How changes are shown: as a live table on a terminal, as lines on stderr else."""
    if quiet:
        yield lambda record: None
    elif sys.stderr.isatty():
        from services.cli.live import live_table

        with live_table(run_ids) as show:
            yield show
    else:
        yield _lines()


def _lines() -> Show:
    known: dict[str, object] = {}

    def show(record: RunRecord) -> None:
        state = (record.status, record.attempt)
        if known.get(record.run_id) == state or record.status.ended:
            return  # the end is told on stdout
        known[record.run_id] = state
        note(f"{short(record.run_id)}  {clean(record.name)}  {clean(summary(record, now()))}")

    return show
