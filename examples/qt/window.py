"""The trainer window: runs, the queue, slots and nodes as tables, one run beside them, and the form for a new one.

Owns which tables there are, and what a choice in them does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PySide6.QtCore import QModelIndex, Qt
from PySide6.QtGui import QCloseEvent
from PySide6.QtWidgets import (
    QDialog,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QLineEdit,
    QMainWindow,
    QPushButton,
    QSplitter,
    QTableView,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from examples.qt.look import PillDelegate
from examples.qt.run_panel import RunPanel
from trainshed_client import Submission
from trainshed_client.qt import (
    NodesModel,
    QueueModel,
    RecordTable,
    RunsModel,
    SlotsModel,
    SortedTable,
    SubmitForm,
    TableDelegate,
    TableRole,
    TrainerClientRunner,
)

WIDTHS = {"#": 44, "Run": 150, "Status": 120, "State": 120}
DOTS = {"connected": "#15803d", "connecting": "#b45309", "reconnecting": "#b45309", "closed": "#c62828"}


class TrainerWindow(QMainWindow):
    """Everything that a trainer's user sees of a stack. ``runner`` is started by whoever made it."""

    def __init__(self, runner: TrainerClientRunner) -> None:
        super().__init__()
        self.setWindowTitle("Trainshed")
        self.resize(1360, 860)
        self._runner = runner
        self._wanted = ""
        """A run that was submitted here, and is to be shown as soon as its record is there."""
        self.runs, self.queue = RunsModel(runner, self), QueueModel(runner, self)
        self.slots, self.nodes = SlotsModel(runner, self), NodesModel(runner, self)
        self.runs_view = table(
            self.runs, "Submitted", descending=True, hidden=("Place", "Waited", "Took", "Attempt", "Why")
        )
        self.panel = RunPanel(runner)
        self.tabs = QTabWidget()
        self.tabs.addTab(table(self.queue, "#", stretched="Waits for"), "Queue")
        self.tabs.addTab(table(self.slots, "Slot", hidden=("Memory", "Busy"), stretched="Run"), "Slots")
        self.tabs.addTab(table(self.nodes, "Node", hidden=("Disk free",)), "Nodes")
        self.dot, self.message = QLabel(), QLabel()
        self.form = SubmitForm(runner)
        self.dialog = QDialog(self)
        self.dialog.setWindowTitle("New run")
        self.dialog.resize(560, 640)
        QVBoxLayout(self.dialog).addWidget(self.form)
        self._lay_out()
        self._connect()
        self._show_state("closed")
        runner.watch_runs()
        runner.watch_queue()
        runner.watch_slots()
        runner.watch_nodes()

    def closeEvent(self, event: QCloseEvent) -> None:
        """Qt's."""
        self._runner.stop()
        super().closeEvent(event)

    def _connect(self) -> None:
        self._runner.connection_changed.connect(self._show_state)
        self._runner.failed.connect(self.message.setText)
        self.queue.total_changed.connect(
            lambda total: self.tabs.setTabText(0, f"Queue ({total:,})" if total else "Queue")
        )
        self.runs_view.selectionModel().currentRowChanged.connect(self._choose)
        self.form.submitted.connect(self._take_submission)
        self.panel.again.connect(self._open_form)
        self.runs.applied.connect(lambda: self._show_wanted())

    def _choose(self, now: QModelIndex, before: QModelIndex) -> None:
        if now.isValid():
            self.panel.show_run(now.data(TableRole.RECORD))

    def _open_form(self, config: Mapping[str, Any] | None = None) -> None:
        if config is not None:
            self.form.set_config(config)
        self.dialog.show()

    def _take_submission(self, submission: Submission) -> None:
        self.dialog.hide()
        self._wanted = submission.run_id
        self.message.setText(
            "" if submission.created else "This config is a run already: nothing was started."
        )
        self._show_wanted()

    def _show_wanted(self) -> None:
        """Choose the run that was submitted here, once the table has it."""
        row = self.runs.row_of(self._wanted)
        if row >= 0:
            self._wanted = ""
            sorted_runs = self.runs_view.model()
            assert isinstance(sorted_runs, SortedTable)
            self.runs_view.setCurrentIndex(sorted_runs.mapFromSource(self.runs.index(row, 0)))

    def _show_state(self, state: str) -> None:
        self.dot.setText(f"<span style='color: {DOTS[state]}'>●</span> {state}")
        if state == "connected":
            self.message.clear()

    def _lay_out(self) -> None:
        search, new = QLineEdit(), QPushButton("New run…")
        search.setPlaceholderText("Search runs")
        search.setClearButtonEnabled(True)
        sorted_runs = self.runs_view.model()
        assert isinstance(sorted_runs, SortedTable)
        search.textChanged.connect(sorted_runs.set_filter_text)
        new.setObjectName("primary")
        new.clicked.connect(lambda: self._open_form())
        head = QHBoxLayout()
        head.addWidget(search, 1)
        head.addWidget(new)
        upper = QWidget()
        column = QVBoxLayout(upper)
        column.setContentsMargins(0, 0, 0, 0)
        column.addLayout(head)
        column.addWidget(self.runs_view)
        left = QSplitter(Qt.Orientation.Vertical)
        left.addWidget(upper)
        left.addWidget(self.tabs)
        left.setSizes([520, 260])
        both = QSplitter(Qt.Orientation.Horizontal)
        both.addWidget(left)
        both.addWidget(self.panel)
        both.setSizes([700, 660])
        both.setHandleWidth(16)
        both.setContentsMargins(14, 14, 14, 6)
        self.setCentralWidget(both)
        self.statusBar().addWidget(self.dot)
        self.statusBar().addWidget(self.message, 1)


def table(
    model: RecordTable,
    sorted_by: str,
    *,
    descending: bool = False,
    hidden: tuple[str, ...] = (),
    stretched: str | None = None,
) -> QTableView:
    """A view of a model, sorted by a column; one of them takes what room is left."""
    view = QTableView()
    view.setModel(SortedTable(model, view))
    view.setItemDelegate(TableDelegate(view))
    view.setSelectionBehavior(QTableView.SelectionBehavior.SelectRows)
    view.setSelectionMode(QTableView.SelectionMode.SingleSelection)
    view.setAlternatingRowColors(True)
    view.setShowGrid(False)
    view.setWordWrap(False)
    view.verticalHeader().hide()
    view.verticalHeader().setDefaultSectionSize(30)
    view.setSortingEnabled(True)
    titles = [column.title for column in model.columns]
    order = Qt.SortOrder.DescendingOrder if descending else Qt.SortOrder.AscendingOrder
    view.sortByColumn(titles.index(sorted_by), order)
    header = view.horizontalHeader()
    header.setHighlightSections(False)
    for column, title in enumerate(titles):
        view.setColumnHidden(column, title in hidden)
        header.resizeSection(column, WIDTHS.get(title, header.defaultSectionSize()))
        if title in ("Status", "State"):
            view.setItemDelegateForColumn(column, PillDelegate(view))
    header.setSectionResizeMode(titles.index(stretched or titles[0]), QHeaderView.ResizeMode.Stretch)
    return view
