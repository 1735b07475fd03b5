"""Columns: aligned, cut to the width of a terminal, never cut elsewhere.

Owns alignment, width and colour of text; knows nothing of runs.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Iterable, Sequence
from typing import IO, Any, NamedTuple, Self

from services.cli.common import colour_wanted

GAP = "  "
_LEAST = 6
"""To this width a column is cut where the terminal is narrower than all that may be cut at first."""
_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "blue": "34", "cyan": "36"}


class Screen(NamedTuple):
    """What lines are shown on; ``width`` in columns, None for a program: nothing is cut or wrapped for it."""

    width: int | None = None
    colour: bool = False

    @classmethod
    def of(cls, stream: IO[Any]) -> Self:
        """The terminal that a stream is, or none."""
        width = shutil.get_terminal_size().columns if stream.isatty() else None
        return cls(width, colour_wanted(stream))

    @property
    def is_terminal(self) -> bool:
        """Whether a person looks on."""
        return self.width is not None

    def styled(self, text: str, style: str | None) -> str:
        """``text`` in a style, where colour is wanted."""
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if self.colour and style and text.strip() else text


PLAIN = Screen()
"""A program: no width, no colour."""


class Cell(NamedTuple):
    """Text with a style, which only a terminal sees; ``middle``: where it is cut, its middle goes.

    ``brief``: what is shown where there is no room for it.
    """

    text: str
    style: str | None = None
    middle: bool = False
    brief: str | None = None

    def cut(self, width: int) -> str:
        """What of it fits."""
        fits = self.brief is None or text_width(self.text) <= width
        return cut(self.text if fits else self.brief or "", width, middle=self.middle)


class Column(NamedTuple):
    """A heading; ``right`` aligns numbers; ``shrink``: may be cut where the terminal is too narrow, down to it.

    ``extra``: left out where the terminal is too narrow for all even so, the first of several first.
    """

    heading: str
    right: bool = False
    shrink: int | None = None
    extra: bool = False


def print_lines(lines: Iterable[str]) -> None:
    """Lines to stdout."""
    for line in lines:
        sys.stdout.write(line + "\n")


def render(
    columns: Sequence[Column], rows: Sequence[Sequence[str | Cell]], screen: Screen = PLAIN
) -> list[str]:
    """The lines of a table: its headings and rows; on a terminal the columns that may shrink are cut until it fits."""
    cells = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
    heads = [Cell(column.heading, "bold") for column in columns]
    widths = [
        max(map(text_width, (row[place].text for row in [heads, *cells]))) for place in range(len(columns))
    ]
    if screen.width is not None:
        extra = next((place for place, column in enumerate(columns) if column.extra), None)
        if extra is not None and _least(columns, widths) > screen.width:
            fewer = [[*row[:extra], *row[extra + 1 :]] for row in cells]
            return render([*columns[:extra], *columns[extra + 1 :]], fewer, screen)
        _shrink(columns, widths, screen.width)
    elif not screen.colour:
        return _plain(columns, [heads, *cells], widths)
    return [_line(columns, row, widths, screen) for row in [heads, *cells]]


def _plain(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], widths: Sequence[int]) -> list[str]:
    """The lines for a program: of 10,000 rows in a fraction of the time that `_line` takes."""
    pieces = [
        f"%{'' if column.right else '-'}{width}s" for column, width in zip(columns, widths, strict=True)
    ]
    template = GAP.join(pieces)
    lines = []
    for row in rows:
        line = template % tuple([cell.text for cell in row])
        # A letter that takes no column, or two, is none that % can align.
        lines.append(line.rstrip() if line.isascii() else _line(columns, row, widths, PLAIN))
    return lines


def wrapped(text: str, indent: int, screen: Screen) -> str:
    """``text`` in as many lines as a terminal needs, those after the first indented; one line for a program."""
    if screen.width is None:
        return text
    room = max(20, screen.width - indent)
    lines = textwrap.wrap(text, room, break_on_hyphens=False, replace_whitespace=False)
    return ("\n" + " " * indent).join(lines)


def text_width(text: str) -> int:
    """The columns of a terminal that ``text`` takes."""
    if text.isascii():
        return len(text)
    return sum(map(_width_of, text))


def cut(text: str, width: int, *, middle: bool = False) -> str:
    """``text`` in at most ``width`` columns, with an ellipsis where something is missing."""
    if text_width(text) <= width:
        return text
    tail = (width - 1) // 2 if middle else 0
    end = _fitting(text[::-1], tail)[::-1]
    return _fitting(text, width - 1 - tail) + "…" + end


def _fitting(text: str, width: int) -> str:
    """As much of the beginning as fits."""
    for place, char in enumerate(text):
        width -= _width_of(char)
        if width < 0:
            return text[:place]
    return text


def _width_of(char: str) -> int:
    return 0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _least(columns: Sequence[Column], widths: Sequence[int]) -> int:
    """The width to which a table may be cut at first."""
    least = [min(width, column.shrink or width) for column, width in zip(columns, widths, strict=True)]
    return sum(least) + len(GAP) * (len(widths) - 1)


def _shrink(columns: Sequence[Column], widths: list[int], width: int) -> None:
    """Take from the widest column that may shrink until all fit, so that none loses while another has more."""
    over = sum(widths) + len(GAP) * (len(widths) - 1) - width
    may = [place for place, column in enumerate(columns) if column.shrink is not None]
    for least in ([column.shrink or 0 for column in columns], [_LEAST] * len(columns)):
        while over > 0 and (can := [place for place in may if widths[place] > least[place]]):
            widths[max(can, key=lambda place: widths[place])] -= 1
            over -= 1


def _line(columns: Sequence[Column], row: Sequence[Cell], widths: Sequence[int], screen: Screen) -> str:
    parts = []
    for place, (column, cell, width) in enumerate(zip(columns, row, widths, strict=True)):
        text = cell.cut(width)
        fill = " " * (width - text_width(text))
        shown = screen.styled(text, cell.style)
        last = place == len(columns) - 1
        parts.append(fill + shown if column.right else shown if last else shown + fill)
    return GAP.join(parts).rstrip()
