"""What is free of each node now, device by device, and what of it is kept for the run that waits.

Owns which slots a run gets of a node (docs/decisions/0016); knows no queue, no forecast and no clock. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

import msgspec

from events.config import Needs
from events.resources import Amount, slots_of_devices, unhealthy_devices
from events.run_machine import SECOND_NS
from events.state import Active, Node, Run, State
from events.types import Dispatched

MARGIN_S = 10
"""Counted for a run that is to be over in time: its start, its end, and what the clocks of two machines differ."""

Chosen = Mapping[int, list[int]]
"""Devices by their places, with the slots that a run gets of each."""


class Claims(msgspec.Struct):
    """What decisions that are not folded yet hold, beside the state (docs/protocol.md rule 1).

    ``uuids``: the devices, each with the node on which others may have the rest of it (None: it is granted whole).
    """

    runs: set[str] = msgspec.field(default_factory=set)
    nodes: set[str] = msgspec.field(default_factory=set)
    slots: set[tuple[str, int]] = msgspec.field(default_factory=set)
    uuids: dict[str, str | None] = msgspec.field(default_factory=dict)
    cpus: dict[str, int] = msgspec.field(default_factory=dict)
    memory_mb: dict[str, int] = msgspec.field(default_factory=dict)
    grants: list[Dispatched] = msgspec.field(default_factory=list)


class KeptRoom(msgspec.Struct):
    """What is kept for the one that waits; changed as grants are made.

    ``left`` are CPUs and memory that a run behind may have of the reserved node beside it, ``slots`` the slots of each
    kept device (of every other it may have all), and ``until_ns`` when it starts at the latest: what has ended by then
    may have all that is free. None: nobody knows.
    """

    node: str
    left: Amount
    slots: dict[int, int]
    until_ns: int | None


class Offer(msgspec.Struct):
    """What is free of one node now; changed as grants are made.

    ``free`` are the free slots of each device that has some, by its place; ``sizes`` how many slots each device is, where
    one has several; ``elsewhere`` the devices, with their UUIDs, that are held by who does not share them here. ``kept``
    binds the reserved node, and a node that was given devices of it: ``closed`` are the kept ones among its own.
    """

    node: Node
    free: dict[int, list[int]]
    cpus: int
    memory_mb: int
    sizes: Mapping[int, int] = {}
    elsewhere: Mapping[int, str] = {}
    kept: KeptRoom | None = None
    closed: frozenset[int] = frozenset()

    @property
    def free_slots(self) -> int:
        """How many slots are free."""
        return sum(map(len, self.free.values()))

    def gpus_free(self, needs: Needs) -> int:
        """How many devices a run could have, were nothing kept."""
        if not (needs.whole and self.sizes):
            return len(self.free)
        return sum(len(slots) == self.sizes[place] for place, slots in self.free.items())

    def gpus_for(self, needs: Needs, *, in_time: bool) -> int:
        """How many of the devices that it asks for a run could have here now."""
        if in_time or not self.closed:
            return min(needs.gpus, self.gpus_free(needs))
        return min(needs.gpus, sum(1 for _ in self._open(needs, in_time=False)))

    def choose(self, needs: Needs, *, in_time: bool) -> Chosen:
        """The slots that a run gets here now: those of the devices that fewest others are on, by their places.

        Of what is kept for another, who is over in time takes first, so that the rest is left to who is not.
        """
        places = list(self._open(needs, in_time=in_time))
        if self.sizes or self.closed:
            places.sort(key=lambda place: ((place in self.closed) is not in_time, self._others(place), place))
        return {
            place: self.free[place] if needs.whole else self.free[place][:1] for place in places[: needs.gpus]
        }

    def load(self, needs: Needs, *, in_time: bool) -> int:
        """How many others are on the fullest of the devices that a run gets here now."""
        if not self.sizes:
            return 0
        return max(map(self._others, self.choose(needs, in_time=in_time)), default=0)

    def take(self, chosen: Chosen, cpus: int, memory_mb: int, *, in_time: bool) -> None:
        """Count a grant in; ``in_time``: it is over before the reservation begins."""
        for place, slots in chosen.items():
            if rest := [index for index in self.free[place] if index not in slots]:
                self.free[place] = rest
            else:
                del self.free[place]
        self.cpus -= cpus
        self.memory_mb -= memory_mb
        kept = self.kept
        if kept is not None and kept.node == self.node.name and not in_time:
            kept.left = kept.left.less(Amount(0, cpus, memory_mb))
            for place in chosen.keys() & kept.slots.keys():
                kept.slots[place] -= len(chosen[place])

    def ends_in_time(self, longest: float | None, now_ns: int) -> bool:
        """Whether an attempt that lasts ``longest`` seconds at most, granted now, is over when the reservation begins."""
        if self.kept is None or self.kept.until_ns is None or longest is None:
            return False
        return now_ns + int((MARGIN_S + longest) * SECOND_NS) <= self.kept.until_ns

    def keep(self, kept: KeptRoom, others: Iterable[Offer]) -> None:
        """This node is reserved: ``others`` that were given devices of it are bound by what is kept too."""
        self.kept, self.closed = kept, frozenset(kept.slots)
        uuids = {d.uuid for d in self.node.gpus if d.uuid is not None and d.place in kept.slots}
        for other in others:
            if other is not self and uuids:
                closed = frozenset(d.place for d in other.node.gpus if d.uuid in uuids)
                if closed:
                    other.kept, other.closed = kept, closed

    def lose(self, uuids: Collection[str]) -> None:
        """These devices are granted on another node now."""
        for device in self.node.gpus:
            if device.uuid in uuids:
                self.free.pop(device.place, None)

    def _open(self, needs: Needs, *, in_time: bool) -> Iterator[int]:
        """The devices of which a run could have what it needs of each, by their places."""
        kept = self.kept
        for place, slots in self.free.items():
            open_ = len(slots)
            if not in_time and kept is not None and place in self.closed:
                left = kept.slots[place] if kept.node == self.node.name else 0
                open_ = min(open_, left)
            if open_ >= (self.sizes.get(place, 1) if needs.whole else 1):
                yield place

    def _others(self, place: int) -> int:
        """How many slots of a device are held."""
        return self.sizes.get(place, 1) - len(self.free[place])


def offer(state: State, node: Node, taken: Claims) -> Offer:
    """What of ``node`` no attempt holds and no decision has taken.

    Not offered is a device that an attempt, or a decision, holds on another node, or whole, whatever its slots are now.
    """
    usage = state.usage_of(node.name)
    name, held, held_uuids = node.name, usage.slots, state.held_uuids
    free: dict[int, list[int]] = {}
    elsewhere: dict[int, str] = {}
    several = False
    unhealthy = unhealthy_devices(node) if node.unhealthy else ()
    for device in node.gpus:
        place = index = device.index
        if device.gpu is not None:
            place, several = device.gpu, True
        if index in held or (name, index) in taken.slots or place in unhealthy:
            continue
        uuid = device.uuid
        if uuid is not None and (
            (uuid in held_uuids and any(blockers(state, node, place, uuid)))
            or taken.uuids.get(uuid, name) != name
        ):
            elsewhere[place] = uuid
        elif place in free:
            free[place].append(index)
        else:
            free[place] = [index]
    sizes = slots_of_devices(node, unhealthy_too=True) if several else {}
    cpus = node.cpus - usage.cpus - taken.cpus.get(node.name, 0)
    memory_mb = node.memory_mb - usage.memory_mb - taken.memory_mb.get(node.name, 0)
    return Offer(node, free, cpus, memory_mb, sizes, elsewhere)


def offers_of(state: State, taken: Claims) -> dict[str, Offer]:
    """The offers of all nodes that take work and whose loss is not decided, by name."""
    return {
        node.name: offer(state, node, taken)
        for node in state.nodes.values()
        if node.takes_work and node.name not in taken.nodes
    }


def uuids_of(node: Node, slots: Collection[int]) -> set[str]:
    """The devices that these slots of a node are, as far as they are known."""
    return {d.uuid for d in node.gpus if d.uuid is not None and d.index in slots}


def blockers(state: State, node: Node, place: int, uuid: str) -> Iterator[tuple[Run, Active]]:
    """The attempts that hold a device of this node and do not share it here: they hold it on another node, or whole."""
    slots = [device.index for device in node.gpus if device.place == place]
    for run, active in holders(state, uuid):
        if not active.shares(uuid, node.name, slots):
            yield run, active


def holders(state: State, uuid: str) -> Iterator[tuple[Run, Active]]:
    """The attempts that hold this device, wherever they were granted it."""
    for ref in state.held_uuids.get(uuid, ()):
        run = state.runs[ref.run_id]
        if isinstance(run.phase, Active):
            yield run, run.phase
