"""Workers in cgroups of their own, where these can be had: who else would be lost is found (docs/protocol.md rule 14)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.agent.folders.files import ExitReason, read_started
from services.agent.processes import sweep
from tests.support import eventually
from tests.support.shims import Box, alive, box, kill, pid_in

pytestmark = pytest.mark.skipif(
    not sweep.cgroups_of(sweep.Marks("", "")), reason="no cgroup v2 can be had here"
)

WAIT = "import time\nprint('up', flush=True)\ntime.sleep(600)\n"
NAMELESS = """
import os
def leave_nameless(path):
    if os.fork():
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    script = "trap '' TERM; echo $$ > $0.tmp; mv $0.tmp $0; while :; do sleep 600; done"
    os.execve("/bin/sh", ["sh", "-c", script, path], {"PATH": "/usr/bin:/bin"})
"""
"""Python text with a `leave_nameless(path)`: a daemonised grandchild that has cleared its environment."""


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Box]:
    async with box(tmp_path / "state") as made:
        yield made


def cgroup_of(folder: Path) -> Path:
    started = read_started(folder)
    assert started is not None and started.cgroup
    return Path(started.cgroup)


def pids_of(worker_cgroup: Path) -> set[int]:
    return {int(pid) for pid in (worker_cgroup / "cgroup.procs").read_text().split()}


async def test_a_worker_and_what_it_forks_are_in_a_cgroup_that_goes_with_them(
    here: Box, tmp_path: Path
) -> None:
    path = tmp_path / "nameless"
    folder = await here.python(
        "run", f"{NAMELESS}\nleave_nameless({str(path)!r})\n{WAIT}", stop={"grace_s": 0.2}
    )
    nameless = await pid_in(path)
    started = (await here.started(folder)).started
    worker_cgroup = cgroup_of(folder)
    assert {started.pid, nameless} <= pids_of(worker_cgroup)
    assert started.shim_pid not in pids_of(worker_cgroup)
    await here.stop(folder)
    await here.ended(folder)
    assert not alive(nameless)
    assert not worker_cgroup.exists()
    await here.let_go()
    await eventually(lambda: not worker_cgroup.parent.exists())


@pytest.mark.parametrize("how", ["finalise", "sweep"])
async def test_a_killed_shims_grandchild_that_cleared_its_environment_is_found(
    here: Box, tmp_path: Path, how: str
) -> None:
    path = tmp_path / "nameless"
    folder = await here.python("run", f"{NAMELESS}\nleave_nameless({str(path)!r})\n{WAIT}")
    other = await here.python("other", WAIT)
    nameless = await pid_in(path)
    started = (await here.started(folder)).started
    kill(started.shim_pid)
    assert await here.gone(folder) is None
    assert alive(nameless)
    if how == "finalise":
        assert (await here.workers.finalise(folder, "shim_lost")).reason is ExitReason.SHIM_LOST
    else:
        assert nameless in await here.workers.sweep([other])
    assert not alive(nameless)
    assert not cgroup_of(folder).exists()
    assert alive((await here.started(other)).started.pid)


async def test_a_worker_that_moves_to_another_cgroup_is_ended_all_the_same(here: Box, tmp_path: Path) -> None:
    own = Path(sweep.cgroups_of(sweep.Marks("", ""))).parent
    path = tmp_path / "moved"
    code = f"""
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    open({str(own / "cgroup.procs")!r}, "w").write("0")
    open({str(path)!r} + ".tmp", "w").write(str(os.getpid()))
    os.rename({str(path)!r} + ".tmp", {str(path)!r})
{WAIT}"""
    folder = await here.python("run", code, stop={"grace_s": 0.1})
    moved = await pid_in(path)
    assert moved not in pids_of(cgroup_of(folder))
    await here.stop(folder)
    await here.ended(folder)
    assert not alive(moved)


async def test_cgroups_that_a_worker_makes_in_its_own_end_with_it(here: Box) -> None:
    folder = await here.python("run", WAIT, stop={"grace_s": 0.1})
    await here.said(folder, "up")
    worker_cgroup = cgroup_of(folder)
    deeper = worker_cgroup / "own" / "deeper"
    deeper.mkdir(parents=True)
    (deeper / "cgroup.procs").write_text(str((await here.started(folder)).started.pid))
    await here.stop(folder)
    await here.ended(folder)
    assert not worker_cgroup.exists()


async def test_what_a_killed_agents_shims_left_is_tidied_up_and_what_lives_is_kept(here: Box) -> None:
    kept = await here.python("kept", WAIT)
    lost = await here.python("lost", WAIT)
    started = (await here.started(lost)).started
    await here.started(kept)
    left = cgroup_of(lost)
    other = left.parent / "notes"
    other.mkdir()
    kill(started.shim_pid)
    await here.gone(lost)
    await eventually(lambda: not alive(started.pid))
    assert left.exists()
    await here.restart()
    assert await here.workers.adopt(kept)
    await here.workers.sweep([kept])
    assert not left.exists()
    assert other.exists()
    other.rmdir()
    assert pids_of(cgroup_of(kept)) == {(await here.started(kept)).started.pid}


async def test_a_shim_that_can_make_no_cgroup_starts_its_worker_without(
    here: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "cgroups_of", lambda _marks: str(tmp_path / "no cgroup"))
    await here.restart()
    folder = await here.python("run", "import sys; sys.exit(3)")
    assert (await here.ended(folder)).exit_code == 3
    started = read_started(folder)
    assert started is not None and started.cgroup == ""
    await here.let_go()
    await eventually(lambda: not (tmp_path / "no cgroup").exists())


async def test_the_cpu_time_of_who_nobody_waited_for_counts_too(here: Box) -> None:
    busy = """
import os, signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
if os.fork() == 0:
    while time.process_time() < 0.3: pass
    os._exit(0)
try:
    os.wait()
except ChildProcessError:
    pass
"""
    usage = (await here.ended(await here.python("run", busy))).usage
    assert usage is not None and usage.cpu_s is not None and usage.cpu_s >= 0.3


async def test_many_workers_at_once_leave_no_cgroup_behind(here: Box) -> None:
    folders = [await here.python(f"run{n}", "pass") for n in range(12)]
    cgroups = [cgroup_of(folder) for folder in folders]
    assert len(set(cgroups)) == len(folders)
    await asyncio.gather(*(here.ended(folder) for folder in folders))
    assert [worker_cgroup for worker_cgroup in cgroups if worker_cgroup.exists()] == []
