"""How the node's devices do: sampled beside the agent's work, and appended where a slot's health changes.

Owns the latest readings and what was appended of each slot; knows NVML only through `gpus`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from events.types import GpuReading, NodeEvent, SlotHealthy, SlotUnhealthy
from services.agent.machine.gpus import Gpus
from services.logging import get_logger

_log = get_logger("agent")

SAMPLE_EVERY_S = 5.0
Append = Callable[[NodeEvent], Awaitable[None]]


class Devices:
    """Samples the devices in a thread, one sample at a time: a stuck driver holds up nothing else."""

    def __init__(self, gpus: Gpus | None, node: str, incarnation: str, log_id: str) -> None:
        self._gpus = gpus if gpus is not None and gpus.devices else None
        self._node = node
        self._incarnation = incarnation
        self._mark = f"TRAINSHED_LOG_ID={log_id}".encode()
        self._readings: tuple[GpuReading, ...] = ()
        self._unhealthy: set[int] = set()

    def readings(self) -> tuple[GpuReading, ...]:
        """The latest sample; empty where there is no device."""
        return self._readings

    def joined(self) -> None:
        """A new session: the log counts every slot as healthy again."""
        self._unhealthy.clear()

    async def run(self, append: Append) -> None:
        """Sample until cancelled; returns at once where there is no device."""
        gpus = self._gpus
        while gpus is not None:
            samples = await asyncio.to_thread(gpus.sample, self._ours)
            self._readings = tuple(sample.reading for sample in samples)
            for sample in samples:
                index = sample.reading.index
                if sample.healthy == (index not in self._unhealthy):
                    continue
                if sample.healthy:
                    self._unhealthy.discard(index)
                    await append(SlotHealthy(node=self._node, incarnation=self._incarnation, index=index))
                else:
                    self._unhealthy.add(index)
                    _log.warning("a device cannot be used", node=self._node, slot=index, reason=sample.reason)
                    await append(
                        SlotUnhealthy(
                            node=self._node,
                            incarnation=self._incarnation,
                            index=index,
                            reason=sample.reason,
                        )
                    )
            await asyncio.sleep(SAMPLE_EVERY_S)

    def _ours(self, pid: int) -> bool:
        """Whether a process on a device is one of this log's workers, by its environment."""
        try:
            return self._mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            return False
