"""`trainshed audit at`: the queue, what ran, the slots and the nodes as they were at a moment of the log.

Owns what is asked and how it is laid out; the tables are those of `ls`, `slots` and `nodes`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import click
import msgspec

from services.cli import ls, nodes, slots
from services.cli.as_of import MomentAsked, PastMoment, PastVerb, as_of, asked
from services.cli.common import connected, json_option, nats_option, note, print_json, run_async
from services.cli.table import Screen, print_lines
from trainshed_client.answers import NodePage, RunPage, SlotPage, decode_run
from trainshed_client.records import QueuedRunRecord
from trainshed_client.statuses import RunStatus

if TYPE_CHECKING:
    from trainshed_client.client import Trainshed

SHOWN = 100
"""So many runs of the queue, and so many that run, are shown to people."""


class PastState(NamedTuple):
    """A moment, the runs that were live then (newest first), and the slots and nodes, as the server's JSON."""

    moment: PastMoment
    runs: list[msgspec.Raw]
    slots: bytes
    nodes: bytes

    @property
    def records(self) -> list[QueuedRunRecord]:
        """The runs, decoded."""
        return [decode_run(one) for one in self.runs]


@click.command(
    cls=PastVerb,
    examples=(
        "trainshed audit at -2h",
        "trainshed audit at 2026-11-24T10:32",
        "trainshed audit at 1234 --json",
    ),
)
@click.argument("moment", metavar="SEQ|TIME")
@json_option
@nats_option
def at(moment: str, as_json: bool) -> None:
    """Show what was queued, what ran, the slots and the nodes as they were after an event, or at a time.

    A TIME is in your zone unless it ends in one (2026-11-24T10:32Z), and is when events were stored. Of what had ended
    by then: trainshed ls --all --at SEQ.
    """
    wanted = asked(moment, given_by="the moment")
    assert wanted is not None
    past = run_async(_read(wanted))
    if as_json:
        print_json(_json(past))
        return
    print_lines(lines(past, Screen.of(sys.stdout)))
    sys.stdout.flush()
    note(
        "what heartbeats told then (metrics, use of devices, when nodes were last heard) is not kept; "
        f"of a run: trainshed show --at {past.moment.option} RUN"
    )


async def _read(wanted: MomentAsked) -> PastState:
    async with connected() as trainshed:
        moment = await as_of(trainshed, wanted)
        assert moment is not None
        return await past_at(trainshed, moment)


async def past_at(trainshed: Trainshed, moment: PastMoment) -> PastState:
    """What was there then."""
    pages, there, machines = await asyncio.gather(
        _pages(trainshed, moment.seq),
        trainshed.slots_json(at=moment.seq),
        trainshed.nodes_json(at=moment.seq),
    )
    return PastState(moment, [raw for page in pages for raw in page.runs], there, machines)


async def _pages(trainshed: Trainshed, at: int) -> list[RunPage]:
    return [page async for page in trainshed.list_pages(live=True, at=at)]


def _json(past: PastState) -> dict[str, object]:
    moment = past.moment
    listed = {
        name: msgspec.json.decode(body, type=dict[str, msgspec.Raw])[name]
        for name, body in (("slots", past.slots), ("nodes", past.nodes))
    }
    head = {"v": 1, "seq": moment.seq, "time": moment.time, "state_hash": moment.state_hash}
    return {**head, "runs": past.runs, **listed}


def lines(past: PastState, screen: Screen) -> Iterator[str]:
    """The whole page."""
    moment, records = past.moment, past.records
    queued = [record for record in records if record.status is RunStatus.PENDING]
    queued.sort(key=lambda record: (-record.priority, record.submit_seq))
    placed = [record for record in records if record.status is not RunStatus.PENDING]
    there = msgspec.json.decode(past.slots, type=SlotPage)
    machines = msgspec.json.decode(past.nodes, type=NodePage)
    held = sum(slot.run_id is not None for slot in there.slots)
    yield f"{moment.text[0].upper()}{moment.text[1:]}"
    yield f"{screen.styled('state hash:', 'dim')} {moment.state_hash}"
    for title, found in (("queued", queued), ("running or starting", placed)):
        yield from ("", _title(title, f"{len(found):,}", screen))
        yield from _runs(found, moment, screen)
    yield from ("", _title("slots", f"{held:,} of {len(there.slots):,} held", screen))
    yield from slots.lines(there, screen) if there.slots else ()
    yield from ("", _title("nodes", f"{len(machines.nodes):,}", screen))
    yield from nodes.lines(machines, moment.clock, screen) if machines.nodes else ()


def _title(text: str, count: str, screen: Screen) -> str:
    return f"{screen.styled(text, 'bold')}: {count}"


def _runs(records: Sequence[QueuedRunRecord], moment: PastMoment, screen: Screen) -> Iterator[str]:
    if not records:
        return
    shown = records[:SHOWN] if screen.is_terminal else records
    yield from ls.lines(shown, moment.clock, screen)
    if len(shown) < len(records):
        yield f"... and {len(records) - len(shown):,} more: trainshed audit at {moment.seq} --json"
