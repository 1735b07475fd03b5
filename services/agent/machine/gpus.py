"""The GPUs of this process, read through NVML (pynvml): what they are, how they do, who else is on them.

Owns every call to NVML and which of its errors mean what; knows nothing of runs, grants or the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any, Self, TypeVar

import msgspec

from events.types import AttemptMemory, AttemptRef, Device, GpuReading
from services.agent.machine.owners import Owner
from services.agent.machine.visible import VARIABLE, Known, visible, wants_none
from trainshed_client.errors import ErrorCode, TrainshedError

_MIB = 1 << 20
T = TypeVar("T")


class GpuSample(msgspec.Struct, frozen=True, kw_only=True):
    """One device at one moment: the reading that a node's heartbeat carries, and whether a run can use the device.

    ``reason`` is NVML's own words: why the device is unhealthy, or, while it is healthy, what NVML answered in
    place of a value (other than that it does not support it). ``foreign``: who computes there and is none of ours.
    """

    reading: GpuReading
    foreign: tuple[int, ...] = ()
    healthy: bool = True
    reason: str | None = None


class _Found(msgspec.Struct, frozen=True, kw_only=True):
    """A device as NVML handed it out; ``handle`` is None where it was lost before this process came."""

    known: Known
    handle: Any
    name: str | None
    memory_mb: int | None


class Gpus:
    """The devices that this process was given, in the order of CUDA_VISIBLE_DEVICES, else of the PCI bus.

    A device's place here is its slot's index. NVML is started once, by ``open``, and stays so until ``close``: a
    sample costs a few calls into the driver and no start. The calls block (a stuck driver: for long), so a service
    makes them in a thread, one at a time.
    """

    def __init__(self, found: tuple[_Found, ...], nvml: ModuleType | None, notes: tuple[str, ...]) -> None:
        self._found = found
        self._nvml = nvml
        self.notes = notes
        """Sentences for the person who started the agent: why there are fewer devices than expected."""
        self.devices = tuple(
            Device(index=index, uuid=device.known.uuid, name=device.name, memory_mb=device.memory_mb)
            for index, device in enumerate(found)
        )
        """The devices as the node's inventory lists them; ``memory_mb`` is in MiB."""
        self.none_by_choice = False
        """No device is visible because there is no NVML, it has no device, or CUDA_VISIBLE_DEVICES says none."""

    @classmethod
    def open(cls, visible_devices: str | None, nvml: ModuleType | None = None) -> Self:
        """Start NVML and find the devices that ``visible_devices`` (CUDA_VISIBLE_DEVICES, None: not set) leaves.

        Without the library there is no GPU; so it is where the variable says "none", and then NVML is not touched.
        Raises TrainshedError UNAVAILABLE, with NVML's own words, on every other error of NVML: a machine whose
        driver was just updated must not look like one without GPUs.
        """
        if wants_none(visible_devices):
            value = (visible_devices or "").strip()
            return cls._empty(f"{VARIABLE} is {value or 'empty'}, which shows no GPU")
        api: Any = nvml if nvml is not None else _pynvml()
        try:
            api.nvmlInit()
        except api.NVMLError_LibraryNotFound:
            return cls._empty("There is no NVML here (libnvidia-ml.so.1 was not found)")
        except api.NVMLError as error:
            raise _stopped(api, error) from error
        try:
            return cls._chosen(api, visible_devices)
        except api.NVMLError as error:
            api.nvmlShutdown()
            raise _stopped(api, error) from error

    @classmethod
    def _empty(cls, note: str) -> Self:
        gpus = cls((), None, (note,))
        gpus.none_by_choice = True
        return gpus

    @classmethod
    def _chosen(cls, api: Any, visible_devices: str | None) -> Self:
        found = list(_devices(api))
        choice = visible(visible_devices, [device.known for device in found])
        gpus = cls(tuple(found[place] for place in choice.places), api, (choice.note,) if choice.note else ())
        gpus.none_by_choice = not found
        return gpus

    def first(self, count: int) -> Self:
        """The same, of the first ``count`` devices only; it takes this one's place (close one of them)."""
        gpus = type(self)(self._found[:count], self._nvml, self.notes)
        gpus.none_by_choice = self.none_by_choice
        return gpus

    def sample(self, owner_of: Callable[[int], Owner]) -> list[GpuSample]:
        """Read every device; a reading's index is the device's place. ``owner_of`` answers for a pid whose it is.

        A device that is lost is unhealthy, and the others go on; it is asked again at each sample. A value that
        NVML cannot give is null. Pids are as NVML gives them: in a container they may be those of the host.
        """
        return [self._sample(index, device, owner_of) for index, device in enumerate(self._found)]

    def _sample(self, index: int, device: _Found, owner_of: Callable[[int], Owner]) -> GpuSample:
        api: Any = self._nvml
        if device.handle is None:
            reason = (
                "The GPU was lost when the agent started: restart the agent when nvidia-smi shows it again"
            )
            return GpuSample(reading=GpuReading(index=index), healthy=False, reason=reason)
        handle = device.handle
        compute = api.nvmlDeviceGetComputeRunningProcesses_v3
        graphics = api.nvmlDeviceGetGraphicsRunningProcesses_v3
        texts: list[str] = []

        def field(call: Callable[[], T]) -> T | None:
            try:
                return call()
            except (api.NVMLError_GpuIsLost, api.NVMLError_ResetRequired):
                raise
            except api.NVMLError_NotSupported:
                return None
            except api.NVMLError as error:
                texts.append(_text(api, error))
                return None

        def used(processes: Callable[[Any], list[Any]]) -> dict[int, int | None]:
            """Each process's memory in bytes, None where that is not known."""
            return field(lambda: {int(each.pid): each.usedGpuMemory for each in processes(handle)}) or {}

        try:
            computing = used(compute)
            processes = used(graphics) | computing
            owners = {pid: owner_of(pid) for pid in processes}
            reading = GpuReading(
                index=index,
                utilisation=field(lambda: int(api.nvmlDeviceGetUtilizationRates(handle).gpu)),
                memory_used_mb=field(lambda: int(_memory(api, handle).used) // _MIB),
                temperature_c=field(
                    lambda: int(api.nvmlDeviceGetTemperature(handle, api.NVML_TEMPERATURE_GPU))
                ),
                other_pids=tuple(sorted(pid for pid, owner in owners.items() if owner is False)),
                attempts=_memory_of_attempts(processes, owners),
            )
        except (api.NVMLError_GpuIsLost, api.NVMLError_ResetRequired) as error:
            return GpuSample(reading=GpuReading(index=index), healthy=False, reason=_text(api, error))
        foreign = tuple(sorted(pid for pid in computing if owners[pid] is False))
        return GpuSample(reading=reading, foreign=foreign, reason="; ".join(dict.fromkeys(texts)) or None)

    def close(self) -> None:
        """Stop NVML, where it was started. Devices and notes stay readable; ``sample`` does not."""
        if self._nvml is not None:
            api: Any = self._nvml
            self._nvml = None
            self._found = ()
            api.nvmlShutdown()


def _memory_of_attempts(
    processes: Mapping[int, int | None], owners: Mapping[int, Owner]
) -> tuple[AttemptMemory, ...]:
    used: dict[AttemptRef, int] = {}
    for pid, memory in processes.items():
        if isinstance(owner := owners[pid], AttemptRef) and memory is not None:
            used[owner] = used.get(owner, 0) + int(memory)
    return tuple(
        AttemptMemory(run_id=ref.run_id, attempt=ref.attempt, memory_mb=memory // _MIB)
        for ref, memory in sorted(used.items(), key=lambda each: (each[0].run_id, each[0].attempt))
    )


def _pynvml() -> ModuleType:
    # Imported on use: 35 ms that a machine told to have no GPU need not pay.
    import pynvml  # type: ignore[import-untyped]

    module: ModuleType = pynvml
    return module


def _devices(api: Any) -> Iterator[_Found]:
    """All devices of the machine: GPUs in PCI bus order, and in place of one in MIG mode its MIG devices.

    A GPU that is lost already keeps its place, without a UUID, so that the others keep their index; the order is
    NVML's own then (it is by PCI bus, but only nvidia-smi says so, hence the sort).
    """
    gpus: list[tuple[tuple[int, int, int], Any]] = []
    lost = False
    for number in range(api.nvmlDeviceGetCount()):
        try:
            handle = api.nvmlDeviceGetHandleByIndex(number)
            pci = api.nvmlDeviceGetPciInfo(handle)
            gpus.append(((pci.domain, pci.bus, pci.device), handle))
        except api.NVMLError_GpuIsLost:
            lost = True
            gpus.append(((0, 0, 0), None))
    if not lost:
        gpus.sort(key=lambda gpu: gpu[0])
    for place, (_, handle) in enumerate(gpus):
        try:
            yield from _of_gpu(api, place, handle)
        except api.NVMLError_GpuIsLost:
            yield from _of_gpu(api, place, None)


def _of_gpu(api: Any, place: int, handle: Any) -> list[_Found]:
    """The devices that one GPU stands for: itself, or its MIG devices (none, where none was made)."""
    if handle is None:
        return [
            _Found(known=Known(gpu=place, uuid=None, gpu_uuid=None), handle=None, name=None, memory_mb=None)
        ]
    uuid: str = api.nvmlDeviceGetUUID(handle)
    if not _mig_mode(api, handle):
        return [_found(api, Known(gpu=place, uuid=uuid, gpu_uuid=uuid), handle)]
    devices: list[_Found] = []
    for number in range(api.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            mig = api.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
        except api.NVMLError_NotFound:
            continue
        older = f"MIG-{uuid}/{api.nvmlDeviceGetGpuInstanceId(mig)}/{api.nvmlDeviceGetComputeInstanceId(mig)}"
        known = Known(gpu=place, uuid=api.nvmlDeviceGetUUID(mig), gpu_uuid=uuid, older_name=older)
        devices.append(_found(api, known, mig))
    return devices


def _found(api: Any, known: Known, handle: Any) -> _Found:
    try:
        memory_mb = int(_memory(api, handle).total) // _MIB
    except api.NVMLError_NotSupported:  # memory shared with the CPU, as on small boards
        memory_mb = None
    return _Found(known=known, handle=handle, name=api.nvmlDeviceGetName(handle), memory_mb=memory_mb)


def _mig_mode(api: Any, handle: Any) -> bool:
    try:
        return bool(api.nvmlDeviceGetMigMode(handle)[0])
    except (api.NVMLError_NotSupported, api.NVMLError_FunctionNotFound):
        return False


def _memory(api: Any, handle: Any) -> Any:
    """Memory as nvidia-smi shows it: what the driver keeps for itself is not used. Older drivers count it in."""
    try:
        return api.nvmlDeviceGetMemoryInfo(handle, version=api.nvmlMemory_v2)
    except api.NVMLError_FunctionNotFound:
        return api.nvmlDeviceGetMemoryInfo(handle)


def _text(api: Any, error: Exception) -> str:
    """NVML's own words for an error, which are those of nvidia-smi; pynvml's where the library has none."""
    try:
        return str(api.nvmlErrorString(error.value))  # type: ignore[attr-defined]
    except api.NVMLError:
        return str(error)


def _stopped(api: Any, error: Exception) -> TrainshedError:
    match error:
        case api.NVMLError_LibRmVersionMismatch():
            todo = "The driver was just updated: reboot or reload it (nvidia-smi says the same until then)."
        case api.NVMLError_DriverNotLoaded():
            todo = "Load the driver (modprobe nvidia), or reboot if it was just installed."
        case api.NVMLError_NoPermission():
            todo = "This user may not open the GPUs (/dev/nvidia*): give it access."
        case _:
            todo = "nvidia-smi should say the same; a reboot often helps."
    message = f"NVML answers: {_text(api, error)}. {todo} To start without GPUs set {VARIABLE} empty."
    return TrainshedError(ErrorCode.UNAVAILABLE, message)
