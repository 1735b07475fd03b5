"""A worker's memory, where it can be limited (cgroup v1 or v2, whichever is here): the kernel really ends who needs more."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.agent.folders.files import ExitReason, StartedFile, read_started
from services.agent.processes import memory_cgroups, sweep
from services.agent.shim import cgroup
from tests.support.deadline import eventually
from tests.support.shims import Box, alive, box, kill, pid_in

MARKS = sweep.Marks("", "test")
pytestmark = pytest.mark.skipif(
    not memory_cgroups.memory_cgroups_of(MARKS, sweep.cgroups_of(MARKS)),
    reason="memory can be limited in no cgroup here",
)

MB = 1 << 20
WAIT = "import time\nprint('up', flush=True)\ntime.sleep(600)\n"
GROW = f"held = []\nwhile True: held.append(b'x' * {MB})\n"
LIMITED = "it needed more memory than its resources.memory_mb, 100"


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Box]:
    async with box(tmp_path / "state") as made:
        yield made


def started(folder: Path) -> StartedFile:
    found = read_started(folder)
    assert found is not None and found.memory_cgroup
    return found


async def test_a_worker_that_needs_more_is_ended_for_it(here: Box) -> None:
    folder = await here.python("run", GROW, memory_mb=100)
    end = await here.ended(folder)
    assert (end.reason, end.signal, end.message) == (ExitReason.OUT_OF_MEMORY, signal.SIGKILL, LIMITED)
    assert end.usage is not None and end.usage.memory_peak_mb is not None
    assert 90 <= end.usage.memory_peak_mb <= 100
    assert started(folder).memory_enforced is True
    assert not Path(started(folder).memory_cgroup).exists()


async def test_what_counts_is_the_whole_tree_and_it_goes_whole(here: Box, tmp_path: Path) -> None:
    """The kernel ends one process with cgroup v1; who waits for it would wait for ever."""
    path = tmp_path / "other"
    tree = f"""
import os, time
if os.fork() == 0:
    held = b"x" * {60 * MB}
    with open({str(path) + ".tmp"!r}, "w") as file:
        file.write(str(os.getpid()))
    os.rename({str(path) + ".tmp"!r}, {str(path)!r})
    time.sleep(600)
while not os.path.exists({str(path)!r}):
    time.sleep(0.01)
if os.fork() == 0:
    held = b"x" * {60 * MB}
time.sleep(600)
"""
    folder = await here.python("run", tree, memory_mb=100)
    other = await pid_in(path)
    end = await here.ended(folder)
    assert (end.reason, end.message) == (ExitReason.OUT_OF_MEMORY, LIMITED)
    assert not alive(other)


async def test_who_stays_below_it_is_left_alone(here: Box) -> None:
    folder = await here.python("run", f"held = b'x' * {60 * MB}\nprint('done')", memory_mb=100)
    end = await here.ended(folder)
    assert (end.reason, end.exit_code, end.message) == (ExitReason.EXITED, 0, None)
    assert end.usage is not None and end.usage.memory_peak_mb is not None
    assert 60 <= end.usage.memory_peak_mb <= 100


async def test_a_worker_that_asked_for_none_has_no_limit(here: Box) -> None:
    folder = await here.python("run", f"held = b'x' * {300 * MB}")
    end = await here.ended(folder)
    assert (end.reason, end.exit_code) == (ExitReason.EXITED, 0)
    assert started(folder).memory_enforced is None
    assert end.usage is not None and (end.usage.memory_peak_mb or 0) >= 300


async def test_a_sigkill_with_memory_left_is_a_signal(here: Box) -> None:
    folder = await here.python("run", WAIT, memory_mb=100)
    await here.said(folder, "up")
    kill(started(folder).pid)
    assert (await here.ended(folder)).reason is ExitReason.SIGNALLED


async def test_a_killed_shims_cgroup_is_removed_by_the_agent(here: Box) -> None:
    folder = await here.python("run", WAIT, memory_mb=100)
    await here.said(folder, "up")
    left = started(folder)
    assert Path(left.memory_cgroup).exists()
    kill(left.shim_pid)
    await eventually(lambda: not alive(left.pid))
    await here.workers.finalise(folder, "shim_lost")
    assert not Path(left.memory_cgroup).exists()


async def test_a_join_removes_what_no_shim_answers_for(here: Box) -> None:
    parent = here.workers._memory_cgroups
    left = cgroup.path_of(parent, 2**22 + 1, 7)
    os.makedirs(left)
    folder = await here.python("run", WAIT, memory_mb=100)
    await here.workers.sweep([folder])
    assert not Path(left).exists()
    assert Path(started(folder).memory_cgroup).exists()
