"""The scheduler: which waiting run gets which slots of which node now. Pure: the same view gives the same grants.

Owns fit, choice of node and the reservation for a run that does not fit yet; knows no log, clock or event.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import msgspec

from events.state import Node, Pending, Run, State
from events.types import Dispatched, SchedulerInfo
from services.dispatcher.queue import Order, PendingQueue, order_of

SCHEDULER = SchedulerInfo(name="priority-fifo", version=1, settings={"reservation": "head"})
"""What Elected says of the decisions of its epoch."""


class Grant(msgspec.Struct, frozen=True):
    """One decision: the run may start on the node with these slots."""

    run: Run
    node: str
    incarnation: str
    slots: tuple[int, ...]
    free: int
    passed_over: tuple[str, ...]
    passed_over_count: int


class Taken(msgspec.Struct):
    """What decisions that are not folded yet hold, beside the state (docs/protocol.md rule 1)."""

    runs: set[str] = msgspec.field(default_factory=set)
    nodes: set[str] = msgspec.field(default_factory=set)
    slots: set[tuple[str, int]] = msgspec.field(default_factory=set)
    uuids: set[str] = msgspec.field(default_factory=set)
    cpus: dict[str, int] = msgspec.field(default_factory=dict)
    memory_mb: dict[str, int] = msgspec.field(default_factory=dict)
    grants: list[Dispatched] = msgspec.field(default_factory=list)


class Offer(msgspec.Struct):
    """What is free of one node now; changed as grants are made."""

    node: Node
    slots: list[int]
    cpus: int
    memory_mb: int
    kept: Holding | None = None

    def take(self, slots: tuple[int, ...], cpus: int, memory_mb: int) -> None:
        """Count a grant in."""
        self.slots = [index for index in self.slots if index not in slots]
        self.cpus -= cpus
        self.memory_mb -= memory_mb
        if self.kept is not None:
            self.kept = self.kept.less(Holding(len(slots), cpus, memory_mb))

    def slots_for(self, gpus: int) -> int:
        """How many of ``gpus`` slots a run behind the reservation could have here now."""
        open_ = len(self.slots) if self.kept is None else min(len(self.slots), max(0, self.kept.slots))
        return min(gpus, open_)


class Holding(NamedTuple):
    """What something holds of a node, or, of an offer's ``kept``, what is left beside the run that waits for it."""

    slots: int
    cpus: int
    memory_mb: int

    def less(self, other: Holding) -> Holding:
        """This without the other; negative where there is not that much."""
        return Holding(self.slots - other.slots, self.cpus - other.cpus, self.memory_mb - other.memory_mb)

    @property
    def lacking(self) -> Holding:
        """How far it is below nothing, in each."""
        return Holding(max(0, -self.slots), max(0, -self.cpus), max(0, -self.memory_mb))


def schedule(state: State, queue: PendingQueue, taken: Taken, limit: int) -> list[Grant]:
    """Grants for the runs that fit now, in the queue's order, ``limit`` at most.

    The first run that does not fit yet keeps a reservation on one node: those behind it get there only what would be left
    beside it once everything ahead of it has ended, so that a large run is not starved by small ones.
    """
    offers = {node.name: offer(state, node, taken) for node in state.nodes.values() if node.takes_work}
    uuids = set(state.held_uuids) | taken.uuids
    grants: list[Grant] = []
    reserved = False
    heads = queue.heads()
    for run in heads:
        if len(grants) >= limit or not offers:
            break
        if run.run_id in taken.runs:
            continue
        choice = choose(run, offers.values())
        if choice is None:
            heads.block()
            if not reserved:
                reserved = reserve(state, taken, run, offers)
            continue
        slots = tuple(choice.slots[: choice.slots_for(run.needs.gpus)])
        over, count = heads.passed_over(run)
        grants.append(
            Grant(run, choice.node.name, choice.node.incarnation, slots, len(choice.slots), over, count)
        )
        choice.take(slots, run.needs.cpus, run.needs.memory_mb)
        _share(offers, choice.node, slots, uuids)
    return grants


def offer(state: State, node: Node, taken: Taken) -> Offer:
    """What of ``node`` no attempt holds and no decision has taken; a device that another node holds is not offered."""
    usage = state.usage_of(node.name)
    if node.name in taken.nodes:
        return Offer(node, [], 0, -1)
    slots = [
        device.index
        for device in node.gpus
        if device.index not in usage.slots
        and device.index not in node.unhealthy
        and (node.name, device.index) not in taken.slots
        and (device.uuid is None or (device.uuid not in state.held_uuids and device.uuid not in taken.uuids))
    ]
    cpus = node.cpus - usage.cpus - taken.cpus.get(node.name, 0)
    memory_mb = node.memory_mb - usage.memory_mb - taken.memory_mb.get(node.name, 0)
    return Offer(node, slots, cpus, memory_mb)


