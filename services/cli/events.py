"""`trainshed events`: the log itself, readable on a terminal, else one CloudEvents object a line.

Owns how it is read and to whom which form goes; what a line looks like is event_lines'.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import click

from services.cli.common import (
    connected,
    detach_on_interrupt,
    log_errors,
    nats_option,
    note,
    run_async,
    stored_log,
    warn,
    write,
    write_now,
)
from services.cli.event_filter import EventFilter, chosen, filter_options, reach
from services.cli.event_lines import heading, line, with_place
from services.cli.table import Screen
from services.cli.verb import verb
from trainshed_client.errors import ErrorCode, TrainshedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.cli.how_far import HowFar
    from trainshed_client.direct_get import Message

SHOWN_EVERY = 1_000
"""So often, in events, a bar moves on."""


@verb(
    "trainshed events --since -2h --type failed --type timed_out",
    "trainshed events --run ppo-cartpole | jq -r '[.sequence, .type] | @tsv'",
    "trainshed events -f --from 1000",
)
@click.option("-f", "--follow", is_flag=True, help="Go on with what is appended.")
@filter_options
@click.option("--json", "as_json", is_flag=True, help="One CloudEvents object a line, also on a terminal.")
@nats_option
def events(follow: bool, as_json: bool, **given: Any) -> None:
    """Print the event log: a line for people on a terminal, else one CloudEvents object a line, with its place in the log
    as `sequence` and when it was stored as `storedtime`.

    A TIME is in your zone unless it ends in one (2026-11-24T10:32Z), and is when an event was stored; `time` in an object
    is its writer's.
    """
    asked = chosen(**given)
    if follow and (asked.to is not None or asked.until_ns is not None):
        option = "--to" if asked.to is not None else "--until"
        raise TrainshedError(ErrorCode.INVALID, f"{option} ends what -f goes on with; write one of the two")
    screen = Screen.of(sys.stdout)
    run_async(
        print_events(asked, follow=follow, screen=screen if screen.is_terminal and not as_json else None)
    )


async def print_events(
    asked: EventFilter,
    *,
    follow: bool = False,
    screen: Screen | None = None,
    put: Callable[[bytes], object] = write,
    progress: HowFar = lambda done, of: None,
) -> int:
    """Print them, as JSON without a ``screen``; how many were left out because they are no JSON."""
    from trainshed_client.log_reading.follower import LogFollower

    printed = left_out = 0
    async with connected(patient=follow, of_runs=False) as trainshed:
        log = stored_log(trainshed)
        with log_errors(trainshed):
            where = await reach(trainshed, log, asked)
            if screen is not None:
                write(f"{heading(screen)}\n".encode())
            if follow:
                sys.stdout.flush()
                detach_on_interrupt(lambda: "stopped following")
                stack = trainshed.watching.nats("the event log")
                async with LogFollower(stack, where.subjects, since_seq=where.start - 1) as feed:
                    while True:
                        lines = b"".join(_line(message, screen) for message in await feed.batch())
                        # In a thread: a pipe that nobody reads must not keep the connection from its pings.
                        await asyncio.to_thread(write_now, sys.stdout, lines)
            end = await log.end() if where.end is None else where.end
            async for message in log.messages(where.subjects, first=where.start, last=end):
                shown = _line(message, screen)
                put(shown)
                printed += 1
                left_out += not shown
                if printed % SHOWN_EVERY == 0:
                    progress(message.seq - where.start + 1, end - where.start + 1)
            progress(end - where.start + 1, end - where.start + 1)
    if screen is not None and not printed:
        note("no event is like that")
    return left_out


def _line(message: Message, screen: Screen | None) -> bytes:
    if screen is not None:
        return line(message, screen).encode(errors="backslashreplace") + b"\n"
    shown = with_place(message)
    if shown is not None:
        return shown + b"\n"
    warn(f"what is stored at sequence {message.seq} on {message.subject} is no event; it is in quarantine")
    return b""
