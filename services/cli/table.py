"""Columns: aligned, cut to the width of a terminal, never cut elsewhere.

Owns alignment, width and colour of text; knows nothing of runs.
"""

from __future__ import annotations

import shutil
import sys
import unicodedata
from collections.abc import Sequence
from typing import IO, Any, NamedTuple

from services.cli.common import colour_wanted

GAP = "  "
_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "blue": "34", "cyan": "36"}


class Cell(NamedTuple):
    """Text with a style, which only a terminal sees."""

    text: str
    style: str | None = None


class Column(NamedTuple):
    """A heading; ``right`` aligns numbers; ``shrink``: may be cut where the terminal is too narrow, down to it."""

    heading: str
    right: bool = False
    shrink: int | None = None


def print_table(
    columns: Sequence[Column], rows: Sequence[Sequence[str | Cell]], *, stream: IO[Any] | None = None
) -> None:
    """Print a heading and rows on stdout."""
    out = stream or sys.stdout
    width = shutil.get_terminal_size().columns if out.isatty() else None
    for line in render(columns, rows, width=width, colour=colour_wanted(out)):
        out.write(line + "\n")


def render(
    columns: Sequence[Column],
    rows: Sequence[Sequence[str | Cell]],
    *,
    width: int | None = None,
    colour: bool = False,
) -> list[str]:
    """The lines of a table; with a ``width`` the columns that may shrink are cut until it fits."""
    cells = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
    heads = [Cell(column.heading, "bold") for column in columns]
    widths = [max(text_width(row[place].text) for row in [heads, *cells]) for place, _ in enumerate(columns)]
    if width is not None:
        _shrink(columns, widths, width)
    return [_line(columns, row, widths, colour) for row in [heads, *cells]]


def styled(text: str, style: str | None, *, colour: bool) -> str:
    """``text`` in a style, where colour is wanted."""
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if colour and style and text.strip() else text


def text_width(text: str) -> int:
    """The columns of a terminal that ``text`` takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )


def _shrink(columns: Sequence[Column], widths: list[int], width: int) -> None:
    over = sum(widths) + len(GAP) * (len(widths) - 1) - width
    for place in sorted(range(len(columns)), key=lambda place: -widths[place]):
        least = columns[place].shrink
        if over > 0 and least is not None and widths[place] > least:
            cut = min(over, widths[place] - least)
            widths[place] -= cut
            over -= cut


def _line(columns: Sequence[Column], row: Sequence[Cell], widths: Sequence[int], colour: bool) -> str:
    parts = []
    for place, (column, cell, width) in enumerate(zip(columns, row, widths, strict=True)):
        text = _cut(cell.text, width)
        fill = " " * (width - text_width(text))
        shown = styled(text, cell.style, colour=colour)
        last = place == len(columns) - 1
        parts.append(fill + shown if column.right else shown if last else shown + fill)
    return GAP.join(parts).rstrip()


def _cut(text: str, width: int) -> str:
    if text_width(text) <= width:
        return text
    while text and text_width(text) > width - 1:
        text = text[:-1]
    return text + "…"
