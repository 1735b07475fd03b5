"""The tables of runs, slots and nodes.

Owns which signal of a runner fills each; what they show is columns.py's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QObject

from trainshed_client.qt.models.columns import NODE_COLUMNS, RUN_COLUMNS, SLOT_COLUMNS
from trainshed_client.qt.models.record_table import RecordTable

if TYPE_CHECKING:
    from trainshed_client.qt.runner import TrainerClientRunner


class RunsModel(RecordTable):
    """Runs, by their ids. A run that ended stays."""

    def __init__(self, runner: TrainerClientRunner | None = None, parent: QObject | None = None) -> None:
        super().__init__(RUN_COLUMNS, runner, parent)
        if runner is not None:
            runner.run_changed.connect(self.take)

    def key_of(self, record: Any) -> str:
        """The run's id."""
        return str(record.run_id)


class SlotsModel(RecordTable):
    """Slots, by ``<node>.<index>``."""

    def __init__(self, runner: TrainerClientRunner | None = None, parent: QObject | None = None) -> None:
        super().__init__(SLOT_COLUMNS, runner, parent)
        if runner is not None:
            runner.slot_changed.connect(self.take)

    def key_of(self, record: Any) -> str:
        """``<node>.<index>``."""
        return f"{record.node}.{record.index}"


class NodesModel(RecordTable):
    """Nodes, by their names."""

    def __init__(self, runner: TrainerClientRunner | None = None, parent: QObject | None = None) -> None:
        super().__init__(NODE_COLUMNS, runner, parent)
        if runner is not None:
            runner.node_changed.connect(self.take)

    def key_of(self, record: Any) -> str:
        """The node's name."""
        return str(record.node)
