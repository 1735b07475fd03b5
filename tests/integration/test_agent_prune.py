"""Pruning on one node: what goes, what must stay, and that nothing is launched again where a folder was."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from events.types import Cancelled, Completed, Started
from services.agent import prune
from services.agent.folders import Folders
from tests.integration.agent_stage import NODE, Stage, new_ref, python, run_id
from tests.support import NatsServer, eventually
from trainshed_client import subjects

CHECKPOINT = (
    "import os; open(os.environ['TRAINSHED_RUN_DIR'] + '/ckpt', 'wb').write(bytes(100_000)); print('out')"
)
SLEEP = python("import time; time.sleep(60)")


@pytest.fixture
async def stage(nats_server: NatsServer, tmp_path: Path) -> Stage:
    return await Stage.set_up(nats_server, tmp_path)


async def ask(stage: Stage, *runs: tuple[str, int], dry_run: bool = False) -> dict[str, Any]:
    body = {"runs": [{"run_id": run, "attempt": attempt} for run, attempt in runs], "dry_run": dry_run}
    subject = subjects.api(f"node.{NODE}.prune")
    answer = await stage.nc.request(subject, msgspec.json.encode(body), timeout=20)
    found: dict[str, Any] = msgspec.json.decode(answer.data)
    assert "error" not in found, found
    return found


async def finished(stage: Stage, number: int = 1, attempt: int = 1, script: str = CHECKPOINT) -> str:
    """A run of which an attempt ran and ended, acknowledged."""
    ref = new_ref(number, attempt)
    await stage.dispatch(ref, python(script))
    assert isinstance(await stage.ended(ref), Completed)
    await eventually(lambda: not (stage.root / "node/open" / f"{ref.run_id}.{attempt}").exists())
    return ref.run_id


def left(stage: Stage) -> list[str]:
    """What lies in the node's roots, less what is made ahead."""
    places = [*stage.runs_dir.iterdir(), *(stage.root / "node/attempts").iterdir()]
    return sorted(str(place.relative_to(stage.root)) for place in places if place.name != ".blank")


async def test_a_dry_run_counts_and_the_real_one_frees_what_it_counted(stage: Stage) -> None:
    async with stage.agent():
        run = await finished(stage)
        asked = await ask(stage, (run, 1), (run_id(9), 3), dry_run=True)
        assert (asked["runs"], asked["kept"], asked["handled"]) == ([run], [], 2)
        assert 100_000 < asked["bytes"] < 400_000
        assert left(stage) == [f"node/attempts/{run}", f"runs/{run}"]
        done = await ask(stage, (run, 1), (run_id(9), 3))
        assert (done["runs"], done["bytes"]) == ([run], asked["bytes"])
        assert left(stage) == []
        again = await ask(stage, (run, 1))
        assert (again["runs"], again["bytes"], again["kept"]) == ([], 0, [])


async def test_rule_9_nothing_is_launched_again_for_a_pruned_attempt_whose_grant_is_delivered_again(
    stage: Stage,
) -> None:
    """The node's consumer is removed and made anew from its join: every decision since then comes again."""
    marks = stage.root / "launches"
    script = f"open({str(marks)!r}, 'a').write('x')"
    async with stage.agent():
        run = await finished(stage, script=script)
        await stage.order_stop(new_ref(), "ended")
        assert (await ask(stage, (run, 1)))["runs"] == [run]
        await stage.deliver_all_again()
        # What follows is delivered after them, and launched: they have been taken by then.
        await finished(stage, number=2)
        assert marks.read_text() == "x"
        assert left(stage) == [f"node/attempts/{run_id(2)}", f"runs/{run_id(2)}"]
        assert await stage.words(new_ref()) == ["started", "completed"]


