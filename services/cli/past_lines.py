"""What became of an ended run, in lines: what it waited for and when that changed, where it was placed, how it ended.

Owns the log's reading for it and the layout; what happened is services.cli.past's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from services.cli.common import log_errors, stored_log
from services.cli.output_tail import shown_lines
from services.cli.table import Screen, wrapped
from services.cli.text import clean, ordinal, shown_id, time_of_day
from trainshed_client.rendering import timeline, waiting
from trainshed_client.rendering.durations import format_duration
from trainshed_client.statuses import WaitReason

if TYPE_CHECKING:
    from services.cli.past import PastAttempt, PastEnd, PastGrant, Stretch
    from trainshed_client.client import Trainshed

MOST_EVENTS = 100_000
"""Of a longer log a past is not read unasked: it is read from its first event on."""
MOST_SHOWN = 12
MOST_NAMED = 3
BRIEF_S = 1.0
_INDENT = 12


async def past_of(trainshed: Trainshed, run_id: str, upto: int) -> list[PastAttempt]:
    """What became of a run by the event at ``upto``. Raises TrainshedError where the log cannot be read."""
    from services.cli.past import RunPast

    past = RunPast(run_id)
    with log_errors(trainshed):
        async for stored in stored_log(trainshed).read(last=upto):
            past.take(stored)
    return past.attempts


def past_lines(attempts: Sequence[PastAttempt], screen: Screen) -> Iterator[str]:
    """What became of each attempt, and the last lines of stderr of the last one that left some."""
    for one in attempts:
        yield ""
        yield screen.styled(f"attempt {one.attempt}", "bold")
        yield from _fact("queued", time_of_day(one.queued), screen)
        if one.waited_s is not None:
            yield from _fact("waited", format_duration(one.waited_s), screen)
        yield from _waits(one, screen)
        if one.grant is not None:
            yield from _fact("placed", _placed(one.grant, screen), screen)
        if one.starting_s is not None:
            yield from _fact("started", f"{format_duration(one.starting_s)} later", screen)
        if one.end is not None:
            ran = "" if one.ran_s is None else f", after {format_duration(one.ran_s)}"
            how = timeline.text(one.end.type, one.end.how)
            yield from _fact("ended", f"{time_of_day(one.end.time)}: {how}{ran}", screen)
    last = attempts[-1].end if attempts else None
    if last is not None and last.output_tail:
        yield from _tail(last, screen)


def _tail(end: PastEnd, screen: Screen) -> Iterator[str]:
    yield ""
    yield screen.styled(f"the last of its {end.output_of or 'output'}, as the log has it:", "dim")
    for line in shown_lines(end.output_tail or ""):
        yield f"  {clean(line)}"


def _waits(one: PastAttempt, screen: Screen) -> Iterator[str]:
    """The parts of its wait that lasted; turns of a moment go without saying."""
    lasting = [
        part for part in one.waits if part.seconds >= BRIEF_S or part.waiting.reason is not WaitReason.TURN
    ]
    for part in lasting[:MOST_SHOWN]:
        yield from _fact("", f"{time_of_day(part.since)} for {_part(part, screen)}", screen)
    if len(lasting) > MOST_SHOWN:
        yield from _fact("", f"... and {len(lasting) - MOST_SHOWN} more changes (--json has them)", screen)
    if one.partial:
        yield from _fact("", "... what changed after that was not looked at", screen)


def _part(part: Stretch, screen: Screen) -> str:
    found = part.waiting
    text = f"{format_duration(part.seconds)}: {waiting.text(found)}"
    if found.place is not None and found.place > 1:
        moved = f", then {ordinal(part.last_place)}" if part.last_place not in (None, found.place) else ""
        text += f"; {ordinal(found.place)}{moved} in the queue"
    if found.holders:
        named = [
            f"{shown_id(one.run_id, whole=not screen.is_terminal)} ({one.name}, {_where(one.node, one.slots)})"
            for one in found.holders[:MOST_NAMED]
        ]
        more = found.holders_total - len(named)
        text += f"; held by {', '.join(named)}{f' and {more} more' if more > 0 else ''}"
    return text


def _placed(grant: PastGrant, screen: Screen) -> str:
    text = f"{time_of_day(grant.time)} on {_where(grant.node, grant.slots)}"
    if grant.slots:
        text += f", where {grant.free} slot{' was' if grant.free == 1 else 's were'} free"
    if grant.passed_over_count:
        named = ", ".join(
            shown_id(run_id, whole=not screen.is_terminal) for run_id in grant.passed_over[:MOST_NAMED]
        )
        text += f"; ahead of it, without room: {grant.passed_over_count} (first {named})"
    return text


def _where(node: str, slots: Sequence[int]) -> str:
    return f"{node}:{','.join(map(str, slots))}" if slots else node


def _fact(name: str, text: str, screen: Screen) -> Iterator[str]:
    label = screen.styled((f"{name}:" if name else "").ljust(_INDENT - 3), "dim")
    yield f"  {label} {wrapped(clean(text), _INDENT, screen)}"
