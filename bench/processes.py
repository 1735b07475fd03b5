"""What a process tree takes of memory and time, read from /proc.

Owns how those files are read; knows nothing of Trainshed.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

_TICKS = os.sysconf("SC_CLK_TCK")


class Process(msgspec.Struct, frozen=True):
    """One process at one moment: proportional memory in MB, CPU seconds and voluntary switches since its start."""

    pid: int
    name: str
    pss_mb: float
    cpu_s: float
    wakeups: int


def tree(root: int) -> list[Process]:
    """``root`` and all that descends from it; a process that ends meanwhile is left out."""
    parents: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parents[int(entry)] = int(_stat(int(entry))[1])
            except OSError:
                continue
    wanted = [root]
    for pid in wanted:  # grows while it is walked
        wanted += [child for child, parent in parents.items() if parent == pid]
    found = []
    for pid in wanted:
        try:
            found.append(_look(pid))
        except OSError:
            continue
    return found


def _look(pid: int) -> Process:
    proc = Path(f"/proc/{pid}")
    pss_kb = 0
    for line in (proc / "smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            pss_kb = int(line.split()[1])
    fields = _stat(pid)
    wakeups = 0
    for task in (proc / "task").iterdir():
        for line in (task / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches:"):
                wakeups += int(line.split()[1])
    arguments = (proc / "cmdline").read_bytes().split(b"\0")
    return Process(
        pid, _name(arguments), pss_kb / 1024, (int(fields[11]) + int(fields[12])) / _TICKS, wakeups
    )


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name: state first, then the parent."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _name(arguments: list[bytes]) -> str:
    line = b" ".join(arguments).decode(errors="replace")
    for word in ("nats-server", "spawner", "projector", " up "):
        if word in line:
            return word.strip()
    return line[:40]
