"""The projector on a real log: exactly once over kills, rebuilt when its database is gone, and never stopped by poison."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import sys
from pathlib import Path

import pytest

from bench.log_maker import LogMaker
from events.log import EventLog
from events.streams import ensure_streams
from projections.queries.proofs import Proofs, StoredTree
from projections.read_model.database import Database
from projections.read_model.projector import Projector
from projections.transparency.tiles import Tiles, tile_path
from tests.support import NatsServer, eventually
from tests.support.random_log import RandomLog
from tests.support.read_model import dump, kept_hash, recomputed_hash
from tests.support.stored_log import ask, projecting, store
from tests.support.tree import folded, tile_files

BACKLOG = 6_000
KILLS = 8


def _committed(path: Path) -> int:
    """The checkpoint of a database that another process writes; 0 before there is one."""
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
            row = connection.execute("SELECT seq FROM checkpoint").fetchone()
        return int(row[0]) if row is not None else 0
    except sqlite3.OperationalError:
        return 0


async def _uninterrupted(log: EventLog, path: Path, end: int) -> Database:
    database = Database(path)
    projector = Projector.open(database, await log.log_id(), end)
    async with log.follow(1) as feed:
        while projector.seq < end:
            projector.apply(await feed.batch())
    projector.close()
    return database


async def test_killed_anywhere_it_ends_with_the_tables_of_one_that_never_stopped(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    nc = await nats_server.client()
    await ensure_streams(nc)
    made = RandomLog(2026)
    while made.seq < BACKLOG:
        made.grow()
    end = await store(nc, made.messages)
    path = tmp_path / "killed.db"
    endpoint = nats_server.endpoint
    environment = os.environ | {
        "NATS_URL": endpoint.url,
        "TRAINSHED_NATS_USER": endpoint.user or "",
        "TRAINSHED_NATS_PASSWORD": endpoint.password or "",
    }
    chooser = random.Random(7)
    seen = [0]

    async def live(*arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.support.projector_main",
            str(path),
            *arguments,
            env=environment,
            stderr=asyncio.subprocess.DEVNULL,
        )

    for _ in range(KILLS):
        process = await live(str(chooser.randint(50, 230)))
        assert await asyncio.wait_for(process.wait(), 60) == -signal.SIGKILL
        seen.append(_committed(path))
    assert seen == sorted(seen)
    assert seen[-1] < end, f"the kills all came too late: {seen}"
    assert len({*seen}) > KILLS // 2, f"it got nowhere between the kills: {seen}"
    process = await live()
    try:
        await eventually(lambda: _committed(path) == end, 60)
    finally:
        process.kill()
        await process.wait()
    killed = dump(Database(path))
    assert killed == dump(await _uninterrupted(EventLog(nc), tmp_path / "whole.db", end))
    assert kept_hash(killed) == recomputed_hash(killed)
    tree = await folded(EventLog(nc))
    full, _ = tree.take_changes()
    assert Proofs(Database(path), Tiles(tmp_path / "audit")).tree() == StoredTree(end, tree.edge)
    assert tile_files(tmp_path / "audit") == {tile_path(t.level, t.index): t.hashes for t in full}


async def test_a_deleted_database_is_rebuilt_equal(nats_server: NatsServer, tmp_path: Path) -> None:
    nc = await nats_server.client()
    await ensure_streams(nc)
    made = RandomLog(1)
    while made.seq < 400:
        made.grow()
    end = await store(nc, made.messages)
    path = tmp_path / "t.db"
    dumps = []
    for _ in range(2):
        async with projecting(await nats_server.client(), path):
            assert (await ask(nc, "health"))["seq"] == end
        dumps.append(dump(Database(path)))
        for file in tmp_path.glob("t.db*"):
            file.unlink()
    assert dumps[0] == dumps[1]


async def test_a_database_of_another_log_is_moved_aside_with_a_warning(
    nats_server: NatsServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nc = await nats_server.client()
    log_id = await ensure_streams(nc)
    made = LogMaker()
    made.elect()
    run_id = made.submit()
    other = Database(tmp_path / "t.db")
    projector = Projector.open(other, "another-log", 10)
    projector.apply(made.messages)
    projector.close()
    other.close()
    async with projecting(await nats_server.client(), tmp_path / "t.db"):
        assert (await ask(nc, "run.get", {"run_id": run_id}))["error"]["code"] == "not_found"
    assert (tmp_path / "t.db.old").exists()
    assert any("another-log" in record.message and log_id in record.message for record in caplog.records)


async def test_poison_on_the_stream_is_kept_aside_and_the_projector_goes_on(
    nats_server: NatsServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nc = await nats_server.client()
    await ensure_streams(nc)
    made = LogMaker()
    made.elect()
    made.raw("trainshed.events.run.abc.agent.exploded.gpu01", b"\x00\xff")
    made.raw("trainshed.events.run.abc.gateway.submitted._", b"{}")
    made.raw("trainshed.events.too.short", b"")
    made.raw("trainshed.events.run.abc.agent.failed.gpu01", b"[" * 100_000)
    run_id = made.submit()
    await store(nc, made.messages)
    async with projecting(await nats_server.client(), tmp_path / "t.db"):
        answer = await ask(nc, "run.get", {"run_id": run_id})
        assert answer["run"]["status"] == "PENDING"
        assert (await ask(nc, "health"))["quarantined"] == 4
    warnings = [r.getMessage() for r in caplog.records if "quarantined" in r.getMessage()]
    assert len(warnings) == 4
    assert "sequence 2 on trainshed.events.run.abc.agent.exploded.gpu01" in warnings[0]


async def test_it_goes_on_after_the_server_was_away(nats_server: NatsServer, tmp_path: Path) -> None:
    nc = await nats_server.client()
    await ensure_streams(nc)
    made = LogMaker()
    made.elect()
    first = made.submit()
    await store(nc, made.messages)
    async with projecting(await nats_server.client(), tmp_path / "t.db"):
        assert (await ask(nc, "run.get", {"run_id": first}))["run"]["run_id"] == first
        await nats_server.restart()
        second = made.submit()
        await eventually(lambda: nc.is_connected)
        await store(nc, made.messages[-1:])
        answer = await ask(nc, "run.get", {"run_id": second})
        assert answer["run"]["run_id"] == second
        assert "stale" not in answer


async def test_a_database_that_breaks_under_it_is_rebuilt_while_it_serves(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    nc = await nats_server.client()
    await ensure_streams(nc)
    made = LogMaker()
    made.elect()
    first = made.submit()
    await store(nc, made.messages)
    path = tmp_path / "t.db"
    async with projecting(await nats_server.client(), path):
        assert (await ask(nc, "run.get", {"run_id": first}))["run"]["run_id"] == first
        with sqlite3.connect(
            path
        ) as connection:  # a row that the log knows nothing of, in the way of the next
            connection.execute(
                "INSERT INTO timeline (submit_seq, run_id, seq, time, type, data) VALUES (3, 'x', 3, '', '', '')"
            )
        second = made.submit()
        await store(nc, made.messages[-1:])

        async def is_known() -> bool:
            return "run" in await ask(nc, "run.get", {"run_id": second})

        await eventually(is_known, 15)
        assert (await ask(nc, "run.get", {"run_id": first}))["run"]["run_id"] == first
    assert (tmp_path / "t.db.old").exists()
