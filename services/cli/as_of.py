"""`--at SEQ|TIME`: the moment of the log that a verb is asked about, and what it says of that.

Owns how a moment is named and refused, and which clock durations are told by; knows no verb and no screen.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from services.cli.clock import now
from services.cli.common import note
from services.cli.text import time_of_day
from services.cli.verb import Verb
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.times import utc_text

if TYPE_CHECKING:
    from trainshed_client.client import Trainshed
    from trainshed_client.records import AttemptRecord

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

_SEQUENCE = re.compile(r"\d{1,3}(?:,\d{3})+|\d{1,19}", re.ASCII)
_AGO = re.compile(r"-\d", re.ASCII)
_MINUS = "\N{MINUS SIGN}"


class MomentAsked(NamedTuple):
    """A moment as it was named: ``seq``, or ``time`` (RFC 3339) where that is None. ``text``, ``given_by``: in whose words."""

    seq: int | None
    time: str
    text: str
    given_by: str


class PastMoment(NamedTuple):
    """An event of the log and when it was stored. ``clock``: the moment by which durations are told, which is that
    time, or the later one that was asked for."""

    seq: int
    time: str
    state_hash: str
    clock: str

    @property
    def option(self) -> str:
        """For a command that is to be asked of the very same moment."""
        return str(self.seq) if self.clock == self.time else self.clock

    @property
    def text(self) -> str:
        """``event 1,234, stored 2026-11-24 10:32:05``."""
        later = "" if self.clock == self.time else f" (the last by {time_of_day(self.clock)})"
        return f"event {self.seq:,}, stored {time_of_day(self.time)}{later}"


def at_option(function: F) -> F:
    """``--at SEQ|TIME``, as `asked` takes it."""
    return click.option(
        "--at",
        metavar="SEQ|TIME",
        help="As it was at this event or time: 1234, 2026-11-24T10:32, -2h.",
    )(function)


def asked(text: str | None, *, given_by: str = "--at") -> MomentAsked | None:
    """The moment that this text names; None for none. Raises TrainshedError (invalid) for what names none, or one yet to
    come."""
    if text is None:
        return None
    text = text.replace(_MINUS, "-", 1)
    if _SEQUENCE.fullmatch(text.strip()):
        seq = int(text.replace(",", ""))
        if seq < 1:
            raise _invalid(f"{given_by} is {text!r}; the log begins with event 1")
        return MomentAsked(seq, "", text, given_by)
    from events.times import nanoseconds, rfc3339
    from services.cli.moment import parse_moment

    now_ns = nanoseconds(now())
    try:
        time_ns = parse_moment(text, now_ns, given_by=given_by)
    except TrainshedError as error:
        raise _invalid(f"{error.message}, or the sequence of an event (1234)") from None
    if time_ns > now_ns:
        raise _invalid(f"{given_by} is {text!r}, which is yet to come; write a time that is past, or -2h")
    return MomentAsked(None, rfc3339(time_ns), text, given_by)


async def as_of(trainshed: Trainshed, moment: MomentAsked | None) -> PastMoment | None:
    """The event that is meant; None for now. Raises TrainshedError (invalid) where the log has none by then."""
    if moment is None:
        return None
    try:
        if moment.seq is not None:
            found = await trainshed.moment(seq=moment.seq)
        else:
            found = await trainshed.moment(time=datetime.fromisoformat(moment.time))
    except TrainshedError as error:
        if error.code is not ErrorCode.INVALID:
            raise
        raise _invalid(f"{moment.given_by} is {moment.text!r}: {error.message}") from None
    time = utc_text(found.time)
    return PastMoment(found.seq, time, found.state_hash, max(time, moment.time))


async def of_then(question: Awaitable[T], moment: PastMoment | None) -> T:
    """The answer to a question about one run. Raises TrainshedError (not_found) that says as of when there is none."""
    try:
        return await question
    except TrainshedError as error:
        if moment is None or error.code is not ErrorCode.NOT_FOUND:
            raise
        what = error.message.partition(". ")[0]
        raise TrainshedError(
            ErrorCode.NOT_FOUND,
            f"{what} at {moment.text}. See which there were: trainshed ls --all --at {moment.option}",
        ) from None


def clock_of(moment: PastMoment | None) -> str:
    """By which durations are told."""
    return now() if moment is None else moment.clock


def seq_of(moment: PastMoment | None) -> int | None:
    """What a query takes as ``at``."""
    return None if moment is None else moment.seq


def option_of(moment: PastMoment | None) -> str | None:
    """What a command is given to be asked of the same moment."""
    return None if moment is None else moment.option


def until(moment: PastMoment | None, attempt: AttemptRecord) -> str | None:
    """By which time what an attempt wrote was there; None for all of it: now, or where it had ended by then."""
    return None if moment is None or attempt.ended_at is not None else moment.clock


def tell(moment: PastMoment | None) -> None:
    """Say on stderr what moment is shown, where it is not now."""
    if moment is not None:
        note(f"as of {moment.text}")


class PastVerb(Verb):
    """A verb whose arguments are moments: ``-2h`` among them is no option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As in click, with a real minus sign in such a word, which `asked` reads."""
        return super().parse_args(ctx, [_MINUS + one[1:] if _AGO.match(one) else one for one in args])


def _invalid(message: str) -> TrainshedError:
    return TrainshedError(ErrorCode.INVALID, message)
