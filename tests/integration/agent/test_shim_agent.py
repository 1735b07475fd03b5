"""Agents that come and go, killed shims, locks and the sweep (docs/protocol.md rules 5, 8, 9, 14), real processes."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.agent.folders import files
from services.agent.folders.files import ExitReason, StopReason, read_exit, read_started
from services.agent.processes.finalise import LockHeld
from services.agent.processes.workers import ShimExited, WorkerStarted
from tests.support import eventually
from tests.support.shims import DAEMON, NOTIFY, Box, alive, box, found_by, kill, pid_in

__all__ = ["found_by"]

WAIT = "import time\nprint('up', flush=True)\ntime.sleep(600)\n"
COUNT = "import os\nprint('ran', flush=True)\n" + WAIT

AGENT = """
import asyncio, sys
from pathlib import Path
from services.agent.processes.workers import Workers

async def main():
    workers = Workers(state_dir=Path(sys.argv[1]), log_id=sys.argv[2], node=sys.argv[3])
    await workers.start()
    for folder in sys.argv[4:]:
        await workers.launch(Path(folder))
    print("launched", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Box]:
    async with box(tmp_path / "state") as made:
        yield made


def kill_an_agent_that_launched(here: Box, *folders: Path) -> None:
    """An agent in a process of its own launches the folders and is killed with -9."""
    command = [
        sys.executable,
        "-P",
        "-c",
        AGENT,
        str(here.state_dir),
        here.log_id,
        here.node,
        *map(str, folders),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as agent:
        assert agent.stdout is not None
        assert "launched\n" in agent.stdout  # line by line: its log is there too
        agent.kill()


def python(here: Box, run: str, code: str, **config: Any) -> Path:
    return here.prepare(run, entry_point=sys.executable, arguments=["-S", "-c", code], **config)


# The agent goes


async def test_a_worker_outlives_a_killed_agent_and_the_next_one_sees_its_heartbeats_and_exit(
    here: Box,
) -> None:
    code = f"""{NOTIFY}
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
notify("READY=1\\nX_STEP=41")
{WAIT}"""
    folder = python(here, "run", code)
    await here.let_go()
    kill_an_agent_that_launched(here, folder)
    await here.said(folder, "up")
    await here.restart()
    assert await here.workers.adopt(folder)
    assert await here.workers.adopt(folder)
    started = (await here.started(folder)).started
    assert started == read_started(folder)
    assert (await here.heartbeat(folder, lambda beat: beat.step == 41)).ready_at is not None
    await here.stop(folder)
    end = await here.ended(folder)
    assert (end.exit_code, end.stop_reason) == (5, StopReason.CANCEL)
    assert [type(event) for event in here.events].count(WorkerStarted) == 1


async def test_the_limits_are_kept_while_no_agent_is_there_and_the_exit_is_read_later(here: Box) -> None:
    limited = python(here, "limited", WAIT, schedule={"max_duration_seconds": 0.3})
    short = python(here, "short", "import sys; sys.exit(3)")
    await here.let_go()
    kill_an_agent_that_launched(here, limited, short)
    await eventually(lambda: read_exit(limited) and read_exit(short), 10.0)
    await here.restart()
    for folder in (limited, short):
        await eventually(functools.partial(_free, folder))
        assert not await here.workers.adopt(folder)
    assert (read_exit(limited).reason, read_exit(short).exit_code) == (ExitReason.TIME_LIMIT, 3)  # type: ignore[union-attr]


async def test_a_stop_that_the_killed_agent_wrote_but_did_not_say_is_said_at_adoption(here: Box) -> None:
    folder = python(here, "run", WAIT)
    await here.let_go()
    kill_an_agent_that_launched(here, folder)
    await here.said(folder, "up")
    files.write_stop(folder, StopReason.CANCEL, 7)
    await here.restart()
    assert await here.workers.adopt(folder)
    assert (await here.ended(folder)).stop_reason is StopReason.CANCEL


async def test_the_spawner_and_its_idle_shims_end_with_a_killed_agent(here: Box) -> None:
    folder = python(here, "run", WAIT)
    await here.let_go()
    kill_an_agent_that_launched(here, folder)
    await here.said(folder, "up")
    started = read_started(folder)
    assert started is not None
    await eventually(lambda: sorted(here.marked()) == sorted([started.pid, started.shim_pid]), 10.0)


async def test_an_orderly_stop_of_the_agent_leaves_workers_alone(here: Box) -> None:
    folder = await here.python("run", WAIT)
    await here.said(folder, "up")
    await here.restart()
    assert await here.workers.adopt(folder)
    await here.stop(folder)
    assert (await here.ended(folder)).signal == signal.SIGTERM


async def test_a_killed_spawner_is_replaced_at_the_next_launch_and_busy_shims_live_on(here: Box) -> None:
    before = await here.python("before", WAIT)
    await here.said(before, "up")
    spawner = here.workers._pool.pid
    assert spawner is not None
    kill(spawner)
    await eventually(lambda: here.workers._pool.pid is None)
    after = await here.python("after", "import sys; sys.exit(4)")
    assert (await here.ended(after)).exit_code == 4
    await here.stop(before)
    assert (await here.ended(before)).signal == signal.SIGTERM


# The shim goes


@pytest.mark.usefixtures("found_by")
async def test_a_killed_shim_takes_its_worker_along_and_bury_ends_the_daemonised_rest(
    here: Box, tmp_path: Path
) -> None:
    daemon = tmp_path / "daemon"
    code = f"{NOTIFY}\nnotify('X_STEP=9')\n{DAEMON}\ndaemonise({str(daemon)!r})\n{WAIT}"
    folder = await here.python("run", code)
    other = await here.python("other", WAIT)
    orphan = await pid_in(daemon)
    await here.heartbeat(folder, lambda beat: beat.step == 9)
    started = (await here.started(folder)).started
    kill(started.shim_pid)
    assert await here.gone(folder) is None
    await eventually(lambda: not alive(started.pid))
    assert alive(orphan)
    end = await here.workers.finalise(folder, "shim_lost")
    assert not alive(orphan)
    assert (end.reason, end.exit_code, end.signal) == (ExitReason.SHIM_LOST, None, None)
    assert end.last_heartbeat is not None
    assert end.last_heartbeat.step == 9
    assert read_exit(folder) == end
    assert alive((await here.started(other)).started.pid)


async def test_bury_returns_the_end_that_stands_there(here: Box) -> None:
    folder = await here.python("run", "import sys; sys.exit(3)")
    end = await here.ended(folder)
    assert await here.workers.finalise(folder, "shim_lost") == end
    assert read_exit(folder) == end


async def test_a_live_shim_is_not_buried(here: Box) -> None:
    folder = await here.python("run", WAIT)
    await here.said(folder, "up")
    with pytest.raises(LockHeld, match="holds the lock"):
        await here.workers.finalise(folder, "shim_lost")
    assert alive((await here.started(folder)).started.pid)
    assert read_exit(folder) is None


async def test_an_attempt_that_was_never_launched_is_closed_and_then_never_runs(here: Box) -> None:
    folder = python(here, "run", COUNT)
    assert not await here.workers.adopt(folder)
    end = await here.workers.finalise(folder, "not_started")
    assert (end.reason, end.stop_reason) == (ExitReason.NOT_STARTED, None)
    await here.workers.launch(folder)
    assert await here.gone(folder) == end
    assert here.output(folder) == ""
    assert [type(event) for event in here.events] == [ShimExited]


# Lock and folder


async def test_a_second_launch_by_the_same_agent_is_harmless(here: Box) -> None:
    folder = python(here, "run", COUNT)
    await asyncio.gather(*(here.workers.launch(folder) for _ in range(5)))
    await here.workers.launch(folder)
    await here.said(folder, "up")
    assert here.output(folder).count("ran") == 1


async def test_a_second_shim_leaves_without_exec_and_the_agent_watches_the_first(here: Box) -> None:
    folder = await here.python("run", COUNT)
    await here.said(folder, "up")
    started = read_started(folder)
    await here.restart()
    await here.workers.launch(folder)
    await eventually(lambda: "another shim holds it" in (here.state_dir / "spawner.log").read_text())
    assert (await here.started(folder)).started == started
    assert here.output(folder).count("ran") == 1
    await here.stop(folder)
    assert (await here.ended(folder)).signal == signal.SIGTERM
    assert [type(event) for event in here.events].count(ShimExited) == 1


async def test_a_held_lock_keeps_a_shim_from_exec(here: Box) -> None:
    folder = python(here, "run", COUNT)
    with contextlib.closing(_Lock(folder)):
        await here.workers.launch(folder)
        await eventually(lambda: "another shim holds it" in (here.state_dir / "spawner.log").read_text())
    assert not (folder / "started.json").exists()
    assert await here.gone(folder) is None
    assert here.output(folder) == ""


@pytest.mark.parametrize("wiped", ["folder", "lock", "intent.json"])
async def test_a_late_shim_whose_folder_was_wiped_leaves_without_exec(here: Box, wiped: str) -> None:
    folder = python(here, "run", COUNT)
    if wiped == "folder":
        shutil.rmtree(folder)
    else:
        (folder / wiped).unlink()
    await here.workers.launch(folder)
    assert await here.gone(folder) is None
    assert here.output(folder) == ""
    assert not (folder / "started.json").exists()
    assert (folder / "lock").exists() == (wiped == "intent.json")


async def test_an_intent_of_another_boot_is_never_carried_out(here: Box) -> None:
    folder = python(here, "run", COUNT)
    intent = folder / "intent.json"
    intent.write_text(intent.read_text().replace('"boot_id":"', '"boot_id":"0'))
    await here.workers.launch(folder)
    assert await here.gone(folder) is None
    assert here.output(folder) == ""


async def test_a_stop_before_the_shim_comes_up_means_no_exec_and_bury_closes_it(here: Box) -> None:
    folder = python(here, "run", COUNT)
    files.write_stop(folder, StopReason.CANCEL, 7)
    await here.workers.launch(folder)
    assert await here.gone(folder) is None
    end = await here.workers.finalise(folder, "not_started")
    assert (end.reason, end.stop_reason) == (ExitReason.NOT_STARTED, StopReason.CANCEL)
    assert here.output(folder) == ""


async def test_a_stop_at_any_moment_of_coming_up_ends_the_attempt(here: Box) -> None:
    folders = [python(here, f"run{n}", WAIT) for n in range(12)]

    async def launch_and_stop(folder: Path, turns: int) -> None:
        launch = asyncio.create_task(here.workers.launch(folder))
        for _ in range(turns):
            await asyncio.sleep(0)
        await here.stop(folder)
        await launch

    for turns, folder in enumerate(folders):
        await launch_and_stop(folder, turns)
    for folder in folders:
        end = await here.gone(folder) or await here.workers.finalise(folder, "not_started")
        assert end.reason in (ExitReason.STOPPED, ExitReason.NOT_STARTED)
        assert end.stop_reason is StopReason.CANCEL


# The sweep


@pytest.mark.usefixtures("found_by")
async def test_the_sweep_ends_what_no_list_names_and_keeps_the_rest(here: Box, tmp_path: Path) -> None:
    daemons = {name: tmp_path / name for name in ("kept", "lost")}
    folders = {
        name: await here.python(name, f"{DAEMON}\ndaemonise({str(path)!r})\n{WAIT}")
        for name, path in daemons.items()
    }
    pids = {name: await pid_in(path) for name, path in daemons.items()}
    started = {name: (await here.started(folder)).started for name, folder in folders.items()}
    ended = await here.workers.sweep([folders["kept"]])
    assert {started["lost"].pid, started["lost"].shim_pid, pids["lost"]} <= set(ended)
    assert not {started["kept"].pid, started["kept"].shim_pid, pids["kept"], os.getpid()} & set(ended)
    assert [alive(pid) for pid in (started["lost"].pid, started["lost"].shim_pid, pids["lost"])] == [
        False
    ] * 3
    assert [alive(pid) for pid in (started["kept"].pid, started["kept"].shim_pid, pids["kept"])] == [True] * 3
    assert await here.gone(folders["lost"]) is None
    after = await here.python("after", "import sys; sys.exit(4)")
    assert (await here.ended(after)).exit_code == 4
    assert await here.workers.sweep([folders["kept"]]) == []


async def test_the_sweep_ends_the_idle_shims_of_a_killed_agents_frozen_spawner(here: Box) -> None:
    folder = python(here, "run", WAIT)
    await here.let_go()
    before = set(here.marked())
    kill_an_agent_that_launched_and_freeze_its_spawner(here, folder)
    await here.said(folder, "up")
    started = read_started(folder)
    assert started is not None
    assert len(set(here.marked()) - before) > 2
    await here.restart()
    ours = here.workers._pool.pid
    await here.workers.sweep([folder])
    assert alive(started.pid)
    parents = {pid: _parent(pid) for pid in here.marked()}
    strangers = [
        pid
        for pid, parent in parents.items()
        if pid not in (started.pid, started.shim_pid, ours) and parent != ours and parents.get(parent) != ours
    ]
    assert strangers == []


def kill_an_agent_that_launched_and_freeze_its_spawner(here: Box, folder: Path) -> None:
    command = [sys.executable, "-P", "-c", AGENT, str(here.state_dir), here.log_id, here.node, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as agent:
        assert agent.stdout is not None
        assert "launched\n" in agent.stdout  # line by line: its log is there too
        for pid in here.marked():
            if _parent(pid) == agent.pid:
                os.kill(pid, signal.SIGSTOP)
        agent.kill()


async def test_another_stacks_workers_are_none_of_our_business(here: Box, tmp_path: Path) -> None:
    async with box(tmp_path / "other") as other:
        theirs = await other.python("run", WAIT)
        await other.said(theirs, "up")
        assert await here.workers.sweep([]) == []
        assert alive((await other.started(theirs)).started.pid)


async def test_a_torn_started_file_of_a_live_shim_does_not_hide_it(here: Box) -> None:
    folder = await here.python("run", WAIT)
    await here.said(folder, "up")
    (folder / "started.json").write_text("{")
    await here.restart()
    assert await here.workers.adopt(folder)
    await here.stop(folder)
    assert (await here.ended(folder)).signal == signal.SIGTERM


class _Lock:
    """The attempt's lock in this process's hands. Raises BlockingIOError where a shim has it."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / "lock").open("r+")
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def close(self) -> None:
        self._file.close()


def _free(folder: Path) -> bool:
    try:
        _Lock(folder).close()
    except BlockingIOError:
        return False
    return True


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
