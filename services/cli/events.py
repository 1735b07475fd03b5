"""`trainshed events`: the log itself, one CloudEvents object a line.

Owns the `sequence` attribute and where reading begins and ends; reading is events.log's.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import click
import msgspec

from services.cli.common import (
    connected,
    detach_on_interrupt,
    log_errors,
    nats_option,
    run_async,
    warn,
    write,
    write_now,
)
from services.cli.number import Number
from services.cli.run_argument import RUN
from services.cli.verb import verb

if TYPE_CHECKING:
    from events.feed import Message

_SEQUENCE_DIGITS = 20
"""CloudEvents wants its `sequence` to sort as text, so it has leading zeros."""


@verb(
    "trainshed events --run ppo-cartpole | jq -r '[.sequence, .type] | @tsv'",
    "trainshed events -f --from 1000",
)
@click.option("-f", "--follow", is_flag=True, help="Go on with what is appended.")
@click.option("--from", "start", type=Number(least=1), metavar="SEQ", help="Begin at this sequence.")
@click.option("--run", "run", metavar="RUN", type=RUN, help="Only the events of this run.")
@click.option("--json", "as_json", is_flag=True, expose_value=False, help="What it prints anyway.")
@nats_option
def events(follow: bool, start: int | None, run: str | None) -> None:
    """Print the event log, one CloudEvents object a line, with its place in the log as `sequence`."""
    run_async(_events(follow, start or 1, run))


async def _events(follow: bool, start: int, run: str | None) -> None:
    from events.log import EventLog
    from trainshed_client import subjects

    async with connected(patient=follow, of_runs=False) as trainshed:
        filters: tuple[str, ...] = (subjects.ALL_EVENTS,)
        if run is not None:
            filters = (subjects.run_events((await trainshed.resolve(run)).run_id),)
        log = EventLog(trainshed.nc)
        with log_errors(trainshed):
            if follow:
                detach_on_interrupt(lambda: "stopped following")
                async with log.follow(start, filters) as feed:
                    while True:
                        lines = b"".join(_line(message) for message in await feed.batch())
                        # In a thread: a pipe that nobody reads must not keep the connection from its pings.
                        await asyncio.to_thread(write_now, sys.stdout, lines)
            async for message in log.read_raw(filters, start_seq=start):
                write(_line(message))


def _line(message: Message) -> bytes:
    line = with_sequence(message.body, message.seq)
    if line is not None:
        return line + b"\n"
    warn(f"what is stored at sequence {message.seq} on {message.subject} is no event; it is in quarantine")
    return b""


def with_sequence(body: bytes, seq: int) -> bytes | None:
    """The stored event with its ``sequence`` attribute; None where it is no JSON object."""
    try:
        event: dict[str, Any] = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
    event["sequence"] = f"{seq:0{_SEQUENCE_DIGITS}}"
    return msgspec.json.encode(event)
