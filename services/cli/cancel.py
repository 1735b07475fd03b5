"""`trainshed cancel` and `trainshed retry`: the two commands that change a run after its submission.

Owns what they print for one or several runs; whether they may is the gateway's word.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import click

from services.cli.clock import now
from services.cli.common import connected, exit_with, json_option, nats_option, note, print_json, run_async
from services.cli.describe import NOTHING, away, last
from services.cli.run_argument import RUN
from services.cli.text import clean, seconds_between, short
from services.cli.verb import verb
from trainshed_client.errors import ErrorCode, ExitCode, TrainshedError
from trainshed_client.rendering.ago import ago
from trainshed_client.rendering.durations import format_duration

if TYPE_CHECKING:
    from trainshed_client.answers import Acknowledged, RunView
    from trainshed_client.client import Trainshed


@verb("trainshed cancel k3f2q7", "trainshed cancel ppo-cartpole --reason 'wrong learning rate'")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=RUN)
@click.option("--reason", help="Kept in the log.")
@json_option
@nats_option
def cancel(runs: tuple[str, ...], reason: str | None, as_json: bool) -> None:
    """End runs, queued or running: by id, a unique part of its beginning, or name.

    A running worker gets its stop signal, and SIGKILL after its grace period; its slots are free once all its
    processes are gone. A run that has ended stays as it is.
    """

    async def one(trainshed: Trainshed, run: str) -> Acknowledged:
        return await trainshed.cancel(run, reason=reason)

    exit_with(run_async(_each(runs, one, as_json, outcome=_cancelled)))


@verb("trainshed retry k3f2q7")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=RUN)
@click.option("--reason", help="Kept in the log.")
@json_option
@nats_option
def retry(runs: tuple[str, ...], reason: str | None, as_json: bool) -> None:
    """Run an ended run again, as its next attempt, in the same run folder."""

    async def one(trainshed: Trainshed, run: str) -> Acknowledged:
        return await trainshed.retry(run, reason=reason)

    exit_with(run_async(_each(runs, one, as_json)))


async def _each(
    runs: tuple[str, ...],
    command: Callable[[Trainshed, str], Awaitable[Acknowledged]],
    as_json: bool,
    *,
    outcome: Callable[[Trainshed, Acknowledged], Awaitable[tuple[str, str | None]]] | None = None,
) -> int:
    """The command for every run, one that is refused does not keep the others from it; the first refusal's code.

    ``outcome``: what it did, in words, and what is to be known beside.
    """
    code: int = ExitCode.OK
    async with connected() as trainshed:
        for run in runs:
            try:
                answer = await command(trainshed, run)
            except TrainshedError as error:
                if error.code is ErrorCode.UNAVAILABLE or len(runs) == 1:
                    raise
                note(f"Error: {run}: {error}")
                code = code or error.exit_code
                continue
            done, remark = (str(answer.status), None) if outcome is None else await outcome(trainshed, answer)
            if as_json:
                import msgspec

                print_json(msgspec.json.encode(answer))
            else:
                click.echo(f"{answer.run_id}  {clean(done)}")
            if remark is not None:
                note(remark)
    return code


async def _cancelled(trainshed: Trainshed, answer: Acknowledged) -> tuple[str, str | None]:
    """What a cancel did, and what it does not do: reach a machine that does not answer."""
    try:
        view = await trainshed.get(answer.run_id)
    except TrainshedError:  # the cancel is stored; this was a courtesy
        return f"{answer.status}; its cancel is stored", None
    return after_cancel(answer, view, now())


def after_cancel(answer: Acknowledged, view: RunView, at: str) -> tuple[str, str | None]:
    """What a cancel did to a run, as it is now, and what is to be known beside."""
    record, run = view.run, short(answer.run_id)
    if answer.status.ended:
        seconds = seconds_between(record.ended_at, at)
        when = "" if seconds is None else f", {ago(seconds)}"
        text = last(record)
        how = "" if text == NOTHING else f": {text}"
        return f"had ended already ({answer.status}{when}){how}", None
    if record.node is None:
        return "cancelled: it was queued, and does not start", None
    from events.config import stored_config

    if away(record):
        return "to be stopped once its node answers", (
            f"{record.node}, where it runs, does not answer ({record.node_status}); it is stopped when that machine is back. "
            f"If the machine is gone: trainshed node remove {record.node}"
        )
    stop = stored_config(view.config).stop
    done = f"told to stop: {stop.signal}"
    if stop.signal != "SIGKILL":
        done += f", then SIGKILL after {format_duration(stop.grace_s)}"
    return (
        done,
        None
        if record.status.ended
        else f"{run} keeps its slots until all its processes are gone; to wait: trainshed wait {run}",
    )
