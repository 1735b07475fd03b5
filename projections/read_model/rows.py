"""The rows of the read model as values: records, with what is JSON in them kept encoded.

Owns their fields, and how they come from a database or a record; knows neither SQL nor events.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec
from msgspec import Raw

from projections.read_model.tables import BOOLEAN_COLUMNS, JSON_COLUMNS

EMPTY_OBJECT = Raw(b"{}")
EMPTY_LIST = Raw(b"[]")
NULL = Raw(b"null")

_SORTED = msgspec.json.Encoder(order="sorted")
_ENCODER = msgspec.json.Encoder()

# Fields stand in alphabetical order, so that the plain (fast) encoder writes what the sorting one would; a test holds that.


class RunRow(msgspec.Struct, gc=False):
    """A row of ``runs``, less config and fold. JSON columns are kept encoded, with sorted keys."""

    table: ClassVar[str] = "runs"

    artifacts: Raw = NULL
    attempt: int = 0
    cancel_requested: bool = False
    code: str | None = None
    command: Raw = EMPTY_LIST
    cpus: int | None = None
    digest: str = ""
    dispatched_at: str | None = None
    duration_s: float | None = None
    ended_at: str | None = None
    error: str | None = None
    exit_code: int | None = None
    failure_reason: str | None = None
    folder: str | None = None
    gpus: int | None = None
    host: str | None = None
    labels: Raw = EMPTY_OBJECT
    last_heartbeat_at: Any = None
    max_steps: int | None = None
    memory_enforced: bool | None = None
    metrics: Any = EMPTY_OBJECT
    name: str = ""
    named: bool = False
    node: str | None = None
    passed_over: Any = EMPTY_OBJECT
    pid: int | None = None
    primary_metric: Any = None
    priority: int | None = None
    progress: Any = None
    queued_at: str | None = None
    ready_at: Any = None
    run_id: str = ""
    seq: int = 0
    signal: int | None = None
    slots: Raw = EMPTY_LIST
    started_at: str | None = None
    status: str = ""
    status_text: Any = None
    step: Any = None
    submit_seq: int = 0
    submitted_at: str | None = None
    submitted_by: str | None = None
    submitted_code: Raw = NULL
    updated_at: Any = None
    usage: Raw = EMPTY_OBJECT
    waited_s: float = 0.0


NEVER_CHANGES = frozenset(
    {
        "cpus",
        "command",
        "digest",
        "gpus",
        "labels",
        "max_steps",
        "name",
        "named",
        "priority",
        "run_id",
        "submit_seq",
        "submitted_at",
        "submitted_by",
        "submitted_code",
    }
)
"""What of a run's row its Submitted says, for good."""


class AttemptRow(msgspec.Struct, gc=False):
    """A row of ``attempts``."""

    table: ClassVar[str] = "attempts"

    artifacts: Raw = NULL
    at_fault: str | None = None
    attempt: int = 0
    code: str | None = None
    dispatched_at: str | None = None
    duration_s: float | None = None
    ended_at: str | None = None
    error: str | None = None
    exit_code: int | None = None
    failure_reason: str | None = None
    folder: str | None = None
    gpu_memory_mb: Any = None
    host: str | None = None
    last_heartbeat_at: Any = None
    late_result: str | None = None
    memory_enforced: bool | None = None
    metrics: Any = EMPTY_OBJECT
    node: str = ""
    passed_over: Any = EMPTY_OBJECT
    pid: int | None = None
    primary_metric: Any = None
    progress: Any = None
    ready_at: Any = None
    run_id: str = ""
    signal: int | None = None
    slots: Raw = EMPTY_LIST
    started_at: str | None = None
    status: str = ""
    status_text: Any = None
    step: Any = None
    usage: Raw = EMPTY_OBJECT


class SlotRow(msgspec.Struct, gc=False):
    """A row of ``slots``."""

    table: ClassVar[str] = "slots"

    attempt: int | None = None
    attempt_memory_mb: Any = None
    device: str | None = None
    gpu: int | None = None
    healthy: bool = True
    index: int = 0
    memory_mb: int | None = None
    memory_used_mb: Any = None
    node: str = ""
    other_pids: Any = EMPTY_LIST
    run_id: str | None = None
    seq: int = 0
    unhealthy_reason: str | None = None
    updated_at: Any = None
    utilisation: Any = None
    uuid: str | None = None


class NodeRow(msgspec.Struct, gc=False):
    """A row of ``nodes``, less its fold."""

    table: ClassVar[str] = "nodes"

    cpus: int | None = None
    cpus_used: int | None = None
    disk_free_mb: Any = None
    drained: bool = False
    gpus: int = 0
    host: str = ""
    incarnation: str = ""
    joined_at: str | None = None
    last_heartbeat_at: Any = None
    memory_enforced: bool | None = None
    memory_mb: int | None = None
    memory_used_mb: int | None = None
    node: str = ""
    seq: int = 0
    slots_total: int = 0
    slots_used: int = 0
    status: str = ""
    suspect_reason: str | None = None
    suspect_since: str | None = None
    updated_at: Any = None
    witness: str | None = None
    witness_objection: Any = NULL
    witness_signature: Any = None
    witnessed_at: Any = None
    witnessed_root: Any = None
    witnessed_size: Any = None


class TimelineRow(msgspec.Struct, gc=False):
    """A row of ``timeline``."""

    table: ClassVar[str] = "timeline"

    data: Raw
    run_id: str
    seq: int
    time: str
    type: str


Row = RunRow | AttemptRow | SlotRow | NodeRow | TimelineRow
ROW_TYPES: Mapping[str, type[Row]] = {
    kind.table: kind for kind in (RunRow, AttemptRow, SlotRow, NodeRow, TimelineRow)
}


def record_json(row: Row) -> bytes:
    """The row as its record's JSON."""
    return _ENCODER.encode(row)


def key_of(row: Row) -> tuple[str | int, ...]:
    """The row's primary key as people name it."""
    match row:
        case RunRow():
            return (row.run_id,)
        case AttemptRow():
            return (row.run_id, row.attempt)
        case SlotRow():
            return (row.node, row.index)
        case NodeRow():
            return (row.node,)
        case TimelineRow():
            return (row.run_id, row.seq)


def row_from(table: str, columns: Mapping[Any, Any]) -> Row:
    """A row as the database (JSON columns as text) or a record (as values) has it; other columns are passed over."""
    kind = ROW_TYPES[table]
    fields = {name: columns[name] for name in kind.__struct_fields__}
    for name in JSON_COLUMNS & fields.keys():
        value = fields[name]
        fields[name] = Raw(value.encode()) if isinstance(value, str) else sorted_json(value)
    for name in BOOLEAN_COLUMNS & fields.keys():
        fields[name] = None if fields[name] is None else bool(fields[name])
    if "step" in fields:
        fields["step"] = plain_number(fields["step"])
    return kind(**fields)


def sorted_json(value: object) -> Raw:
    """A JSON column's value."""
    if value:
        return Raw(_SORTED.encode(value))
    return EMPTY_OBJECT if isinstance(value, dict) else NULL if value is None else EMPTY_LIST


def plain_number(value: float | None) -> int | float | None:
    """A number in its one form: whole ones as integers, as a database that knows only floats gives them back."""
    if value is None:
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return int(number) if number.is_integer() and abs(number) <= _MAX_WHOLE else number


def fitting(value: int | None) -> int | None:
    """An integer that JSON and every database hold; unknown where a writer went beyond that."""
    return value if value is None or -_MAX_WHOLE <= value <= _MAX_WHOLE else None


_MAX_WHOLE = 2**53 - 1
