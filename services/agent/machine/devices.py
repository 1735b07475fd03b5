"""How the node's devices do: sampled beside the agent's work, and appended where the health of their slots changes.

Owns the latest readings and what was appended of each device; knows NVML only through `gpus`, processes through `owners`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence

import msgspec

from events.types import Device, GpuReading, NodeEvent, SlotHealthy, SlotUnhealthy
from services.agent.machine.busy import Busy
from services.agent.machine.gpu_usage import GpuUsage
from services.agent.machine.gpus import Gpus, GpuSample
from services.agent.machine.owners import Owners
from services.logging import get_logger

_log = get_logger("agent")

SAMPLE_EVERY_S = 5.0
EXTERNAL = "external"
"""Why a slot is unhealthy on whose device others compute."""
Append = Callable[[NodeEvent], Awaitable[None]]


class Devices:
    """Samples the devices in a thread, one sample at a time: a stuck driver holds up nothing else.

    ``slots`` are those of the node's inventory. ``avoid_busy``: a device on which others compute is unhealthy.
    """

    def __init__(
        self,
        gpus: Gpus | None,
        slots: Sequence[Device],
        node: str,
        incarnation: str,
        owners: Owners,
        *,
        avoid_busy: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._gpus = gpus if gpus is not None and gpus.devices else None
        self._slots: dict[int, list[int]] = {}
        for slot in slots:
            self._slots.setdefault(slot.place, []).append(slot.index)
        self._node = node
        self._incarnation = incarnation
        self._owners = owners
        self._avoid_busy = avoid_busy
        self._clock = clock
        self._readings: tuple[GpuReading, ...] = ()
        self._unhealthy: set[int] = set()
        self._busy: dict[int, Busy] = {}
        self._own_ends: dict[int, float] = {}
        self.usage = GpuUsage(slots)
        """What attempts use of them, by the samples."""

    def readings(self) -> tuple[GpuReading, ...]:
        """The latest sample, each device's by its first slot; empty where there is no device."""
        return self._readings

    def joined(self) -> None:
        """A new session: the log counts every slot as healthy again."""
        self._unhealthy.clear()

    def ended(self, slots: Collection[int]) -> None:
        """An attempt that had these slots has ended."""
        for place, indexes in self._slots.items():
            if not set(indexes).isdisjoint(slots):
                self._own_ends[place] = self._clock()

    async def run(self, append: Append) -> None:
        """Sample until cancelled; returns at once where there is no device."""
        gpus = self._gpus
        while gpus is not None:
            samples = await asyncio.to_thread(gpus.sample, self._owners.owner_of)
            self.usage.look([sample.reading for sample in samples])
            self._readings = tuple(
                msgspec.structs.replace(sample.reading, index=self._slots[sample.reading.index][0])
                for sample in samples
            )
            busy = await asyncio.to_thread(self._busy_with_others, samples) if self._avoid_busy else set()
            for sample in samples:
                await self._append_change(sample, busy, append)
            await asyncio.sleep(SAMPLE_EVERY_S)

    async def _append_change(self, sample: GpuSample, busy: Collection[int], append: Append) -> None:
        place = sample.reading.index
        healthy = sample.healthy and place not in busy
        if healthy == (place not in self._unhealthy):
            return
        reason = EXTERNAL if sample.healthy else sample.reason
        if healthy:
            self._unhealthy.discard(place)
        else:
            self._unhealthy.add(place)
            _log.warning("a device cannot be used", node=self._node, slots=self._slots[place], reason=reason)
        of = {"node": self._node, "incarnation": self._incarnation}
        for index in self._slots[place]:
            await append(
                SlotHealthy(**of, index=index) if healthy else SlotUnhealthy(**of, index=index, reason=reason)
            )

    def _busy_with_others(self, samples: list[GpuSample]) -> set[int]:
        """The devices on which others compute, by their places. Where pids cannot be told apart there is none."""
        mapped = self._owners.knows_pids()
        for sample in samples:
            place = sample.reading.index
            others = mapped and any(map(self._owners.is_there, sample.foreign))
            before = self._busy.get(place, Busy())
            self._busy[place] = before.look(self._clock(), others, self._own_ends.get(place))
        return {place for place, each in self._busy.items() if each.busy}
