"""A read model rebuilt beside the live one: asked all the while, killed anywhere, and put in its place whole."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import nats.errors
import nats.js.errors
import pytest
from sqlalchemy.exc import OperationalError

from bench.log_maker import LogMaker
from bench.projector_rebuild import make_log
from events.codec import Writer, uuid7
from events.log import publish
from events.streams import ensure_streams
from events.types import RunHeartbeat
from projections.read_model import database, tables
from projections.read_model.database import Database, DatabaseGone
from projections.read_model.projector import Projector
from projections.read_model.store import Store
from services import failpoints
from services.projector import rebuild, service
from services.projector.service import ProjectorService
from tests.support import NatsServer, eventually
from tests.support.random_log import RandomLog
from tests.support.read_model import dump
from tests.support.small_disk import small_disk
from tests.support.stored_log import ask, projecting, store
from trainshed_client import subjects
from trainshed_client.direct_get import Message
from trainshed_client.nats_client import SafeClient
from trainshed_client.subjects import Role

ASK_EVERY_S = 0.1
KILLED_AT = ("projector.swapped=kill", "projector.swapping=kill", "projector.rebuilding=kill@9")
"""The last of them leaves most behind."""


async def rebuilt(nc: SafeClient) -> list[dict[str, Any]]:
    """What ``audit.rebuild`` answers: how far it is, and in the end what came of it."""
    inbox = nc.new_inbox()
    answers = await nc.subscribe(inbox)
    await nc.publish(subjects.api("audit.rebuild"), b"{}", reply=inbox)
    found: list[dict[str, Any]] = []
    while not found or "progress" in found[-1]:
        found.append(msgspec.json.decode((await answers.next_msg(timeout=20)).data))
    await answers.unsubscribe()
    return found


class Asker:
    """Asks ten times a second, and keeps what was answered; ``patient``: where nobody answers, again."""

    def __init__(self, nc: SafeClient, run_id: str, *, patient: bool = False) -> None:
        self._nc = nc
        self._patient = patient
        self._run_id = run_id
        self.seqs: list[int] = []
        self.stale = 0

    @contextlib.asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        """Meanwhile."""
        task = asyncio.create_task(self._ask())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})
        assert task.cancelled() or task.exception() is None, task.exception()
        assert self.seqs == sorted(self.seqs)

    async def _ask(self) -> None:
        while True:
            for call, request in (("run.get", {"run_id": self._run_id}), ("run.list", {}), ("health", {})):
                try:
                    answer = await ask(self._nc, call, request, within=5.0)
                except (nats.errors.Error, TimeoutError):
                    if not self._patient:
                        raise
                    await asyncio.sleep(ASK_EVERY_S)
                    continue
                assert "error" not in answer or self._patient, answer
                if "error" in answer:
                    continue
                self.seqs.append(answer["seq"])
                self.stale += "stale" in answer
                await asyncio.sleep(ASK_EVERY_S)


async def _logged(nc: SafeClient, messages: list[Message]) -> int:
    await ensure_streams(nc)
    return await store(nc, messages)


def _a_run(messages: list[Message]) -> str:
    return next(one.subject.split(".")[3] for one in messages if ".gateway.submitted." in one.subject)


def files(folder: Path) -> set[str]:
    """What lies there of the read model, but for SQLite's own."""
    return {path.name for path in folder.glob("t.db*") if path.name not in ("t.db-wal", "t.db-shm")}


@contextlib.asynccontextmanager
async def folded(
    nats_server: NatsServer, path: Path, end: int, **options: Any
) -> AsyncIterator[ProjectorService]:
    """A projector that has everything up to ``end``."""
    path.parent.mkdir(exist_ok=True)
    async with projecting(await nats_server.client(), path, **options) as one:
        await eventually(lambda: one.position >= end, 30)
        yield one


async def dump_of_new(nats_server: NatsServer, path: Path, end: int) -> dict[str, list[dict[str, Any]]]:
    """The tables of a projector that never did anything but fold."""
    async with folded(nats_server, path, end) as one:
        return dump(one._database)


async def test_it_is_asked_and_written_all_the_while_and_is_the_same_in_the_end(
    nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild, "BATCH", 37)
    nc = await nats_server.client()
    made = RandomLog(2027)
    while made.seq < 2_000:
        made.grow()
    end = await _logged(nc, made.messages)
    path = tmp_path / "t.db"
    async with folded(nats_server, path, end, records=True) as one:
        before = path.stat().st_ino
        asker = Asker(nc, _a_run(made.messages))
        async with asker.asking():
            asked = asyncio.create_task(rebuilt(nc))
            while not asked.done():
                at = len(made.messages)
                made.grow()
                end = await store(nc, made.messages[at:])
            *progress, last = await asked
        assert (last["same"], last["database"]) == (True, str(path))
        assert 2_000 <= last["seq"] <= end
        assert progress[0]["progress"]["events"] >= 2_000
        assert path.stat().st_ino != before
        assert files(tmp_path) == {"t.db"}
        await eventually(lambda: one.position == end, 10)
        after = dump(one._database)
    assert await dump_of_new(nats_server, tmp_path / "new/t.db", end) == after


