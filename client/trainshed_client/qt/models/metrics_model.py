"""What one run measured, as a table: a row a step, a column a metric.

Owns which attempt's values a step shows, by the rule of `trainshed metrics`, and that columns come as metrics do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QModelIndex, QObject

from trainshed_client.metrics import MetricsPoint
from trainshed_client.qt.models.columns import SortValue, TableColumn, clock, number, seconds_of
from trainshed_client.qt.models.record_table import RecordTable

if TYPE_CHECKING:
    from trainshed_client.qt.runner import TrainerClientRunner

_FIRST = (
    TableColumn("Step", lambda point: number(point.step), lambda point: point.step, True),
    TableColumn("Time", lambda point: clock(point.time), lambda point: seconds_of(point.time), True),
)


def _metric_column(name: str) -> TableColumn:
    def value(point: MetricsPoint) -> SortValue:
        return point.metrics.get(name)

    return TableColumn(name, lambda point: number(point.metrics.get(name)), value, True)


class MetricsModel(RecordTable):
    """The metrics of run ``run_id``; `TableRole.RECORD` is a `MetricsPoint`. A `SortedTable` has the steps in their order.

    Of what several attempts measured at a step the latest attempt's shows; a message without a step is of the last one.
    """

    def __init__(
        self, run_id: str, runner: TrainerClientRunner | None = None, parent: QObject | None = None
    ) -> None:
        super().__init__(_FIRST, runner, parent)
        self.run_id = run_id
        self._points: dict[str, MetricsPoint] = {}
        self._names: dict[str, None] = {}
        self._new_names: list[str] = []
        self._last_step: tuple[int, float | None] = (0, None)
        if runner is not None:
            runner.metrics_received.connect(self._hear)

    def key_of(self, record: Any) -> str:
        """The step; of what came before any, attempt and time."""
        return f"{record.attempt} {record.time}" if record.step is None else repr(record.step)

    @property
    def metric_names(self) -> list[str]:
        """The metrics, in the order of their coming."""
        return list(self._names)

    def take(self, record: Any) -> None:
        """A `MetricsPoint`; it shows with the next `apply`."""
        attempt, step = self._last_step
        if record.step is None and record.attempt == attempt:
            record = record._replace(step=step)
        self._last_step = (record.attempt, record.step)
        key = self.key_of(record)
        known = self._points.get(key)
        if known is not None and known.attempt > record.attempt:
            return
        if known is not None and known.attempt == record.attempt:
            progress = known.progress if record.progress is None else record.progress
            record = record._replace(
                time=known.time, progress=progress, metrics={**known.metrics, **record.metrics}
            )
        self._points[key] = record
        self._new_names += [
            name for name in record.metrics if name not in self._names and name not in self._new_names
        ]
        super().take(record)

    def apply(self) -> None:
        """Show what was taken."""
        if self._new_names:
            names, self._new_names = self._new_names, []
            begin = len(self._columns)
            self.beginInsertColumns(QModelIndex(), begin, begin + len(names) - 1)
            self._columns += tuple(_metric_column(name) for name in names)
            self._names.update(dict.fromkeys(names))
            self._texts = [None] * len(self._texts)
            self.endInsertColumns()
        super().apply()

    def _hear(self, run_id: str, attempt: int, point: MetricsPoint) -> None:
        if run_id == self.run_id:
            self.take(point)
