"""`trainshed artifacts`: what a run's worker left in its artifacts/, on whatever node; and one of these files, fetched.

Owns the list and where a fetched file is put: whole at its place, or not there at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Mapping
from typing import IO, TYPE_CHECKING, Any

import click

from services.cli.at_rest import only_there, reading
from services.cli.attempt_argument import attempt_option, chosen_attempt
from services.cli.common import connected, json_option, nats_option, note, print_json, write_now
from services.cli.run_argument import RUN
from services.cli.text import clean, format_bytes, short
from services.cli.verb import verb
from services.cli.whole_file import whole_file
from trainshed_client.errors import ErrorCode, TrainshedError

if TYPE_CHECKING:
    from trainshed_client.answers import ArtifactFile, RunView
    from trainshed_client.client import Trainshed
    from trainshed_client.records import AttemptRecord

_SHOWN = 12


@verb(
    "trainshed artifacts ppo-cartpole",
    "trainshed artifacts ppo-cartpole get model.pt",
    "trainshed artifacts k3f2q7 get logs/eval.csv -o - | head",
)
@click.argument("run", metavar="RUN", type=RUN)
@click.argument(
    "action",
    nargs=-1,
    metavar="[get FILE]",
    shell_complete=lambda ctx, _, incomplete: _completed(ctx.params, incomplete),
)
@click.option(
    "-o", "--output", metavar="DEST|-", help="With get: the file or folder to put it in; - is stdout."
)
@click.option(
    "--unchecked", is_flag=True, help="With get: take it even if it was changed after the run's end."
)
@attempt_option
@json_option
@nats_option
def artifacts(
    run: str, action: tuple[str, ...], output: str | None, unchecked: bool, attempt: int | None, as_json: bool
) -> None:
    """List what a run left in its artifacts/, or get one of these files, from whatever machine has them.

    What is got is compared with the SHA-256 that the file had at the run's end, where that is known. It is put in this
    folder under its own name, and over a file that is there only where -o names that.
    """
    match action:
        case ():
            if output is not None or unchecked:
                raise click.UsageError(
                    "-o and --unchecked go with get: trainshed artifacts RUN get FILE -o DEST"
                )
            _list(run, attempt, as_json)
        case ("get", file):
            reading(lambda trainshed: _get(trainshed, run, attempt, file, output, unchecked))
        case ("get",):
            raise click.UsageError(f"which file? Those that there are: trainshed artifacts {run}")
        case _:
            raise click.UsageError(
                f"{' '.join(action)!r} is not understood; write: trainshed artifacts {run} get FILE"
            )


def _completed(given: Mapping[str, Any], incomplete: str) -> list[str]:
    """What the next part may be: `get`, then a file that is there, where a stack answers at once."""
    from services.cli.run_argument import within_a_moment

    if not given.get("action"):
        return [one for one in ("get",) if one.startswith(incomplete)]

    async def files() -> list[str]:
        async with connected() as trainshed:
            _, _, found = await _read(trainshed, given["run"], given.get("attempt"))
            return [one.path for one in found if one.path.startswith(incomplete)]

    return within_a_moment(files()) if len(given["action"]) == 1 else []


def _list(run: str, number: int | None, as_json: bool) -> None:
    from trainshed_client.run_files import is_hashed

    view, attempt, found = reading(lambda trainshed: _read(trainshed, run, number))
    if as_json:
        about = {"run_id": attempt.run_id, "attempt": attempt.attempt, "node": attempt.node}
        print_json({"v": 1, "seq": view.seq, **about, "artifacts": found})
        return
    if not found:
        note(f"run {short(attempt.run_id)} left nothing in artifacts/ on {attempt.node}")
        return
    _print(found)
    if not is_hashed(view, attempt):
        note(_why_no_hashes(view, attempt))


async def _read(
    trainshed: Trainshed, run: str, number: int | None
) -> tuple[RunView, AttemptRecord, list[ArtifactFile]]:
    from trainshed_client.run_files import artifacts as listed

    view = await trainshed.get(run)
    attempt = chosen_attempt(view, number)
    return view, attempt, await listed(trainshed, view, attempt)


def _print(found: list[ArtifactFile]) -> None:
    from services.cli.table import Column, Screen, print_lines, render

    screen = Screen.of(sys.stdout)
    hashes = [one.sha256 or "-" for one in found]
    rows = [
        [
            clean(one.path),
            format_bytes(one.bytes) if screen.is_terminal else str(one.bytes),
            known[:_SHOWN] if screen.is_terminal else known,
        ]
        for one, known in zip(found, hashes, strict=True)
    ]
    print_lines(render((Column("PATH"), Column("SIZE", right=True), Column("SHA256")), rows, screen))


def _why_no_hashes(view: RunView, attempt: AttemptRecord) -> str:
    if not attempt.status.ended:
        return "the run goes on: these files may still change"
    if attempt.attempt != view.attempts[-1].attempt:
        return "a later attempt of the run may have changed these files"
    return "their SHA-256 is not known: it is taken of what a completed run left, soon after its end"


async def _get(
    trainshed: Trainshed, run: str, number: int | None, path: str, output: str | None, unchecked: bool
) -> None:
    from trainshed_client.run_files import artifact, is_hashed
    from trainshed_client.run_files import artifacts as listed

    dest = None if output == "-" else _dest(path, output)
    view = await trainshed.get(run)
    attempt = chosen_attempt(view, number)
    hashed: str | None = None
    if not unchecked and is_hashed(view, attempt):
        found = await listed(trainshed, view, attempt)
        hashed = next((one.sha256 for one in found if one.path == path), None)
    try:
        with only_there():
            async with contextlib.aclosing(artifact(trainshed, attempt, path, hashed)) as pieces:
                if dest is None:
                    await _copy(pieces, sys.stdout)
                else:
                    with whole_file(dest) as file:
                        size = await _copy(pieces, file)
    except TrainshedError as error:
        if error.code is not ErrorCode.NOT_FOUND:
            raise
        raise TrainshedError(
            error.code, f"{error.message}. Those that there are: trainshed artifacts {run}"
        ) from None
    if dest is not None:
        checked = "as it was at the run's end" if hashed is not None else "not compared with any SHA-256"
        note(f"{dest}: {format_bytes(size)}, {checked}")


def _dest(path: str, output: str | None) -> str:
    """Where the file goes. Raises CONFLICT where one is there that nobody named."""
    name = path.rpartition("/")[2]
    if output is None:
        if os.path.lexists(name):
            raise TrainshedError(
                ErrorCode.CONFLICT,
                f"{name} is there already; to write over it name it with -o, as in: trainshed artifacts RUN get FILE -o {name}",
            )
        return name
    return os.path.join(output, name) if os.path.isdir(output) or output.endswith("/") else output


async def _copy(pieces: AsyncIterator[bytes], file: IO[bytes] | IO[str]) -> int:
    size = 0
    async for piece in pieces:
        size += len(piece)
        await asyncio.to_thread(write_now, file, piece)  # the storage of here must not hold up the connection
    return size
