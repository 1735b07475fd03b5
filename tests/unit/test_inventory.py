"""Claims about what a process was given: CUDA_VISIBLE_DEVICES as CUDA reads it, affinity, cgroups and options."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.agent.machine.gpus import Gpus
from services.agent.machine.inventory import cpus_given, memory_given, take_inventory
from services.agent.machine.visible import Known, visible, wants_none
from trainshed_client.errors import ErrorCode, TrainshedError

GPUS = [
    Known(gpu=number, uuid=uuid, gpu_uuid=uuid)
    for number, uuid in enumerate(["GPU-aaaa0000-1", "GPU-aaab0000-2", "GPU-bbbb0000-3"])
]
# GPU 1 is in MIG mode with two devices.
MIXED = [
    GPUS[0],
    Known(gpu=1, uuid="MIG-1111", gpu_uuid="GPU-aaab0000-2", older_name="MIG-GPU-aaab0000-2/1/0"),
    Known(gpu=1, uuid="MIG-2222", gpu_uuid="GPU-aaab0000-2", older_name="MIG-GPU-aaab0000-2/2/0"),
    GPUS[2],
]


@pytest.mark.parametrize(
    ("value", "places", "note"),
    [
        (None, (0, 1, 2), None),
        ("0", (0,), None),
        ("2,1", (2, 1), None),
        (" 1 , 0 ", (1, 0), None),
        ("1x,0y", (1, 0), None),
        ("+1", (1,), None),
        ("0,2,-1,1", (0, 2), "'-1' is no device here and ends the list"),
        ("0,7,1", (0,), "'7' is no device here"),
        ("7,0", (), "'7' is no device here"),
        ("0,", (0,), "an empty entry is no device"),
        ("0,,1", (0,), "an empty entry"),
        ("x,0", (), "'x' is no device"),
        ("GPU-bbbb,GPU-aaaa0000-1", (2, 0), None),
        ("GPU-aaa", (), "'GPU-aaa' is no device"),
        ("GPU-bbbb,GPU-aaa,GPU-aaaa", (2,), "1 before it count"),
        ("gpu-bbbb", (), "no device"),
        ("0,GPU-bbbb", (0,), "'GPU-bbbb' is no device here and ends the list"),
        ("GPU-bbbb,0", (2,), "'0' is no device here and ends the list"),
        ("0,0", (), "names a device twice (0): CUDA shows none then"),
        ("0,1,0", (), "twice"),
        ("GPU-bbbb,GPU-bbbb0000-3", (), "twice"),
        ("0,-1,0", (0,), "'-1'"),
        ("MIG-1111", (), "no device"),
    ],
)
def test_the_variable_leaves_what_cuda_would_show(
    value: str | None, places: tuple[int, ...], note: str | None
) -> None:
    choice = visible(value, GPUS)
    assert choice.places == places
    assert not choice.wants_none
    assert (choice.note is None) if note is None else (note in (choice.note or ""))


@pytest.mark.parametrize("value", ["", "  ", "-1", "-1,0", "NoDevFiles"])
def test_none_on_purpose_is_told_from_a_mistake(value: str) -> None:
    choice = visible(value, GPUS)
    assert wants_none(value)
    assert choice.wants_none
    assert (choice.places, choice.note) == ((), None)


@pytest.mark.parametrize(
    ("value", "places"),
    [
        (None, (0, 1, 2, 3)),
        ("MIG-2222,MIG-1111", (2, 1)),
        ("MIG-GPU-aaab0000-2/2/0", (2,)),
        ("MIG-22", ()),
        ("MIG-1111,MIG-GPU-aaab0000-2/1/0", ()),
        ("1", (1, 2)),
        ("2,1", (3, 1, 2)),
        ("GPU-aaab", (1, 2)),
        ("1,MIG-1111", (1, 2)),
    ],
)
def test_mig_devices_are_named_whole_and_a_gpu_in_mig_mode_stands_for_its_devices(
    value: str | None, places: tuple[int, ...]
) -> None:
    assert visible(value, MIXED).places == places


def test_a_gpu_without_a_uuid_has_its_number_only() -> None:
    lost = [Known(gpu=0, uuid=None, gpu_uuid=None), GPUS[1]]
    assert visible("0", lost).places == (0,)
    assert visible("GPU-aaaa", lost).places == ()
    assert visible("MIG-1", lost).places == ()


def machine(root: Path, *, cgroup: str, mountinfo: str, files: dict[str, str], kib: int = 8 << 20) -> Path:
    """A tree of the files that the inventory reads; memory in KiB."""
    tree = {
        "proc/meminfo": f"MemTotal:       {kib} kB\nMemFree: 1 kB\n",
        "proc/self/cgroup": cgroup,
        "proc/self/mountinfo": "22 1 0:21 / / rw,relatime - ext4 /dev/sda1 rw\n" + mountinfo,
        **files,
    }
    for name, text in tree.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "31 30 0:27 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n"
    "32 31 0:28 {root} /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    "33 31 0:29 {root} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)


def given(root: Path, cores: int = 16) -> tuple[int, int]:
    return cpus_given(root, lambda _: set(range(cores))), memory_given(root) >> 20


def test_without_cgroups_affinity_and_the_machines_memory_count(tmp_path: Path) -> None:
    root = machine(tmp_path, cgroup="", mountinfo="", files={})
    assert given(root, cores=3) == (3, 8192)


@pytest.mark.parametrize(
    ("cpu_max", "cpus"),
    [
        ("max 100000", 16),
        ("250000 100000", 2),
        ("50000 100000", 1),
        ("1600000 50000", 16),
        ("400000 50000", 8),
        ("", 16),
        ("100000 0", 16),
    ],
)
def test_a_cgroup_v2_quota_counts_in_whole_cpus(tmp_path: Path, cpu_max: str, cpus: int) -> None:
    files = {"sys/fs/cgroup/user.slice/job/cpu.max": f"{cpu_max}\n"}
    root = machine(tmp_path, cgroup="0::/user.slice/job\n", mountinfo=V2, files=files)
    assert given(root)[0] == cpus


def test_the_smallest_limit_on_the_way_up_holds(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/a/b/cpu.max": "800000 100000\n",
        "sys/fs/cgroup/a/b/memory.max": "max\n",
        "sys/fs/cgroup/a/cpu.max": "400000 100000\n",
        "sys/fs/cgroup/a/memory.max": f"{2 << 30}\n",
        "sys/fs/cgroup/other/cpu.max": "100000 100000\n",
        "sys/fs/cgroup/other/memory.max": "1\n",
    }
    root = machine(tmp_path, cgroup="0::/a/b\n", mountinfo=V2, files=files)
    assert given(root) == (4, 2048)


def test_a_limit_above_the_machines_memory_changes_nothing(tmp_path: Path) -> None:
    files = {"sys/fs/cgroup/memory.max": f"{64 << 30}\n"}
    root = machine(tmp_path, cgroup="0::/\n", mountinfo=V2, files=files)
    assert given(root) == (16, 8192)


def test_cgroup_v1_limits_hold(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/cpu,cpuacct/slurm/cpu.cfs_quota_us": "300000\n",
        "sys/fs/cgroup/cpu,cpuacct/slurm/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/memory/slurm/memory.limit_in_bytes": f"{1 << 30}\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
    }
    cgroup = "9:cpu,cpuacct:/slurm\n8:memory:/slurm\n1:name=systemd:/init\n0::/\n"
    root = machine(tmp_path, cgroup=cgroup, mountinfo=V1.format(root="/"), files=files)
    assert given(root) == (3, 1024)


def test_in_a_container_the_mount_is_the_cgroup_itself(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "200000\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{3 << 30}\n",
    }
    cgroup = "9:cpu,cpuacct:/docker/abc\n8:memory:/docker/abc\n"
    root = machine(tmp_path, cgroup=cgroup, mountinfo=V1.format(root="/docker/abc"), files=files)
    assert given(root) == (2, 3072)


def test_a_cgroup_outside_of_the_mount_leaves_the_mounts_own_limit(tmp_path: Path) -> None:
    files = {"sys/fs/cgroup/cpu.max": "500000 100000\n"}
    root = machine(tmp_path, cgroup="0::/../outside\n", mountinfo=V2, files=files)
    assert given(root)[0] == 5


def test_a_cgroup_that_is_not_below_the_mount_is_not_looked_for_there(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/cpu,cpuacct/other/cpu.cfs_quota_us": "100000\n",
        "sys/fs/cgroup/cpu,cpuacct/other/cpu.cfs_period_us": "100000\n",
    }
    root = machine(tmp_path, cgroup="9:cpu,cpuacct:/other\n", mountinfo=V1.format(root="/mine"), files=files)
    assert given(root)[0] == 16


def test_a_v1_controller_is_not_read_as_v2(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{1 << 30}\n",
        "sys/fs/cgroup/cpuset/memory.limit_in_bytes": "4096\n",
    }
    mountinfo = (
        "33 31 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        "34 31 0:30 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
    )
    root = machine(tmp_path, cgroup="3:cpuset:/\n4:memory:/\n", mountinfo=mountinfo, files=files)
    assert given(root) == (16, 1024)


def take(gpus: int | None, cpus: int | None = None, memory: int | None = None) -> tuple[int, int, int]:
    inventory, _ = take_inventory(
        Gpus.open(""), declared_gpus=gpus, declared_cpus=cpus, declared_memory_mb=memory
    )
    return len(inventory.gpus), inventory.cpus, inventory.memory_mb


def test_what_is_declared_goes_over_what_was_found() -> None:
    assert take(2, cpus=64, memory=5) == (2, 64, 5)


def test_where_no_device_is_visible_slots_are_declared_and_it_says_so() -> None:
    inventory, _ = take_inventory(Gpus.open(""), declared_gpus=2)
    assert [(gpu.index, gpu.uuid) for gpu in inventory.gpus] == [(0, None), (1, None)]
    assert "CUDA_VISIBLE_DEVICES is empty" in inventory.notes[0]
    assert "2 GPUs are declared by --gpus, without devices" in inventory.notes[0]


@pytest.mark.parametrize("gpus", [None, 0])
def test_without_devices_and_without_a_word_there_are_no_slots(gpus: int | None) -> None:
    assert take(gpus)[0] == 0


@pytest.mark.parametrize(
    ("option", "path"),
    [({"gpus": -1}, "--gpus"), ({"gpus": 1, "cpus": 0}, "--cpus"), ({"gpus": 1, "memory": 0}, "--memory")],
)
def test_a_number_out_of_range_is_refused_by_its_option(option: dict[str, int], path: str) -> None:
    with pytest.raises(TrainshedError) as refused:
        take(**option)
    assert (refused.value.code, refused.value.path) == (ErrorCode.INVALID, path)
