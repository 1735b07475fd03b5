"""`trainshed cancel` and `trainshed retry`: the two commands that change a run after its submission.

Owns what they print for one or several runs; whether they may is the gateway's word.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import click

from services.cli.common import connected, exit_with, json_option, nats_option, note, print_json, run_async
from services.cli.run_argument import RUN
from services.cli.text import short
from services.cli.verb import verb
from trainshed_client.errors import ErrorCode, ExitCode, TrainshedError
from trainshed_client.statuses import RunStatus

if TYPE_CHECKING:
    from trainshed_client.answers import Acknowledged
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

    exit_with(run_async(_each(runs, one, as_json, remark=_after_cancel)))


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
    remark: Callable[[Trainshed, Acknowledged], Awaitable[str | None]] | None = None,
) -> int:
    """The command for every run, one that is refused does not keep the others from it; the first refusal's code."""
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
            if as_json:
                import msgspec

                print_json(msgspec.json.encode(answer))
            else:
                click.echo(f"{answer.run_id}  {answer.status}")
            if remark is not None and (text := await remark(trainshed, answer)):
                note(text)
    return code


async def _after_cancel(trainshed: Trainshed, answer: Acknowledged) -> str | None:
    """What a cancel does not do: change what has ended, or reach a machine that does not answer."""
    if answer.status in (RunStatus.COMPLETED, RunStatus.FAILED):
        return f"{short(answer.run_id)} has ended already ({answer.status}); nothing was cancelled"
    if answer.status.ended:
        return None
    try:
        record = (await trainshed.run(answer.run_id)).run
        if record.node is None:
            return None
        nodes = (await trainshed.nodes()).nodes
    except TrainshedError:
        return None  # the cancel is stored; this was a courtesy
    lost = next(
        (node for node in nodes if node.node == record.node and node.status in ("lost", "left")), None
    )
    if record.status.ended:
        return None
    if lost is None:
        return f"{short(answer.run_id)} is being stopped; until it has ended: trainshed wait {short(answer.run_id)}"
    return (
        f"{lost.node}, where it runs, does not answer ({lost.status}); it is stopped when that machine is back. "
        f"If the machine is gone: trainshed node remove {lost.node}"
    )
