"""The projector's database damaged or on a full disk: said once, answered as unavailable, mended from the log."""

from __future__ import annotations

import logging
import os
import sqlite3
from pathlib import Path

import nats.errors
import pytest

from bench.log_maker import LogMaker
from events.streams import ensure_streams
from tests.support import NatsServer, eventually
from tests.support.read_model import dump
from tests.support.small_disk import small_disk
from tests.support.stored_log import ask, projecting, store
from trainshed_client.nats_client import SafeClient

RUNS = 40


def _submit(made: LogMaker, name: str, size: int) -> list[str]:
    """Runs whose rows take that much room each."""
    return [
        made.submit({"entry_point": "/bin/true", "run_name": f"{name}-{n}", "metadata": {"x": "x" * size}})
        for n in range(RUNS)
    ]


async def _log_of_runs(nc: SafeClient) -> tuple[LogMaker, list[str]]:
    await ensure_streams(nc)
    made = LogMaker()
    made.elect()
    made.join()
    runs = _submit(made, "run", 2_000)
    await store(nc, made.messages)
    return made, runs


def _damage(path: Path, how: str) -> None:
    """Where the database really is its file: what stands in the write-ahead log would hide the damage."""
    with sqlite3.connect(path, timeout=30) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size = path.stat().st_size
    with path.open("r+b") as file:
        match how:
            case "header":
                file.write(b"this is no database" * 10)
            case "middle":
                file.seek(8192)
                file.write(os.urandom(size - 2 * 8192))
            case _:
                file.truncate(2 * 8192)


def _tries(caplog: pytest.LogCaptureFixture) -> int:
    return [record.getMessage() for record in caplog.records].count("the read model failed")


@pytest.mark.parametrize("how", ["header", "middle", "truncated"])
async def test_a_database_that_is_damaged_under_it_is_rebuilt_without_another_event(
    nats_server: NatsServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    nc = await nats_server.client()
    _, runs = await _log_of_runs(nc)
    path = tmp_path / "t.db"
    async with projecting(await nats_server.client(), path) as service:
        await eventually(lambda: service.position == RUNS + 2)
        before = dump(service._database)
        _damage(path, how)

        async def all_right() -> bool:
            answers = [await ask(nc, "run.get", {"run_id": run}) for run in runs]
            wrong = [answer["error"] for answer in answers if "error" in answer]
            for error in wrong:
                assert error["code"] == "unavailable", error
                assert "read model" in error["message"], error
            return not wrong and service.ready.is_set()

        await eventually(all_right, 30)
        assert (tmp_path / "t.db.old").exists()
        assert dump(service._database) == before
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1, errors
    assert str(path) in errors[0]
    assert "rebuilt from the event log" in errors[0]


async def test_on_a_full_disk_it_says_so_once_and_goes_on_when_there_is_room(
    nats_server: NatsServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "trainshed.projector")
    nc = await nats_server.client()
    made, runs = await _log_of_runs(nc)
    with small_disk(tmp_path / "disk", 4) as disk:
        path = disk.folder / "t.db"
        async with projecting(await nats_server.client(), path) as service:
            await eventually(lambda: service.position == RUNS + 2)
            disk.fill()
            more = _submit(made, "more", 9_000)
            await store(nc, made.messages[-RUNS:])
            await eventually(lambda: not service.ready.is_set(), 20)
            answer = await ask(nc, "run.get", {"run_id": runs[0]})
            if "error" in answer:
                assert answer["error"]["code"] == "unavailable"
                assert str(path) in answer["error"]["message"]
                assert "full" in answer["error"]["message"]
            else:
                assert answer["stale"] is True
            await eventually(lambda: _tries(caplog) >= 3, 20)  # in vain, and not told again
            disk.free()
            await eventually(service.ready.is_set, 20)
            for run in (*runs, *more):
                assert (await ask(nc, "run.get", {"run_id": run}))["run"]["run_id"] == run
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1, errors
    assert str(path) in errors[0]


async def test_that_is_full_from_the_start_it_answers_why_and_begins_when_there_is_room(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    nc = await nats_server.client()
    _, runs = await _log_of_runs(nc)
    with small_disk(tmp_path / "disk", 4) as disk:
        path = disk.folder / "t.db"
        disk.fill()
        async with projecting(await nats_server.client(), path, ready=False) as service:

            async def refused() -> str:
                try:
                    return str((await ask(nc, "run.get", {"run_id": runs[0]}))["error"]["message"])
                except nats.errors.NoRespondersError:
                    return ""

            assert str(path) in await eventually(refused, 20)
            assert not service.ready.is_set()
            disk.free()
            await eventually(service.ready.is_set, 20)
            assert (await ask(nc, "run.get", {"run_id": runs[0]}))["run"]["run_id"] == runs[0]


async def test_while_it_is_opened_whoever_asks_is_told_so(nats_server: NatsServer, tmp_path: Path) -> None:
    nc = await nats_server.client()
    _, runs = await _log_of_runs(nc)
    path = tmp_path / "t.db"
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        async with projecting(await nats_server.client(), path, ready=False) as service:

            async def refused() -> str:
                try:
                    return str((await ask(nc, "run.get", {"run_id": runs[0]}))["error"]["message"])
                except nats.errors.NoRespondersError:
                    return ""

            assert "is being opened" in await eventually(refused, 20)
            other.execute("ROLLBACK")
            await eventually(service.ready.is_set, 20)
            assert (await ask(nc, "run.get", {"run_id": runs[0]}))["run"]["run_id"] == runs[0]
    assert not (tmp_path / "t.db.old").exists()  # what was asked too early is no damage
