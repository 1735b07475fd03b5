"""What attempts used of their devices, from samples and a clock that the test moves."""

from __future__ import annotations

import pytest

from events.types import AttemptMemory, AttemptRef, Device, GpuReading
from services.agent.machine.gpu_usage import GpuUsage
from trainshed_client.records import NO_USAGE, AttemptUsage

A, B = AttemptRef("a", 1), AttemptRef("b", 1)


class Lab:
    """Two devices, the second of them two slots (1 and 2)."""

    def __init__(self) -> None:
        self.now = 100.0
        slots = [Device(index=0, gpu=0), Device(index=1, gpu=1), Device(index=2, gpu=1)]
        self.usage = GpuUsage(slots, lambda: self.now)

    def look(self, after_s: float, *utilisation: int | None, **memory_mb: int) -> None:
        """A sample; ``memory_mb`` is what attempts use on the first device."""
        self.now += after_s
        used = tuple(AttemptMemory(run_id=name, attempt=1, memory_mb=mb) for name, mb in memory_mb.items())
        self.usage.look(
            GpuReading(index=place, utilisation=share, attempts=used if place == 0 else ())
            for place, share in enumerate(utilisation)
        )


@pytest.fixture
def lab() -> Lab:
    return Lab()


def test_utilisation_counts_for_the_time_since_the_last_look_and_goes_on_until_the_end(lab: Lab) -> None:
    lab.usage.began(A, [0])
    lab.look(5, 50, 100, a=1000)
    lab.look(5, 100, 100, a=3000)
    lab.look(5, 0, 100, a=2000)
    lab.look(5, 80, 100)
    lab.now += 2.5
    assert lab.usage.ended(A) == AttemptUsage(gpu_busy_s=2.5 + 5 + 0 + 4 + 2, gpu_memory_peak_mb=3000)
    assert lab.usage.ended(A) == NO_USAGE, "once"


def test_several_devices_are_added_up(lab: Lab) -> None:
    lab.usage.began(A, [0, 1])
    lab.look(10, 50, 100)
    assert lab.usage.ended(A).gpu_busy_s == 15.0


def test_who_shared_a_device_for_a_while_does_not_know_its_own_work_but_its_memory(lab: Lab) -> None:
    lab.usage.began(A, [1])
    lab.look(5, 0, 100)
    lab.usage.began(B, [2])
    lab.look(5, 0, 100, a=700, b=300)
    assert lab.usage.ended(B).gpu_busy_s is None
    lab.look(5, 0, 100)
    assert lab.usage.ended(A).gpu_busy_s is None


def test_who_follows_on_a_device_is_alone_there(lab: Lab) -> None:
    lab.usage.began(A, [1])
    lab.usage.ended(A)
    lab.usage.began(B, [2])
    lab.look(5, 0, 100)
    assert lab.usage.ended(B).gpu_busy_s == 5.0


def test_what_nobody_measured_is_not_known(lab: Lab) -> None:
    lab.usage.began(A, [0])
    assert lab.usage.ended(A) == NO_USAGE, "no sample came in its time"
    lab.usage.began(A, [0])
    lab.look(5, 100, 0)
    lab.look(5, None, 0)
    lab.look(5, 100, 0)
    assert lab.usage.ended(A) == NO_USAGE, "a gap is no zero"
    assert lab.usage.ended(B) == NO_USAGE, "its start was not seen"


def test_what_an_agent_left_is_gone_on_with_over_the_time_without_one(lab: Lab) -> None:
    lab.usage.began(A, [0])
    lab.look(10, 100, 0, a=1000)
    kept = lab.usage.left(A)
    assert lab.usage.left(A) is None
    lab.now += 20
    lab.usage.began(A, [0], kept)
    lab.look(10, 50, 0)
    assert lab.usage.ended(A) == AttemptUsage(gpu_busy_s=10 + 15, gpu_memory_peak_mb=1000)


def test_without_devices_there_is_nothing_to_know(lab: Lab) -> None:
    lab.usage.began(A, [])
    lab.usage.began(B, [9])
    lab.look(5, 100, 100)
    assert lab.usage.ended(A) == lab.usage.ended(B) == NO_USAGE
