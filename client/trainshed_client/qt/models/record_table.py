"""A table of records, a row each, that changes cell by cell as newer ones are taken.

Owns how taken records become Qt's signals of change; what a column shows is the columns' own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Union

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QObject, QPersistentModelIndex, Qt, Signal

from trainshed_client.qt.models.columns import SortValue, TableColumn
from trainshed_client.qt.models.roles import TableRole
from trainshed_client.watching.newest import Gone

if TYPE_CHECKING:
    from trainshed_client.qt.runner import TrainerClientRunner

ModelIndex = Union[QModelIndex, QPersistentModelIndex]

DISPLAY = int(Qt.ItemDataRole.DisplayRole)
_TIP = int(Qt.ItemDataRole.ToolTipRole)
_ALIGNMENT = int(Qt.ItemDataRole.TextAlignmentRole)
_RIGHT = int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
_LEFT = int(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
CHANGING_ROLES = [DISPLAY, _TIP, int(TableRole.SORT), int(TableRole.RECORD)]
_NO_INDEX = QModelIndex()


class RecordTable(QAbstractTableModel):
    """Rows stay where they are; new ones are added at the end. See `TableRole` for what a cell gives.

    ``take`` as often as there is something, then ``apply``: what was taken shows then, the newest of each row.
    A runner that is given does both.
    """

    applied = Signal(object)
    """After `apply`: the keys of rows that were there before and changed."""

    def __init__(
        self,
        columns: Sequence[TableColumn],
        runner: TrainerClientRunner | None = None,
        parent: QObject | None = None,
    ) -> None:
        super().__init__(parent)
        self._columns = tuple(columns)
        self._records: list[Any] = []
        self._keys: list[str] = []
        self._rows: dict[str, int] = {}
        self._texts: list[list[str] | None] = []
        """Of each row, once it was looked at."""
        self._taken: dict[str, Any] = {}
        if runner is not None:
            runner.frame_ended.connect(self.apply)

    def key_of(self, record: Any) -> str:
        """What names the row of a record."""
        raise NotImplementedError

    # --- what changes it ------------------------------------------------------------------------------------

    def take(self, record: Any) -> None:
        """A record, or a `Gone` for one that is no more; it shows with the next `apply`."""
        key = record.key if isinstance(record, Gone) else self.key_of(record)
        self._taken[key] = record

    def apply(self) -> None:
        """Show what was taken."""
        if not self._taken:
            return
        taken, self._taken = self._taken, {}
        changed, new, gone = [], [], []
        for key, record in taken.items():
            row = self._rows.get(key)
            if isinstance(record, Gone):
                if row is not None:
                    gone.append(row)
            elif row is None:
                new.append((key, record))
            else:
                self._records[row] = record
                self._texts[row] = None
                changed.append(row)
        last = len(self._columns) - 1
        for first_row, last_row in ranges(sorted(changed)):
            self.dataChanged.emit(self.index(first_row, 0), self.index(last_row, last), CHANGING_ROLES)
        keys = [self._keys[row] for row in changed]
        for first_row, last_row in reversed(list(ranges(sorted(gone)))):
            self._remove(first_row, last_row)
        if new:
            self._add(new)
        self.applied.emit(keys)

    def _add(self, new: Sequence[tuple[str, Any]]) -> None:
        begin = len(self._keys)
        self.beginInsertRows(_NO_INDEX, begin, begin + len(new) - 1)
        for row, (key, record) in enumerate(new, begin):
            self._rows[key] = row
            self._keys.append(key)
            self._records.append(record)
            self._texts.append(None)
        self.endInsertRows()

    def _remove(self, first: int, last: int) -> None:
        self.beginRemoveRows(_NO_INDEX, first, last)
        for key in self._keys[first : last + 1]:
            del self._rows[key]
        del self._keys[first : last + 1], self._records[first : last + 1], self._texts[first : last + 1]
        for row in range(first, len(self._keys)):
            self._rows[self._keys[row]] = row
        self.endRemoveRows()

    # --- what it is asked -----------------------------------------------------------------------------------

    @property
    def columns(self) -> tuple[TableColumn, ...]:
        """The columns."""
        return self._columns

    def is_number(self, column: int) -> bool:
        """Whether the column stands to the right."""
        return self._columns[column].is_number

    def record(self, key: str) -> Any | None:
        """The record of a row; None where there is none."""
        row = self._rows.get(key)
        return None if row is None else self._records[row]

    def row_of(self, key: str) -> int:
        """The row of a key; -1 where there is none."""
        return self._rows.get(key, -1)

    def key_at(self, row: int) -> str:
        """The key of a row."""
        return self._keys[row]

    def sort_value(self, key: str, column: int) -> SortValue:
        """By what the row is ordered in a column."""
        return self._columns[column].sort(self._records[self._rows[key]])

    def cell(self, row: int, column: int, role: int) -> Any:
        """What `data` gives."""
        if role == DISPLAY:
            texts = self._texts[row]
            if texts is None:
                record = self._records[row]
                texts = self._texts[row] = [each.text(record) for each in self._columns]
            return texts[column]
        if role == _ALIGNMENT:
            return _RIGHT if self._columns[column].is_number else _LEFT
        if role == TableRole.RECORD:
            return self._records[row]
        if role == TableRole.SORT:
            return self._columns[column].sort(self._records[row])
        if role == TableRole.KEY:
            return self._keys[row]
        if role == _TIP and (tip := self._columns[column].tip) is not None:
            return tip(self._records[row]) or None
        return None

    def rowCount(self, parent: ModelIndex = _NO_INDEX) -> int:
        """Qt's."""
        return 0 if parent.isValid() else len(self._keys)

    def columnCount(self, parent: ModelIndex = _NO_INDEX) -> int:
        """Qt's."""
        return 0 if parent.isValid() else len(self._columns)

    def data(self, index: ModelIndex, role: int = DISPLAY) -> Any:
        """Qt's."""
        row = index.row()
        return self.cell(row, index.column(), role) if 0 <= row < len(self._keys) else None

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = DISPLAY) -> Any:
        """Qt's."""
        if orientation != Qt.Orientation.Horizontal or not 0 <= section < len(self._columns):
            return None
        if role == DISPLAY:
            return self._columns[section].title
        if role == _ALIGNMENT:
            return _RIGHT if self._columns[section].is_number else _LEFT
        return None


def ranges(rows: Iterable[int]) -> Iterator[tuple[int, int]]:
    """The first and the last of each group of ordered rows that follow one another."""
    first = last = None
    for row in rows:
        if first is None or last is None:
            first = last = row
        elif row == last + 1:
            last = row
        else:
            yield first, last
            first = last = row
    if first is not None and last is not None:
        yield first, last
