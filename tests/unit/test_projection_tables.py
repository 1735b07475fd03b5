"""The tables are what the records, the state hash and other databases need them to be."""

from __future__ import annotations

import hashlib
import inspect
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from bench.log_maker import LogMaker
from events.state import Pending, Run, RunProgress
from events.times import rfc3339
from projections.read_model import reports, tables
from projections.read_model.committed import run_pair
from projections.read_model.database import Database
from projections.read_model.folds import fold_of, run_of
from projections.read_model.projector import Projector
from projections.read_model.rows import (
    ROW_TYPES,
    AttemptRow,
    NodeRow,
    RunRow,
    SlotRow,
    TimelineRow,
    plain_number,
    record_json,
    row_from,
    sorted_json,
)
from projections.read_model.state_hash import digest
from projections.read_model.times import stored_time
from tests.support.builders import Story
from tests.support.random_log import RandomLog
from tests.support.read_model import LOG_ID, dump, fold, memory
from trainshed_client.records import AttemptRecord, NodeRecord, RunRecord, SlotRecord, TimelineEntry

RECORDS: dict[str, type[msgspec.Struct]] = {
    "runs": RunRecord,
    "attempts": AttemptRecord,
    "slots": SlotRecord,
    "nodes": NodeRecord,
}


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_columns_and_rows_bear_exactly_the_records_names(name: str) -> None:
    fields = set(RECORDS[name].__struct_fields__)
    columns = {column.name for column in tables.HASHED[name].columns} - tables.NOT_RECORD
    extra = {"submit_seq"} if name == "attempts" else set()  # where the run's rows lie, no part of the record
    assert columns - extra == fields
    assert set(ROW_TYPES[name].__struct_fields__) == fields


def test_a_timeline_row_is_an_entry_with_its_run() -> None:
    assert set(TimelineRow.__struct_fields__) == {*TimelineEntry.__struct_fields__, "run_id"} - {"text"}


ROWS = [
    RunRow(
        run_id="r",
        status="COMPLETED",
        labels=sorted_json({"b": "1", "a": "é"}),
        step=5,
        metrics=sorted_json({"z": 1.0}),
    ),
    RunRow(run_id="r", status="RUNNING", step=5, updated_at="now"),
    AttemptRow(run_id="r", attempt=1, status="FAILED", step=5),
    AttemptRow(run_id="r", attempt=1, status="RUNNING", step=5),
    SlotRow(node="n", index=0, utilisation=99, updated_at="now"),
    NodeRow(node="n", last_heartbeat_at="now"),
    NodeRow(
        node="n", witness="n+1", witnessed_size=3, witness_objection=sorted_json({"kind": "rolled_back"})
    ),
    TimelineRow(run_id="r", seq=4, time="t", type="submitted", data=sorted_json({"by": "ada"})),
]
LEFT_OUT = {
    "runs": reports.OF_RUN,
    "attempts": reports.OF_ATTEMPT,
    "slots": reports.OF_SLOT,
    "nodes": reports.OF_NODE,
    "timeline": (),
}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.table}-{getattr(row, 'status', '')}")
def test_a_rows_hash_is_what_the_design_says_and_anyone_can_recompute(row: RunRow) -> None:
    fields = msgspec.json.decode(record_json(row))
    if getattr(row, "status", None) not in ("COMPLETED", "FAILED"):
        for name in LEFT_OUT[row.table]:
            del fields[name]
    text = msgspec.json.encode([row.table, fields], order="sorted")
    assert digest(row) == int.from_bytes(hashlib.sha256(text).digest(), "big")


def test_a_row_survives_the_record_and_the_database() -> None:
    log = RandomLog(11)
    for _ in range(120):
        log.grow()
    database = memory()
    fold(database, [log.messages])
    for name, rows in dump(database).items():
        for columns in rows if name in tables.HASHED else ():
            row = row_from(name, columns)
            assert row_from(name, msgspec.json.decode(record_json(row))) == row


def test_a_runs_fold_comes_back_as_it_was() -> None:
    log = RandomLog(5)
    database = memory()
    projector = Projector.open(database, LOG_ID, 10**9)
    for _ in range(200):
        log.grow()
        projector.apply(log.messages[projector.seq :])
        for columns in dump(database)["runs"]:
            live = projector.projection.working.state.runs.get(columns["run_id"])
            if live is not None:
                assert run_pair(columns)[1] == live


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (None, None),
        (5, 5),
        (5.0, 5),
        (-0.0, 0),
        (0.5, 0.5),
        (10**400, None),
        (1e300, 1e300),
        (2**60, 2.0**60),
    ],
)
def test_a_number_has_one_form(given: float | None, kept: float | None) -> None:
    number = plain_number(given)
    assert (number, type(number)) == (kept, type(kept))


