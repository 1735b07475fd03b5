"""Runs as a live table on a terminal, for `trainshed wait`.

Owns when it is drawn and what is drawn over; what the rows say is services.cli.listing's.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Sequence

from services.cli.clock import now
from services.cli.listing import COLUMNS, rows
from services.cli.table import Screen, cut, render
from trainshed_client.records import RunRecord

DRAWN_EVERY_S = 0.25
_ELSEWHERE = 4
"""Lines of the screen that are left to others."""
_CLEAR_BELOW = "\x1b[J"
_CURSOR = {True: "\x1b[?25h", False: "\x1b[?25l"}


@contextlib.contextmanager
def live_table(run_ids: Sequence[str]) -> Iterator[Callable[[RunRecord], None]]:
    """A table on stderr that is drawn anew four times a second, also for its clocks, and is gone at the end."""
    records: dict[str, RunRecord] = {}
    ended = threading.Event()

    def draw() -> None:
        height = 0
        while True:
            last = ended.is_set()
            known = [records[run_id] for run_id in run_ids if run_id in records]
            lines = table(known, len(run_ids), Screen.of(sys.stderr), shutil.get_terminal_size().lines)
            sys.stderr.write(f"{_up(height)}{_CLEAR_BELOW}" + "".join(f"{line}\n" for line in lines))
            height = len(lines)
            if last:
                sys.stderr.write(f"{_up(height)}{_CLEAR_BELOW}{_CURSOR[True]}")
            sys.stderr.flush()
            if last:
                return
            ended.wait(DRAWN_EVERY_S)

    def show(record: RunRecord) -> None:
        records[record.run_id] = record

    # A thread, which nobody waits for long: a terminal that is stopped (Ctrl-S) must not keep the connection from its pings.
    drawing = threading.Thread(target=draw, name="live-table", daemon=True)
    sys.stderr.write(_CURSOR[False])
    drawing.start()
    try:
        yield show
    finally:
        ended.set()
        drawing.join(1)


def table(records: Sequence[RunRecord], count: int, screen: Screen, height: int) -> list[str]:
    """The lines for so many of ``count`` runs as a screen of ``height`` lines has room for: where not all fit, the live
    ones first."""
    room = max(3, height - _ELSEWHERE)
    shown = list(records)
    if len(shown) > room:
        shown = sorted(shown, key=lambda record: (record.status.ended, record.started_at is None))[:room]
    ended = sum(record.status.ended for record in records)
    more = f", {len(records) - len(shown)} not shown" if len(shown) < len(records) else ""
    lines = render(COLUMNS, rows(shown, now(), whole_ids=False), screen)
    summary = cut(f"{ended} of {count} ended{more}", screen.width or 80)
    return [*lines, screen.styled(summary, "dim")]


def _up(lines: int) -> str:
    """To the beginning of the line so many lines above."""
    return f"\r\x1b[{lines}A" if lines else "\r"
