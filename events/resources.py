"""What a run needs against what a node has: the one rule of fit, for whoever refuses, grants or explains.

Owns amounts of GPUs, CPUs and memory, and when one is had of another; knows no queue and what nobody holds.
"""

from __future__ import annotations

from typing import NamedTuple

from events.config import Needs
from events.state import Node


class Amount(NamedTuple):
    """GPUs (devices), CPUs and memory together: what is needed, held, or left (then perhaps below nothing)."""

    gpus: int
    cpus: int
    memory_mb: int

    def plus(self, other: Amount) -> Amount:
        """Both together."""
        return Amount(self.gpus + other.gpus, self.cpus + other.cpus, self.memory_mb + other.memory_mb)

    def less(self, other: Amount) -> Amount:
        """This without the other; negative where there is not that much."""
        return Amount(self.gpus - other.gpus, self.cpus - other.cpus, self.memory_mb - other.memory_mb)

    @property
    def lacking(self) -> Amount:
        """How far it is below nothing, in each."""
        return Amount(max(0, -self.gpus), max(0, -self.cpus), max(0, -self.memory_mb))

    def holds(self, needs: Amount) -> bool:
        """Whether ``needs`` are had of it."""
        return fits(needs, *self)


def fits(needs: Amount, gpus: int, cpus: int, memory_mb: int) -> bool:
    """The rule of fit: whether ``needs`` are had of so much. What is not asked for is not short."""
    return (
        (needs[0] <= gpus or not needs[0])
        and (needs[1] <= cpus or not needs[1])
        and (needs[2] <= memory_mb or not needs[2])
    )


NOTHING = Amount(0, 0, 0)


def least_of(needs: Needs) -> Amount:
    """What an attempt cannot do without: GPUs that are not mandatory do not count."""
    return Amount(needs.gpus if needs.mandatory else 0, needs.cpus, needs.memory_mb)


def slots_of_devices(node: Node, *, unhealthy_too: bool) -> dict[int, int]:
    """The devices of a node by their places, and how many slots each is. One with an unhealthy slot is unhealthy."""
    slots: dict[int, int] = {}
    for device in node.gpus:
        slots[device.place] = slots.get(device.place, 0) + 1
    if not unhealthy_too:
        for place in unhealthy_devices(node):
            slots.pop(place, None)
    return slots


def unhealthy_devices(node: Node) -> set[int]:
    """The places of the devices that have an unhealthy slot."""
    if not node.unhealthy:
        return set()
    return {device.place for device in node.gpus if device.index in node.unhealthy}


def whole_of(node: Node, *, unhealthy_too: bool) -> Amount:
    """All that a node could give when it is empty.

    A grant needs healthy slots. But a slot may be healthy again, so what decides for good, as a refusal does, counts them
    all: ``unhealthy_too``.
    """
    return Amount(len(slots_of_devices(node, unhealthy_too=unhealthy_too)), node.cpus, node.memory_mb)


def could_hold(node: Node, needs: Needs, *, unhealthy_too: bool) -> bool:
    """Whether an attempt would fit an empty node: it takes so many different devices, a slot of each or all of them."""
    return whole_of(node, unhealthy_too=unhealthy_too).holds(least_of(needs))
