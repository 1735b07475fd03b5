"""`trainshed slots`: every GPU slot, who holds it, and what NVML says of it.

Owns its columns.
"""

from __future__ import annotations

import sys
from collections import Counter

import msgspec

from services.cli.as_of import MomentAsked, PastMoment, as_of, asked, at_option, seq_of, tell
from services.cli.common import (
    connected,
    json_option,
    nats_option,
    note,
    print_json,
    run_async,
    warn_if_stale,
)
from services.cli.describe import NOTHING
from services.cli.table import Cell, Column, Screen, print_lines, render
from services.cli.text import clean, shown_id
from services.cli.verb import verb
from trainshed_client.answers import SlotPage
from trainshed_client.records import ListedSlotRecord, SlotRecord


@verb("trainshed slots", "trainshed slots --json | jq '.slots[] | select(.run_id == null)'")
@at_option
@json_option
@nats_option
def slots(at: str | None, as_json: bool) -> None:
    """List the slots: which run holds each, its memory, and foreign processes on it."""
    wanted = asked(at)
    moment, body = run_async(_read(wanted))
    page = msgspec.json.decode(body, type=SlotPage)
    tell(moment)
    warn_if_stale(page.stale, page.seq, page.progress)
    if as_json:
        print_json(body)
    elif page.slots:
        print_lines(lines(page, Screen.of(sys.stdout)))
        if moment is not None:
            sys.stdout.flush()
            note("what was used of the devices then, and by which other processes, is not kept")
    elif moment is not None:
        note("no node with GPUs had joined by then")
    else:
        note(
            "no slots: no node with GPUs has joined. Declare some to try: trainshed down; trainshed up --gpus 2"
        )


def lines(page: SlotPage, screen: Screen) -> list[str]:
    """The table. Which slots share a device, and what runs use of its memory, is shown where there is something."""
    of_device = Counter((slot.node, slot.gpu) for slot in page.slots if slot.gpu is not None)
    more = {
        "GPU": any(slots > 1 for slots in of_device.values()),
        "NAME": any(slot.run_name for slot in page.slots),
        "ITS MEMORY": any(slot.attempt_memory_mb is not None for slot in page.slots),
    }
    columns = [
        Column("SLOT"),
        Column("GPU", right=True),
        Column("DEVICE", shrink=12, extra=True),
        Column("MEMORY", right=True),
        Column("UTIL", right=True),
        Column("RUN"),
        Column("NAME", shrink=10),
        Column("ITS MEMORY", right=True),
        Column("NOTES", shrink=12),
    ]
    places = [place for place, column in enumerate(columns) if more.get(column.heading, True)]
    rows = [_row(slot, whole_ids=not screen.is_terminal) for slot in page.slots]
    return render(
        tuple(columns[place] for place in places), [[row[place] for place in places] for row in rows], screen
    )


async def _read(wanted: MomentAsked | None) -> tuple[PastMoment | None, bytes]:
    async with connected() as trainshed:
        moment = await as_of(trainshed, wanted)
        return moment, await trainshed.slots_json(at=seq_of(moment))


def _row(slot: ListedSlotRecord, *, whole_ids: bool) -> list[str | Cell]:
    used, total = slot.memory_used_mb, slot.memory_mb
    memory = NOTHING if total is None else f"{NOTHING if used is None else used}/{total} MB"
    holder = NOTHING if slot.run_id is None else f"{shown_id(slot.run_id, whole=whole_ids)}.{slot.attempt}"
    return [
        f"{slot.node}:{slot.index}",
        NOTHING if slot.gpu is None else str(slot.gpu),
        clean(slot.device or "declared"),
        memory,
        NOTHING if slot.utilisation is None else f"{slot.utilisation}%",
        Cell(holder, "cyan" if slot.run_id else None),
        Cell(clean(slot.run_name or NOTHING), middle=True),
        NOTHING if slot.attempt_memory_mb is None else f"{slot.attempt_memory_mb} MB",
        Cell(notes(slot), "red" if not slot.healthy else "yellow"),
    ]


def notes(slot: SlotRecord) -> str:
    """What is odd about a slot."""
    pids = f"pid {', '.join(map(str, slot.other_pids))}" if slot.other_pids else ""
    if slot.unhealthy_reason == "external":
        return f"used by others: {pids}" if pids else "used by others until now"
    parts = []
    if not slot.healthy:
        parts.append(f"unhealthy: {clean(slot.unhealthy_reason)}" if slot.unhealthy_reason else "unhealthy")
    if pids:
        parts.append(f"also used by {pids}")
    return "; ".join(parts)
