"""`trainshed logs`: what a run's worker wrote, whole or as it is written.

Owns which attempt, which stream and which lines are asked for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

import click

from services.cli.as_of import MomentAsked, PastMoment, as_of, asked, at_option, of_then, seq_of, tell, until
from services.cli.at_rest import at_rest, only_there, reading
from services.cli.clock import now
from services.cli.common import detach_on_interrupt, nats_option, note, warn
from services.cli.describe import never_started, summary
from services.cli.number import Number
from services.cli.output import print_attempt, print_chunks
from services.cli.run_argument import RUN
from services.cli.text import clean, short, time_of_day
from services.cli.verb import verb
from services.cli.wait_notice import WaitNotice
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.statuses import RunStatus

if TYPE_CHECKING:
    from trainshed_client.answers import RunView
    from trainshed_client.client import Trainshed
    from trainshed_client.output_range import OutputChunk
    from trainshed_client.records import AttemptRecord, RunRecord


class LogOptions(NamedTuple):
    """What was asked for."""

    attempt: int | None
    only: str | None
    tail: int | None
    timestamps: bool
    at: MomentAsked | None = None

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams to read."""
        return ("stdout", "stderr") if self.only is None else (self.only,)


@verb(
    "trainshed logs ppo-cartpole",
    "trainshed logs -f --tail 20 k3f2q7",
    "trainshed logs --stderr --attempt 1 k3f2q7",
    "trainshed logs --at -2h --tail 20 k3f2q7",
)
@click.argument("run", metavar="RUN", type=RUN)
@click.option("-f", "--follow", is_flag=True, help="Go on as more is written, until the run ends.")
@click.option("--tail", type=Number(least=0), metavar="N", help="Begin with the last N lines.")
@click.option("--attempt", type=Number(least=1), metavar="N", help="Which attempt (the latest).")
@click.option("--stdout", is_flag=True, help="Only what it wrote to stdout.")
@click.option("--stderr", is_flag=True, help="Only what it wrote to stderr.")
@click.option("--timestamps", is_flag=True, help="Tell when each line came, and on which stream.")
@at_option
@nats_option
def logs(
    run: str,
    follow: bool,
    tail: int | None,
    attempt: int | None,
    stdout: bool,
    stderr: bool,
    timestamps: bool,
    at: str | None,
) -> None:
    """Print the output of a run, stdout and stderr together as they came, byte for byte.

    A terminal gets its colours and progress bars; other escape codes are shown as text. It is read from the machine where
    the run is or was. With -f it begins when the run does, goes on over later
    attempts and ends with the run; Ctrl-C ends only the following. With --at it is what had been written by then, by the
    clock of that machine.
    """
    if follow and at is not None:
        raise click.UsageError(
            "--at is a moment of the past, and -f follows what is to come: choose one of them"
        )
    only = None if stdout == stderr else "stdout" if stdout else "stderr"
    wanted = LogOptions(attempt, only, tail, timestamps, asked(at))
    reading(
        lambda trainshed: _logs(trainshed, run, follow, wanted),
        patient=follow,
        of_the_past=at is not None,
    )


async def _logs(trainshed: Trainshed, run: str, follow: bool, wanted: LogOptions) -> None:
    moment = await as_of(trainshed, wanted.at)
    view = await of_then(trainshed.get(run, at=seq_of(moment)), moment)
    tell(moment)
    with only_there():
        if follow and not view.run.status.ended and not at_rest(trainshed):
            await _follow(trainshed, view, wanted)
        else:
            await _stored(trainshed, view, wanted, moment)
            if follow:
                _note_outcome(view.run)


def _note_outcome(record: RunRecord) -> None:
    note(f"run {short(record.run_id)} {clean(summary(record, now()))}")