async def test_killed_anywhere_it_leaves_one_whole_read_model_and_nothing_beside_it(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    nc = await nats_server.client()
    messages = make_log(20_000)
    end = await _logged(nc, messages)
    path = tmp_path / "t.db"
    asker = Asker(nc, _a_run(messages), patient=True)
    async with asker.asking():
        for point in KILLED_AT:
            async with _process(nats_server, path, point) as process:
                await _is_at(nc, end)
                await nc.publish(subjects.api("audit.rebuild"), b"{}", reply=nc.new_inbox())
                assert await asyncio.wait_for(process.wait(), 60) == -signal.SIGKILL
            with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
                assert connection.execute("SELECT seq FROM checkpoint").fetchone() == (end,), point
        async with _process(nats_server, path):
            await _is_at(nc, end)
            assert files(tmp_path) == {"t.db"}
            assert (await rebuilt(nc))[-1]["same"] is True
            answered = len(asker.seqs)
            await eventually(lambda: len(asker.seqs) > answered + 3, 10)
    assert set(asker.seqs[asker.seqs.index(end) :]) == {end}
    assert files(tmp_path) == {"t.db"}
    assert dump(Database(path)) == await dump_of_new(nats_server, tmp_path / "new/t.db", end)


@contextlib.asynccontextmanager
async def _process(
    nats_server: NatsServer, path: Path, armed: str = ""
) -> AsyncIterator[asyncio.subprocess.Process]:
    endpoint = nats_server.endpoint
    environment = {
        "NATS_URL": endpoint.url,
        "TRAINSHED_NATS_USER": endpoint.user or "",
        "TRAINSHED_NATS_PASSWORD": endpoint.password or "",
        failpoints.ARMED: armed,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.support.projector_main",
        str(path),
        env=os.environ | environment,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _is_at(nc: SafeClient, end: int) -> None:
    async def there() -> bool:
        try:
            return bool((await ask(nc, "health"))["seq"] == end)
        except (KeyError, nats.errors.Error, TimeoutError):
            return False

    await eventually(there, 60)


async def _small_log(nc: SafeClient) -> tuple[LogMaker, int]:
    made = LogMaker()
    made.elect()
    made.join()
    for n in range(200):
        made.submit({"entry_point": "/bin/true", "run_name": f"run-{n}"})
    return made, await _logged(nc, made.messages)


async def test_who_asks_while_it_is_rebuilt_joins_and_who_stops_it_leaves_nothing(
    nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nc = await nats_server.client()
    _, end = await _small_log(nc)
    monkeypatch.setattr(rebuild, "BATCH", 20)
    monkeypatch.setattr(rebuild, "delay", lambda name: 0.02)
    async with folded(nats_server, tmp_path / "t.db", end):
        both = await asyncio.gather(rebuilt(nc), rebuilt(nc))
        assert both[0][-1] == both[1][-1]
        assert (both[0][-1]["seq"], both[0][-1]["same"]) == (end, True)
        monkeypatch.setattr(rebuild, "delay", lambda name: 0.5)
        asked = asyncio.create_task(rebuilt(nc))
        await eventually(lambda: "t.db.rebuild" in files(tmp_path), 10)
    (*_, refused) = await asked
    assert refused["error"]["code"] == "unavailable"
    assert "is as it was (the projector stops)" in refused["error"]["message"]
    assert files(tmp_path) == {"t.db"}


async def test_while_the_log_is_only_being_folded_it_is_refused(
    nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nc = await nats_server.client()
    await _small_log(nc)
    monkeypatch.setattr(service, "BATCH", 2)
    monkeypatch.setattr(service, "delay", lambda name: 0.2)
    async with projecting(await nats_server.client(), tmp_path / "t.db"):
        (refused,) = await rebuilt(nc)
        assert refused["error"]["code"] == "unavailable"
        assert "% of 202 events" in refused["error"]["message"]


async def test_what_heartbeats_set_stays_also_where_they_are_no_longer_stored(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    nc = await nats_server.client()
    made = LogMaker()
    made.elect()
    made.join(slots=2)
    run_id = made.submit()
    made.dispatch(run_id, 1, "gpu01", (0,))
    made.start(run_id, 1, "gpu01", (0,))
    end = await _logged(nc, made.messages)
    async with folded(nats_server, tmp_path / "t.db", end, records=True) as one:
        beat = RunHeartbeat(run_id=run_id, attempt=1, step=7, progress=0.5, metrics={"loss": 0.25})
        subject, id_, body = Writer(Role.AGENT, lambda: 0, uuid7, "gpu01").heartbeat(beat)
        await publish(nc, subject, id_, body)

        async def step() -> bool:
            return bool((await ask(nc, "run.get", {"run_id": run_id}))["run"]["step"] == 7)

        await eventually(step, 10)
        before = dump(one._database)
        await nc.jetstream().purge_stream(subjects.HEARTBEATS_STREAM)
        assert (await rebuilt(nc))[-1]["same"] is True
        assert dump(one._database) == before


async def test_it_waits_for_who_reads_and_holds_up_nobody(nats_server: NatsServer, tmp_path: Path) -> None:
    nc = await nats_server.client()
    made, end = await _small_log(nc)
    async with folded(nats_server, tmp_path / "t.db", end) as one:
        asker = Asker(nc, _a_run(made.messages))
        async with asker.asking():
            with one._database.reading() as connection:
                (first,) = connection.exec_driver_sql("SELECT seq FROM checkpoint").fetchall()
                asked = asyncio.create_task(rebuilt(nc))
                answered = len(asker.seqs)
                await eventually(lambda: len(asker.seqs) > answered + 15, 20)
                assert not asked.done()
                assert connection.exec_driver_sql("SELECT seq FROM checkpoint").fetchall() == [first]
            assert (await asked)[-1]["seq"] == end


async def test_on_a_full_disk_the_live_one_stays_and_the_room_is_given_back(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    nc = await nats_server.client()
    made = LogMaker()
    made.elect()
    for n in range(300):
        made.submit({"entry_point": "/bin/true", "run_name": f"run-{n}", "metadata": {"x": f"{n}" * 1_000}})
    end = await _logged(nc, made.messages)
    run_id = _a_run(made.messages)
    with small_disk(tmp_path / "disk", 12) as disk:
        async with folded(nats_server, disk.folder / "t.db", end) as one:
            disk.fill()
            (*_, refused) = await rebuilt(nc)
            assert "full" in refused["error"]["message"] and "is as it was" in refused["error"]["message"]
            assert files(disk.folder) == {"t.db"}
            assert (await ask(nc, "run.get", {"run_id": run_id}))["run"]["run_id"] == run_id
            disk.free()
            assert (await rebuilt(nc))[-1]["same"] is True
            assert files(disk.folder) == {"t.db"}
            assert one.ready.is_set()


async def test_on_a_disk_that_is_full_only_when_they_change_places_the_live_one_stays(
    nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nc = await nats_server.client()
    _, end = await _small_log(nc)
    with small_disk(tmp_path / "disk", 12) as disk:
        async with folded(nats_server, disk.folder / "t.db", end) as one:
            monkeypatch.setattr(rebuild, "carry_over", lambda *_: disk.fill())
            (*_, refused) = await rebuilt(nc)
            assert "full" in refused["error"]["message"] and "is as it was" in refused["error"]["message"]
            assert one.ready.is_set() and files(disk.folder) == {"t.db"}
            monkeypatch.undo()
            disk.free()
            assert (await rebuilt(nc))[-1]["same"] is True


async def test_tables_that_were_not_what_the_log_says_are_told_and_the_records_put_again(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    nc = await nats_server.client()
    made, end = await _small_log(nc)
    run_id = _a_run(made.messages)
    path = tmp_path / "t.db"
    async with folded(nats_server, path, end):
        pass
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE runs SET priority = 77 WHERE run_id = ?", (run_id,))
        connection.execute("UPDATE checkpoint SET state_hash = ?", ("ab" * 32,))
    async with folded(nats_server, path, end, records=True):

        async def record() -> dict[str, Any]:
            try:
                bucket = await nc.jetstream().key_value(subjects.RUNS_BUCKET)
                return dict(msgspec.json.decode((await bucket.get(run_id)).value or b"{}"))
            except nats.js.errors.Error:
                return {}

        async def priority(expected: int) -> bool:
            return (await record()).get("priority") == expected

        await eventually(lambda: priority(77), 10)
        assert (await rebuilt(nc))[-1]["same"] is False
        await eventually(lambda: priority(0), 10)


async def test_a_database_deleted_under_it_is_built_again_and_no_question_fails(
    nats_server: NatsServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nc = await nats_server.client()
    messages = make_log(5_000)
    end = await _logged(nc, messages)
    path = tmp_path / "t.db"
    async with folded(nats_server, path, end) as one:
        before = dump(one._database)
        for each in tmp_path.glob("t.db*"):
            each.unlink()
        answer = await ask(nc, "run.get", {"run_id": _a_run(messages)})
        assert "error" not in answer, answer
        await eventually(lambda: one.position == end, 20)
        assert dump(one._database) == before
        assert files(tmp_path) == {"t.db"}
        path.unlink()  # and nobody asks
        await eventually(lambda: one.position < end, 20)
        await eventually(lambda: one.position == end, 20)
        assert dump(one._database) == before
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert errors and all(f"{path} is gone (its file was deleted)" in error for error in errors), errors


@pytest.mark.parametrize("slow", [(Store, "create"), (Projector, "open"), (Database, "try_writing")])
async def test_while_a_deleted_one_is_made_again_no_question_is_of_its_empty_tables(
    nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: tuple[type, str]
) -> None:
    nc = await nats_server.client()
    made, end = await _small_log(nc)
    kind, step = slow
    path = tmp_path / "t.db"
    take_step = getattr(kind, step)

    def slowly(*arguments: Any, **options: Any) -> Any:
        time.sleep(0.2)
        taken = take_step(*arguments, **options)
        time.sleep(0.2)
        return taken

    run_id = _a_run(made.messages)
    async with folded(nats_server, path, end) as one:
        monkeypatch.setattr(kind, step, slowly)
        path.unlink()
        asked = []
        for _ in range(75):
            asked.append(asyncio.create_task(ask(nc, "run.get", {"run_id": run_id})))
            await asyncio.sleep(ASK_EVERY_S / 5)
        answers = await asyncio.gather(*asked)
        for answer in answers:
            if "error" in answer:  # it is the steps that take too long here
                assert "is gone (its file was deleted)" in answer["error"]["message"], answer
            else:
                assert "stale" in answer or answer["seq"] == end, answer
        await eventually(lambda: one.position == end, 20)
    assert files(tmp_path) == {"t.db"}


def test_a_file_that_goes_while_it_is_opened_is_gone_and_not_damaged(tmp_path: Path) -> None:
    database = Database(tmp_path / "t.db")
    store = Store(database)
    store.create()
    database.remember()
    with pytest.raises(DatabaseGone), database.reading() as connection:
        (tmp_path / "t.db").unlink()
        raise OperationalError("no such table", None, Exception(str(connection)))
    store.close()


async def test_a_file_that_was_put_in_its_place_is_moved_aside(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    nc = await nats_server.client()
    made, end = await _small_log(nc)
    path = tmp_path / "t.db"
    async with folded(nats_server, path, end) as one:
        (tmp_path / "mine").write_bytes(b"somebody's" * 1_000)
        os.replace(tmp_path / "mine", path)
        run_id = _a_run(made.messages)

        async def answered() -> bool:
            return "run" in await ask(nc, "run.get", {"run_id": run_id})

        await eventually(answered, 20)
        assert one.position == end
    assert (tmp_path / "t.db.old").read_bytes().startswith(b"somebody's")


async def test_somebodys_link_to_storage_elsewhere_stays_one(nats_server: NatsServer, tmp_path: Path) -> None:
    nc = await nats_server.client()
    _, end = await _small_log(nc)
    (tmp_path / "elsewhere").mkdir()
    path = tmp_path / "t.db"
    path.symlink_to("elsewhere/t.db")
    async with folded(nats_server, path, end):
        assert (await rebuilt(nc))[-1]["same"] is True
        assert path.is_symlink() and files(tmp_path) == {"t.db"}
        assert files(tmp_path / "elsewhere") == {"t.db"}


async def test_tables_of_another_schema_are_made_again_and_nothing_of_them_is_kept(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    nc = await nats_server.client()
    messages = make_log(5_000)
    end = await _logged(nc, messages)
    path = tmp_path / "t.db"
    async with folded(nats_server, path, end) as one:
        before = dump(one._database)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE checkpoint SET schema_version = 1")
        connection.execute("ALTER TABLE runs RENAME COLUMN status TO state")
    async with projecting(await nats_server.client(), path) as one:
        asker = Asker(nc, _a_run(messages))
        async with asker.asking():
            await eventually(lambda: one.position == end, 30)
            await eventually(lambda: end in asker.seqs, 10)
        assert dump(one._database) == before
    assert files(tmp_path) == {"t.db"}


def test_who_looks_just_as_the_rebuilt_one_takes_its_place_does_not_take_it_for_somebody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = Database(tmp_path / "t.db")
    live.try_writing()
    live.remember()
    beside = live.beside()
    assert beside is not None
    beside.try_writing()
    looked = list[Path]()

    def look(folder: Path) -> None:
        live.look()
        looked.append(folder)

    monkeypatch.setattr(database, "_sync", look)
    live.take(beside, tables.metadata)
    assert looked == [tmp_path]
    live.remember()
    live.look()
    (tmp_path / "t.db").rename(tmp_path / "away.db")
    with pytest.raises(DatabaseGone):
        live.look()
    live.close()
