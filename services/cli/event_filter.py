"""Which events of the log a command prints: from where to where, of which run, type and node.

Owns these options, what they make of subjects and sequences, and how they are refused; prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from services.cli.clock import now
from services.cli.number import Number
from services.cli.run_argument import NODE, RUN
from trainshed_client import subjects
from trainshed_client.errors import ErrorCode, TrainshedError

if TYPE_CHECKING:
    from trainshed_client.client import Trainshed
    from trainshed_client.log_reading.log_reader import LogReader

F = TypeVar("F", bound=Callable[..., Any])


class EventFilter(NamedTuple):
    """What was asked for: sequences with both ends, times of storing (ns since 1970) without the later end."""

    start: int | None = None
    to: int | None = None
    since_ns: int | None = None
    until_ns: int | None = None
    run: str | None = None
    types: tuple[str, ...] = ()
    node: str | None = None

    def subjects(self, run_id: str | None) -> tuple[str, ...]:
        """The filters of the log; ``run_id`` is what ``run`` names."""
        if run_id is None and not self.types and self.node is None:
            return (subjects.ALL_EVENTS,)
        about = "*.*" if run_id is None else f"{subjects.Scope.RUN}.{run_id}"
        return tuple(
            f"{subjects.EVENTS}.{about}.*.{type_}.{self.node or '*'}"
            for type_ in dict.fromkeys(self.types or ("*",))
        )


class Reach(NamedTuple):
    """Where reading begins and ends (None: it has no end of its own), and the filters of subjects."""

    start: int
    end: int | None
    subjects: tuple[str, ...]


def filter_options(function: F) -> F:
    """The options of an `EventFilter`, as `chosen` takes them."""
    for option in (
        click.option(
            "--node", metavar="NODE", type=NODE, help="Only of this node, and what it did for runs."
        ),
        click.option(
            "--type", "types", metavar="TYPE", multiple=True, help="Only of this type, as in failed."
        ),
        click.option("--run", metavar="RUN", type=RUN, help="Only the events of this run."),
        click.option("--until", metavar="TIME", help="Only what was stored before this time."),
        click.option("--since", metavar="TIME", help="Stored at this time or later: 2026-11-24T10:32, -2h."),
        click.option("--to", type=Number(least=1), metavar="SEQ", help="End with this sequence."),
        click.option("--from", "start", type=Number(least=1), metavar="SEQ", help="Begin at this sequence."),
    ):
        function = option(function)
    return function


def chosen(
    start: int | None,
    to: int | None,
    since: str | None,
    until: str | None,
    run: str | None,
    types: tuple[str, ...],
    node: str | None,
) -> EventFilter:
    """What these options mean together. Raises TrainshedError (invalid) where nothing could ever fit them."""
    from events.times import nanoseconds
    from services.cli.moment import parse_moment

    now_ns = nanoseconds(now())
    since_ns = None if since is None else parse_moment(since, now_ns, given_by="--since")
    until_ns = None if until is None else parse_moment(until, now_ns, given_by="--until")
    if since_ns is not None and since_ns > now_ns:
        raise _invalid(f"--since is {since!r}, which is yet to come; write a time that is past, or -2h")
    if since_ns is not None and until_ns is not None and until_ns <= since_ns:
        raise _invalid(f"--until is {until!r}, which is not after --since {since!r}; write a later time")
    if start is not None and to is not None and to < start:
        raise _invalid(f"--to is {to}, which is before --from {start}; write {start} or more")
    _known(types)
    if node is not None and not subjects.is_token(node):
        raise _invalid(f"--node is {node!r:.60}; write the name of a node, as `trainshed nodes` has it")
    return EventFilter(start, to, since_ns, until_ns, run, types, node)


def _known(types: tuple[str, ...]) -> None:
    if not types:
        return
    from events.types import EVENT_KINDS

    for type_ in types:
        if type_ not in EVENT_KINDS:
            raise _invalid(f"--type is {type_!r:.60}; write one of {', '.join(sorted(EVENT_KINDS))}")


async def reach(trainshed: Trainshed, log: LogReader, asked: EventFilter) -> Reach:
    """Where that begins and ends in this log. Raises TrainshedError where there is no such run (not_found), or all of the
    log is later than ``until_ns`` (invalid)."""
    run_id = None if asked.run is None else (await trainshed.resolve(asked.run)).run_id
    start, end = asked.start or 1, asked.to
    if asked.since_ns is not None:
        start = max(start, await log.first_since(asked.since_ns))
    if asked.until_ns is not None:
        last = await log.first_since(asked.until_ns) - 1
        if last < 1:
            raise _invalid("--until is before the first event of the log; write a later time")
        end = last if end is None else min(end, last)
    if end is not None:  # what is appended meanwhile is no part of it
        end = min(end, await log.end())
    return Reach(start, end, asked.subjects(run_id))


def _invalid(message: str) -> TrainshedError:
    return TrainshedError(ErrorCode.INVALID, message)
