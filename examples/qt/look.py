"""How the window looks: its colours, and a pill for a status.

Owns these; knows nothing of runs but the names of their statuses.
"""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import QRectF, QSize, Qt
from PySide6.QtGui import QColor, QPainter, QPalette
from PySide6.QtWidgets import QApplication, QStyledItemDelegate

GROUND, SURFACE, LINE = QColor("#f4f6f9"), QColor("#ffffff"), QColor("#dfe4ec")
TEXT, QUIET, ACCENT = QColor("#1d2733"), QColor("#66758a"), QColor("#2463eb")
OF_STATUS = {
    "running": QColor("#2463eb"),
    "dispatching": QColor("#0891b2"),
    "pending": QColor("#8a6d1f"),
    "cancelling": QColor("#b45309"),
    "completed": QColor("#15803d"),
    "failed": QColor("#c62828"),
    "cancelled": QColor("#66758a"),
    "free": QColor("#15803d"),
    "held": QColor("#2463eb"),
    "up": QColor("#15803d"),
    "drained": QColor("#b45309"),
}
SHEET = """
QWidget { font-size: 13px; }
QTableView { border: 1px solid #dfe4ec; border-radius: 6px; gridline-color: transparent; background: #ffffff;
             alternate-background-color: #f8fafc; selection-background-color: #dbe7ff; selection-color: #1d2733; }
QHeaderView::section { background: #ffffff; color: #66758a; border: none; border-bottom: 1px solid #dfe4ec; padding: 9px 4px 6px 4px; }
QHeaderView::up-arrow, QHeaderView::down-arrow { subcontrol-position: top center; top: 1px; width: 9px; height: 9px; }
QTabWidget::pane { border: none; }
QTabBar::tab { padding: 6px 14px; color: #66758a; border: none; border-bottom: 2px solid transparent; }
QTabBar::tab:selected { color: #1d2733; border-bottom: 2px solid #2463eb; }
QLineEdit, QSpinBox, QComboBox, QPlainTextEdit { border: 1px solid #cbd3df; border-radius: 5px; padding: 4px 6px; background: #ffffff; }
QSpinBox::up-button, QSpinBox::down-button { width: 0; border: none; }
QLineEdit:focus, QPlainTextEdit:focus { border: 1px solid #2463eb; }
QPushButton { border: 1px solid #cbd3df; border-radius: 5px; padding: 6px 14px; background: #ffffff; }
QPushButton:hover { background: #eef2f8; }
QPushButton:disabled { color: #a6b1c0; }
QPushButton#primary { background: #2463eb; color: #ffffff; border: none; }
QProgressBar { border: none; border-radius: 3px; background: #e6ebf3; max-height: 6px; }
QProgressBar::chunk { border-radius: 3px; background: #2463eb; }
QPlainTextEdit#output { background: #10151d; color: #d5dde8; border: none; border-radius: 6px; padding: 8px; }
QLabel#quiet { color: #66758a; }
QLabel#title { font-size: 17px; font-weight: 600; }
QSplitter::handle { background: transparent; }
"""


def dress(application: QApplication) -> None:
    """Light, whatever the desktop has."""
    application.setStyle("Fusion")
    palette = QPalette(GROUND)
    for role, colour in (
        (QPalette.ColorRole.Window, GROUND),
        (QPalette.ColorRole.Base, SURFACE),
        (QPalette.ColorRole.AlternateBase, QColor("#f8fafc")),
        (QPalette.ColorRole.Text, TEXT),
        (QPalette.ColorRole.WindowText, TEXT),
        (QPalette.ColorRole.ButtonText, TEXT),
        (QPalette.ColorRole.PlaceholderText, QColor("#a6b1c0")),
        (QPalette.ColorRole.Highlight, QColor("#dbe7ff")),
        (QPalette.ColorRole.HighlightedText, TEXT),
    ):
        palette.setColor(role, colour)
    application.setPalette(palette)
    application.setStyleSheet(SHEET)


def draw_pill(painter: QPainter, area: QRectF, text: str) -> None:
    """A status as a word on its colour."""
    colour = OF_STATUS.get(text.partition(":")[0], QUIET)
    width = painter.fontMetrics().horizontalAdvance(text) + 18
    pill = QRectF(area.left(), area.center().y() - 10, min(width, area.width()), 20)
    ground = QColor(colour)
    ground.setAlpha(28)
    painter.save()
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(ground)
    painter.drawRoundedRect(pill, 10, 10)
    painter.setPen(colour)
    painter.drawText(pill, Qt.AlignmentFlag.AlignCenter, text)
    painter.restore()


class PillDelegate(QStyledItemDelegate):
    """Draws a column of statuses."""

    def paint(self, painter: QPainter, option: Any, index: Any) -> None:
        """Qt's: the row's ground first, as the other columns have it."""
        text = index.data() or ""
        self.initStyleOption(option, index)
        option.text = ""
        style = option.widget.style() if option.widget else QApplication.style()
        style.drawControl(style.ControlElement.CE_ItemViewItem, option, painter, option.widget)
        if text:
            draw_pill(painter, QRectF(option.rect).adjusted(6, 0, -6, 0), text)

    def sizeHint(self, option: Any, index: Any) -> QSize:
        """Qt's."""
        size = super().sizeHint(option, index)
        return QSize(size.width() + 24, size.height())
