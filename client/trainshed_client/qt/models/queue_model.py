"""The queue as a table: each run that waits, its place, and for what it waits.

Owns how the queue's one record becomes rows that come, change and go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from PySide6.QtCore import QObject, Signal

from trainshed_client.qt.models.columns import TableColumn, clock, seconds_of
from trainshed_client.qt.models.record_table import RecordTable
from trainshed_client.records import QueueRecord, RunRecord, Wait
from trainshed_client.rendering import waiting
from trainshed_client.statuses import RunStatus
from trainshed_client.watching.newest import Gone

if TYPE_CHECKING:
    from trainshed_client.qt.runner import TrainerClientRunner


class WaitingRun(NamedTuple):
    """A row: ``position`` from 0 on in the queue's order; ``run``: its record, where runs are watched too."""

    run_id: str
    position: int
    place: int | None
    waiting: Wait | None
    run: RunRecord | None


def _why(row: WaitingRun) -> str:
    return "" if row.waiting is None else waiting.text(row.waiting)


def _queued_at(row: WaitingRun) -> Any:
    return None if row.run is None else row.run.queued_at or row.run.submitted_at


_COLUMNS = (
    TableColumn("#", lambda row: "" if row.place is None else str(row.place), lambda row: row.position, True),
    TableColumn(
        "Run",
        lambda row: row.run_id if row.run is None else row.run.name,
        lambda row: row.run_id if row.run is None else row.run.name.casefold(),
        tip=lambda row: str(row.run_id),
    ),
    TableColumn("Waits for", _why, _why, tip=_why),
    TableColumn("Since", lambda row: clock(_queued_at(row)), lambda row: seconds_of(_queued_at(row)), True),
)


class QueueModel(RecordTable):
    """The first 500 that wait. Rows stay where they are: a `SortedTable` by the first column has them in the queue's order.

    Names come from the records of runs: so watch these too.
    """

    total_changed = Signal(int)
    """So many runs wait, those behind the first 500 too."""

    def __init__(self, runner: TrainerClientRunner | None = None, parent: QObject | None = None) -> None:
        super().__init__(_COLUMNS, runner, parent)
        self.total = 0
        self._waiting: dict[str, WaitingRun] = {}
        self._runs: dict[str, RunRecord] = {}
        """Those that wait."""
        if runner is not None:
            runner.queue_changed.connect(self.take_queue)
            runner.run_changed.connect(self.take_run)

    def key_of(self, record: Any) -> str:
        """The run's id."""
        return str(record.run_id)

    def take_queue(self, queue: QueueRecord) -> None:
        """The queue as it is now; it shows with the next `apply`."""
        before, self._waiting = self._waiting, {}
        for position, one in enumerate(queue.runs):
            row = WaitingRun(one.run_id, position, one.place, one.waiting, self._runs.get(one.run_id))
            self._waiting[one.run_id] = row
            if before.pop(one.run_id, None) != row:
                self.take(row)
        for run_id in before:
            self.take(Gone(run_id))
        if queue.total != self.total:
            self.total = queue.total
            self.total_changed.emit(queue.total)

    def take_run(self, record: RunRecord) -> None:
        """A run's record, of which the name shows."""
        if record.status is not RunStatus.PENDING:
            self._runs.pop(record.run_id, None)
            return
        self._runs[record.run_id] = record
        row = self._waiting.get(record.run_id)
        if row is not None:
            self._waiting[record.run_id] = row = row._replace(run=record)
            self.take(row)