async def _follow(trainshed: Trainshed, view: RunView, wanted: LogOptions) -> None:
    run_id = view.run.run_id
    detach_on_interrupt(lambda: f"detached; to stop it: trainshed cancel {short(run_id)}")
    chosen = _chosen(view, wanted.attempt)
    first, begin = wanted.attempt, None
    waits = view.run.status is RunStatus.PENDING
    if waits and wanted.attempt is None:
        first = view.run.attempt  # the one that is to come; what came before was told when it was there
    elif chosen is not None and (wanted.tail is not None or wanted.timestamps):
        first, begin = chosen.attempt, await _print_stored(trainshed, chosen, wanted)
    printed = chosen.attempt if begin is not None and chosen is not None else 0

    def print_other_attempt(attempt: int, node: str) -> None:
        if attempt != printed:
            print_attempt(attempt, node)

    async with WaitNotice(trainshed) as notice:
        if waits:
            notice.show(view.run)
        async with trainshed.output(
            run_id, first_attempt=first, begin=begin, on_attempt=print_other_attempt, on_record=notice.seen
        ) as output:
            chunks = _arriving(output) if wanted.timestamps else output
            await print_chunks(chunks, merged=True, only=wanted.only)
            for missing in output.missing:
                warn(missing)
            _note_outcome(output.record)


async def _arriving(output: AsyncIterator[OutputChunk]) -> AsyncIterator[OutputChunk]:
    """Live chunks with the time at which they came here, line by line."""
    from trainshed_client.output_range import timed_lines

    async def stamped() -> AsyncIterator[OutputChunk]:
        async for chunk in output:
            yield chunk._replace(time=datetime.fromisoformat(now()).astimezone())

    async for chunk in timed_lines(stamped()):
        yield chunk


async def _stored(trainshed: Trainshed, view: RunView, wanted: LogOptions, moment: PastMoment | None) -> None:
    run = short(view.run.run_id)
    chosen = _chosen(view, wanted.attempt)
    if chosen is not None:
        await _print_stored(trainshed, chosen, wanted, until(moment, chosen))
        if never_started(chosen):
            note(f"attempt {chosen.attempt} of run {run} could not be started; why: trainshed show {run}")
    elif wanted.attempt is not None:
        there = "none yet" if not view.attempts else f"only {len(view.attempts)}"
        there += "" if moment is None else " by then"
        raise TrainshedError(
            ErrorCode.NOT_FOUND,
            f"run {run} has no attempt {wanted.attempt}, {there}; see: trainshed show {run}",
        )
    elif moment is not None:
        note(f"run {run} had not started by then: trainshed explain --at {moment.option} {run}")
    elif view.run.status is RunStatus.PENDING:
        waits_for = view.run.waits_for
        note(
            f"run {run} has not started: {clean(waits_for.text) if waits_for else 'queued'}. "
            f"To begin with it: trainshed logs -f {run}"
        )
    else:
        note(f"run {run} never started; why: trainshed explain {run}")


def _chosen(view: RunView, attempt: int | None) -> AttemptRecord | None:
    granted = {one.attempt: one for one in view.attempts}
    return granted.get(attempt if attempt is not None else max(granted, default=0))


async def _print_stored(
    trainshed: Trainshed, attempt: AttemptRecord, wanted: LogOptions, by: str | None = None
) -> dict[str, int]:
    """Print what an attempt's files hold, or held ``by`` a time of its node's; how much of each stream there was."""
    from trainshed_client.output_range import last_lines, stored_output, timed_lines, written_by

    place = (attempt.run_id, attempt.attempt, attempt.node)
    sizes: dict[str, int] = {}

    async def read() -> AsyncIterator[OutputChunk]:
        ends = None if by is None else await written_by(trainshed, *place, datetime.fromisoformat(by))
        if wanted.tail is not None:
            tail = await last_lines(trainshed, *place, wanted.tail, streams=wanted.streams, ends=ends)
            sizes.update(tail.sizes)
            for chunk in tail.chunks:
                yield chunk
            return
        async for chunk in stored_output(trainshed, *place, streams=wanted.streams, ends=ends):
            sizes[chunk.stream] = chunk.offset + len(chunk.data)
            yield chunk

    async def in_zone() -> AsyncIterator[OutputChunk]:
        async for chunk in read():
            yield chunk if chunk.time is None else chunk._replace(time=chunk.time.astimezone())

    print_attempt(attempt.attempt, attempt.node)
    if by is not None:
        note(f"what it had written by {time_of_day(by)}, by {attempt.node}'s clock")
    try:
        await print_chunks(timed_lines(in_zone()) if wanted.timestamps else read(), merged=True)
    except TrainshedError as error:
        where = "the output is on" if error.code is ErrorCode.UNAVAILABLE else "on"
        raise TrainshedError(error.code, f"{where} {attempt.node}: {error.message}") from None
    return sizes
