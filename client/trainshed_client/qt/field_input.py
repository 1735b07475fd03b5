"""One field of a form as widgets: its title, the input that its kind needs, and below it what is wrong with it.

Owns these widgets; what a text means is schema_fields.py's.
"""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import QObject
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from trainshed_client.qt.schema_fields import FormField, InputKind, text_of, value_of

_LONG = (InputKind.LINES, InputKind.CHOICES, InputKind.PAIRS, InputKind.JSON)
_HINTS = {
    InputKind.LINES: "one a line",
    InputKind.CHOICES: "one a line",
    InputKind.PAIRS: "NAME=VALUE, one a line",
    InputKind.JSON: "JSON",
}
_LINES_SHOWN = 3
_MOST = 2**31 - 1
WRONG = "color: #c62828;"


class FieldInput(QWidget):
    """``title`` is to stand beside it. `value` raises ValueError where its text means none."""

    def __init__(self, field: FormField, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.field = field
        self.title = QLabel(field.title)
        self.title.setToolTip(field.description)
        self.input = _widget(field)
        self.input.setToolTip(field.description)
        self.input.setObjectName(field.path)
        self.title.setBuddy(self.input)
        self._error = QLabel()
        self._error.setStyleSheet(WRONG)
        self._error.setWordWrap(True)
        self._error.hide()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(self.input)
        layout.addWidget(self._error)
        self.set_value(field.default)

    def value(self) -> Any:
        """What stands there; None for nothing."""
        widget: QObject = self.input
        if isinstance(widget, QCheckBox):
            return widget.isChecked()
        if isinstance(widget, QSpinBox):
            return widget.value()
        if isinstance(widget, QComboBox):
            return widget.currentText() or None
        if isinstance(widget, QPlainTextEdit):
            return value_of(self.field, widget.toPlainText())
        assert isinstance(widget, QLineEdit)
        return value_of(self.field, widget.text())

    def set_value(self, value: Any) -> None:
        """Put a value there; None: what holds without one."""
        widget: QObject = self.input
        if isinstance(widget, QCheckBox):
            widget.setChecked(bool(value))
        elif isinstance(widget, QSpinBox):
            widget.setValue(int(value or 0))
        elif isinstance(widget, QComboBox):
            widget.setCurrentText("" if value is None else str(value))
        elif isinstance(widget, QPlainTextEdit):
            widget.setPlainText(text_of(self.field, value))
        else:
            assert isinstance(widget, QLineEdit)
            widget.setText(text_of(self.field, value))

    @property
    def error(self) -> str:
        """What is wrong with it, as it is shown."""
        return self._error.text()

    def set_error(self, text: str) -> None:
        """Show below it what is wrong; nothing where that is empty."""
        self._error.setText(text)
        self._error.setVisible(bool(text))
        self.title.setStyleSheet(WRONG if text else "")


def _widget(field: FormField) -> QWidget:
    if field.kind is InputKind.BOOLEAN:
        return QCheckBox()
    if field.kind is InputKind.CHOICE:
        choice = QComboBox()
        choice.addItems(["", *field.choices] if field.is_optional else list(field.choices))
        return choice
    if field.kind is InputKind.INTEGER and not field.is_optional:
        number = QSpinBox()
        number.setRange(-_MOST if field.minimum is None else int(field.minimum), _MOST)
        number.setGroupSeparatorShown(True)
        return number
    if field.kind in _LONG:
        text = QPlainTextEdit()
        text.setPlaceholderText(_HINTS[field.kind])
        text.setTabChangesFocus(True)
        text.setFixedHeight(text.fontMetrics().lineSpacing() * _LINES_SHOWN + 14)
        return text
    return QLineEdit()