@pytest.mark.parametrize("ns", [0, 999, 1_790_000_000_123_456_789, 1_790_000_000_999_999_999])
def test_the_quick_time_is_the_same_text(ns: int) -> None:
    assert stored_time(ns) == rfc3339(ns)


def test_postgresql_is_not_ruled_out() -> None:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    for table in tables.metadata.sorted_tables:
        assert "CREATE TABLE" in str(CreateTable(table).compile(dialect=dialect))
        for index in table.indexes:
            assert "CREATE" in str(CreateIndex(index).compile(dialect=dialect))
    assert "submit_seq BIGINT" in str(CreateTable(tables.runs).compile(dialect=dialect))


def test_all_of_a_run_that_its_config_does_not_decide_is_kept_with_its_row() -> None:
    """A field added to Run is made of the config, and has no default; any other is of RunProgress, and kept."""
    progress = {field.name: field for field in msgspec.structs.fields(RunProgress)}
    of_config = [field for field in msgspec.structs.fields(Run) if field.name not in progress]
    assert [field.name for field in of_config if not field.required] == []
    story = Story()
    story.submit("r1", priority=3)
    others: dict[Any, Any] = {
        int: 1,
        bool: True,
        str | None: "/opt/bin",
        str: "/srv/project",
        tuple[str, ...]: ("*.ipynb",),
    }
    changed = {name: others[field.type] for name, field in progress.items() if name != "phase"}
    run = msgspec.structs.replace(
        story.state.runs["r1"], phase=Pending(attempt=2, not_before_ns=5), **changed
    )
    assert run_of(fold_of(run), run.run_id, run.submit_seq, run.config.decode()) == run


def test_only_one_module_speaks_sqlite() -> None:
    folder = Path(inspect.getfile(tables)).parents[1]
    speakers = {path.name for path in folder.rglob("*.py") if "PRAGMA" in path.read_text()}
    assert speakers == {
        "database.py",
        "comparison.py",
        "logged_files.py",
    }  # the audit's own scratch files are SQLite's


def test_live_and_ended_runs_are_found_by_their_indexes(tmp_path: Path) -> None:
    database = Database(tmp_path / "t.db")
    fold(database, [[]])
    with database.reading() as connection:
        for condition, index in ((tables.IS_LIVE, "runs_live"), (tables.IS_ENDED, "runs_ended")):
            order = tables.runs.c.submit_seq if index == "runs_live" else tables.runs.c.seq
            text = str(
                tables.runs.select()
                .where(condition)
                .order_by(order.desc())
                .limit(10)
                .compile(database.engine, compile_kwargs={"literal_binds": True})
            )
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}").all()
            assert any(index in str(step) for step in plan), plan


@pytest.mark.parametrize("wrong", ["log", "schema", "release 0.1", "beyond", "garbage", "truncated"])
def test_a_database_that_cannot_be_used_is_moved_aside_and_rebuilt(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, wrong: str
) -> None:
    log = LogMaker()
    log.elect()
    log.join()
    run_id = log.submit()
    path = tmp_path / "t.db"
    database = Database(path)
    fold(database, [log.messages])
    database.close()
    expected = dump(database)
    log_id, end = LOG_ID, log.seq
    match wrong:
        case "log":
            log_id = "another"
        case "schema":
            with database.engine.begin() as connection:
                connection.execute(tables.checkpoint.update().values(schema_version=99))
        case "release 0.1":
            with database.engine.begin() as connection:
                connection.exec_driver_sql("ALTER TABLE timeline RENAME COLUMN data TO text")
                connection.execute(tables.checkpoint.update().values(schema_version=2))
        case "beyond":
            end = log.seq - 1
        case "garbage":
            path.write_bytes(b"this is no database" * 500)
        case _:
            path.write_bytes(path.read_bytes()[: 4096 * 2])
    database.close()
    projector = Projector.open(database, log_id, end)
    assert projector.seq == 0
    projector.apply(log.messages)
    projector.close()
    rebuilt = dump(database)
    assert rebuilt["runs"] == expected["runs"]
    assert rebuilt["runs"][0]["run_id"] == run_id
    # what only has another release's tables says nothing that the log does not
    assert (tmp_path / "t.db.old").exists() == (wrong not in ("schema", "release 0.1"))
    assert not (tmp_path / "t.db.rebuild").exists()
    [warning] = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "rebuilt from the log" in warning.getMessage()
