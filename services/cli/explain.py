"""`trainshed explain`: why a run waits, or why it ended as it did.

Owns how that is laid out; the reasons are the read side's.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import click
import msgspec

from services.cli import describe
from services.cli.as_of import (
    MomentAsked,
    PastMoment,
    as_of,
    asked,
    at_option,
    clock_of,
    of_then,
    option_of,
    seq_of,
    tell,
)
from services.cli.common import (
    connected,
    json_option,
    nats_option,
    note,
    print_json,
    run_async,
    warn,
    warn_if_stale,
)
from services.cli.past_lines import MOST_EVENTS, past_lines, past_of
from services.cli.run_argument import RUN
from services.cli.show import facts, timeline
from services.cli.table import Column, Screen, print_lines, render
from services.cli.text import Time, clean, ordinal, seconds_between, short, shown_id, time_of_day
from services.cli.verb import verb
from services.cli.written_then import WrittenThen, written_then
from trainshed_client.answers import Explanation, RunView, Waiting
from trainshed_client.errors import TrainshedError
from trainshed_client.records import QueuedRunRecord
from trainshed_client.rendering.ago import ago
from trainshed_client.rendering.durations import format_duration
from trainshed_client.statuses import FailureReason, RunStatus

if TYPE_CHECKING:
    from services.cli.past import PastAttempt
    from trainshed_client.client import Trainshed

Fact = tuple[str, str, str | None]

_MAY_BE_RETRIED = (RunStatus.FAILED, RunStatus.CANCELLED)
_WITHOUT_OUTPUT = (FailureReason.SPAWN_ERROR, FailureReason.NODE_LOST, FailureReason.NODE_RECLAIMED)
"""No worker wrote any, or the machine that has it is gone."""
_TO_DO = ("to follow", "to end", "to help", "see", "again")
_MOST_RUNS = 50
"""So many runs are looked at, up the chain of those that one comes after."""


@verb(
    "trainshed explain k3f2q7",
    "trainshed explain ppo-cartpole --at 2026-11-24T10:32",
    "trainshed explain ppo-cartpole --json",
)
@click.argument("run", metavar="RUN", type=RUN)
@click.option(
    "--whole", is_flag=True, help="Read the past of an ended run also from a log of over 100,000 events."
)
@at_option
@json_option
@nats_option
def explain(run: str, whole: bool, at: str | None, as_json: bool) -> None:
    """Say why a run is waiting, or why it ended, and what happened to it last.

    Of a run that has ended: what it waited for and what held that, when that changed, where it was placed and how each
    attempt ended, as the event log has it.
    """
    wanted = asked(at)
    found = run_async(_read(run, wanted, whole=whole, for_people=not as_json))
    answer, written = msgspec.json.decode(found.body, type=Explanation), found.written
    tell(found.moment)
    warn_if_stale(answer.stale, answer.seq, answer.progress)
    if as_json:
        print_json(found.body if found.past is None else _with_past(found.body, found.past))
    else:
        screen = Screen.of(sys.stdout)
        if written is not None:
            answer = msgspec.structs.replace(answer, run=written.record)
        print_lines(
            lines(answer, clock_of(found.moment), screen, found.to_retry, then=option_of(found.moment))
        )
        print_lines(past_lines(found.past or (), screen))
        if written is not None:
            sys.stdout.flush()
            note(written.remark)


class _Explained(NamedTuple):
    """The answer; of a run that did not complete those to retry for it to run again; of an ended one its past; of one that
    was live at a moment of the past what its worker had told."""

    body: bytes
    moment: PastMoment | None = None
    to_retry: Sequence[str] = ()
    past: list[PastAttempt] | None = None
    written: WrittenThen | None = None


async def _read(run: str, wanted: MomentAsked | None, *, whole: bool, for_people: bool) -> _Explained:
    async with connected() as trainshed:
        moment = await as_of(trainshed, wanted)
        body = await of_then(trainshed.explain_json(run, at=seq_of(moment)), moment)
        answer = msgspec.json.decode(body, type=Explanation)
        record, found = answer.run, _Explained(body, moment)
        if record.ended_at is None:
            if moment is None or not for_people:
                return found
            return found._replace(written=await written_then(trainshed, record, moment))
        found = found._replace(past=await _past(trainshed, answer, option_of(moment), whole=whole))
        if moment is not None or not for_people or record.status not in _MAY_BE_RETRIED:
            return found
        view = await trainshed.get(record.run_id)
        return found._replace(to_retry=await _to_retry(trainshed, view, set()))


async def _past(
    trainshed: Trainshed, answer: Explanation, then: str | None, *, whole: bool
) -> list[PastAttempt] | None:
    """What became of the run; None, and a line that says so, where the log is too long or cannot be read."""
    upto = answer.timeline[-1].seq if answer.timeline else answer.seq
    if upto > MOST_EVENTS and not whole:
        asked_as = f"{_at(then)} {short(answer.run.run_id)}"
        note(f"its past takes the log's first {upto:,} events: trainshed explain --whole{asked_as}")
        return None
    try:
        return await past_of(trainshed, answer.run.run_id, upto)
    except TrainshedError as error:
        warn(f"what it waited for is not known: {error.message}")
        return None


def _at(then: str | None) -> str:
    """The option for a command that is to be asked of the same moment."""
    return "" if then is None else f" --at {then}"


def _with_past(body: bytes, past: list[PastAttempt]) -> bytes:
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    return msgspec.json.encode({**fields, "past": past})


async def _to_retry(trainshed: Trainshed, view: RunView, seen: set[str]) -> list[str]:
    """The runs that this one comes after and that did not complete, in the order in which a retry of each is accepted,
    and it last."""
    chain: list[str] = []
    seen.add(view.run.run_id)
    for run_id in view.config.get("after", ()):
        if run_id not in seen and len(seen) < _MOST_RUNS:
            before = await trainshed.get(run_id)
            if before.run.status in _MAY_BE_RETRIED:
                chain += await _to_retry(trainshed, before, seen)
    return [*chain, view.run.run_id]


def lines(
    answer: Explanation,
    at: str,
    screen: Screen,
    to_retry: Sequence[str] = (),
    *,
    then: str | None = None,
) -> list[str]:
    """The whole answer. ``to_retry``: the runs to retry for this one to run again, by default it alone. ``then``: the
    moment of the past that it is of, where nothing can be done any more."""
    record = answer.run
    is_was = "is" if then is None else "was"
    status = screen.styled(str(record.status), describe.style_of(record.status))
    shown = [
        f"run {shown_id(record.run_id, whole=not screen.is_terminal)} ({clean(record.name)}) {is_was} {status}"
    ]
    why = _why(answer, at, screen, to_retry or (record.run_id,))
    shown += facts(list(why if then is None else _of_then(why, record, then)), screen)
    if answer.waiting is not None and answer.waiting.holders:
        shown += ["", *_holders(answer.waiting, at, screen, then)]
    if answer.timeline:
        shown += ["", *timeline(answer.timeline, screen)]
    return shown


def _of_then(why: Iterator[Fact], record: QueuedRunRecord, then: str) -> Iterator[Fact]:
    """The same without what could be done; the output as it was then."""
    run = short(record.run_id)
    for name, text, style in why:
        if name == "output":
            yield name, f"trainshed logs{_at(then)} {run}", style
        elif name not in _TO_DO:
            yield name, text, style
    yield "now", f"trainshed explain {run}", None


def _holders(waiting: Waiting, at: str, screen: Screen, then: str | None) -> list[str]:
    """Who has what it lacks, and until when by the time limits."""
    rows = [
        [
            shown_id(one.run_id, whole=not screen.is_terminal),
            clean(one.name),
            f"{one.node}:{','.join(map(str, one.slots))}" if one.slots else one.node,
            str(one.cpus),
            _ago(one.since, at),
            _until(one.ends_by, at),
        ]
        for one in waiting.holders
    ]
    columns = (
        Column("HELD BY"),
        Column("NAME", shrink=12),
        Column("WHERE", shrink=12),
        Column("CPUS", right=True),
        Column("FOR", right=True),
        Column("ENDS BY"),
    )
    shown = render(columns, rows, screen)
    more = waiting.holders_total - len(rows)
    rest = f"... and {more:,} more: trainshed ls --status running{_at(then)}"
    return [*shown, rest] if more > 0 else shown


def _ago(since: Time, at: str) -> str:
    seconds = seconds_between(since, at)
    return describe.NOTHING if seconds is None else format_duration(max(0.0, seconds))


def _since(time: Time, at: str) -> str:
    seconds = seconds_between(time, at)
    return "of late" if seconds is None else f"the first {ago(seconds)}"


def _until(time: Time | None, at: str) -> str:
    """A time to come, in how long: no run is longer than its limit."""
    seconds = seconds_between(at, time)
    if time is None or seconds is None:
        return "no time limit"
    return f"{time_of_day(time)} (in {format_duration(seconds)})" if seconds > 0 else "any moment"


def _why(answer: Explanation, at: str, screen: Screen, to_retry: Sequence[str]) -> Iterator[Fact]:
    record = answer.run
    run = short(record.run_id)
    again = f"trainshed retry {' '.join(map(short, to_retry))}"
    match record.status:
        case RunStatus.PENDING:
            yield from _waiting(record, answer.waiting, at, whole_ids=not screen.is_terminal)
            yield "waited", describe.waited(record, at), None
            yield "to follow", f"trainshed logs -f {run}", None
            if not record.cancel_requested:
                yield "to end", f"trainshed cancel {run}", None
        case RunStatus.COMPLETED:
            yield "why", f"its worker exited with 0 after {describe.ran(record, at)}", None
            yield "output", f"trainshed logs {run}", None
        case RunStatus.FAILED:
            yield "why", describe.why_ended(record, answer.timeline), None
            yield "where", describe.where(record), None
            if record.failure_reason not in _WITHOUT_OUTPUT:
                yield "output", f"trainshed logs {run}", None
            yield "again", again, None
        case RunStatus.CANCELLED:
            text = describe.why_ended(record, answer.timeline)
            yield "why", "a cancel was asked for" if text == describe.NOTHING else text, None
            yield "again", again, None
        case _:
            if describe.away(record):
                yield (
                    "why",
                    f"{record.node}, where it runs, does not answer ({record.node_status}); it goes on there",
                    None,
                )
                yield "to help", f"if that machine is gone: trainshed node remove {record.node}", None
            elif record.cancel_requested:
                yield "why", "it is told to stop, and keeps what it holds until its processes are gone", None
            elif record.status is RunStatus.DISPATCHING:
                yield "why", "its folder is made and its worker launched there, once storage answers", None
            yield "where", describe.where(record), None
            yield "ran", describe.ran(record, at), None
            yield "last", describe.last(record, at), None
            yield "to follow", f"trainshed logs -f {run}", None


def _waiting(record: QueuedRunRecord, waiting: Waiting | None, at: str, *, whole_ids: bool) -> Iterator[Fact]:
    if waiting is None:  # of a projector that is older
        yield "why", record.waits_for.text if record.waits_for else "it was queued a moment ago", None
        return
    yield "why", waiting.text, None
    if waiting.place is not None:
        yield "place", f"{ordinal(waiting.place)} of {waiting.of:,} in the queue", None
    first = waiting.reservation
    if first is not None:
        other = f"run {shown_id(first.run_id, whole=whole_ids)} ({first.name})"
        whose = "this run" if first.run_id == record.run_id else other
        until = (
            "" if first.starts_by is None else f"; by time limits it starts by {_until(first.starts_by, at)}"
        )
        yield "kept", f"{first.node} for {whose}{until}", None
    if waiting.avoids:
        yield "avoids", f"{', '.join(waiting.avoids)}, which could not start it", None
    for one in waiting.suspects:
        yield (
            "suspect",
            f"{one.node}: could not start the last three runs, {_since(one.since, at)}: {clean(one.why)}",
            None,
        )
    for command in waiting.commands:
        yield "see" if " explain " in command or command.endswith(" nodes") else "to help", command, None
