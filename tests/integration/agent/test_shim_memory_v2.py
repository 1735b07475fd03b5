"""How an agent comes by the memory controller of cgroup v2: alone in its cgroup it moves out of it, else it lets it be."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.agent.shim import cgroup

ROOT = Path("/sys/fs/cgroup")


def _controllers() -> list[str]:
    try:
        return (ROOT / "cgroup.controllers").read_text().split()
    except OSError:
        return []


pytestmark = pytest.mark.skipif(
    "memory" not in _controllers() or not os.access(ROOT / "cgroup.procs", os.W_OK),
    reason="this machine's cgroup v2 has no memory controller, or is not ours (make test-vm has one)",
)
LOOK = """
import os, sys
open(sys.argv[1] + "/cgroup.procs", "w").write("0")
from services.agent.processes import memory_cgroups, sweep
marks = sweep.Marks("log", "node")
print(memory_cgroups.memory_cgroups_of(marks, sweep.cgroups_of(marks)) or "none")
print(open("/proc/self/cgroup").read().partition("::")[2].strip(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def unit() -> Iterator[Path]:
    """A cgroup as a delegated one is: with controllers to give on, and nobody in it."""
    (ROOT / "cgroup.subtree_control").write_text("+memory")
    made = ROOT / f"unit-{os.getpid()}"
    made.mkdir()
    yield made
    give_up = time.monotonic() + 5
    cgroup.kill(str(made))
    while made.exists() and time.monotonic() < give_up:
        for folder, _, _ in os.walk(made, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
    assert not made.exists()


def agent(within: Path, **environment: str) -> tuple[str, str]:
    """Where an agent that is started in that cgroup puts its workers' (``none``: nowhere), and where it is itself then."""
    inherited = {name: value for name, value in os.environ.items() if name != "INVOCATION_ID"}
    done = subprocess.run(
        [sys.executable, "-c", LOOK, str(within)],
        env={**inherited, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    workers, own = done.stdout.splitlines()
    return workers, own


def test_alone_in_its_cgroup_it_moves_beside_its_workers(unit: Path) -> None:
    assert agent(unit) == (f"{unit}/trainshed.log.node", f"/{unit.name}/trainshed-agent")
    assert "memory" in (unit / "cgroup.subtree_control").read_text().split()


def test_its_successor_in_that_place_finds_it_as_it_was(unit: Path) -> None:
    agent(unit)
    again = agent(unit / "trainshed-agent", INVOCATION_ID="by systemd")
    assert again == (f"{unit}/trainshed.log.node", f"/{unit.name}/trainshed-agent")


def test_shims_that_an_older_release_left_where_it_was_move_too(unit: Path) -> None:
    marks = {"TRAINSHED_LOG_ID": "log", "TRAINSHED_NODE": "node"}
    (place := unit / "trainshed-agent").mkdir()
    with subprocess.Popen(["sleep", "60"], env={**os.environ, **marks}) as shim:
        (unit / "cgroup.procs").write_text(str(shim.pid))
        assert agent(place, INVOCATION_ID="by systemd")[0] == f"{unit}/trainshed.log.node"
        assert (place / "cgroup.procs").read_text().split() == [str(shim.pid)]
        shim.kill()


def test_another_process_there_is_not_moved(unit: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        (unit / "cgroup.procs").write_text(str(other.pid))
        assert agent(unit) == ("none", f"/{unit.name}")
        assert (unit / "cgroup.procs").read_text().split() == [str(other.pid)]
        other.kill()


def test_where_systemd_put_it_it_stays_so_that_systemd_can_start_it_again(unit: Path) -> None:
    assert agent(unit, INVOCATION_ID="by systemd") == ("none", f"/{unit.name}")


def test_without_the_controller_there_is_no_limit(unit: Path) -> None:
    (ROOT / "cgroup.subtree_control").write_text("-memory")
    assert agent(unit) == ("none", f"/{unit.name}")
