"""`trainshed login`: from a token to a person's own certificate on this machine.

Owns what it prints and which state folders it leaves alone.
"""

from __future__ import annotations

import click

from services.cli.verb import verb
from services.settings import Settings
from trainshed_client.errors import ErrorCode, TrainshedError

_OF_A_STACK = ("jetstream", "cluster")
"""Folders that a state folder has whose stack runs, or ran, on this machine."""


@verb("trainshed login ts1-abcd-efgh@control.lab:4224")
@click.argument("token", metavar="TOKEN@HOST:PORT")
def login(token: str) -> None:
    """Use a stack on another machine from here: the key is made here and stays here.

    The line is what `trainshed user add` printed there.
    """
    from services.enrol.joining import join
    from services.enrol.tokens import parse_line

    line = parse_line(token, given_by="the argument")
    state_dir = Settings.read().state_dir
    if any((state_dir / name).exists() for name in _OF_A_STACK):
        raise TrainshedError(
            ErrorCode.CONFLICT,
            f"{state_dir} is the folder of a stack on this machine, whose endpoint.json would be lost. Take another: "
            "TRAINSHED_STATE_DIR=DIR trainshed login ... (and TRAINSHED_STATE_DIR=DIR for every command after it)",
        )
    member = join(line, state_dir=state_dir, as_node=False)
    click.echo(
        f"logged in as {member.answer.name} ({member.answer.role}) at {member.answer.url}. Try: trainshed ls"
    )
