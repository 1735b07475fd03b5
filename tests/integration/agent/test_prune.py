"""Pruning on one node: what goes, what must stay, and that nothing is launched again where a folder was."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from events.types import Cancelled, Completed, Started
from services.agent.folders.claims import TRASH
from services.agent.folders.paths import Folders
from services.agent.prune import prune, service, trash
from tests.integration.agent.stage import NODE, Stage, new_ref, python, run_id
from tests.support import NatsServer, eventually
from tests.support.small_disk import small_disk
from trainshed_client import subjects

CHECKPOINT = (
    "import os; open(os.environ['TRAINSHED_RUN_DIR'] + '/ckpt', 'wb').write(bytes(100_000)); print('out')"
)
RUN = run_id(5)
AT = "2026-11-27T09:00:00.000000Z"
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
    return sorted(
        str(place.relative_to(stage.root)) for place in places if place.name not in (".blank", TRASH)
    )


def take(folders: Folders, node: str, left: prune.Left, attempt: int, at: str) -> prune.Taken:
    """All of it, as the service does."""
    taken = prune.take_shared(folders, node, left, attempt, at)
    if taken.whole:
        taken.aside.extend(prune.take_own(folders, node, left, attempt))
    return taken


def trashed(folders: Folders) -> list[str]:
    """What waits for its deletion."""
    return sorted(each.name for root in prune.roots(folders) for each in prune.leftovers(folders, NODE, root))


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
    take(folders, NODE, prune.find(folders, run), 1, AT)
    assert trashed(folders) == [f"{run}@1", f"{run}@1"]
    async with stage.agent():
        await eventually(lambda: trashed(folders) == [])
    assert left(stage) == []


async def test_what_cannot_be_deleted_is_told_at_each_start_and_by_each_prune_also_of_earlier_settings(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    logged = ""

    def warned() -> bool:
        nonlocal logged
        logged += capsys.readouterr().out
        return "what was pruned cannot be deleted" in logged

    async with stage.agent():
        run = await finished(stage)
    folders = Folders(stage.root / "node", stage.runs_dir)
    (aside, _) = take(folders, NODE, prune.find(folders, run), 1, AT).aside
    with small_disk(aside.path / "data", 1):
        stage.runs_dir = stage.root / "new"
        for _ in ("first", "second"):
            assert not warned()
            async with stage.agent():
                await eventually(warned, 20.0)
                (told,) = (await ask(stage))["kept"]
            capsys.readouterr()
            logged = ""
        assert told["run_id"] == run
        assert told["reason"].startswith(f"still to delete: {aside.path} (")
        assert "another file system" in told["reason"]
        assert not (aside.path / "ckpt").exists(), "what can be deleted is"
    async with stage.agent():
        await eventually(lambda: not aside.path.exists(), 20.0)
        await ask(stage, (run, 1))
        assert (await ask(stage))["kept"] == []


async def test_a_full_disk_is_pruned_by_one_call_and_the_word_is_there_then(stage: Stage) -> None:
    with small_disk(stage.root / "disk", 4) as disk:
        stage.root, stage.runs_dir = disk.folder, disk.folder / "runs"
        async with stage.agent():
            run = await finished(stage)
            # Made at the start, for on most file systems a folder takes room.
            for root in (stage.runs_dir, stage.root / "node/attempts"):
                await eventually((root / TRASH / NODE).is_dir)
            disk.fill()
            done = await ask(stage, (run, 1))
            assert (done["runs"], done["kept"]) == ([run], [])
            assert left(stage) == []
            assert Folders(stage.root / "node", stage.runs_dir).pruned_at(new_ref()) is not None
            await stage.deliver_all_again()
            assert await stage.words(new_ref()) == ["started", "completed"]


async def test_storage_that_hangs_at_the_start_holds_up_neither_calls_under_way_nor_the_end(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging, released = threading.Event(), threading.Event()

    def hang(*_: object) -> list[trash.Trashed]:
        hanging.set()
        released.wait()
        return []

    monkeypatch.setattr(prune, "leftovers", hang)
    monkeypatch.setattr(service, "ANSWERS_WITHIN_S", 600.0)
    try:
        async with stage.agent() as running:
            await eventually(hanging.is_set, 20.0)
            waits = asyncio.create_task(ask(stage, (RUN, 1)))
            await asyncio.sleep(0)
            await ask(stage)  # sent after the other, and answered: that one is there
            running.agent.stop()
            await asyncio.wait_for(running.task, 60)
            assert (await waits)["runs"] == []
    finally:
        released.set()


async def test_a_link_that_a_worker_made_in_the_trash_s_place_is_told(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    precious = stage.root / "precious"
    (precious / NODE / "set").mkdir(parents=True)
    stage.runs_dir.mkdir()
    (stage.runs_dir / TRASH).symlink_to(precious)
    async with stage.agent():
        run = await finished(stage)
        kept = await ask(stage, (run, 1))
        assert (kept["runs"], len(kept["kept"])) == ([], 1)
        assert "is a link or no folder" in kept["kept"][0]["reason"]
        assert (stage.runs_dir / run / "ckpt").exists()
    assert (precious / NODE / "set").is_dir()
    assert "what was pruned is not looked for" in capsys.readouterr().out


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


def old_run(folders: Folders, attempt: int = 1) -> prune.Left:
    folders.make_run(new_ref(5, attempt))
    folders.attempt(new_ref(5, attempt)).mkdir(parents=True)
    return prune.find(folders, RUN)


def take_and_delete(
    folders: Folders, left: prune.Left, attempt: int = 1, at: str = AT, node: str = NODE
) -> int:
    taken = take(folders, node, left, attempt, at)
    return sum(trash.delete(each, threading.Event()) for each in taken.aside)


def begin_anew(folders: Folders) -> None:
    """What an agent does at its start."""
    for root in prune.roots(folders):
        for each in prune.leftovers(folders, NODE, root):
            trash.delete(each, threading.Event())


def test_artifacts_that_are_still_to_be_hashed_are_kept(folders: Folders) -> None:
    left = old_run(folders)
    folders.mark_unhashed(new_ref(5, 1))
    with pytest.raises(prune.Kept, match="still being hashed"):
        prune.take_shared(folders, NODE, left, 1, AT)
    folders.unmark_unhashed(new_ref(5, 1))
    assert prune.take_shared(folders, NODE, left, 1, AT).aside


def test_a_grant_between_the_look_and_the_move_keeps_everything(folders: Folders) -> None:
    left = old_run(folders)
    folders.mark(new_ref(5, 2))
    with pytest.raises(prune.Kept, match="attempt 2 has not ended here"):
        take(folders, NODE, left, 1, AT)
    assert folders.run(RUN).exists()


def test_the_attempts_own_files_that_cannot_be_moved_go_with_the_next_pruning(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = old_run(folders)

    def refusing(*_: object) -> trash.Trashed:
        raise PermissionError("no")

    with monkeypatch.context() as patch:
        patch.setattr(trash, "move", refusing)
        with pytest.raises(PermissionError):
            take(folders, NODE, left, 1, AT)
    assert not folders.run(RUN).exists() and folders.attempt(new_ref(5)).is_dir()
    assert folders.pruned_at(new_ref(5)) == AT
    take_and_delete(folders, prune.find(folders, RUN))
    assert not folders.attempt(new_ref(5)).exists()


def test_a_grant_between_the_two_moves_keeps_the_attempts_own_files(folders: Folders) -> None:
    left = old_run(folders)
    prune.take_shared(folders, NODE, left, 1, AT)
    folders.mark(new_ref(5, 2))
    assert prune.take_own(folders, NODE, left, 1) == []
    assert folders.attempt(new_ref(5)).is_dir()


def test_a_link_is_deleted_and_not_what_it_leads_to(folders: Folders, tmp_path: Path) -> None:
    left = old_run(folders)
    precious = tmp_path / "data"
    precious.mkdir()
    (precious / "set").write_text("x")
    (folders.run(RUN) / "data").symlink_to(precious)
    take_and_delete(folders, left)
    shutil.copytree(precious, folders.run(RUN))
    folders.attempt(new_ref(5)).mkdir(parents=True)
    moved = tmp_path / "elsewhere"
    folders.run(RUN).rename(moved)
    folders.run(RUN).symlink_to(moved)
    take_and_delete(folders, prune.find(folders, RUN))
    assert (precious / "set").read_text() == (moved / "set").read_text() == "x"
    assert not os.path.lexists(folders.run(RUN))


def test_each_attempt_keeps_the_time_of_its_own_pruning(folders: Folders) -> None:
    for attempt, at in ((1, "first"), (3, "second")):
        old_run(folders, attempt)
        take_and_delete(folders, prune.find(folders, RUN), attempt, at)
    assert [folders.pruned_at(new_ref(5, attempt)) for attempt in (1, 2, 3, 4)] == [
        "first",
        "second",
        "second",
        None,
    ]
    assert folders.on_disk(new_ref(5, 3)).ended and not folders.on_disk(new_ref(5, 4)).ended


def test_a_stop_interrupts_the_deletion(folders: Folders) -> None:
    left = old_run(folders)
    stopped = threading.Event()
    stopped.set()
    with pytest.raises(trash.Stopped):
        prune.on_disk(left, stopped)
    taken = take(folders, NODE, left, 1, AT)
    with pytest.raises(trash.Stopped):
        trash.delete(taken.aside[0], stopped)
    begin_anew(folders)
    assert trashed(folders) == []


@pytest.mark.parametrize("which", [TRASH, f"{TRASH}/{NODE}"])
def test_a_link_in_the_place_of_the_trash_is_refused_and_leads_nowhere(
    folders: Folders, tmp_path: Path, which: str
) -> None:
    precious = tmp_path / "precious"
    for name in (NODE, f"{RUN}@1"):
        (precious / name / "set").mkdir(parents=True)
    link = folders.runs_dir / which
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(precious)
    with pytest.raises(OSError, match="is a link or no folder"):
        prune.leftovers(folders, NODE, folders.runs_dir)
    with pytest.raises(OSError, match="is a link or no folder"):
        take_and_delete(folders, old_run(folders))
    with pytest.raises(OSError, match="is a link or no folder"):
        trash.delete(trash.Trashed(folders.runs_dir, NODE, f"{RUN}@1"), threading.Event())
    assert sorted(path.name for path in precious.rglob("*")) == sorted([f"{RUN}@1", NODE, "set", "set"])
    assert folders.run(RUN).is_dir() and folders.attempt(new_ref(5)).is_dir()


def test_a_link_in_the_place_of_the_claims_is_refused_and_holds_up_no_grant(
    folders: Folders, tmp_path: Path
) -> None:
    left = old_run(folders)
    precious = tmp_path / "precious"
    (precious / f"{RUN}@1.{NODE}.0").mkdir(parents=True)
    (folders.runs_dir / TRASH).mkdir()
    (folders.runs_dir / TRASH / ".claims").symlink_to(precious)
    for looks in (
        lambda: take(folders, NODE, left, 1, AT),
        lambda: prune.leftovers(folders, NODE, folders.runs_dir),
    ):
        with pytest.raises(OSError, match="is a link or no folder"):
            looks()
    folders.make_run(new_ref(5, 2))
    assert os.listdir(precious) == [f"{RUN}@1.{NODE}.0"]
    assert sorted(os.listdir(folders.run(RUN) / "attempts")) == ["1", "2"]


def test_what_an_earlier_release_moved_away_is_told_by_its_run(tmp_path: Path) -> None:
    for name in ("@1", "@12+", "@1.3", "@1+.3"):
        assert prune.run_of(trash.Trashed(tmp_path, NODE, f"{RUN}{name}")) == RUN


def test_folders_deeper_than_python_may_recurse_are_deleted(folders: Folders) -> None:
    left = old_run(folders)
    folder = os.open(folders.run(RUN), os.O_RDONLY)
    for _ in range(1_200):
        os.mkdir("d", dir_fd=folder)
        below = os.open("d", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(folder)
    counted = prune.on_disk(left, threading.Event())
    assert take_and_delete(folders, left) == counted
    assert trashed(folders) == [] and not folders.run(RUN).exists()


def test_on_a_full_disk_the_large_goes_first_and_the_word_is_written_then(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 2) as disk:
        folders = Folders(disk.folder / "state", disk.folder / "runs")
        folders.make_roots()
        assert trashed(folders) == []  # makes them, as a start does
        left = old_run(folders)
        (folders.run(RUN) / "ckpt").write_bytes(bytes(1 << 19))
        disk.fill()
        with pytest.raises(OSError, match="No space left"):
            (disk.folder / "more").write_bytes(b"x")
        taken = take(folders, NODE, left, 1, AT)
        assert not taken.whole
        assert not folders.run(RUN).exists()
        # What is delivered again is not launched (rule 9): the attempt's own files are still there.
        assert folders.attempt(new_ref(5)).is_dir() and folders.pruned_at(new_ref(5)) is None
        for each in taken.aside:
            trash.delete(each, threading.Event())
        rest = take(folders, NODE, prune.find(folders, RUN), 1, AT)
        assert rest.whole and folders.pruned_at(new_ref(5)) == AT
        assert not folders.attempt(new_ref(5)).exists()


def test_what_another_node_that_shares_the_folder_has_taken_is_done(folders: Folders, tmp_path: Path) -> None:
    left = old_run(folders)
    other = Folders(tmp_path / "other", folders.runs_dir)
    other.make_roots()
    other.attempt(new_ref(5, 2)).mkdir(parents=True)
    others = prune.find(other, RUN)
    take_and_delete(folders, left)
    assert take_and_delete(other, others, 2, node="gpu02") > 0
    assert not other.attempt(new_ref(5, 2)).parent.exists()
    assert other.pruned_at(new_ref(5, 2)) == AT


def test_what_a_worker_made_unwritable_is_deleted_by_who_is_not_root(tmp_path: Path) -> None:
    """In a process of its own, as another user where the test is root."""
    script = """if True:
    import os, sys, threading
    from pathlib import Path
    from services.agent.prune import prune, trash
    from services.agent.folders.paths import Folders
    root, run = Path(sys.argv[1]), sys.argv[2]
    if os.getuid() == 0:
        os.setgid(65534), os.setuid(65534)
    folders = Folders(root / "state", root / "runs")
    folders.make_roots()
    for mode in (0o555, 0o000):
        below = folders.run(run) / f"cache{mode}/below"
        below.mkdir(parents=True)
        (below / "x").write_text("x")
        below.chmod(mode), below.parent.chmod(mode)
    folders.run(run).chmod(0o555)
    taken = prune.take_shared(folders, "gpu01", prune.find(folders, run), 1, "now")
    for each in taken.aside:
        trash.delete(each, threading.Event())
    assert os.listdir(folders.runs_dir) == [".pruned"], os.listdir(folders.runs_dir)
    assert prune.leftovers(folders, "gpu01", folders.runs_dir) == []
    """
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    # by what it has open: the folders above are only ours
    fd = os.open(shared, os.O_RDONLY)
    done = subprocess.run(
        [sys.executable, "-c", script, f"/proc/self/fd/{fd}", RUN],
        pass_fds=[fd],
        capture_output=True,
        check=False,
    )
    os.close(fd)
    assert done.returncode == 0, done.stderr.decode()


def test_a_file_system_that_is_mounted_in_a_run_is_not_emptied(folders: Folders) -> None:
    left = old_run(folders)
    (folders.run(RUN) / "data").mkdir()
    (folders.run(RUN) / "ckpt").write_text("c")
    (aside, _) = take(folders, NODE, left, 1, AT).aside
    with small_disk(aside.path / "data", 1) as disk:
        (disk.folder / "set").write_text("x")
        with pytest.raises(OSError, match="another file system"):
            trash.delete(aside, threading.Event())
        assert (disk.folder / "set").read_text() == "x"
        assert os.listdir(aside.path) == ["data"]
    trash.delete(aside, threading.Event())
    assert not aside.path.exists()
