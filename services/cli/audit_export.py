"""`trainshed audit export`: the log, or a part of it, as CloudEvents in JSON lines, for whoever keeps a copy.

Owns that it is never anything but JSON and where it goes; reading and options are those of `trainshed events`.
"""

from __future__ import annotations

from typing import Any

import click

from services.cli.common import exit_with, nats_option, note, run_async
from services.cli.event_filter import chosen, filter_options
from services.cli.verb import Verb
from trainshed_client.errors import ExitCode


@click.command(
    cls=Verb,
    examples=(
        "trainshed audit export | gzip > log.jsonl.gz",
        "trainshed audit export --since 2026-11-24 --until 2026-11-25",
    ),
)
@filter_options
@nats_option
def export(**given: Any) -> None:
    """Print the event log up to now as CloudEvents, one JSON object a line, with its place in the log as `sequence`.

    Exit code 1 where something in the log is no event and so was left out. A TIME is in your zone unless it ends in one
    (2026-11-24T10:32Z), and is when an event was stored.
    """
    from services.cli.events import print_events

    if left_out := run_async(print_events(chosen(**given))):
        note(f"left out: {left_out:,}, each named above; `trainshed audit verify` says what else is wrong")
        exit_with(ExitCode.VIOLATION)
