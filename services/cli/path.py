"""`trainshed path`: where a run has its folder, on one line, as for `cd $(trainshed path RUN)`.

Owns what is printed where that folder is on another machine, or no more.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from services.cli.at_rest import reading
from services.cli.attempt_argument import attempt_option, chosen_attempt
from services.cli.common import exit_with, nats_option, note
from services.cli.run_argument import RUN
from services.cli.text import short
from services.cli.verb import verb
from trainshed_client.errors import ErrorCode, ExitCode, TrainshedError

if TYPE_CHECKING:
    from trainshed_client.answers import RunFolder
    from trainshed_client.client import Trainshed


@verb("trainshed path ppo-cartpole", "cd $(trainshed path k3f2q7)")
@click.argument("run", metavar="RUN", type=RUN)
@click.option("--output", is_flag=True, help="The folder of its stdout.log and stderr.log.")
@attempt_option
@nats_option
def path(run: str, output: bool, attempt: int | None) -> None:
    """Print the folder of a run: what it left there, its artifacts/ and its output.

    Where that is on another machine the path is printed all the same, stderr says which machine it is, and the exit
    code is 4.
    """
    found = reading(lambda trainshed: _read(trainshed, run, attempt))
    shown = found.output if output else found.folder
    click.echo(shown)
    if problem := _problem(shown, found, run):
        note(problem)
        exit_with(ExitCode.NO_SUCH_RUN)


async def _read(trainshed: Trainshed, run: str, number: int | None) -> RunFolder:
    from trainshed_client.run_files import run_folder

    view = await trainshed.get(run)
    attempt = chosen_attempt(view, number)
    try:
        return await run_folder(trainshed, attempt)
    except TrainshedError as error:
        if error.code is not ErrorCode.UNAVAILABLE:
            raise
        raise TrainshedError(
            error.code, f"the folder of run {short(attempt.run_id)} is on {attempt.node}: {error.message}"
        ) from None


def _problem(shown: str, found: RunFolder, run: str) -> str | None:
    """What to say where the folder is not here; storage that several machines share is."""
    if os.path.isdir(shown):
        return None
    if not found.exists or found.host == os.uname().nodename:
        return f"the folder is there no more: somebody deleted it on {found.host}"
    return (
        f"it is on {found.host} (node {found.node}), not on this machine. "
        f"What it left there: trainshed artifacts {run}"
    )
