"""Which devices CUDA_VISIBLE_DEVICES leaves this process.

Owns the reading of that variable, a pure function; knows neither NVML nor slots.

The source is the CUDA Programming Guide, "CUDA Environment Variables": not set is all; empty is none; the order of
the list is the order of the devices; numbers are nvidia-smi's (the order of NVML and of CUDA_DEVICE_ORDER=PCI_BUS_ID);
a GPU's UUID may be cut short while it stays unique; an entry that is invalid ends the list. What the guide leaves
out is as PyTorch found the driver to do (torch.cuda, ``_parse_visible_devices``): the first entry says whether the
list is of numbers, GPU or MIG names, a number is read as ``strtoul`` reads it ("1x" is 1), and a device that is
named twice leaves none at all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

VARIABLE = "CUDA_VISIBLE_DEVICES"
_NUMBER = re.compile(r"\s*([+-]?\d+)")
# Slurm writes NoDevFiles for a job without GPUs; -1 is what people write.
_NONE_BY_NAME = "NoDevFiles"


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """A device that the machine has: a whole GPU, or one MIG device of it.

    ``gpu`` is the GPU's place in PCI bus order and ``gpu_uuid`` its UUID; ``uuid`` is the device's own, which for a
    MIG device is ``MIG-…``; ``older_name`` is a MIG device's name in the form ``MIG-GPU-…/<instance>/<instance>``.
    """

    gpu: int
    uuid: str | None
    gpu_uuid: str | None
    older_name: str | None = None


class Visible(msgspec.Struct, frozen=True, kw_only=True):
    """The devices that are left, as places in the list of those known, and a note where it is not what was written.

    ``wants_none`` tells that no device is visible because somebody said so, not by a mistake.
    """

    places: tuple[int, ...]
    wants_none: bool = False
    note: str | None = None


def wants_none(value: str | None) -> bool:
    """Whether the variable's value says "no device" on purpose: empty, a negative first number, NoDevFiles."""
    if value is None:
        return False
    first = value.split(",")[0].strip()
    return value.strip() == "" or first == _NONE_BY_NAME or (_number(first) or 0) < 0


def visible(value: str | None, known: Sequence[Known]) -> Visible:
    """What ``value`` (None: not set) leaves of the devices in ``known``.

    A number or a GPU's name that stands for a GPU in MIG mode leaves all its MIG devices (CUDA itself would take
    the first only; an agent hands them out one by one).
    """
    if value is None:
        return Visible(places=tuple(range(len(known))))
    if wants_none(value):
        return Visible(places=(), wants_none=True)
    entries = [entry.strip() for entry in value.split(",")]
    kind = _kind(entries[0])
    places: list[int] = []
    for entry in entries:
        found = _find(entry, known) if _kind(entry) == kind else []
        if not found:
            return Visible(places=tuple(places), note=_ended(value, entry, len(places)))
        if set(found) & set(places):
            return Visible(
                places=(), note=f"{VARIABLE}={value} names a device twice ({entry}): CUDA shows none then"
            )
        places += found
    return Visible(places=tuple(places))


def _ended(value: str, entry: str, before: int) -> str:
    named = f"'{entry}'" if entry else "an empty entry"
    return f"{VARIABLE}={value}: {named} is no device here and ends the list, as in CUDA; {before} before it count"


def _kind(entry: str) -> str:
    return entry[:4] if entry.startswith(("GPU-", "MIG-")) else "number"


def _number(entry: str) -> int | None:
    match = _NUMBER.match(entry)
    return int(match[1]) if match else None


def _find(entry: str, known: Sequence[Known]) -> list[int]:
    """The places that one entry stands for; none where it stands for nothing, or for more than one GPU."""
    match _kind(entry):
        case "MIG-":
            return [place for place, device in enumerate(known) if entry in (device.uuid, device.older_name)]
        case "GPU-":
            found = [p for p, device in enumerate(known) if (device.gpu_uuid or "").startswith(entry)]
            return found if len({known[place].gpu for place in found}) == 1 else []
        case _:
            number = _number(entry)
            return [place for place, device in enumerate(known) if device.gpu == number]
