"""Runs as a live table on a terminal, for `trainshed wait`.

Owns the drawing, with rich; imported only where somebody looks on.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from services.cli.clock import now
from services.cli.common import colour_wanted
from services.cli.listing import COLUMNS, rows
from services.cli.table import Cell
from trainshed_client.records import RunRecord

_ELSEWHERE = 4
"""Lines of the screen that are left to others."""


@contextlib.contextmanager
def live_table(run_ids: Sequence[str]) -> Iterator[Callable[[RunRecord], None]]:
    """A table on stderr that is drawn anew with every record it is given, and four times a second for its clocks."""
    # of NO_COLOR rich itself takes only the colours out, not bold and dim
    console = Console(stderr=True, color_system="auto" if colour_wanted(sys.stderr) else None)
    records: dict[str, RunRecord] = {}

    def draw() -> RenderableType:
        known = [records[run_id] for run_id in run_ids if run_id in records]
        return _table(known, len(run_ids), max(3, console.height - _ELSEWHERE))

    with Live(get_renderable=draw, console=console, refresh_per_second=4, transient=True):

        def show(record: RunRecord) -> None:
            records[record.run_id] = record

        yield show


def _table(records: Sequence[RunRecord], count: int, room: int) -> RenderableType:
    """The live ones first where not all fit, in the order of the command line else."""
    ended = sum(record.status.ended for record in records)
    shown = list(records)
    if len(shown) > room:
        shown = sorted(shown, key=lambda record: (record.status.ended, record.started_at is None))[:room]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in COLUMNS:
        table.add_column(
            column.heading, justify="right" if column.right else "left", no_wrap=True, overflow="ellipsis"
        )
    for row in rows(shown, now(), whole_ids=False):
        cells = [cell if isinstance(cell, Cell) else Cell(cell) for cell in row]
        table.add_row(*(Text(cell.text, style=cell.style or "") for cell in cells))
    more = f", {len(records) - len(shown)} not shown" if len(shown) < len(records) else ""
    return Group(table, Text(f"{ended} of {count} ended{more}", style="dim"))
