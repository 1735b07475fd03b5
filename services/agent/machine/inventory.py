"""What this process was given of the machine: devices, CPUs and memory. It becomes the node's inventory.

Owns affinity, cgroup limits and the ``--gpus --cpus --memory`` options over them; knows nothing of slots' use.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

import msgspec

from events.types import Device
from services.agent.machine.gpus import Gpus
from services.agent.machine.visible import VARIABLE
from trainshed_client.errors import ErrorCode, TrainshedError

_MIB = 1 << 20
MAX_SLOTS_PER_GPU = 64


class Inventory(msgspec.Struct, frozen=True, kw_only=True):
    """What the node has to grant: as NodeJoined carries it.

    ``memory_mb`` is in MiB. ``notes`` are sentences for the person who started the agent: GPUs that were declared
    rather than found, entries of CUDA_VISIBLE_DEVICES that name nothing.
    """

    cpus: int
    memory_mb: int
    gpus: tuple[Device, ...] = ()
    notes: tuple[str, ...] = ()


def take_inventory(
    gpus: Gpus,
    *,
    declared_gpus: int | None = None,
    slots_per_gpu: int = 1,
    declared_cpus: int | None = None,
    declared_memory_mb: int | None = None,
    root: Path = Path("/"),
    affinity: Callable[[int], set[int]] = os.sched_getaffinity,
) -> tuple[Inventory, Gpus]:
    """The inventory, and the part of ``gpus`` that it takes (sample that one).

    What is declared goes over what was found: CPUs and memory freely; GPUs are the first N that are visible, and
    only where none is (no NVML, no device, or CUDA_VISIBLE_DEVICES says none) N are made up, without UUIDs. Each is
    ``slots_per_gpu`` slots.
    Raises TrainshedError INVALID for a number that is out of range or more GPUs than there are.
    """
    if declared_cpus is not None and declared_cpus < 1:
        raise TrainshedError(ErrorCode.INVALID, f"{declared_cpus} is no number of CPUs: 1 or more", "--cpus")
    if declared_memory_mb is not None and declared_memory_mb < 1:
        raise TrainshedError(
            ErrorCode.INVALID, f"{declared_memory_mb} is too little: 1 MB or more", "--memory"
        )
    taken, devices, notes = _devices(gpus, declared_gpus)
    inventory = Inventory(
        cpus=declared_cpus if declared_cpus is not None else cpus_given(root, affinity),
        memory_mb=declared_memory_mb if declared_memory_mb is not None else memory_given(root) // _MIB,
        gpus=slots_of(devices, slots_per_gpu),
        notes=notes,
    )
    return inventory, taken


def slots_of(devices: Iterable[Device], each: int) -> tuple[Device, ...]:
    """The slots of a node whose devices these are, ``each`` of every one, in its order. Raises TrainshedError INVALID."""
    if not 1 <= each <= MAX_SLOTS_PER_GPU:
        raise TrainshedError(
            ErrorCode.INVALID,
            f"{each} slots for each GPU is not possible: 1 to {MAX_SLOTS_PER_GPU}",
            "--slots-per-gpu",
        )
    if each == 1:
        return tuple(devices)
    return tuple(
        msgspec.structs.replace(device, index=place * each + share, gpu=place)
        for place, device in enumerate(devices)
        for share in range(each)
    )


def _devices(gpus: Gpus, declared: int | None) -> tuple[Gpus, tuple[Device, ...], tuple[str, ...]]:
    there = len(gpus.devices)
    if declared is None:
        return gpus, gpus.devices, gpus.notes
    if declared < 0:
        raise TrainshedError(ErrorCode.INVALID, f"{declared} is no number of GPUs: 0 or more", "--gpus")
    if there == 0 and gpus.none_by_choice:
        devices = tuple(Device(index=index) for index in range(declared))
        why = "; ".join(gpus.notes) or "NVML shows no GPU"
        note = f"{why}: {declared} GPU{' is' if declared == 1 else 's are'} declared by --gpus, without devices behind them"
        return gpus, devices, (note,) if declared else gpus.notes
    if declared > there:
        seen = f"{there} {'GPU is' if there == 1 else 'GPUs are'} visible here"
        because = "".join(f" ({note})" for note in gpus.notes)
        message = (
            f"{declared} is more than there are: {seen}{because}. Ask for at most {there}; to declare GPUs that do "
            f"not exist set {VARIABLE} empty"
        )
        raise TrainshedError(ErrorCode.INVALID, message, "--gpus")
    taken = gpus.first(declared)
    return taken, taken.devices, taken.notes


def cpus_given(root: Path, affinity: Callable[[int], set[int]]) -> int:
    """The CPUs that this process may use: those of its affinity, and no more than its cgroups' quota.

    A quota of 2.5 CPUs counts as 2, one below 1 as 1: what is granted is whole CPUs.
    """
    cpus = len(affinity(0))
    for folder in cgroup_folders(root, "cpu"):
        quota = _quota(folder)
        if quota is not None:
            cpus = min(cpus, int(quota))
    return max(1, cpus)


def memory_given(root: Path) -> int:
    """The memory in bytes that this process may use: the machine's, and no more than its cgroups' limit."""
    memory = _mem_total(root)
    for folder in cgroup_folders(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limit = _fields(folder / name)
            # v2 writes "max" for no limit, v1 a number above any memory, which min() passes over.
            if limit and limit[0].isdecimal() and int(limit[0]) > 0:
                memory = min(memory, int(limit[0]))
    return memory


def _mem_total(root: Path) -> int:
    for line in (root / "proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    raise TrainshedError(ErrorCode.UNAVAILABLE, "/proc/meminfo has no MemTotal: say it with --memory MB")


def _quota(folder: Path) -> float | None:
    """CPUs that one cgroup allows, None for no limit. v2: ``cpu.max`` holds "quota period" or "max period"."""
    fields = _fields(folder / "cpu.max") or [
        *_fields(folder / "cpu.cfs_quota_us"),
        *_fields(folder / "cpu.cfs_period_us"),
    ]
    if len(fields) != 2 or not fields[0].isdecimal() or not fields[1].isdecimal() or int(fields[1]) == 0:
        return None
    return int(fields[0]) / int(fields[1])


def cgroup_folders(root: Path, controller: str) -> Iterator[Path]:
    """This process's cgroup of that controller (v2 has one for all) and all above it: the smallest limit holds.

    From proc(5) and cgroups(7): ``/proc/self/cgroup`` has "id:controllers:path" (v2: "0::path"), mountinfo's fourth
    word is the cgroup that is mounted (in a container the path may lie under it) and its fifth where.
    """
    paths: dict[str, str] = {}
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        for name in controllers.split(","):
            paths[name] = path
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        mounted, where = before.split()[3:5]
        kind, *_, options = after.split()  # between them the source, which may be empty
        if kind == "cgroup2" and "" in paths:
            path = paths[""]
        elif kind == "cgroup" and controller in options.split(",") and controller in paths:
            path = paths[controller]
        else:
            continue
        top = root / where.lstrip("/")
        parts = _below(path, mounted)
        for depth in range(len(parts), -1, -1):
            yield top.joinpath(*parts[:depth])


def _below(path: str, mounted: str) -> tuple[str, ...]:
    """The part of a cgroup's path that lies below what is mounted; none where it lies outside of it."""
    inner, outer = PurePosixPath(path), PurePosixPath(mounted)
    parts = inner.relative_to(outer).parts if inner.is_relative_to(outer) else ()
    return () if ".." in parts else parts


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []


def _fields(file: Path) -> list[str]:
    return (_lines(file) or [""])[0].split()
