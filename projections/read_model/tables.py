"""The tables of the read model, as SQLAlchemy Core has them; columns bear the records' names.

Owns columns, keys and indexes of every table; knows neither events nor how rows come about.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    text,
)

SCHEMA_VERSION = 22
"""Raised with every change of a table or of what a row means: an older database is rebuilt from the log."""

metadata = MetaData()

# Attempts and timeline lie in the order of their runs' submission: a new row goes to the end of its table, so that a
# rebuild of a long log writes few pages; a run's rows lie together and its own row knows where.

_BIG = BigInteger()
_ROWID = BigInteger().with_variant(Integer(), "sqlite")  # only INTEGER PRIMARY KEY is SQLite's own row id
# Only a run that has ended has an end. As text: an index of some rows is only used for its own condition, word for word.
IS_LIVE = text("ended_at IS NULL")
IS_ENDED = text("ended_at IS NOT NULL")
BOOLEAN_COLUMNS = frozenset({"named", "cancel_requested", "healthy", "drained", "memory_enforced"})
JSON_COLUMNS = frozenset(
    {
        "labels",
        "slots",
        "command",
        "metrics",
        "passed_over",
        "usage",
        "artifacts",
        "submitted_code",
        "other_pids",
        "data",
        "witness_objection",
    }
)
"""Lists and objects are kept as their JSON text: it is what answers and the state hash need."""

runs = Table(
    "runs",
    metadata,
    Column("run_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("named", Boolean, nullable=False),  # by somebody: else the name is only what its command gives
    Column("status", Text, nullable=False),
    Column("attempt", _BIG, nullable=False),
    Column("digest", Text, nullable=False),
    Column("seq", _BIG, nullable=False),
    Column("submit_seq", _ROWID, primary_key=True, autoincrement=False),
    Column("priority", _BIG),
    Column("labels", Text, nullable=False),
    Column("node", Text),
    Column("host", Text),
    Column("slots", Text, nullable=False),
    Column("cpus", _BIG),
    Column("gpus", _BIG),
    Column("pid", _BIG),
    Column("command", Text, nullable=False),
    Column("cancel_requested", Boolean, nullable=False),
    Column("submitted_by", Text),
    Column("submitted_at", Text),
    Column("queued_at", Text),  # while it is PENDING: since when
    Column("waited_s", Float, nullable=False),  # in the queue, up to its last grant
    Column("dispatched_at", Text),
    Column("started_at", Text),
    Column("ready_at", Text),
    Column("ended_at", Text),
    Column("updated_at", Text),
    Column("last_heartbeat_at", Text),
    Column("duration_s", Float),
    Column("exit_code", _BIG),
    Column("signal", _BIG),
    Column("failure_reason", Text),
    Column("error", Text),
    Column("code", Text),
    Column("step", Float),
    Column("progress", Float),
    Column("status_text", Text),
    Column("primary_metric", Text),
    Column("metrics", Text, nullable=False),
    Column("passed_over", Text, nullable=False),
    Column("usage", Text, nullable=False),
    Column("memory_enforced", Boolean),
    Column("max_steps", _BIG),  # of its schedule
    Column("folder", Text),  # on its node
    Column("artifacts", Text, nullable=False),  # what a completed one left
    Column("submitted_code", Text, nullable=False),
    Column("config", Text, nullable=False),  # the normalised run config
    Column(
        "fold", Text, nullable=False
    ),  # events.state.RunProgress as JSON: all of a run that its config does not decide
    Index("runs_run_id", "run_id", unique=True),
    Index("runs_name", "name"),
    Index("runs_live", "submit_seq", sqlite_where=IS_LIVE, postgresql_where=IS_LIVE),
    Index("runs_ended", "seq", sqlite_where=IS_ENDED, postgresql_where=IS_ENDED),
)

attempts = Table(
    "attempts",
    metadata,
    Column("submit_seq", _BIG, primary_key=True, autoincrement=False),  # of its run
    Column("run_id", Text, nullable=False),
    Column("attempt", _BIG, primary_key=True, autoincrement=False),
    Column("status", Text, nullable=False),
    Column("node", Text, nullable=False),
    Column("host", Text),
    Column("slots", Text, nullable=False),
    Column("pid", _BIG),
    Column("dispatched_at", Text),
    Column("started_at", Text),
    Column("ready_at", Text),
    Column("ended_at", Text),
    Column("last_heartbeat_at", Text),
    Column("duration_s", Float),
    Column("exit_code", _BIG),
    Column("signal", _BIG),
    Column("failure_reason", Text),
    Column("error", Text),
    Column("at_fault", Text),
    Column("code", Text),
    Column("step", Float),
    Column("progress", Float),
    Column("status_text", Text),
    Column("primary_metric", Text),
    Column("metrics", Text, nullable=False),
    Column("passed_over", Text, nullable=False),
    Column("gpu_memory_mb", _BIG),
    Column("usage", Text, nullable=False),
    Column("memory_enforced", Boolean),
    Column("late_result", Text),
    Column("folder", Text),
    Column("artifacts", Text, nullable=False),
    Column(
        "since_seq", _BIG, nullable=False
    ),  # the event that gave an ended one this form; 0 while it is live
    sqlite_with_rowid=False,
)

slots = Table(
    "slots",
    metadata,
    Column("node", Text, primary_key=True),
    Column("index", _BIG, primary_key=True),
    Column("gpu", _BIG),
    Column("uuid", Text),
    Column("device", Text),
    Column("memory_mb", _BIG),
    Column("memory_used_mb", _BIG),
    Column("attempt_memory_mb", _BIG),
    Column("utilisation", _BIG),
    Column("other_pids", Text, nullable=False),
    Column("healthy", Boolean, nullable=False),
    Column("unhealthy_reason", Text),
    Column("run_id", Text),
    Column("attempt", _BIG),
    Column("seq", _BIG, nullable=False),
    Column("updated_at", Text),
)

nodes = Table(
    "nodes",
    metadata,
    Column("node", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("incarnation", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("drained", Boolean, nullable=False),
    Column("cpus", _BIG),
    Column("memory_mb", _BIG),
    Column("gpus", _BIG, nullable=False),
    Column("slots_total", _BIG, nullable=False),
    Column("cpus_used", _BIG),
    Column("memory_used_mb", _BIG),
    Column("slots_used", _BIG, nullable=False),
    Column("joined_at", Text),
    Column("last_heartbeat_at", Text),
    Column("disk_free_mb", _BIG),
    Column("memory_enforced", Boolean),
    Column("suspect_since", Text),
    Column("suspect_reason", Text),
    Column("witness", Text),  # the key of its last join
    Column("witnessed_size", _BIG),
    Column("witnessed_root", Text),
    Column("witnessed_at", _BIG),
    Column("witness_signature", Text),
    Column("witness_objection", Text, nullable=False),
    Column("seq", _BIG, nullable=False),
    Column("updated_at", Text),
    Column("fold", Text, nullable=False),  # events.state.Node as JSON
)

timeline = Table(
    "timeline",
    metadata,
    Column("submit_seq", _BIG, primary_key=True, autoincrement=False),  # of its run
    Column("run_id", Text, nullable=False),
    Column("seq", _BIG, primary_key=True, autoincrement=False),
    Column("time", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("data", Text, nullable=False),
    sqlite_with_rowid=False,
)

quarantine = Table(
    "quarantine",
    metadata,
    Column("seq", _ROWID, primary_key=True, autoincrement=False),
    Column("time", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
)

checkpoint = Table(
    "checkpoint",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),  # always 1: there is one row
    Column("seq", _BIG, nullable=False),
    Column("state_hash", Text, nullable=False),
    Column("schema_version", Integer, nullable=False),
    Column("log_id", Text, nullable=False),
    Column("epoch", _BIG, nullable=False),
    Column("epoch_of", Text, nullable=False),
    Column("rules", _BIG, nullable=False),
    Column("first_seq", _BIG, nullable=False),  # of the log's tree: 0 while it has no leaf
)


def _columns_of(table: Table) -> list[Column[Any]]:
    return [Column(column.name, column.type, nullable=column.nullable) for column in table.columns]


# What stood in the tables before: for whoever asks how things were at an earlier moment (projections/past).

past_runs = Table(
    "past_runs",
    metadata,
    *_columns_of(runs),
    Column("until_seq", _BIG, nullable=False),  # the event that changed the row of a run that had ended
    PrimaryKeyConstraint("submit_seq", "until_seq"),
    Index("past_runs_run_id", "run_id"),
    sqlite_with_rowid=False,
)

past_attempts = Table(
    "past_attempts",
    metadata,
    *_columns_of(attempts),
    Column("until_seq", _BIG, nullable=False),  # the event that changed the row of an attempt that had ended
    PrimaryKeyConstraint("submit_seq", "attempt", "until_seq"),
    sqlite_with_rowid=False,
)

frames = Table(
    "frames",
    metadata,
    Column("seq", _ROWID, primary_key=True, autoincrement=False),
    Column(
        "base_seq", _BIG, nullable=False
    ),  # of the last whole frame; the others say what changed since the one before
    Column("data", LargeBinary, nullable=False),  # projections.read_model.frames.Frame
)

tree = Table(
    "tree",
    metadata,
    Column("level", Integer, primary_key=True, autoincrement=False),
    Column("hashes", LargeBinary, nullable=False),  # of this level's last tile, which is not full
)

HASHED: dict[str, Table] = {
    "runs": runs,
    "attempts": attempts,
    "slots": slots,
    "nodes": nodes,
    "timeline": timeline,
}
"""The tables that the state hash is made of."""
NOT_RECORD = frozenset({"config", "fold", "since_seq"})
"""Columns that are no part of a record, nor of the state hash."""
