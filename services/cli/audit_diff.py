"""`trainshed audit diff`: what changed between two moments of the log.

Owns what is asked of each of them and how the changes are laid out; what counts as one is services.cli.changes'.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import click
import msgspec

from services.cli import describe
from services.cli.as_of import MomentAsked, PastMoment, PastVerb, as_of, asked
from services.cli.audit_at import PastState, past_at
from services.cli.changes import (
    Changed,
    SentRecord,
    changes,
    counted,
    of_node,
    of_run,
    of_slot,
    status_counts,
)
from services.cli.common import (
    connected,
    json_option,
    log_errors,
    nats_option,
    print_json,
    run_async,
    stored_log,
)
from services.cli.table import Cell, Column, Screen, print_lines, render
from services.cli.text import clean, seconds_between, short, shown_id
from trainshed_client import subjects
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.naming import title_of
from trainshed_client.records import ListedSlotRecord, NodeRecord, QueuedRunRecord
from trainshed_client.rendering.durations import format_duration
from trainshed_client.statuses import ENDED, PLACED, RunStatus

if TYPE_CHECKING:
    from trainshed_client.client import Trainshed

SHOWN = 50
"""So many of each group are shown to people."""
_AT_ONCE = 16
_WORTH_A_PAGE = 10
"""So many runs of a page are had for less together than each by itself."""
_NOT_IN_STATUS = ("retried", "queued_again", "cancel_requested")
"""What the two statuses of a run do not tell."""
_RETRIES = f"{subjects.EVENTS}.{subjects.Scope.RUN}.*.*.retry_requested.*"

T = TypeVar("T")
Runs = dict[str, SentRecord[QueuedRunRecord]]


class Diff(NamedTuple):
    """Two moments, the earlier first, and what changed between them; runs in the order of their last events."""

    before: PastMoment
    after: PastMoment
    runs: list[Changed[QueuedRunRecord]]
    slots: list[Changed[ListedSlotRecord]]
    nodes: list[Changed[NodeRecord]]


@click.command(
    cls=PastVerb,
    examples=(
        "trainshed audit diff -2h",
        "trainshed audit diff 2026-11-24T10:32 1234",
        "trainshed audit diff 1200 1234 --json | jq '.runs[] | select(.changes | index(\"ended\"))'",
    ),
)
@click.argument("a", metavar="A")
@click.argument("b", metavar="[B]", required=False)
@json_option
@nats_option
def diff(a: str, b: str | None, as_json: bool) -> None:
    """Show what changed between two moments of the log: runs, slots and nodes, as they were and as they became.

    A and B are each the sequence of an event or a time, in any order; without B it is now. A time is in your zone unless
    it ends in one (2026-11-24T10:32Z), and is when events were stored.
    """
    first, second = asked(a, given_by="A"), asked(b, given_by="B")
    assert first is not None
    found = run_async(_read(first, second))
    if as_json:
        print_json(_json(found))
    else:
        print_lines(lines(found, Screen.of(sys.stdout)))


async def _read(first: MomentAsked, second: MomentAsked | None) -> Diff:
    async with connected() as trainshed:
        moments = [await as_of(trainshed, one or await _now(trainshed)) for one in (first, second)]
        earlier, later = sorted((one for one in moments if one is not None), key=lambda one: one.seq)
        was, now = await past_at(trainshed, earlier), await past_at(trainshed, later)
        runs = await _runs(trainshed, was, now)
    return Diff(
        earlier,
        later,
        sorted(runs, key=lambda one: one.after.record.seq if one.after is not None else 0),
        list(changes(_slots(was), _slots(now), of_slot)),
        list(changes(_nodes(was), _nodes(now), of_node)),
    )


async def _now(trainshed: Trainshed) -> MomentAsked:
    seq = (await trainshed.slots()).seq
    return MomentAsked(seq, "", str(seq), "B")


# --- which runs changed ---------------------------------------------------------------------------------------


async def _runs(trainshed: Trainshed, was: PastState, now: PastState) -> list[Changed[QueuedRunRecord]]:
    """A run that changed was live at one of the two moments, or was submitted or retried between them."""
    first, last = was.moment.seq, now.moment.seq
    before, after = _live(was), _live(now)
    listed = await _paged(trainshed, last, first, set(before) - set(after))
    after |= listed
    retried = await _retried(trainshed, first, last)
    ended_before = (set(after) | retried) - set(before) - set(listed)
    before |= await _each(trainshed, ended_before, first)
    after |= await _each(trainshed, set(before) - set(after), last)
    return list(changes(before, after, of_run))


def _live(past: PastState) -> Runs:
    return {
        record.run_id: SentRecord(raw, record) for raw, record in zip(past.runs, past.records, strict=True)
    }


async def _paged(trainshed: Trainshed, at: int, first: int, older: set[str]) -> Runs:
    """Those submitted after ``first``, as they were at ``at``; with those of the ``older`` ones that are many on a page:
    a queue of thousands is not asked for run by run."""
    found: Runs = {}
    async for page in trainshed.list_pages(at=at):
        records = page.records
        of_page = {
            record.run_id: SentRecord(raw, record)
            for raw, record in zip(page.runs, records, strict=True)
            if record.submit_seq > first or record.run_id in older
        }
        found |= of_page
        has_all_new = bool(records) and records[-1].submit_seq <= first
        if has_all_new and (older <= found.keys() or len(of_page) < _WORTH_A_PAGE):
            break
    return found


async def _retried(trainshed: Trainshed, first: int, last: int) -> set[str]:
    """Those of which a new attempt was asked for in between, by the log: they may have ended again."""
    found: set[str] = set()
    with log_errors(trainshed):
        read = stored_log(trainshed).messages((_RETRIES,), first=first + 1, last=last)
        async for message in read:
            if (subject := subjects.parse_event_subject(message.subject)) is not None:
                found.add(subject.id)
    return found


async def _each(trainshed: Trainshed, run_ids: set[str], at: int) -> Runs:
    """These runs, each by itself, as they were."""
    at_once = asyncio.Semaphore(_AT_ONCE)

    async def read(run_id: str) -> SentRecord[QueuedRunRecord] | None:
        try:
            async with at_once:
                body = await trainshed.call("run.get", {"run_id": run_id, "at": at})
        except TrainshedError as error:
            if error.code is not ErrorCode.NOT_FOUND:
                raise
            return None  # an event may name what was never submitted
        raw = msgspec.json.decode(body, type=dict[str, msgspec.Raw])["run"]
        return SentRecord(raw, msgspec.json.decode(raw, type=QueuedRunRecord))

    found = await asyncio.gather(*(read(run_id) for run_id in sorted(run_ids)))
    return {one.record.run_id: one for one in found if one is not None}


def _slots(past: PastState) -> dict[str, SentRecord[ListedSlotRecord]]:
    found = _listed(past.slots, "slots", ListedSlotRecord)
    return {f"{one.record.node}:{one.record.index:04}": one for one in found}


def _nodes(past: PastState) -> dict[str, SentRecord[NodeRecord]]:
    return {one.record.node: one for one in _listed(past.nodes, "nodes", NodeRecord)}


def _listed(body: bytes, name: str, kind: type[T]) -> list[SentRecord[T]]:
    listed = msgspec.json.decode(
        msgspec.json.decode(body, type=dict[str, msgspec.Raw])[name], type=list[msgspec.Raw]
    )
    return [SentRecord(raw, msgspec.json.decode(raw, type=kind)) for raw in listed]


# --- how they are shown ---------------------------------------------------------------------------------------


def _json(found: Diff) -> dict[str, object]:
    return {
        "v": 1,
        "from": _moment(found.before),
        "to": _moment(found.after),
        "counts": dict(_counts(found)),
        "runs": [_entry(one) for one in found.runs],
        "slots": [_entry(one) for one in found.slots],
        "nodes": [_entry(one) for one in found.nodes],
    }


def _counts(found: Diff) -> tuple[tuple[str, dict[str, int]], ...]:
    return ("runs", counted(found.runs)), ("slots", counted(found.slots)), ("nodes", counted(found.nodes))


def _moment(moment: PastMoment) -> dict[str, object]:
    return {"seq": moment.seq, "time": moment.time, "state_hash": moment.state_hash}


def _entry(one: Changed[T]) -> dict[str, object]:
    return {
        "changes": one.how,
        "before": None if one.before is None else one.before.raw,
        "after": None if one.after is None else one.after.raw,
    }


def lines(found: Diff, screen: Screen) -> Iterator[str]:
    """The whole page."""
    events = found.after.seq - found.before.seq
    span = seconds_between(found.before.time, found.after.time)
    yield f"from {found.before.text}"
    yield f"to   {found.after.text}"
    if not events:
        yield "the same event: nothing changed"
        return
    later = "" if span is None else f", {format_duration(span)} later"
    yield f"{events:,} event{'' if events == 1 else 's'}{later}"
    if not (found.runs or found.slots or found.nodes):
        yield "no run, slot or node changed"
        return
    yield ""
    for name, counts in _counts(found):
        if counts:
            text = ", ".join(f"{number:,} {way.replace('_', ' ')}" for way, number in counts.items())
            yield f"{screen.styled(f'{name}:', 'dim')} {text}"
    yield from _run_groups(found, screen)
    yield from _slot_table(found.slots, screen)
    yield from _node_table(found.nodes, screen)


def _run_groups(found: Diff, screen: Screen) -> Iterator[str]:
    for title, statuses in (
        ("ended", ENDED),
        ("running or starting", PLACED),
        ("queued", (RunStatus.PENDING,)),
    ):
        group = [one for one in found.runs if one.after is not None and one.after.record.status in statuses]
        if group:
            by_status = status_counts(group)
            kinds = ", ".join(f"{by_status[status]:,} {status}" for status in statuses if by_status[status])
            yield from ("", f"{screen.styled(title, 'bold')}: {kinds}")
            columns = (
                Column("RUN"),
                Column("NAME", shrink=10),
                Column("WAS"),
                Column("IS"),
                Column("WHERE", shrink=10),
                Column("LAST", shrink=16),
            )
            yield from _table(columns, [_run(one, found.after, screen) for one in group], screen)


def _run(one: Changed[QueuedRunRecord], moment: PastMoment, screen: Screen) -> list[str | Cell]:
    assert one.after is not None
    record = one.after.record
    was = "new" if one.before is None else str(one.before.record.status)
    last = describe.last_of_all(record, moment.clock, short if screen.is_terminal else str)
    beside = [way for way in one.how if way in _NOT_IN_STATUS]
    shown = [_ways(beside)] if beside else []
    shown += [last] if last != describe.NOTHING or not beside else []
    return [
        shown_id(record.run_id, whole=not screen.is_terminal),
        Cell(clean(title_of(record)), middle=title_of(record) != record.name),
        was,
        Cell(str(record.status), describe.style_of(record.status)),
        describe.where(record),
        clean("; ".join(shown)),
    ]


def _slot_table(changed: Sequence[Changed[ListedSlotRecord]], screen: Screen) -> Iterator[str]:
    if changed:
        columns = (
            Column("SLOT"),
            Column("WAS", shrink=12),
            Column("IS", shrink=12),
            Column("CHANGES", shrink=10),
        )
        yield from ("", f"{screen.styled('slots', 'bold')} that changed: {len(changed):,}")
        yield from _table(columns, [_slot(one, screen) for one in changed], screen)


def _slot(one: Changed[ListedSlotRecord], screen: Screen) -> list[str | Cell]:
    seen = one.after or one.before
    assert seen is not None
    return [
        f"{seen.record.node}:{seen.record.index}",
        _holder(one.before, screen),
        _holder(one.after, screen),
        _ways(one.how),
    ]


def _holder(slot: SentRecord[ListedSlotRecord] | None, screen: Screen) -> str:
    if slot is None:
        return describe.NOTHING
    record = slot.record
    if record.run_id is None:
        return "free" if record.healthy else "unhealthy"
    return f"{shown_id(record.run_id, whole=not screen.is_terminal)}.{record.attempt} {clean(record.run_name or '')}".strip()


def _node_table(changed: Sequence[Changed[NodeRecord]], screen: Screen) -> Iterator[str]:
    if changed:
        columns = (Column("NODE"), Column("WAS"), Column("IS"), Column("CHANGES", shrink=10))
        yield from ("", f"{screen.styled('nodes', 'bold')} that changed: {len(changed):,}")
        yield from _table(columns, [_node(one) for one in changed], screen)


def _node(one: Changed[NodeRecord]) -> list[str | Cell]:
    seen = one.after or one.before
    assert seen is not None
    return [seen.record.node, _status(one.before), _status(one.after), _ways(one.how)]


def _status(node: SentRecord[NodeRecord] | None) -> str:
    if node is None:
        return describe.NOTHING
    return f"{node.record.status}{', drained' if node.record.drained else ''}"


def _ways(how: Sequence[str]) -> str:
    return ", ".join(way.replace("_", " ") for way in how)


def _table(columns: Sequence[Column], rows: Sequence[list[str | Cell]], screen: Screen) -> Iterator[str]:
    """All of it for a program; of many rows a terminal gets the last."""
    shown = rows[-SHOWN:] if screen.is_terminal else rows
    if len(shown) < len(rows):
        yield screen.styled(f"... {len(rows) - len(shown):,} before these; all of them: --json", "dim")
    yield from render(columns, shown, screen)
