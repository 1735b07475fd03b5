"""One run: how it stands, its curve and its output as they come, and what can be done with it.

Owns what follows a run while it is shown; the lists are window.py's.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from typing import Any

from PySide6.QtCore import Signal
from PySide6.QtGui import QFontDatabase, QTextCursor
from PySide6.QtWidgets import (
    QHBoxLayout,
    QLabel,
    QPlainTextEdit,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from examples.qt.curve import Curve
from examples.qt.look import OF_STATUS, QUIET
from trainshed_client import RunRecord
from trainshed_client.qt import MetricsModel, TrainerClientRunner
from trainshed_client.rendering.progress import shown_progress

LINES_KEPT = 5_000


class RunPanel(QWidget):
    """Shows the run that `show_run` names; at first none."""

    again = Signal(object)
    """The config of a run that is to be submitted once more, changed or not."""

    def __init__(self, runner: TrainerClientRunner) -> None:
        super().__init__()
        self._runner = runner
        self._run_id = ""
        self._metrics: MetricsModel | None = None
        self._decoders: dict[str, codecs.IncrementalDecoder] = {}
        self.title, self.status, self.about = QLabel("No run is chosen"), QLabel(), QLabel()
        self.title.setObjectName("title")
        self.about.setObjectName("quiet")
        self.about.setWordWrap(True)
        self.progress = QProgressBar(textVisible=False, maximum=1000)
        self.curve = Curve()
        self.output = QPlainTextEdit(readOnly=True, maximumBlockCount=LINES_KEPT)
        self.output.setObjectName("output")
        self.output.setFont(QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont))
        self.output.setLineWrapMode(QPlainTextEdit.LineWrapMode.NoWrap)
        self.cancel, self.retry, self.copy = (
            QPushButton("Cancel"),
            QPushButton("Try again"),
            QPushButton("Submit like this…"),
        )
        self._lay_out()
        self.cancel.clicked.connect(lambda: runner.cancel(self._run_id, reason="from the trainer window"))
        self.retry.clicked.connect(lambda: runner.retry(self._run_id))
        self.copy.clicked.connect(lambda: self.again.emit(runner.config_of(self._run_id)))
        runner.run_changed.connect(self._take_record)
        runner.output_received.connect(self._take_output)
        runner.config_received.connect(self._take_config)

    def show_run(self, record: RunRecord) -> None:
        """Follow this run, from the first byte and the first step that there are."""
        if record.run_id != self._run_id:
            if self._run_id:
                self._runner.unfollow(self._run_id)
            self._run_id = record.run_id
            if self._metrics is not None:
                self._metrics.deleteLater()
            self._metrics = MetricsModel(record.run_id, self._runner, self)
            self.curve.show_model(self._metrics, record.labels)
            self.output.clear()
            self._decoders.clear()
            self.copy.setEnabled(self._runner.config_of(record.run_id) is not None)
            self._runner.follow_output(record.run_id)
            self._runner.follow_metrics(record.run_id)
        self._take_record(record)

    def _take_record(self, record: RunRecord) -> None:
        if record.run_id != self._run_id:
            return
        status = (
            "cancelling" if record.cancel_requested and not record.status.ended else record.status.lower()
        )
        colour = OF_STATUS.get(status, QUIET).name()
        self.title.setText(record.name)
        self.status.setText(status)
        self.status.setStyleSheet(
            f"color: {colour}; background: {colour.replace('#', '#1c')}; border-radius: 10px; padding: 2px 10px;"
        )
        place = (
            f"{record.node}, GPU slots {', '.join(map(str, record.slots))}" if record.slots else record.node
        )
        parts = [record.run_id, place, f"attempt {record.attempt}", record.status_text, record.error]
        self.about.setText("  ·  ".join(part for part in parts if part))
        self.progress.setValue(round(1000 * (shown_progress(record) or 0)))
        self.cancel.setEnabled(not record.status.ended)
        self.retry.setEnabled(record.status.ended)

    def _take_config(self, run_id: str, config: Mapping[str, Any]) -> None:
        self.copy.setEnabled(self.copy.isEnabled() or run_id == self._run_id)

    def _take_output(self, run_id: str, attempt: int, stream: str, offset: int, data: bytes) -> None:
        if run_id != self._run_id:
            return
        decoder = self._decoders.setdefault(stream, codecs.getincrementaldecoder("utf-8")("replace"))
        bar = self.output.verticalScrollBar()
        follows = bar.value() == bar.maximum()
        cursor = QTextCursor(self.output.document())
        cursor.movePosition(QTextCursor.MoveOperation.End)
        cursor.insertText(decoder.decode(data))
        if follows:
            bar.setValue(bar.maximum())

    def _lay_out(self) -> None:
        head, buttons = QHBoxLayout(), QHBoxLayout()
        head.addWidget(self.title)
        head.addWidget(self.status)
        head.addStretch(1)
        for button in (self.cancel, self.retry, self.copy):
            button.setEnabled(False)
            buttons.addWidget(button)
        head.addLayout(buttons)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(8)
        column.addLayout(head)
        column.addWidget(self.about)
        column.addWidget(self.progress)
        column.addWidget(self.curve)
        column.addWidget(self.output, 1)
