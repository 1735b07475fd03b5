"""What each attempt used of its devices, added up from one sample to the next.

Owns the sums; knows no NVML and no process. What was not seen from the start on, or is not an attempt's own, is not known.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import msgspec

from events.types import AttemptRef, Device, GpuReading
from services.agent.folders.files import GpuUsageFile
from trainshed_client.records import NO_USAGE, AttemptUsage


def boottime() -> float:
    """CLOCK_BOOTTIME in seconds: the next agent of this boot reads it on."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class _Sum(msgspec.Struct):
    """``busy_s`` up to ``at``, and from there on ``rate`` devices at work; None: it is not known."""

    places: frozenset[int]
    at: float
    busy_s: float | None = 0.0
    rate: float | None = None
    peak_mb: int | None = None


class GpuUsage:
    """Sums for the attempts on ``slots``."""

    def __init__(self, slots: Sequence[Device], clock: Callable[[], float] = boottime) -> None:
        self._places = {slot.index: slot.place for slot in slots}
        self._clock = clock
        self._sums: dict[AttemptRef, _Sum] = {}

    def began(self, ref: AttemptRef, slots: Iterable[int], kept: GpuUsageFile | None = None) -> None:
        """The worker of an attempt with these slots has just started, or was left with what is ``kept`` of it."""
        places = frozenset(self._places[index] for index in slots if index in self._places)
        if places and ref not in self._sums:
            one = self._sums[ref] = _Sum(places, self._clock())
            if kept is not None:  # while nobody looked it was as the next look has it
                one.at, one.busy_s, one.peak_mb = kept.at, kept.busy_s, kept.peak_mb
            self._mark_shared()

    def look(self, readings: Iterable[GpuReading]) -> None:
        """A sample of the devices, each reading's index being the device's place."""
        now = self._clock()
        of = {reading.index: reading for reading in readings}
        for ref, one in self._sums.items():
            rate = _rate(one.places, of)
            if one.busy_s is not None:
                one.busy_s = None if rate is None else one.busy_s + rate * (now - one.at)
            one.at, one.rate = now, rate
            used = [
                each.memory_mb
                for place in one.places & of.keys()
                for each in of[place].attempts
                if (each.run_id, each.attempt) == (ref.run_id, ref.attempt)
            ]
            if used:
                one.peak_mb = max(one.peak_mb or 0, sum(used))

    def left(self, ref: AttemptRef) -> GpuUsageFile | None:
        """The agent stops and its worker does not: what is to be kept; None where nothing is known of it."""
        one = self._sums.pop(ref, None)
        return None if one is None else GpuUsageFile(at=one.at, busy_s=one.busy_s, peak_mb=one.peak_mb)

    def ended(self, ref: AttemptRef) -> AttemptUsage:
        """The last of it has gone: what it used of its devices."""
        one = self._sums.pop(ref, None)
        if one is None:
            return NO_USAGE
        busy_s = None
        if one.busy_s is not None and one.rate is not None:
            busy_s = round(one.busy_s + one.rate * (self._clock() - one.at), 1)
        return AttemptUsage(gpu_busy_s=busy_s, gpu_memory_peak_mb=one.peak_mb)

    def _mark_shared(self) -> None:
        """Who was not alone on a device even once: whose work it did is not known."""
        for one in self._sums.values():
            if any(one is not other and one.places & other.places for other in self._sums.values()):
                one.busy_s = None


def _rate(places: Collection[int], readings: Mapping[int, GpuReading]) -> float | None:
    """How many of these devices are at work, one at half of it being half a device."""
    rates = [readings[place].utilisation if place in readings else None for place in places]
    return None if None in rates else sum(rate for rate in rates if rate is not None) / 100
