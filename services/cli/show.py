"""`trainshed show`: everything that is known of one run.

Owns how a run, its attempts and its timeline are laid out for people.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Iterator
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
    seq_of,
    tell,
)
from services.cli.at_rest import reading
from services.cli.common import json_option, nats_option, note, print_json, warn_if_stale
from services.cli.output_tail import Impatient, OutputTail, output_tail
from services.cli.run_argument import RUN
from services.cli.run_facts import Fact, facts_of
from services.cli.table import Cell, Column, Screen, print_lines, render, wrapped
from services.cli.text import clean, time_of_day, zoned
from services.cli.verb import verb
from services.cli.written_then import written_then
from trainshed_client.answers import RunView
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.records import AttemptRecord, TimelineEntry
from trainshed_client.rendering.timeline import EndData, data_of
from trainshed_client.statuses import CodeSeen, RunStatus

if TYPE_CHECKING:
    from trainshed_client.answers import RunFolder
    from trainshed_client.client import Trainshed

_LABEL_WIDTH = 10


class Shown(NamedTuple):
    """What `show` tells of a run: the answer, and for people what lies on its node. ``remark``: of what it had written by
    a moment of the past, where that is from."""

    body: bytes
    view: RunView
    moment: PastMoment | None = None
    folder: RunFolder | str | None = None
    tail: OutputTail | None = None
    remark: str | None = None


@verb("trainshed show ppo-cartpole", "trainshed show k3f2q7 --at -2h", "trainshed show k3f2q7 --json")
@click.argument("run", metavar="RUN", type=RUN)
@at_option
@json_option
@nats_option
def show(run: str, at: str | None, as_json: bool) -> None:
    """Show one run: its state, config, attempts and what happened to it.

    Of a run that failed, the last lines of its stderr come last. With --at what a worker that was live then had measured
    and written comes from its node's files, by the node's clock.
    """
    wanted = asked(at)
    shown = reading(
        lambda trainshed: _read(trainshed, run, wanted, for_people=not as_json),
        of_the_past=wanted is not None,
    )
    tell(shown.moment)
    warn_if_stale(shown.view.stale, shown.view.seq, shown.view.progress)
    if as_json:
        print_json(shown.body)
    else:
        at_clock = clock_of(shown.moment)
        print_lines(lines(shown.view, shown.folder, shown.tail, at_clock, Screen.of(sys.stdout)))
        if shown.remark is not None:
            sys.stdout.flush()
            note(shown.remark)


async def _read(trainshed: Trainshed, run: str, wanted: MomentAsked | None, *, for_people: bool) -> Shown:
    moment = await as_of(trainshed, wanted)
    body = await of_then(trainshed.get_json(run, at=seq_of(moment)), moment)
    view = msgspec.json.decode(body, type=RunView)
    if not for_people or not view.attempts:
        return Shown(body, view, moment)
    if moment is None:
        folder, tail = await asyncio.gather(_folder(trainshed, view.attempts[-1]), _tail(trainshed, view))
        return Shown(body, view, None, folder, tail)
    written = await written_then(trainshed, view.run, moment)
    if written is None:
        return Shown(body, view, moment, None, await _tail(trainshed, view))
    view = msgspec.structs.replace(view, run=written.record)
    return Shown(body, view, moment, None, written.tail, written.remark)


async def _tail(trainshed: Trainshed, view: RunView) -> OutputTail | None:
    return await output_tail(trainshed, view) if view.run.status is RunStatus.FAILED else None


async def _folder(trainshed: Trainshed, attempt: AttemptRecord) -> RunFolder | str:
    """Where the attempt's run has its folder, or why that is not known."""
    from trainshed_client.run_files import run_folder

    try:
        return await run_folder(Impatient(trainshed), attempt)
    except TrainshedError as error:
        return error.message if error.code is ErrorCode.NOT_FOUND else f"not known: {error.message}"


def lines(
    view: RunView, folder: RunFolder | str | None, tail: OutputTail | None, at: str, screen: Screen
) -> list[str]:
    """The whole page."""
    shown = list(facts(facts_of(view, folder, at, whole=not screen.is_terminal), screen))
    if view.attempts:
        shown += ["", *_attempts(view, at, screen)]
    if view.timeline:
        shown += ["", *timeline(view.timeline, screen)]
    if tail is not None:
        shown += ["", screen.styled(f"the last lines of its {tail.source}:", "dim")]
        shown += [f"  {clean(line)}" for line in tail.lines]
    return shown


def facts(pairs: Iterable[Fact], screen: Screen) -> Iterator[str]:
    """Lines of a name and what it is; (name, text, style)."""
    for name, text, style in pairs:
        label = screen.styled(f"{name}:".ljust(_LABEL_WIDTH), "dim")
        shown = wrapped(clean(text), _LABEL_WIDTH + 1, screen)
        yield f"{label} {screen.styled(shown, style)}"


def timeline(entries: list[TimelineEntry], screen: Screen) -> list[str]:
    """What happened, a line each, in the caller's zone; a terminal gets the time to the second."""
    times = [(time_of_day if screen.is_terminal else zoned)(one.time) for one in entries]
    return render(
        (
            Column("SEQ", right=True),
            Column("TIME"),
            Column("EVENT"),
            Column("", shrink=20),
        ),
        [[str(one.seq), at, one.type, clean(_text(one))] for one, at in zip(entries, times, strict=True)],
        screen,
    )


def _text(entry: TimelineEntry) -> str:
    """An agent gives as the reason of what was asked for that it was asked for."""
    match entry.type, data_of(entry):
        case "cancelled", EndData(reason="cancel", late=None, next=None):
            return "cancelled"
        case _:
            return entry.text


def _attempts(view: RunView, at: str, screen: Screen) -> list[str]:
    columns = [
        Column("ATTEMPT", right=True),
        Column("STATUS"),
        Column("WHERE", shrink=10),
        Column("PID", right=True),
        Column("RAN", right=True),
        Column("LAST", shrink=16),
    ]
    rows: list[list[str | Cell]] = [
        [
            str(one.attempt),
            Cell(str(one.status), describe.style_of(one.status)),
            describe.where(one),
            describe.NOTHING if one.pid is None else str(one.pid),
            describe.ran(one, at),
            clean(_of_attempt(one, view)),
        ]
        for one in view.attempts
    ]
    if all(row[-1] == describe.NOTHING for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return render(columns, rows, screen)


def _of_attempt(attempt: AttemptRecord, view: RunView) -> str:
    """How it ended and what it told; of the last attempt the lines above say both."""
    parts = []
    if attempt is not view.attempts[-1] or attempt.attempt != view.run.attempt:
        parts += [describe.ending(attempt), describe.reported(attempt, of=view.run)]
    if attempt.code is CodeSeen.CHANGED:
        parts.append(describe.CODE_CHANGED)
    if attempt.late_result:
        parts.append(f"(too late: {attempt.late_result})")
    return ", ".join(filter(None, parts)) or describe.NOTHING
