"""`trainshed logs`: what a run's worker wrote, whole or as it is written.

Owns which attempt and which stream are asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from services.cli.common import connected, detach_on_interrupt, nats_option, note, run_async, warn
from services.cli.output import print_chunks
from services.cli.text import short
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.statuses import RunStatus

if TYPE_CHECKING:
    from trainshed_client.answers import RunView
    from trainshed_client.client import Trainshed


@click.command()
@click.argument("run", metavar="RUN")
@click.option("-f", "--follow", is_flag=True, help="Go on as more is written, until the run ends.")
@click.option("--attempt", type=click.IntRange(min=1), help="Which attempt (the latest).")
@click.option("--stdout", "only", flag_value="stdout", help="Only what it wrote to stdout.")
@click.option("--stderr", "only", flag_value="stderr", help="Only what it wrote to stderr.")
@click.option("--times", is_flag=True, help="Tell when each line came.")
@nats_option
def logs(run: str, follow: bool, attempt: int | None, only: str | None, times: bool) -> None:
    """Print the output of a run, stdout and stderr together as they came, byte for byte.

    It is read from the machine where the run is or was. With -f it goes on over later attempts until the run ends;
    Ctrl-C ends only the following.
    """
    if times and follow:
        raise TrainshedError(ErrorCode.INVALID, "--times tells of what is stored already; leave out -f")
    run_async(_logs(run, follow, attempt, only, times))


async def _logs(run: str, follow: bool, attempt: int | None, only: str | None, times: bool) -> None:
    async with connected(patient=follow) as trainshed:
        view = await trainshed.run(run)
        run_id = view.run.run_id
        if follow and not view.run.status.ended:
            detach_on_interrupt(
                lambda: f"detached; the run goes on. To stop it: trainshed cancel {short(run_id)}"
            )
            async with trainshed.output(run_id, first_attempt=attempt) as output:
                await print_chunks(output, merged=True, only=only)
                for missing in output.missing:
                    warn(missing)
            return
        await _stored(trainshed, view, attempt, only, times)


async def _stored(
    trainshed: Trainshed, view: RunView, attempt: int | None, only: str | None, times: bool
) -> None:
    from trainshed_client.output_range import stored_output, timed_lines

    granted = {one.attempt: one for one in view.attempts}
    chosen = granted.get(attempt if attempt is not None else max(granted, default=0))
    if chosen is None:
        if attempt is not None:
            raise TrainshedError(
                ErrorCode.NOT_FOUND,
                f"run {short(view.run.run_id)} has no attempt {attempt}, only {len(granted)}",
            )
        waiting = view.run.status is RunStatus.PENDING
        note(f"run {short(view.run.run_id)} " + ("has not started yet" if waiting else "never started"))
        return
    streams = ("stdout", "stderr") if only is None else (only,)
    run_id = view.run.run_id
    chunks = stored_output(trainshed, run_id, chosen.attempt, chosen.node, streams=streams)
    try:
        await print_chunks(timed_lines(chunks) if times else chunks, merged=True)
    except TrainshedError as error:
        if error.code is not ErrorCode.UNAVAILABLE:
            raise
        raise TrainshedError(error.code, f"the output is on {chosen.node}: {error.message}") from None
