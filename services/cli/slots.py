"""`trainshed slots`: every GPU slot, who holds it, and what NVML says of it.

Owns its columns.
"""

from __future__ import annotations

import sys

import msgspec

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
from trainshed_client.records import SlotRecord


@verb("trainshed slots", "trainshed slots --json | jq '.slots[] | select(.run_id == null)'")
@json_option
@nats_option
def slots(as_json: bool) -> None:
    """List the slots: which run holds each, its memory, and foreign processes on it."""
    body = run_async(_read())
    page = msgspec.json.decode(body, type=SlotPage)
    warn_if_stale(page.stale, page.seq)
    if as_json:
        print_json(body)
    elif page.slots:
        print_lines(lines(page, Screen.of(sys.stdout)))
    else:
        note("no slots: no node with GPUs has joined. Declare some to try: trainshed up --gpus 2")


def lines(page: SlotPage, screen: Screen) -> list[str]:
    """The table."""
    return render(
        (
            Column("SLOT"),
            Column("DEVICE", shrink=12),
            Column("MEMORY", right=True),
            Column("UTIL", right=True),
            Column("RUN"),
            Column("NOTES", shrink=12),
        ),
        [_row(slot, whole_ids=not screen.is_terminal) for slot in page.slots],
        screen,
    )


async def _read() -> bytes:
    async with connected() as trainshed:
        return await trainshed.call("slot.list", {})


def _row(slot: SlotRecord, *, whole_ids: bool) -> list[str | Cell]:
    used, total = slot.memory_used_mb, slot.memory_mb
    memory = NOTHING if total is None else f"{NOTHING if used is None else used}/{total} MB"
    holder = NOTHING if slot.run_id is None else f"{shown_id(slot.run_id, whole=whole_ids)}.{slot.attempt}"
    return [
        f"{slot.node}:{slot.index}",
        clean(slot.device or "declared"),
        memory,
        NOTHING if slot.utilisation is None else f"{slot.utilisation}%",
        Cell(holder, "cyan" if slot.run_id else None),
        Cell(notes(slot), "red" if not slot.healthy else "yellow"),
    ]


def notes(slot: SlotRecord) -> str:
    """What is odd about a slot."""
    parts = [] if slot.healthy else ["unhealthy"]
    if slot.other_pids:
        parts.append(f"also used by pid {', '.join(map(str, slot.other_pids))}")
    return "; ".join(parts)
