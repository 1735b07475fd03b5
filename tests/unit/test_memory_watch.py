"""When an attempt's tree was ended for its memory, by the files of a cgroup as v1 and v2 write them."""

from __future__ import annotations

import os
from pathlib import Path

from services.agent.shim.memory_watch import LOOK_AGAIN_S, LOOK_FOR_S, MemoryWatch

OWN = "it needed more memory than its resources.memory_mb, 100"
MACHINES = "its machine, or the share of it that the node has, had no memory left"


def v1(folder: Path, kills: int = 0, peak_mb: int = 100) -> str:
    (folder / "memory.oom_control").write_text(f"oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n")
    (folder / "memory.limit_in_bytes").write_text(f"{100 << 20}\n")
    (folder / "memory.max_usage_in_bytes").write_text(f"{peak_mb << 20}\n")
    return str(folder)


def v2(folder: Path, kills: int, own: int) -> str:
    (folder / "memory.events").write_text(f"low 0\nhigh 0\nmax 9\noom {own}\noom_kill {kills}\n")
    (folder / "memory.events.local").write_text(f"low 0\nhigh 0\nmax 9\noom {own}\noom_kill {kills}\n")
    return str(folder)


def test_v1_is_looked_at_again_since_it_wakes_before_it_has_chosen(tmp_path: Path) -> None:
    watch = MemoryWatch(v1(tmp_path), 100)
    os.eventfd_write(watch.fd, 1)
    watch.woken(10.0)
    assert watch.due == 10.0
    assert watch.look(10.0) is None
    assert watch.due == 10.0 + LOOK_AGAIN_S
    v1(tmp_path, kills=1)
    assert watch.look(watch.due) == OWN
    assert watch.due > 1e9


def test_v1_may_have_meant_one_above_and_is_let_be_after_a_while(tmp_path: Path) -> None:
    watch = MemoryWatch(v1(tmp_path), 100)
    os.eventfd_write(watch.fd, 1)
    watch.woken(10.0)
    assert watch.look(10.0 + LOOK_FOR_S) is None
    assert watch.due > 1e9


def test_whose_memory_was_short_is_told_by_the_counters(tmp_path: Path) -> None:
    assert MemoryWatch(v1(tmp_path, kills=1, peak_mb=40), 100).why_ended() == MACHINES
    assert MemoryWatch(v1(tmp_path, kills=1), 0).why_ended() == MACHINES, "it had no limit of its own"
    assert MemoryWatch(v2(tmp_path, kills=3, own=1), 100).why_ended() == OWN
    assert MemoryWatch(v2(tmp_path, kills=1, own=0), 100).why_ended() == MACHINES
    assert MemoryWatch(v2(tmp_path, kills=0, own=0), 100).why_ended() is None


def test_without_a_cgroup_nothing_is_known(tmp_path: Path) -> None:
    assert MemoryWatch("", 100).why_ended() is None
    gone = MemoryWatch(str(tmp_path / "gone"), 100)
    assert (gone.fd, gone.why_ended()) == (-1, None)
