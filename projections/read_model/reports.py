"""The columns that heartbeats set: what workers report, and what nodes measure.

Owns which columns these are and how a worker's report becomes theirs; knows neither SQL nor whose heartbeats count.
"""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Raw

from events.types import NodeHeartbeat, WorkerReport
from projections.read_model.rows import (
    EMPTY_OBJECT,
    NULL,
    AttemptRow,
    NodeRow,
    RunRow,
    fitting,
    plain_number,
    sorted_json,
)


class ReportColumns(NamedTuple):
    """A worker's report as the columns of its attempt and run have it."""

    ready_at: str | None = None
    last_heartbeat_at: str | None = None
    step: int | float | None = None
    progress: float | None = None
    status_text: str | None = None
    primary_metric: str | None = None
    metrics: Raw = EMPTY_OBJECT
    passed_over: Raw = EMPTY_OBJECT

    @classmethod
    def of(cls, report: WorkerReport, stored_at: str | None = None) -> ReportColumns:
        """From a heartbeat, stored at ``stored_at``, or from what an end carries."""
        # no database keeps the sign of -0.0
        progress = None if report.progress is None else report.progress + 0.0
        return cls(
            report.ready_at,
            report.last_heartbeat_at or stored_at,
            plain_number(report.step),
            progress,
            report.status_text,
            report.primary_metric,
            sorted_json(report.metrics),
            sorted_json(report.passed_over),
        )

    def set_in(self, row: RunRow | AttemptRow) -> None:
        """Set them in a row."""
        row.ready_at, row.last_heartbeat_at, row.step, row.progress = self[:4]
        row.status_text, row.primary_metric, row.metrics, row.passed_over = self[4:]


class WitnessColumns(NamedTuple):
    """What a node last reported of the log as its witness: the checkpoint that it cosigned, and what it has against it."""

    witnessed_size: int | None = None
    witnessed_root: str | None = None
    witnessed_at: int | None = None
    witness_signature: str | None = None
    witness_objection: Raw = NULL

    @classmethod
    def of(cls, heartbeat: NodeHeartbeat) -> WitnessColumns:
        """From its heartbeat."""
        objection = NULL if heartbeat.objection is None else sorted_json(heartbeat.objection)
        if (seen := heartbeat.cosignature) is None:
            return cls(witness_objection=objection)
        return cls(fitting(seen.size), seen.root, fitting(seen.time), seen.signature, objection)

    def set_in(self, row: NodeRow) -> None:
        """Set them in a row."""
        for name, value in zip(self._fields, self, strict=True):
            setattr(row, name, value)


NO_REPORT = ReportColumns()
OF_ATTEMPT = (*ReportColumns._fields, "gpu_memory_mb")
OF_RUN = (*ReportColumns._fields, "updated_at")
OF_SLOT = ("memory_used_mb", "attempt_memory_mb", "utilisation", "other_pids", "updated_at")
OF_NODE = ("last_heartbeat_at", "disk_free_mb", "updated_at", *WitnessColumns._fields)
