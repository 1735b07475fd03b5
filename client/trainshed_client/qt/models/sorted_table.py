"""A table's rows in the order of a column, those that a filter lets through, while the table changes a thousand times a second.

Owns order and filter. Qt's own proxy asks for every comparison through `data`, and lays a view out anew for each row that
moves: a hundred times what is spent here.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Union

from PySide6.QtCore import QAbstractProxyModel, QModelIndex, QObject, Qt, QTimer

from trainshed_client.qt.models.record_table import (
    CHANGING_ROLES,
    DISPLAY,
    ModelIndex,
    RecordTable,
    ranges,
)

UPDATE_MS = 100
_FEW = 4
"""Up to so many rows come, go and change one by one; more of them together."""
_PHASES_MS = itertools.cycle((0, 12, 24))
"""So much later than the first do others show what changed: views that are drawn together hold the GUI up together."""
_NO_INDEX = QModelIndex()
_FLAGS = Qt.ItemFlag.ItemIsSelectable | Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemNeverHasChildren

Accepts = Callable[[Any], bool]
_Entry = tuple[tuple[int, Union[int, float, str]], str]
"""By which a row is ordered (nothing, and what is not a number, before all else), and its key."""


class SortedTable(QAbstractProxyModel):
    """The proxy for a `RecordTable`: ``view.setModel(SortedTable(model))``, with ``view.setSortingEnabled(True)``.

    A change shows at once where there was none for ``update_ms``; of a stream of them all that came in that time show together.
    """

    def __init__(
        self, source: RecordTable, parent: QObject | None = None, *, update_ms: int = UPDATE_MS
    ) -> None:
        super().__init__(parent)
        self._source = source
        self._column = 0
        self._descending = False
        self._accepts: Accepts | None = None
        self._filter_text = ""
        self._entries: dict[str, _Entry] = {}
        self._order: list[_Entry] = []
        self._tail: list[str] = []
        """Keys of the rows after the ordered ones, while they come or go."""
        self._changed: set[str] = set()
        self._update_s = update_ms / 1000
        self._updated_at = 0.0
        self._phase_ms = next(_PHASES_MS)
        self._update = QTimer(self)
        self._update.setSingleShot(True)
        self._update.timeout.connect(self.update)
        self.setSourceModel(source)
        source.rowsInserted.connect(self._source_inserted)
        source.rowsAboutToBeRemoved.connect(self._source_removes)
        source.applied.connect(self._source_changed)
        source.columnsAboutToBeInserted.connect(self._source_inserts_columns)
        source.columnsInserted.connect(self._source_inserted_columns)
        self._put_in([source.key_at(row) for row in range(source.rowCount())])

    # --- what a user chooses --------------------------------------------------------------------------------

    def set_filter(self, accepts: Accepts | None) -> None:
        """Show only rows whose record this is true of; None: all."""
        self._accepts = accepts
        self._filter_again()

    def set_filter_text(self, text: str) -> None:
        """Show only rows in which every part of this text stands in some column, in whatever case."""
        self._filter_text = text.casefold()
        self._filter_again()

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        """Order the rows by a column; a view calls it for its header."""
        if not 0 <= column < self._source.columnCount():
            return
        with self._new_layout():
            self._descending = order == Qt.SortOrder.DescendingOrder
            self._column = column
            self._entries = {key: self._entry(key) for key in self._entries}
            self._order = sorted(self._entries.values())

    def update(self) -> None:
        """Show what has changed in the table, now."""
        self._updated_at = time.monotonic()
        changed, self._changed = self._changed, set()
        rows, out, new, moves = [], [], [], []
        for key in changed:
            old, passes = self._entries.get(key), self._passes(key)
            if old is None:
                if passes:
                    new.append(key)
            elif not passes:
                out.append(key)
            else:
                rows.append(self._row(key))
                if (entry := self._entry(key)) != old:
                    moves.append((old, entry))
        if rows:
            self._emit_changed(sorted(rows))
        if moves:
            self._move(moves)
        self._take_out(out)
        self._put_in(new)

    # --- what the table does --------------------------------------------------------------------------------

    def _source_changed(self, keys: Sequence[str]) -> None:
        self._changed.update(keys)
        if self._changed and not self._update.isActive():
            due_s = max(0.0, self._updated_at + self._update_s - time.monotonic())
            self._update.start(round(due_s * 1000) + self._phase_ms)

    def _emit_changed(self, rows: Sequence[int]) -> None:
        """Of many rows as one range from the first to the last: a view then looks at what it shows once."""
        groups = list(ranges(rows))
        if len(groups) > _FEW:
            groups = [(rows[0], rows[-1])]
        last = self._source.columnCount() - 1
        for first_row, last_row in groups:
            self.dataChanged.emit(self.index(first_row, 0), self.index(last_row, last), CHANGING_ROLES)

    def _move(self, moves: Sequence[tuple[_Entry, _Entry]]) -> None:
        with self._new_layout():
            for old, new in moves:
                del self._order[bisect_left(self._order, old)]
                insort(self._order, new)
                self._entries[new[1]] = new

    def _source_inserted(self, parent: QModelIndex, first: int, last: int) -> None:
        keys = [self._source.key_at(row) for row in range(first, last + 1)]
        self._put_in([key for key in keys if self._passes(key)])

    def _source_removes(self, parent: QModelIndex, first: int, last: int) -> None:
        keys = [self._source.key_at(row) for row in range(first, last + 1)]
        self._changed.difference_update(keys)
        self._take_out([key for key in keys if key in self._entries])

    def _source_inserts_columns(self, parent: QModelIndex, first: int, last: int) -> None:
        self.beginInsertColumns(_NO_INDEX, first, last)

    def _source_inserted_columns(self, parent: QModelIndex, first: int, last: int) -> None:
        self.endInsertColumns()

    # --- rows that come and go ------------------------------------------------------------------------------

    def _filter_again(self) -> None:
        keys = [self._source.key_at(row) for row in range(self._source.rowCount())]
        passing = {key for key in keys if self._passes(key)}
        self._take_out([key for key in self._entries if key not in passing])
        self._put_in([key for key in keys if key in passing and key not in self._entries])

    def _put_in(self, keys: Sequence[str]) -> None:
        if not keys:
            return
        entries = [self._entry(key) for key in keys]
        count = len(self._order)
        if len(keys) <= _FEW:
            for entry in entries:
                place = bisect_left(self._order, entry)
                row = len(self._order) - place if self._descending else place
                self.beginInsertRows(_NO_INDEX, row, row)
                self._order.insert(place, entry)
                self._entries[entry[1]] = entry
                self.endInsertRows()
            return
        self.beginInsertRows(_NO_INDEX, count, count + len(keys) - 1)
        self._tail = list(keys)
        self.endInsertRows()
        with self._new_layout():
            self._tail = []
            self._entries.update(zip(keys, entries))
            self._order = sorted(self._order + entries)

    def _take_out(self, keys: Sequence[str]) -> None:
        if not keys:
            return
        if len(keys) <= _FEW:
            for key in keys:
                row = self._row(key)
                self.beginRemoveRows(_NO_INDEX, row, row)
                del self._order[bisect_left(self._order, self._entries.pop(key))]
                self.endRemoveRows()
            return
        with self._new_layout():
            for key in keys:
                del self._entries[key]
            self._order = sorted(self._entries.values())
            self._tail = list(keys)
        count = len(self._order)
        self.beginRemoveRows(_NO_INDEX, count, count + len(keys) - 1)
        self._tail = []
        self.endRemoveRows()

    @contextlib.contextmanager
    def _new_layout(self) -> Iterator[None]:
        """In it the order may change, and nothing else: selections and the current row go with their records."""
        self.layoutAboutToBeChanged.emit()
        before = self.persistentIndexList()
        keys = [self._key(index.row()) for index in before]
        try:
            yield
        finally:
            after = [self.index(self._row(key), index.column()) for index, key in zip(before, keys)]
            self.changePersistentIndexList(before, after)
            self.layoutChanged.emit()

    # --- where a row is -------------------------------------------------------------------------------------

    def _passes(self, key: str) -> bool:
        source = self._source
        if self._accepts is not None and not self._accepts(source.record(key)):
            return False
        if not self._filter_text:
            return True
        row = source.row_of(key)
        texts = (str(source.cell(row, column, DISPLAY) or "") for column in range(source.columnCount()))
        text = "\n".join(texts).casefold()
        return all(part in text for part in self._filter_text.split())

    def _entry(self, key: str) -> _Entry:
        value = self._source.sort_value(key, self._column)
        if value is None or isinstance(value, float) and math.isnan(value):
            return (0, 0), key
        return (1, value), key

    def _row(self, key: str) -> int:
        entry = self._entries.get(key)
        if entry is None or self._tail and key in self._tail:
            return len(self._order) + self._tail.index(key) if key in self._tail else -1
        place = bisect_left(self._order, entry)
        return len(self._order) - 1 - place if self._descending else place

    def _key(self, row: int) -> str:
        count = len(self._order)
        if row >= count:
            return self._tail[row - count]
        return self._order[count - 1 - row if self._descending else row][1]

    def is_number(self, column: int) -> bool:
        """Whether the column stands to the right."""
        return self._source.is_number(column)

    # --- Qt's -----------------------------------------------------------------------------------------------

    def mapToSource(self, proxy_index: ModelIndex) -> QModelIndex:
        """Qt's."""
        row = proxy_index.row()
        if not 0 <= row < self.rowCount():
            return _NO_INDEX
        return self._source.index(self._source.row_of(self._key(row)), proxy_index.column())

    def mapFromSource(self, source_index: ModelIndex) -> QModelIndex:
        """Qt's."""
        row = source_index.row()
        if not 0 <= row < self._source.rowCount():
            return _NO_INDEX
        found = self._row(self._source.key_at(row))
        return _NO_INDEX if found < 0 else self.index(found, source_index.column())

    def index(self, row: int, column: int, parent: ModelIndex = _NO_INDEX) -> QModelIndex:
        """Qt's."""
        there = 0 <= row < self.rowCount() and 0 <= column < self._source.columnCount()
        return self.createIndex(row, column) if there and not parent.isValid() else _NO_INDEX

    def parent(self, child: Any = None) -> Any:
        """Qt's: the parent of an index, which has none here, or this object's."""
        return super().parent() if child is None else _NO_INDEX

    def rowCount(self, parent: ModelIndex = _NO_INDEX) -> int:
        """Qt's."""
        return 0 if parent.isValid() else len(self._order) + len(self._tail)

    def columnCount(self, parent: ModelIndex = _NO_INDEX) -> int:
        """Qt's."""
        return 0 if parent.isValid() else self._source.columnCount()

    def data(self, index: ModelIndex, role: int = DISPLAY) -> Any:
        """Qt's."""
        row = index.row()
        if not 0 <= row < len(self._order) + len(self._tail):
            return None
        return self._source.cell(self._source.row_of(self._key(row)), index.column(), role)

    def flags(self, index: ModelIndex) -> Qt.ItemFlag:
        """Qt's."""
        return _FLAGS if index.isValid() else Qt.ItemFlag.NoItemFlags

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = DISPLAY) -> Any:
        """Qt's."""
        return self._source.headerData(section, orientation, role)
