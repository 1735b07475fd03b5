"""Ends processes that no shim answers for any more, found by environment and cgroup (docs/protocol.md rules 8, 14).

Owns who belongs to which attempt; knows no agent. Everything here blocks: run it in a thread.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from services.agent.machine import inventory
from services.agent.shim import cgroup, process_tree
from services.agent.shim.process_tree import Found

_VANISHED = " (deleted)"
"""What the kernel adds to the name of a working directory that was removed: its shim works there all the same."""
LONGEST_S = 30.0
"""Seconds until a process that SIGKILL does not end is an error."""


@dataclass(frozen=True, slots=True)
class Marks:
    """What every process of this agent bears in its environment."""

    log_id: str
    node: str


@dataclass(frozen=True, slots=True)
class Process:
    """One process as /proc shows it; `attempt` is (run id, number) where it is a worker's, else None."""

    pid: int
    parent: int
    group: int
    started: int
    bare: bool
    """No environment to be seen: a kernel thread, a zombie, or one that cleared it."""
    marked: bool
    attempt: tuple[str, str] | None
    folder: str | None
    """Its working directory, by name: to ask more of it may hang. Only looked up where it is marked and no worker's."""


def list_processes(marks: Marks) -> dict[int, Process]:
    """Every process of this machine that can be looked at."""
    found: dict[int, Process] = {}
    log_id, node = (b"TRAINSHED_LOG_ID=" + marks.log_id.encode()), (b"TRAINSHED_NODE=" + marks.node.encode())
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        pid = int(name)
        try:
            parent, group, started = process_tree.facts(pid)
            variables = _environment(pid)
            marked = log_id in variables and node in variables
            attempt = _attempt(variables) if marked else None
            shims = marked and attempt is None
            folder = os.readlink(f"/proc/{pid}/cwd").removesuffix(_VANISHED) if shims else None
        except (OSError, ValueError, IndexError):
            continue  # gone while we looked
        found[pid] = Process(pid, parent, group, started, not any(variables), marked, attempt, folder)
    return found


def stray(
    processes: dict[int, Process],
    keep: Collection[Path],
    named: Collection[tuple[int, int]],
    pool: int | None,
    pool_dir: Path,
) -> set[int]:
    """Pids of marked processes that belong to no folder in `keep`, with all below them.

    `named` are worker and shim, by pid and start time, as these folders' started.json have them: around the worker's
    exec they bear no other sign yet. `pool` is this agent's own spawner: it and its idle shims, whose working directory
    is still `pool_dir`, stay.
    """
    folders = {os.path.realpath(folder) for folder in keep}
    attempts = {(folder.parent.name, folder.name) for folder in keep}
    idle_dir = os.path.realpath(pool_dir)
    marked = [process for process in processes.values() if process.marked]
    ours = _below(processes, [pool]) if pool is not None else set()
    shims = [each for each in marked if each.attempt is None]
    kept_shims = [each.pid for each in shims if each.folder in folders or (each.pid, each.started) in named]
    kept = _below(processes, kept_shims)
    kept |= {each.pid for each in marked if each.attempt in attempts}
    kept |= {each.pid for each in shims if each.pid in ours and each.folder == idle_dir}
    kept |= _ancestors(processes, os.getpid())
    roots = [each.pid for each in marked if each.pid not in kept]
    return _below(processes, roots, but=kept)


def of_attempt(processes: dict[int, Process], folder: Path) -> set[int]:
    """Pids of that attempt: by its worker's environment, by its shim's working directory, and all below them."""
    attempt, path = (folder.parent.name, folder.name), os.path.realpath(folder)
    roots = [
        each.pid
        for each in processes.values()
        if each.marked and (each.attempt == attempt or each.folder == path)
    ]
    return _below(processes, roots, but=_ancestors(processes, os.getpid()))


def shims_of(processes: dict[int, Process], folder: Path) -> list[int]:
    """Pids of the shims that work in that folder. What is to become a worker is below one that was forked as well."""
    path = os.path.realpath(folder)
    found = [each for each in processes.values() if each.folder == path]
    return [each.pid for each in found if not process_tree.before_exec(each.parent)]


def ours(processes: dict[int, Process]) -> set[int]:
    """Pids of this process, of all below it, and of all that bear this agent's marks."""
    return {each.pid for each in processes.values() if each.marked} | _below(processes, [os.getpid()])


def end(marks: Marks, choose: Callable[[dict[int, Process]], set[int]]) -> list[int]:
    """SIGKILL what `choose` picks, again until it picks nothing; the pids that there were.

    Raises TimeoutError after `LONGEST_S`, naming what is left.
    """
    killed: dict[int, int] = {}
    give_up = time.monotonic() + LONGEST_S

    def look() -> tuple[Found, set[int]]:
        processes = list_processes(marks)
        chosen = choose(processes)
        # A group that holds anyone else is left alone; a dead leader is no one.
        spared = {each.group for each in processes.values() if each.pid not in chosen and not each.bare}
        return {pid: (processes[pid].started, processes[pid].group) for pid in chosen}, spared

    while True:
        found = process_tree.kill_all(look)
        if not found:
            return sorted(killed)
        killed.update((pid, started) for pid, (started, _group) in found.items())
        await_gone(((pid, started) for pid, (started, _group) in found.items()), give_up)