def choose(run: Run, offers: Iterable[Offer]) -> Offer | None:
    """The node for a run, or None: the tightest fit, and for a run without GPUs the node with the fewest."""
    needs = run.needs
    fitting = [o for o in offers if _fits(run, o)]
    if not fitting:
        return None
    if needs.gpus == 0:
        return min(fitting, key=lambda o: (len(o.node.gpus), -o.cpus, o.node.name))
    enough = [o for o in fitting if o.slots_for(needs.gpus) == needs.gpus]
    if enough:
        return min(enough, key=lambda o: (len(o.slots), o.cpus, o.node.name))
    return max(fitting, key=lambda o: (o.slots_for(needs.gpus), o.cpus, o.node.name))


def reserve(state: State, taken: Taken, run: Run, offers: Mapping[str, Offer]) -> bool:
    """Keep one node for ``run``: where the runs behind it hold least of what it needs. False where none could hold it.

    Of nodes where they hold nothing of it, the one that lacks least now. Elsewhere what is lacking now does not count:
    it goes up and down with the runs behind, and a reservation that moves to and fro with it would never be met. So
    the choice moves only to a node where less is in the way, and what is in the way of it never becomes more.
    """
    needs = _least(run)
    best: tuple[tuple[Holding, Holding, str], Offer, Holding] | None = None
    for o in offers.values():
        whole = Holding(usable_slots(o.node), o.node.cpus, o.node.memory_mb)
        if any(whole.less(needs).lacking):
            continue
        left = whole.less(needs)
        for held in _behind(state, taken, o.node.name, order_of(run)):
            left = left.less(held)
        in_the_way = left.lacking
        now = _NOTHING if any(in_the_way) else Holding(len(o.slots), o.cpus, o.memory_mb).less(needs).lacking
        key = (in_the_way, now, o.node.name)
        if best is None or key < best[0]:
            best = (key, o, left)
    if best is None:
        return False
    _, kept, left = best
    kept.kept = left
    return True


def usable_slots(node: Node) -> int:
    """How many slots of a node can be granted at all."""
    return sum(device.index not in node.unhealthy for device in node.gpus)


_NOTHING = Holding(0, 0, 0)


def _least(run: Run) -> Holding:
    """What a run cannot do without."""
    needs = run.needs
    return Holding(needs.gpus if needs.mandatory else 0, needs.cpus, needs.memory_mb)


def _fits(run: Run, o: Offer) -> bool:
    needs = run.needs
    if needs.cpus > o.cpus or (needs.memory_mb and needs.memory_mb > o.memory_mb):
        return False
    if needs.mandatory and needs.gpus > len(o.slots):
        return False
    kept = o.kept
    if kept is None:
        return True
    if needs.cpus > kept.cpus or (needs.memory_mb and needs.memory_mb > kept.memory_mb):
        return False
    return not needs.mandatory or o.slots_for(needs.gpus) == needs.gpus


def _behind(state: State, taken: Taken, node: str, order: Order) -> Iterator[Holding]:
    """What the runs hold of a node that stand behind ``order``: they have passed it, folded or not."""
    for run, active in state.attempts_of(node):
        if order_of(run) > order:
            yield Holding(len(active.slots), active.cpus, active.memory_mb)
    for grant in taken.grants:
        waiting = state.runs.get(grant.run_id)
        if (
            grant.node == node
            and waiting is not None
            and isinstance(waiting.phase, Pending)
            and order_of(waiting) > order
        ):
            yield Holding(len(grant.slots), grant.cpus, grant.memory_mb)


def _share(offers: Mapping[str, Offer], node: Node, slots: tuple[int, ...], uuids: set[str]) -> None:
    """A device that is now granted is granted on no other node that was given it too."""
    granted = {d.uuid for d in node.gpus if d.index in slots and d.uuid is not None} - uuids
    if not granted:
        return
    uuids |= granted
    for other in offers.values():
        if other.node.name != node.name:
            shared = {d.index for d in other.node.gpus if d.uuid in granted}
            other.slots = [index for index in other.slots if index not in shared]
