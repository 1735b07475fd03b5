"""A read model that no projector has open is read as it lies: whole, and without a byte written."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from projections.queries.answers import Queries
from projections.queries.at_rest import DatabaseAtRest
from projections.queries.listing import run_query
from projections.read_model import tables
from projections.read_model.database import Database
from projections.read_model.rows import RunRow
from trainshed_client.errors import ErrorCode, TrainshedError


def columns(run_id: str, seq: int) -> dict[str, object]:
    row = RunRow(
        name="x",
        status="COMPLETED",
        run_id=run_id,
        seq=seq,
        submit_seq=seq,
        ended_at="2026-11-24T10:00:00.000000Z",
    )
    values = {name: getattr(row, name) for name in RunRow.__struct_fields__}
    stored = {
        name: bytes(value).decode() if isinstance(value, msgspec.Raw) else value
        for name, value in values.items()
    }
    return {**stored, "config": "{}", "fold": "{}"}


def add(database: Database, seq: int, *, schema: int = tables.SCHEMA_VERSION) -> None:
    """A run, and the checkpoint that has it."""
    with database.writer() as connection, connection.begin():
        connection.execute(tables.runs.insert().values(**columns(f"{seq:026}", seq)))
        connection.execute(tables.checkpoint.delete())
        at = {"id": 1, "seq": seq, "schema_version": schema, "state_hash": "", "log_id": "", "epoch": 0}
        connection.execute(tables.checkpoint.insert().values(**at, epoch_of="", rules=1, first_seq=1))


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Database]:
    """One that a projector has open, with a run in the file and another in its write-ahead log."""
    database = Database(tmp_path / "live" / "trainshed.db")
    tables.metadata.create_all(database.engine)
    add(database, 3)
    held = database.engine.connect()
    held.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    add(database, 4)
    yield database
    held.close()
    database.close()


def crashed(live: Database, to: Path, *endings: str) -> Path:
    """What a crash leaves of it, at another place."""
    assert live.path is not None
    to.mkdir()
    for ending in ("", *endings):
        shutil.copyfile(f"{live.path}{ending}", to / f"trainshed.db{ending}")
    return to / "trainshed.db"


def closed(live: Database, to: Path) -> Path:
    """What a clean end leaves of it."""
    path = crashed(live, to, "-wal")
    again = Database(path)
    with again.reading():
        pass
    again.close()
    return path


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.iterdir()}


def seqs(path: Path) -> list[int]:
    at_rest = DatabaseAtRest(path)
    try:
        found = Queries(at_rest).runs(run_query())
        assert at_rest.as_of.seq == found.seq
        return [found.seq, len(found.runs)]
    finally:
        at_rest.close()


@pytest.mark.parametrize("endings", [("-wal", "-shm"), ("-wal",)], ids=["crash", "crash, without shm"])
def test_what_a_crash_left_is_read_with_its_write_ahead_log(
    live: Database, tmp_path: Path, endings: tuple[str, ...]
) -> None:
    path = crashed(live, tmp_path / "left", *endings)
    before = contents(path.parent)
    assert seqs(path) == [4, 2]
    assert contents(path.parent) == before


def test_shared_memory_of_before_a_reboot_is_no_obstacle(live: Database, tmp_path: Path) -> None:
    path = crashed(live, tmp_path / "left", "-wal", "-shm")
    Path(f"{path}-shm").write_bytes(b"\xff" * 32768)
    before = contents(path.parent)
    assert seqs(path) == [4, 2]
    assert contents(path.parent) == before


def test_what_a_clean_end_left_is_read(live: Database, tmp_path: Path) -> None:
    path = closed(live, tmp_path / "left %#é")
    before = contents(path.parent)
    assert list(before) == ["trainshed.db"]
    assert seqs(path) == [4, 2]
    assert contents(path.parent) == before


def test_one_that_is_written_to_is_read_beside_it(live: Database) -> None:
    assert live.path is not None
    at_rest = DatabaseAtRest(live.path)
    try:
        with at_rest.reading() as connection:
            first = connection.execute(tables.checkpoint.select()).mappings().one()["seq"]
            add(live, 5)  # no lock is in its way
            second = connection.execute(tables.checkpoint.select()).mappings().one()["seq"]
        assert (first, second) == (4, 4)
    finally:
        at_rest.close()


def test_that_of_another_release_is_told_plainly(live: Database, tmp_path: Path) -> None:
    for schema, age in ((tables.SCHEMA_VERSION - 1, "older"), (tables.SCHEMA_VERSION + 1, "newer")):
        add(live, schema + 100, schema=schema)
        with pytest.raises(TrainshedError, match=age) as caught:
            DatabaseAtRest(crashed(live, tmp_path / age, "-wal", "-shm"))
        assert caught.value.code is ErrorCode.UNAVAILABLE
        assert "trainshed up" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no database at all" * 1000])
def test_what_is_no_read_model_is_told_plainly(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "trainshed.db").write_bytes(content)
    with pytest.raises(TrainshedError) as caught:
        DatabaseAtRest(tmp_path / "trainshed.db")
    assert caught.value.code is ErrorCode.UNAVAILABLE
    assert [file.name for file in tmp_path.iterdir()] == ["trainshed.db"]