def await_gone(processes: Iterable[tuple[int, int]], give_up: float) -> None:
    """Wait for the end of processes, each by pid and start time, until `give_up` on the monotonic clock.

    A zombie is gone. Raises TimeoutError.
    """
    for pid, started in processes:
        fd = process_tree.pidfd(pid, started)
        if fd is None:
            continue
        try:
            poller = select.poll()
            poller.register(fd, select.POLLIN)
            if not poller.poll(max(0.0, give_up - time.monotonic()) * 1000):
                raise TimeoutError(f"process {pid} does not end on SIGKILL (is it stuck in the kernel?)")
        finally:
            os.close(fd)


def cgroups_of(marks: Marks, root: Path = Path("/")) -> str:
    """Where the cgroups of this agent's workers go, in this process's own; empty where it may make none."""
    own = next(inventory.cgroup_folders(root, ""), None)
    try:
        if own is None or str(os.getpid()) not in (own / "cgroup.procs").read_text().split():
            return ""  # no cgroup v2, or ours is not in sight
    except OSError:
        return ""
    base = own.parent if own.name == cgroup.AGENT_CGROUP else own
    may = os.access(base, os.W_OK | os.X_OK) and os.access(base / "cgroup.procs", os.W_OK)
    return cgroups_in(base, marks) if may else ""


def cgroups_in(base: Path, marks: Marks) -> str:
    """The folder of this agent's workers' cgroups in that cgroup."""
    return f"{base}/trainshed.{marks.log_id}.{marks.node}"


def end_worker_cgroups(cgroups: str) -> list[int]:
    """End what is left in cgroups whose shim is gone, and remove these; the pids that there were.

    Also finds who has cleared its environment. Raises TimeoutError where SIGKILL does not end one.
    """
    give_up = time.monotonic() + LONGEST_S
    ended: list[int] = []
    for name in os.listdir(cgroups) if os.path.isdir(cgroups) else ():
        owner = cgroup.owner_of(name)
        if owner is not None and is_gone(*owner):
            ended += end_worker_cgroup(f"{cgroups}/{name}", give_up)
    return ended


def end_worker_cgroup(worker_cgroup: str, give_up: float) -> list[int]:
    """End what is in that cgroup, wait until it is gone (until `give_up` on the monotonic clock) and remove it; the
    pids that there were. Raises TimeoutError."""
    try:
        with open(f"{worker_cgroup}/cgroup.procs") as file:
            pids = [int(pid) for pid in file.read().split()]
        with open(f"{worker_cgroup}/cgroup.events") as events:
            poller = select.poll()
            poller.register(events, select.POLLPRI)
            cgroup.kill(worker_cgroup)
            while "populated 0" not in events.read():
                if not poller.poll(max(0.0, give_up - time.monotonic()) * 1000):
                    raise TimeoutError(
                        f"{worker_cgroup}: a process does not end on SIGKILL (is it stuck in the kernel?)"
                    )
                events.seek(0)
    except FileNotFoundError:
        return []  # its shim was about to remove it
    cgroup.remove(worker_cgroup)
    return pids


def is_gone(pid: int, started: int) -> bool:
    """Whether exactly that process has ended."""
    try:
        await_gone([(pid, started)], 0.0)
    except TimeoutError:
        return False
    return True


def _environment(pid: int) -> set[bytes]:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return set(file.read().split(b"\0"))
    except PermissionError:
        return set()  # another user's: none of ours


def _attempt(variables: set[bytes]) -> tuple[str, str] | None:
    values = dict.fromkeys(("TRAINSHED_RUN_ID", "TRAINSHED_ATTEMPT"), "")
    for variable in variables:
        name, _, value = variable.partition(b"=")
        if (key := os.fsdecode(name)) in values:
            values[key] = os.fsdecode(value)
    run_id, attempt = values.values()
    return (run_id, attempt) if run_id else None


def _below(
    processes: dict[int, Process], roots: Iterable[int], but: Collection[int] = frozenset()
) -> set[int]:
    """The roots and all below them, not going into `but`."""
    children: dict[int, list[int]] = {}
    for process in processes.values():
        children.setdefault(process.parent, []).append(process.pid)
    found: set[int] = set()
    ahead = [pid for pid in roots if pid in processes]
    while ahead:
        pid = ahead.pop()
        if pid not in found and pid not in but:
            found.add(pid)
            ahead.extend(children.get(pid, ()))
    return found


def _ancestors(processes: dict[int, Process], pid: int) -> set[int]:
    found: set[int] = set()
    while pid in processes and pid not in found:
        found.add(pid)
        pid = processes[pid].parent
    return found
