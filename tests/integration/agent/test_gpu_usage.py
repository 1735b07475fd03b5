"""What an attempt used of its devices, as its end bears it: a real agent and worker, devices that do as they are told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from events.types import AttemptMemory, AttemptRef, GpuReading, Started
from services.agent.folders import files
from services.agent.machine import devices
from services.agent.machine.gpus import Gpus, GpuSample
from services.agent.machine.owners import Owner
from tests.integration.agent.stage import Stage, inventory, new_ref, python
from tests.support import NatsServer, eventually
from trainshed_client.records import AttemptUsage


class WorkingGpus:
    """Two devices, the second of them half at work, with 512 MiB of it an attempt's. NVML is not on every box."""

    devices = inventory().gpus

    def __init__(self, ref: AttemptRef) -> None:
        self.ref = ref
        self.asked = 0

    def sample(self, owner_of: Callable[[int], Owner]) -> list[GpuSample]:
        self.asked += 1
        used = AttemptMemory(run_id=self.ref.run_id, attempt=self.ref.attempt, memory_mb=512)
        readings = (
            GpuReading(index=0, utilisation=0),
            GpuReading(index=1, utilisation=50, attempts=(used,)),
        )
        return [GpuSample(reading=reading) for reading in readings]

    async def looks(self) -> None:
        asked = self.asked
        await eventually(lambda: self.asked > asked + 3)


@pytest.fixture
async def stage(nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setattr(devices, "SAMPLE_EVERY_S", 0.05)
    return await Stage.set_up(nats_server, tmp_path)


async def start(stage: Stage, ref: AttemptRef, *slots: int) -> Path:
    """Start a worker with these slots; the file by which it ends."""
    go = stage.root / f"end {ref.run_id}"
    wait = f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.02)"
    await stage.dispatch(ref, python(wait), slots=slots)
    await stage.told(ref, Started)
    return go


async def used(stage: Stage, ref: AttemptRef, go: Path) -> AttemptUsage:
    go.touch()
    usage = (await stage.ended(ref)).usage
    assert usage is not None and usage.cpu_s is not None
    return usage


async def test_an_end_bears_how_long_its_devices_worked_and_the_most_that_it_had_of_them(
    stage: Stage,
) -> None:
    ref, without = new_ref(1), new_ref(2)
    gpus = WorkingGpus(ref)
    async with stage.agent(gpus=cast(Gpus, gpus)):
        go, other = await start(stage, ref, 1), await start(stage, without)
        for _ in range(10):
            await gpus.looks()
        usage, none = await used(stage, ref, go), await used(stage, without, other)
    assert usage.gpu_memory_peak_mb == 512
    assert usage.gpu_busy_s is not None and usage.gpu_busy_s > 0
    assert (none.gpu_busy_s, none.gpu_memory_peak_mb) == (None, None)


@pytest.mark.parametrize("killed", [False, True])
async def test_it_goes_on_where_an_agent_left_it_and_is_not_known_where_one_was_killed(
    stage: Stage, killed: bool
) -> None:
    ref = new_ref(1)
    gpus = WorkingGpus(ref)
    async with stage.agent(gpus=cast(Gpus, gpus)):
        go = await start(stage, ref, 1)
        await gpus.looks()
    kept = stage.root / "node" / "attempts" / ref.run_id / "1" / files.GPU_USAGE
    assert kept.exists()
    if killed:
        kept.unlink()
    gpus.ref = new_ref(2)  # from now on nobody has memory there
    async with stage.agent(gpus=cast(Gpus, gpus), consumer=False):
        await eventually(lambda: not kept.exists())
        await gpus.looks()
        usage = await used(stage, ref, go)
    assert usage.gpu_memory_peak_mb == (None if killed else 512)
    assert (usage.gpu_busy_s is None) == killed
