"""Where the memory of each of this agent's workers is counted and can be limited: tried out before the first shim.

Owns the agent's move into a cgroup beside its workers'; knows no attempt. Everything here blocks.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from services.agent.machine import inventory
from services.agent.processes import sweep
from services.agent.shim import cgroup

PASSES = 10
"""Looks for processes that were born while the others were moved."""


def memory_cgroups_of(
    marks: sweep.Marks, cgroups: str, environment: Mapping[str, str] = os.environ, root: Path = Path("/")
) -> str:
    """The folder in which each worker's cgroup of memory goes: ``cgroups`` (v2, from `sweep.cgroups_of`) where it can be
    had there, else one of v1's; empty where memory can be limited nowhere."""
    if cgroups and _enable(Path(cgroups).parent, marks, environment) and _can_limit(cgroups):
        return cgroups
    in_v1 = of_v1(marks, root)
    return in_v1 if in_v1 and _can_limit(in_v1) else ""


def of_v1(marks: sweep.Marks, root: Path = Path("/")) -> str:
    """The same in v1's hierarchy of memory; empty where there is none."""
    for folder in inventory.cgroup_folders(root, "memory"):
        try:
            pids = (folder / "cgroup.procs").read_text().split()
        except OSError:
            continue
        if str(os.getpid()) in pids and (folder / "memory.limit_in_bytes").exists():
            return sweep.cgroups_in(folder, marks)
    return ""


def remove_left(memory_cgroups: str) -> None:
    """Remove the cgroups whose shim is gone, once their processes are."""
    for name in os.listdir(memory_cgroups) if os.path.isdir(memory_cgroups) else ():
        owner = cgroup.owner_of(name)
        if owner is not None and sweep.is_gone(*owner):
            cgroup.remove(f"{memory_cgroups}/{name}")


def _enable(base: Path, marks: sweep.Marks, environment: Mapping[str, str]) -> bool:
    """Whether cgroups below this one of v2 can have the memory controller from now on.

    A cgroup that gives controllers on has no processes of its own (but the root): those that are ours go into another;
    where others are, nothing is done. Nor where systemd started us outside of that: it would start no other agent
    here while there are workers (it knows `DelegateSubgroup` from 254 on).
    """
    try:
        if "memory" in (base / "cgroup.subtree_control").read_text().split():
            return True
        if "memory" not in (base / "cgroup.controllers").read_text().split():
            return False
        is_root = not (base / "cgroup.type").exists()
        if not is_root and not _move_out(base, marks, started_by_systemd="INVOCATION_ID" in environment):
            return False
        (base / "cgroup.subtree_control").write_text("+memory")
    except OSError:
        return False
    return True


def _move_out(base: Path, marks: sweep.Marks, *, started_by_systemd: bool) -> bool:
    own = base / cgroup.AGENT_CGROUP
    for _ in range(PASSES):
        pids = {int(pid) for pid in (base / "cgroup.procs").read_text().split()}
        if not pids:
            return True
        put_here = started_by_systemd and os.getpid() in pids
        if put_here or not pids <= sweep.ours(sweep.list_processes(marks)):
            return False
        own.mkdir(exist_ok=True)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                (own / "cgroup.procs").write_text(str(pid))
    return False


def _can_limit(parent: str) -> bool:
    trial = f"{parent}/trial.{os.getpid()}"
    try:
        cgroup.make(trial, with_memory=True)
        return cgroup.limit_memory(trial, 1 << 30)
    except OSError:
        return False
    finally:
        cgroup.remove(trial)
