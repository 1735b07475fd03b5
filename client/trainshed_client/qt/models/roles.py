"""What a cell of every model here gives beside its text.

Owns the roles; knows no record.
"""

from __future__ import annotations

import enum

from PySide6.QtCore import Qt


class TableRole(enum.IntEnum):
    """Roles of every model here, after Qt's own: `DisplayRole` is text for people, `ToolTipRole` what is longer.

    SORT: the raw value, by which the column is ordered (a number, text, or None; of times seconds since 1970).
    RECORD: the record of the row. KEY: what names the row: a run's id, a node, ``<node>.<index>``, of metrics the step.
    """

    SORT = Qt.ItemDataRole.UserRole + 1
    RECORD = Qt.ItemDataRole.UserRole + 2
    KEY = Qt.ItemDataRole.UserRole + 3
