"""`trainshed audit export`: the log, or a part of it, as CloudEvents in JSON lines, for whoever keeps a copy.

Owns that it is never anything but JSON and where it goes; reading and options are those of `trainshed events`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import click

from services.cli.common import exit_with, nats_option, note, run_async, write
from services.cli.event_filter import chosen, filter_options
from services.cli.verb import Verb
from trainshed_client.errors import ErrorCode, ExitCode, TrainshedError


@click.command(
    cls=Verb,
    examples=(
        "trainshed audit export -o log.jsonl",
        "trainshed audit export --since 2026-11-24 --until 2026-11-25 | gzip > day.jsonl.gz",
    ),
)
@click.option("-o", "--output", metavar="FILE|-", default="-", help="The file to write, whole or not at all.")
@filter_options
@nats_option
def export(output: str, **given: Any) -> None:
    """Print the event log up to now as CloudEvents, one JSON object a line, with its place in the log as `sequence` and
    when it was stored as `storedtime`.

    -o writes over a file that is there. Exit code 1 where something in the log is no event and so was left out. A TIME is
    in your zone unless it ends in one (2026-11-24T10:32Z), and is when an event was stored.
    """
    from services.cli.events import print_events
    from services.cli.how_far import how_far
    from services.cli.whole_file import whole_file

    if output != "-" and (os.path.isdir(output) or output.endswith("/")):
        raise TrainshedError(ErrorCode.INVALID, f"{output} is a folder; write the name of a file", "-o")
    asked = chosen(**given)
    # where the lines go to the terminal themselves a bar would stand among them
    shown = sys.stderr.isatty() and (output != "-" or not sys.stdout.isatty())
    with ExitStack() as opened:
        put: Callable[[bytes], object] = write
        if output != "-":
            put = opened.enter_context(whole_file(output)).write
        progress = opened.enter_context(how_far("exporting", shown))
        left_out = run_async(print_events(asked, put=put, progress=progress))
    if left_out:
        note(f"left out: {left_out:,}, each named above; `trainshed audit verify` says what else is wrong")
        exit_with(ExitCode.VIOLATION)