async def test_a_retry_after_the_pruning_is_launched_and_its_output_is_there(stage: Stage) -> None:
    async with stage.agent():
        run = await finished(stage)
        await ask(stage, (run, 1))
        await finished(stage, attempt=2)
        assert (stage.runs_dir / run / "ckpt").exists()
        await stage.deliver_all_again()
        first = {"run_id": run, "attempt": 1}
        answer = await stage.nc.request(subjects.node_output(NODE), msgspec.json.encode(first), timeout=5)
        error = msgspec.json.decode(answer.data)["error"]
        assert error["code"] == "not_found" and "by `trainshed prune`" in error["message"]
        second = {"run_id": run, "attempt": 2}
        answer = await stage.nc.request(subjects.node_output(NODE), msgspec.json.encode(second), timeout=5)
        assert answer.data == b"out\n"
        # The list was made before the retry: its attempt's folder is not what it is about.
        kept = await ask(stage, (run, 1))
        assert (kept["runs"], [one["run_id"] for one in kept["kept"]]) == ([], [run])
        assert "attempt 2 came after" in kept["kept"][0]["reason"]
        assert (stage.runs_dir / run / "ckpt").exists()
        assert (await ask(stage, (run, 2)))["runs"] == [run]


async def test_what_runs_or_has_not_told_its_end_is_kept(stage: Stage) -> None:
    ref = new_ref()
    async with stage.agent() as running:
        await stage.dispatch(ref, SLEEP)
        await stage.told(ref, Started)
        for dry_run in (True, False):
            kept = await ask(stage, (ref.run_id, 1), dry_run=dry_run)
            assert (kept["runs"], kept["kept"][0]["reason"]) == ([], "attempt 1 has not ended here")
        await running.kill()
    async with stage.agent():
        assert (await ask(stage, (ref.run_id, 1)))["runs"] == []
        assert (stage.runs_dir / ref.run_id / "attempts/1/stdout.log").exists()
        await stage.order_stop(ref)
        assert isinstance(await stage.ended(ref), Cancelled)


async def test_on_shared_storage_the_attempt_of_another_node_keeps_the_folder(stage: Stage) -> None:
    async with stage.agent(var_logs_dir=stage.root / "logs"):
        run = await finished(stage)
        other = Folders(stage.root / "other", stage.runs_dir, stage.root / "other-logs")
        other.make_run(new_ref(1, 2))
        kept = await ask(stage, (run, 1))
        assert (kept["runs"], len(kept["kept"])) == ([], 1)
        assert (stage.runs_dir / run / "ckpt").exists()


async def test_output_and_run_folders_of_earlier_settings_go_too(stage: Stage) -> None:
    async with stage.agent(var_logs_dir=stage.root / "logs"):
        run = await finished(stage)
        assert (stage.root / "logs" / run / "1/stdout.log").read_text() == "out\n"
    old, stage.runs_dir = stage.runs_dir, stage.root / "new"
    async with stage.agent():
        assert (await ask(stage, (run, 1)))["runs"] == [run]
    assert [place for place in (old / run, stage.root / "logs" / run) if place.exists()] == []


async def test_an_agent_deletes_at_its_start_what_a_killed_one_had_moved_away(stage: Stage) -> None:
    async with stage.agent():
        run = await finished(stage)
    folders = Folders(stage.root / "node", stage.runs_dir)
    prune.take(folders, NODE, prune.find(folders, run), 1, "2026-01-01T00:00:00.000000Z")
    assert left(stage) == ["node/attempts/.pruned", "runs/.pruned"]
    async with stage.agent():
        await eventually(lambda: left(stage) == [])


async def test_a_request_that_names_no_run_is_refused_by_its_field(stage: Stage) -> None:
    async with stage.agent():
        for runs in ([{"run_id": "../../etc", "attempt": 1}], [{"run_id": run_id(1), "attempt": 0}], [7]):
            body = msgspec.json.encode({"runs": runs})
            answer = await stage.nc.request(subjects.api(f"node.{NODE}.prune"), body, timeout=5)
            error = msgspec.json.decode(answer.data)["error"]
            assert (error["code"], error["path"]) == ("invalid", "runs.0")


