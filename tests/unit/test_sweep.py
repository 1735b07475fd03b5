"""Which processes belong to which attempt, and where cgroups can be had: values in, values out."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from services.agent.processes.pool import ShimPool
from services.agent.processes.sweep import Marks, Process, cgroups_of, stray
from services.agent.shim import cgroup, process_tree

AGENT, SPAWNER, SHIM, WORKER = 100, 200, 300, 400
ATTEMPT = ("r" * 26, "1")


def process(
    pid: int, parent: int, folder: Path | None = None, attempt: tuple[str, str] | None = None
) -> Process:
    """A marked process that started at ten times its pid."""
    return Process(pid, parent, pid, pid * 10, False, True, attempt, None if folder is None else str(folder))


class TestStray:
    """An attempt was adopted, and its shim and worker are anywhere between the folder's hand-over and exec's end."""

    @pytest.fixture
    def kept(self, tmp_path: Path) -> Path:
        folder = tmp_path / "attempts" / "/".join(ATTEMPT)
        folder.mkdir(parents=True)
        return folder

    def strays(self, kept: Path, *processes: Process, named: tuple[int, ...] = (SHIM, WORKER)) -> set[int]:
        """What is stray of these; the sweeping agent's own spawner is another."""
        found = {each.pid: each for each in processes}
        state_dir = kept.parents[2]
        return stray(found, [kept], {(pid, pid * 10) for pid in named}, 9999, state_dir)

    def test_a_shim_that_is_not_in_its_folder_yet_is_kept_with_its_worker(self, kept: Path) -> None:
        state_dir = kept.parents[2]
        shim = process(SHIM, 1, state_dir)
        assert self.strays(kept, shim, process(WORKER, SHIM, attempt=ATTEMPT)) == set()

    def test_so_is_a_worker_that_is_about_to_exec_in_its_working_directory(self, kept: Path) -> None:
        shim = process(SHIM, 1, kept.parents[2])
        (working_dir := kept.parents[2] / "working").mkdir()
        assert self.strays(kept, shim, process(WORKER, SHIM, working_dir)) == set()

    def test_a_pid_that_is_another_process_by_now_names_nothing(self, kept: Path) -> None:
        state_dir = kept.parents[2]
        found = {SHIM: process(SHIM, 1, state_dir)}
        assert stray(found, [kept], {(SHIM, 7)}, 9999, state_dir) == {SHIM}

    def test_the_old_spawner_and_its_idle_shims_are_strays_beside_it(self, kept: Path) -> None:
        state_dir = kept.parents[2]
        old = [process(SPAWNER, AGENT, state_dir), process(301, SPAWNER, state_dir)]
        shim = process(SHIM, SPAWNER, state_dir)
        assert self.strays(kept, *old, shim, process(WORKER, SHIM, attempt=ATTEMPT)) == {SPAWNER, 301}


class TestCgroups:
    """Off wherever one cannot surely be had: then nothing is different."""

    MOUNT = "30 23 0:26 / {where} rw - cgroup2 cgroup2 rw\n"

    def machine(self, root: Path, *, cgroup: str, mountinfo: str, procs: str | None) -> Path:
        (root / "proc/self").mkdir(parents=True)
        (root / "proc/self/cgroup").write_text(cgroup)
        (root / "proc/self/mountinfo").write_text(mountinfo)
        (own := root / "sys/fs/cgroup/user/unit").mkdir(parents=True)
        if procs is not None:
            (own / "cgroup.procs").write_text(procs)
        return root

    def test_a_unit_of_our_own_has_a_place_for_them(self, tmp_path: Path) -> None:
        root = self.machine(
            tmp_path,
            cgroup="1:cpu:/\n0::/user/unit\n",
            mountinfo="29 23 0:25 / /of/nothing rw - fuse  rw\n" + self.MOUNT.format(where="/sys/fs/cgroup"),
            procs=f"1\n{os.getpid()}\n",
        )
        assert cgroups_of(Marks("log", "box"), root) == f"{root}/sys/fs/cgroup/user/unit/trainshed.log.box"

    @pytest.mark.parametrize(
        ("cgroup", "mountinfo", "procs"),
        [
            ("", "", "self"),  # no cgroups at all
            (
                "4:memory:/user/unit\n",
                "31 30 0:2 / /sys/fs/cgroup rw - cgroup cgroup rw,memory\n",
                "self",
            ),  # v1
            ("0::/user/unit\n", "", "self"),  # not mounted
            ("0::/user/unit\n", MOUNT.format(where="/sys/fs/cgroup"), None),  # not to be read
            ("0::/../other\n", MOUNT.format(where="/sys/fs/cgroup/user/unit"), "1"),  # ours is not in sight
        ],
    )
    def test_elsewhere_there_is_none(
        self, tmp_path: Path, cgroup: str, mountinfo: str, procs: str | None
    ) -> None:
        procs = str(os.getpid()) if procs == "self" else procs
        root = self.machine(tmp_path, cgroup=cgroup, mountinfo=mountinfo, procs=procs)
        assert cgroups_of(Marks("log", "box"), root) == ""

    def test_a_folder_that_is_no_cgroup_is_not_joined_and_not_left_behind(self, tmp_path: Path) -> None:
        leaf = cgroup.path_of(str(tmp_path / "parent"), 12, 345)
        assert cgroup.owner_of(leaf.rpartition("/")[2]) == (12, 345)
        assert cgroup.join(leaf, leaf) == ("", "")
        assert list(tmp_path.iterdir()) == []
        assert cgroup.kill(leaf) is False
        assert cgroup.join(cgroup.path_of("", 12, 345)) == ("", "")

    @pytest.mark.parametrize("name", ["cgroup.procs", "notes", "12", "12-", "-3", "12-x", "1-2-3", ""])
    def test_what_bears_no_shims_name_has_no_owner(self, name: str) -> None:
        assert cgroup.owner_of(name) is None


def test_a_pid_that_became_a_threads_is_a_process_that_is_gone() -> None:
    go = threading.Event()
    thread = threading.Thread(target=go.wait)
    thread.start()
    try:
        assert thread.native_id is not None
        started = process_tree.start_time(thread.native_id)
        assert process_tree.pidfd(thread.native_id, started) is None
        assert process_tree.send(thread.native_id, started, 0) is False
    finally:
        go.set()
        thread.join()


async def test_a_hand_over_that_is_cancelled_as_its_answer_comes_is_cancelled(tmp_path: Path) -> None:
    pool = ShimPool(tmp_path, tmp_path, "", "", {}, lambda _folder, _pid, _pidfd: None)
    answer = pool._waiting[tmp_path] = asyncio.get_running_loop().create_future()
    hand_over = asyncio.create_task(pool.hand_over(tmp_path))
    await asyncio.sleep(0)
    answer.set_result(None)
    await asyncio.sleep(0)  # the answer is on its way to the task
    hand_over.cancel()
    await asyncio.wait({hand_over})
    assert hand_over.cancelled()
