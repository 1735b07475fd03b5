"""`trainshed schema`: the contract as files, for who builds on it.

Owns where they go; services.schema makes them.
"""

from __future__ import annotations

from pathlib import Path

import click

from services.cli.common import note
from services.cli.verb import verb
from trainshed_client.errors import ErrorCode, ExitCode, TrainshedError
from trainshed_client.os_errors import why


@verb("trainshed schema --out schema", "trainshed schema | jq .")
@click.option(
    "--out", "folder", metavar="DIR", help="Write the files there: JSON Schemas and an AsyncAPI document."
)
@click.option("--check", is_flag=True, help="Write nothing; code 1 where the files in --out are not these.")
@click.pass_context
def schema(ctx: click.Context, folder: str | None, check: bool) -> None:
    """Print the JSON Schema of every record, answer, request and event; with --out write all files of the contract."""
    from services.schema import files

    made = files.texts()
    if folder is None:
        if check:
            raise _invalid("--check: name the folder with the files, as in --out docs/schema")
        click.echo(made[files.BUNDLE], nl=False)
        return
    place = Path(folder)
    try:
        if check:
            if not place.is_dir():
                raise _invalid(
                    f"--out: must be a folder with the files of the contract, and {folder} is none"
                )
            differing = files.differing(place, made)
        else:
            place.mkdir(parents=True, exist_ok=True)
            for name in (differing := files.differing(place, made)):
                (place / name).write_text(made[name], encoding="utf-8")
    except OSError as error:
        raise _invalid(f"--out: {folder} cannot be used: {why(error)}") from None
    for name in differing:
        note(f"{place / name} {'is not what the types say' if check else 'written'}")
    if check and differing:
        note(f"Run: trainshed schema --out {folder}")
        ctx.obj["exit"] = ExitCode.VIOLATION
    elif not differing:
        note(f"the files in {folder} are what the types say")


def _invalid(message: str) -> TrainshedError:
    return TrainshedError(ErrorCode.INVALID, message)
