"""A CSV file with a header, and numbers out of it.

Owns what of such a file is accepted and how what is not is refused, by file, line and column; knows no column's meaning.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from trainshed_client.errors import ErrorCode, TrainshedError

MOST_AMOUNT = 1_000_000_000
Source = tuple[str, ...]
"""The column that a value stands in, or the two whose difference it is."""


def invalid(where: str, message: str) -> TrainshedError:
    """A refusal of one place of a file, or of an option."""
    return TrainshedError(ErrorCode.INVALID, message, where)


class CsvRow(NamedTuple):
    """One line of a file, its values by their columns."""

    label: str
    line: int
    values: dict[str, str]

    def where(self, column: str) -> str:
        """A value's place, as errors name it."""
        return f"{self.label}:{self.line}: {column}"

    def number(self, column: str, source: Source, least: float = 0, most: float = MOST_AMOUNT) -> float:
        """A number in these bounds; ``column`` is what it is called in errors. Raises TrainshedError (invalid)."""
        numbers = [self._read(name) for name in source]
        value = numbers[0] if len(numbers) == 1 else numbers[0] - numbers[1]
        if not least <= value <= most:
            shown = " - ".join(self.values[name] for name in source)
            shown = shown if len(source) == 1 else f"{shown} = {value:.15g}"
            raise invalid(
                self.where(column), f"{shown} is refused; expected a number from {least:,} to {most:,}"
            )
        return value

    def whole(self, column: str, source: Source, least: float = 0, most: float = MOST_AMOUNT) -> int:
        """A whole number in these bounds."""
        value = self.number(column, source, least, most)
        if not value.is_integer():
            raise invalid(self.where(column), f"{value:.15g} is refused; expected a whole number")
        return int(value)

    def _read(self, column: str) -> float:
        text = self.values[column]
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise invalid(self.where(column), f"{text!r:.60} is no number; expected one")
        return value


class CsvTable(NamedTuple):
    """``label`` names the file in errors."""

    label: str
    columns: Sequence[str]
    rows: Sequence[CsvRow]

    def lacks(self, wanted: Iterable[str]) -> str | None:
        """The first of these columns that is not there."""
        return next((name for name in wanted if name not in self.columns), None)


def read_table(lines: Iterable[str], label: str) -> CsvTable:
    """The table of a file's ``lines``. Raises TrainshedError (invalid)."""
    rows: list[CsvRow] = []
    try:
        reader = csv.reader(lines, strict=True)
        columns = [name.strip() for name in next(reader, [])]
        for values in reader:
            if not values:
                continue
            if len(values) != len(columns):
                raise invalid(
                    f"{label}:{reader.line_num}",
                    f"{len(values)} values; expected {len(columns)}, as the header",
                )
            rows.append(CsvRow(label, reader.line_num, dict(zip(columns, values, strict=True))))
    except csv.Error as error:
        raise invalid(label, f"no CSV file ({error}); expected a header line, then a line a row") from None
    except UnicodeDecodeError:
        raise invalid(label, "no text in UTF-8; expected a CSV file with a header line") from None
    if not columns:
        raise invalid(label, "is empty; expected a header line, then a line a row")
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None:
        raise invalid(f"{label}: {twice}", "the column is there twice; expected each once")
    return CsvTable(label, columns, rows)
