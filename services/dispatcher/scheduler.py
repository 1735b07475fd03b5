"""The scheduler: which waiting run gets which slots of which node now. Pure: the same view gives the same grants.

Owns fit, choice of node and the reservation for a run that does not fit yet; knows no log, clock or event.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from events.state import Active, Node, Run, State
from events.types import SchedulerInfo
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


class Offer(msgspec.Struct):
    """What is free of one node now; changed as grants are made."""

    node: Node
    slots: list[int]
    cpus: int
    memory_mb: int
    kept: Reservation | None = None

    def take(self, slots: tuple[int, ...], cpus: int, memory_mb: int) -> None:
        """Count a grant in."""
        self.slots = [index for index in self.slots if index not in slots]
        self.cpus -= cpus
        self.memory_mb -= memory_mb


class Reservation(msgspec.Struct):
    """What is left beside the run that waits for this node: runs behind it may take no more than that."""

    slots: int
    cpus: int
    memory_mb: int


def schedule(state: State, queue: PendingQueue, taken: Taken, limit: int) -> list[Grant]:
    """Grants for the runs that fit now, in the queue's order, ``limit`` at most.

    The first run that does not fit keeps a reservation on one node: those behind it get there only what would be left
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
                reserve(state, run, offers)
                reserved = True
            continue
        slots = tuple(choice.slots[: run.needs.gpus])
        over, count = heads.passed_over(run)
        grants.append(
            Grant(run, choice.node.name, choice.node.incarnation, slots, len(choice.slots), over, count)
        )
        choice.take(slots, run.needs.cpus, run.needs.memory_mb)
        if choice.kept is not None:
            choice.kept.slots -= len(slots)
            choice.kept.cpus -= run.needs.cpus
            choice.kept.memory_mb -= run.needs.memory_mb
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
    enough = [o for o in fitting if len(o.slots) >= needs.gpus]
    if enough:
        return min(enough, key=lambda o: (len(o.slots), o.cpus, o.node.name))
    return max(fitting, key=lambda o: (len(o.slots), o.cpus, o.node.name))


def reserve(state: State, run: Run, offers: Mapping[str, Offer]) -> None:
    """Keep one node for ``run``: the one that the fewest runs behind it use, then the one that lacks least."""
    needs = run.needs
    able = [
        o
        for o in offers.values()
        if usable_slots(o.node) >= needs.gpus
        and o.node.cpus >= needs.cpus
        and o.node.memory_mb >= needs.memory_mb
    ]
    if not able:
        return
    order = order_of(run)
    kept = min(
        able,
        key=lambda o: (
            len(list(_behind(state, o.node, order))),
            max(0, needs.gpus - len(o.slots)),
            max(0, needs.cpus - o.cpus),
            max(0, needs.memory_mb - o.memory_mb),
            o.node.name,
        ),
    )
    passed = [active for _, active in _behind(state, kept.node, order)]
    kept.kept = Reservation(
        usable_slots(kept.node) - needs.gpus - sum(len(a.slots) for a in passed),
        kept.node.cpus - needs.cpus - sum(a.cpus for a in passed),
        kept.node.memory_mb - needs.memory_mb - sum(a.memory_mb for a in passed),
    )


def usable_slots(node: Node) -> int:
    """How many slots of a node can be granted at all."""
    return sum(device.index not in node.unhealthy for device in node.gpus)


def _fits(run: Run, o: Offer) -> bool:
    needs = run.needs
    least = needs.gpus if needs.mandatory else 0
    if len(o.slots) < least or o.cpus < needs.cpus or o.memory_mb < needs.memory_mb:
        return False
    kept = o.kept
    if kept is None:
        return True
    gpus = min(needs.gpus, len(o.slots))
    return kept.slots >= gpus and kept.cpus >= needs.cpus and kept.memory_mb >= needs.memory_mb


def _behind(state: State, node: Node, order: Order) -> Iterator[tuple[Run, Active]]:
    """The live attempts of a node whose runs stand behind ``order``: they have passed it."""
    return ((run, active) for run, active in state.attempts_of(node.name) if order_of(run) > order)


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
