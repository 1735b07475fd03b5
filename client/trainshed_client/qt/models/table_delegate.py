"""How a cell of these tables is drawn: text, and on which side it stands.

Owns that one question is asked of a cell instead of Qt's seven, which cost as much as the drawing.
"""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QStyledItemDelegate, QStyleOptionViewItem

from trainshed_client.qt.models.record_table import DISPLAY, ModelIndex

_HAS_TEXT = QStyleOptionViewItem.ViewItemFeature.HasDisplay
_RIGHT = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
_LEFT = Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter


class TableDelegate(QStyledItemDelegate):
    """``view.setItemDelegate(TableDelegate(view))``: for views of these models, which change often."""

    def initStyleOption(self, option: QStyleOptionViewItem, index: ModelIndex) -> None:
        """Qt's."""
        option.index = index  # type: ignore[assignment]
        model: Any = index.model()
        option.text = model.data(index, DISPLAY) or ""
        option.features = _HAS_TEXT
        option.displayAlignment = _RIGHT if model.is_number(index.column()) else _LEFT