# --- the parts, on plain folders ----------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    made = Folders(tmp_path / "state", tmp_path / "runs")
    made.make_roots()
    return made


RUN = run_id(5)
AT = "2026-11-27T09:00:00.000000Z"


def old_run(folders: Folders, attempt: int = 1) -> prune.Left:
    folders.make_run(new_ref(5, attempt))
    folders.attempt(new_ref(5, attempt)).mkdir(parents=True)
    return prune.find(folders, RUN)


def test_a_grant_between_the_look_and_the_move_keeps_everything(folders: Folders) -> None:
    left = old_run(folders)
    folders.mark(new_ref(5, 2))
    with pytest.raises(prune.Kept, match="attempt 2 has not ended here"):
        prune.take(folders, NODE, left, 1, AT)
    assert folders.run(RUN).exists()


def test_another_nodes_grant_during_the_move_puts_everything_back(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = old_run(folders)
    real = os.rename

    def as_it_moves(source: Any, target: Any) -> None:
        if Path(source) == folders.run(RUN) and folders.run(RUN).exists():
            (folders.run(RUN) / "attempts/2").mkdir()
        real(source, target)

    monkeypatch.setattr(os, "rename", as_it_moves)
    with pytest.raises(prune.Kept, match="attempt 2 has just begun"):
        prune.take(folders, NODE, left, 1, AT)
    assert (folders.run(RUN) / "attempts/2").is_dir()
    assert folders.attempt(new_ref(5)).is_dir()


def test_a_move_that_fails_halfway_leaves_everything_where_it_was(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = old_run(folders)
    real = os.rename

    def refusing(source: Any, target: Any) -> None:
        if Path(source) == folders.attempt(new_ref(5)).parent:
            raise PermissionError("no")
        real(source, target)

    monkeypatch.setattr(os, "rename", refusing)
    with pytest.raises(PermissionError):
        prune.take(folders, NODE, left, 1, AT)
    assert folders.run(RUN).is_dir() and folders.attempt(new_ref(5)).is_dir()


def test_a_link_is_deleted_and_not_what_it_leads_to(folders: Folders, tmp_path: Path) -> None:
    left = old_run(folders)
    precious = tmp_path / "data"
    precious.mkdir()
    (precious / "set").write_text("x")
    (folders.run(RUN) / "data").symlink_to(precious)
    prune.delete(prune.take(folders, NODE, left, 1, AT), threading.Event())
    shutil.copytree(precious, folders.run(RUN))
    folders.attempt(new_ref(5)).mkdir(parents=True)
    moved = tmp_path / "elsewhere"
    folders.run(RUN).rename(moved)
    folders.run(RUN).symlink_to(moved)
    prune.delete(prune.take(folders, NODE, prune.find(folders, RUN), 1, AT), threading.Event())
    assert (precious / "set").read_text() == (moved / "set").read_text() == "x"
    assert not os.path.lexists(folders.run(RUN))


def test_each_attempt_keeps_the_time_of_its_own_pruning(folders: Folders) -> None:
    for attempt, at in ((1, "first"), (3, "second")):
        old_run(folders, attempt)
        prune.delete(prune.take(folders, NODE, prune.find(folders, RUN), attempt, at), threading.Event())
    assert [folders.pruned_at(new_ref(5, attempt)) for attempt in (1, 2, 3, 4)] == [
        "first",
        "second",
        "second",
        None,
    ]
    assert folders.on_disk(new_ref(5, 3)).ended and not folders.on_disk(new_ref(5, 4)).ended


def test_a_stop_interrupts_the_deletion(folders: Folders) -> None:
    aside = prune.take(folders, NODE, old_run(folders), 1, AT)
    stopped = threading.Event()
    stopped.set()
    with pytest.raises(prune.Stopped):
        prune.delete(aside, stopped)
    prune.delete(prune.leftovers(folders, NODE), threading.Event())
    assert prune.leftovers(folders, NODE) == []
