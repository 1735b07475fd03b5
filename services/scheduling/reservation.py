"""What is free of a node, and the reservation: which node the first run that does not fit waits for, and until when.

Owns the forecast by time limits (docs/decisions/0009); knows no queue, log or clock. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

import msgspec

from events.resources import NOTHING, Amount, least_of, whole_of
from events.run_machine import SECOND_NS
from events.state import Active, Node, Pending, Run, State
from events.times import nanoseconds
from events.types import Dispatched
from services.scheduling.order import Order, order_of
from services.scheduling.queue import longest_s
from trainshed_client.statuses import NodeStatus

STARTING_S = 5
"""From a grant to the worker's exec it takes less; a grant whose worker is not up by then is forecast from now on."""
ENDING_S = 1
"""From the last moment that limit and grace allow to the end in the log."""
MARGIN_S = 10
"""Counted for a run that is to be over in time: STARTING_S, ENDING_S, and what the clocks of two machines differ."""


class Claims(msgspec.Struct):
    """What decisions that are not folded yet hold, beside the state (docs/protocol.md rule 1)."""

    runs: set[str] = msgspec.field(default_factory=set)
    nodes: set[str] = msgspec.field(default_factory=set)
    slots: set[tuple[str, int]] = msgspec.field(default_factory=set)
    uuids: set[str] = msgspec.field(default_factory=set)
    cpus: dict[str, int] = msgspec.field(default_factory=dict)
    memory_mb: dict[str, int] = msgspec.field(default_factory=dict)
    grants: list[Dispatched] = msgspec.field(default_factory=list)


class KeptRoom(msgspec.Struct):
    """What is kept for the one that waits; changed as grants are made.

    ``left`` is what a run behind may have of the reserved node beside it, and ``until_ns`` when it starts at the latest:
    what has ended by then may have all that is free. None: nobody knows.
    """

    left: Amount
    until_ns: int | None


class Offer(msgspec.Struct):
    """What is free of one node now; changed as grants are made.

    ``elsewhere`` are devices of this node that are held on another. ``kept`` binds the reserved node, and a node that was
    given devices of it: its slots ``shared`` (None: it is the reserved one itself), since what is taken here is taken there.
    """

    node: Node
    slots: list[int]
    cpus: int
    memory_mb: int
    elsewhere: tuple[str, ...] = ()
    kept: KeptRoom | None = None
    shared: frozenset[int] | None = None

    def take(self, slots: tuple[int, ...], cpus: int, memory_mb: int, *, in_time: bool) -> None:
        """Count a grant in; ``in_time``: it is over before the reservation begins."""
        self.slots = [index for index in self.slots if index not in slots]
        self.cpus -= cpus
        self.memory_mb -= memory_mb
        if self.kept is not None and not in_time:
            what = Amount(len(slots), cpus, memory_mb)
            if self.shared is not None:
                what = Amount(len(self.shared.intersection(slots)), 0, 0)
            self.kept.left = self.kept.left.less(what)

    def ends_in_time(self, longest: float | None, now_ns: int) -> bool:
        """Whether an attempt that lasts ``longest`` seconds at most, granted now, is over when the reservation begins."""
        if self.kept is None or self.kept.until_ns is None or longest is None:
            return False
        return now_ns + _ns(MARGIN_S + longest) <= self.kept.until_ns

    def slots_for(self, gpus: int, *, in_time: bool) -> int:
        """How many of ``gpus`` slots a run could have here now: the first ones."""
        free = len(self.slots)
        if self.kept is not None and not in_time:
            own = 0 if self.shared is None else free - len(self.shared.intersection(self.slots))
            free = min(free, own + max(0, self.kept.left.slots))
        return min(gpus, free)

    def keep(self, kept: KeptRoom, others: Iterable[Offer]) -> None:
        """This node is reserved: ``others`` that were given devices of it are bound by what is kept too."""
        self.kept = kept
        devices = {
            d.uuid for d in self.node.gpus if d.uuid is not None and d.index not in self.node.unhealthy
        }
        for other in others:
            shared = [d.index for d in other.node.gpus if d.uuid in devices] if other is not self else ()
            if shared:
                other.kept, other.shared = kept, frozenset(shared)
                other.slots.sort(key=other.shared.__contains__)  # its own first


class Reservation(NamedTuple):
    """The first run that does not fit, and the node that is kept for it; ``until_ns`` as in KeptRoom."""

    run: Run
    node: str
    until_ns: int | None


def offer(state: State, node: Node, taken: Claims) -> Offer:
    """What of ``node`` no attempt holds and no decision has taken; a device that another node holds is not offered."""
    usage = state.usage_of(node.name)
    slots, elsewhere = [], []
    for device in node.gpus:
        index, uuid = device.index, device.uuid
        if index in usage.slots or index in node.unhealthy or (node.name, index) in taken.slots:
            continue
        if uuid is not None and (uuid in state.held_uuids or uuid in taken.uuids):
            elsewhere.append(uuid)
        else:
            slots.append(index)
    cpus = node.cpus - usage.cpus - taken.cpus.get(node.name, 0)
    memory_mb = node.memory_mb - usage.memory_mb - taken.memory_mb.get(node.name, 0)
    return Offer(node, slots, cpus, memory_mb, tuple(elsewhere))


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


class HeldAmount(NamedTuple):
    """What one attempt, or a grant that is not folded, holds of a node, and when it has ended by its time limit."""

    order: Order
    ends_ns: int | None
    what: Amount


class _Choice(NamedTuple):
    """How good a node is for the one that waits: the least is taken."""

    unknown: bool
    until_ns: int
    in_the_way: Amount
    lacking_now: Amount
    node: str


def reserve(
    state: State,
    taken: Claims,
    run: Run,
    offers: Mapping[str, Offer],
    now_ns: int,
    avoid: Collection[str] = (),
) -> Reservation | None:
    """Keep one node for ``run``. None where none could hold it; a suspect one is kept for nobody, nor one of ``avoid``.

    It is the node where it can start first by the time limits of what holds it; what runs behind get there does not put
    that off. Where no limit tells a time, the node where runs behind hold least of what it needs; of those where they
    hold nothing of it, the one that lacks least now. Elsewhere what is lacking now does not count: it goes up and down
    with the runs behind, and a reservation that moves to and fro with it would never be met. So the choice moves only to
    a node where less is in the way, and what is in the way of it never becomes more.
    """
    needs = least_of(run.needs)
    best: tuple[_Choice, Offer, Amount] | None = None
    for o in offers.values():
        if o.node.suspect or o.node.name in avoid:
            continue
        whole = whole_of(o.node, unhealthy_too=False)
        if o.elsewhere:
            whole = whole.less(Amount(_lost_with(state, o.elsewhere), 0, 0))
        if not whole.holds(needs):
            continue
        held = list(held_of(state, taken, o, now_ns))
        free = Amount(len(o.slots), o.cpus, o.memory_mb)
        until_ns, left = earliest(needs, free, held, now_ns)
        if until_ns is not None:
            choice = _Choice(False, until_ns, NOTHING, NOTHING, o.node.name)
        else:
            left = whole.less(needs)
            for one in held:
                if one.order > order_of(run):
                    left = left.less(one.what)
            in_the_way = left.lacking
            now = NOTHING if any(in_the_way) else free.less(needs).lacking
            choice = _Choice(True, 0, in_the_way, now, o.node.name)
        if best is None or choice < best[0]:
            best = (choice, o, left)
    if best is None:
        return None
    choice, chosen, left = best
    kept = KeptRoom(left, None if choice.unknown else choice.until_ns)
    chosen.keep(kept, offers.values())
    return Reservation(run, choice.node, kept.until_ns)


def earliest(
    needs: Amount, free: Amount, held: Iterable[HeldAmount], now_ns: int
) -> tuple[int | None, Amount]:
    """When ``needs`` are free at the latest, by the time limits of what is held, and what is left beside them then.

    None where something without a limit is in the way. What ends at that very moment may be left out of what is left:
    that takes nothing from the one that waits.
    """
    at = now_ns
    ending = sorted((one.ends_ns, one.what) for one in held if one.ends_ns is not None)
    for ends_ns, what in ending:
        if free.holds(needs):
            break
        free, at = free.plus(what), ends_ns
    return (at if free.holds(needs) else None), free.less(needs)


def held_of(state: State, taken: Claims, o: Offer, now_ns: int) -> Iterator[HeldAmount]:
    """What is held of a node: by the attempts of the log, and by grants that are not folded, those of its devices on
    other nodes among them."""
    node = o.node
    usable = {device.index for device in node.gpus} - node.unhealthy
    for run, active, placement in state.attempts_of(node.name):
        what = Amount(len(usable.intersection(placement.slots)), placement.cpus, placement.memory_mb)
        yield HeldAmount(order_of(run), ends_ns(run, active, now_ns), what)
    for run, active, devices in holders_elsewhere(state, o.elsewhere) if o.elsewhere else ():
        if _comes_back(state, active):
            yield HeldAmount(order_of(run), ends_ns(run, active, now_ns), Amount(devices, 0, 0))
    for grant in taken.grants:
        here = grant.node == node.name
        if not here and not o.elsewhere:
            continue
        waiting = state.runs.get(grant.run_id)
        if waiting is None or not isinstance(waiting.phase, Pending):
            continue
        if here:
            what = Amount(len(usable.intersection(grant.slots)), grant.cpus, grant.memory_mb)
        else:
            granted_on = state.nodes.get(grant.node)
            uuids = uuids_of(granted_on, grant.slots) if granted_on is not None else set()
            what = Amount(len(uuids.intersection(o.elsewhere)), 0, 0)
        longest = longest_s(waiting)
        ends = None if longest is None else nanoseconds(grant.view.now) + _ns(MARGIN_S + longest)
        yield HeldAmount(order_of(waiting), ends, what)


def holders_elsewhere(state: State, uuids: Iterable[str]) -> Iterator[tuple[Run, Active, int]]:
    """The attempts that hold these devices, wherever they were granted them, and how many of them each has."""
    refs = Counter(ref for uuid in uuids for ref in state.held_uuids.get(uuid, ()))
    for ref, devices in refs.items():
        run = state.runs[ref.run_id]
        if isinstance(run.phase, Active):
            yield run, run.phase, devices


def _lost_with(state: State, uuids: Iterable[str]) -> int:
    """How many of these devices are held on nodes that are away: as good as none, until the node is back or removed."""
    return sum(n for _, active, n in holders_elsewhere(state, uuids) if not _comes_back(state, active))


def _comes_back(state: State, active: Active) -> bool:
    """Whether an attempt's end can be expected: its nodes have to be there to report it."""
    nodes = map(state.nodes.get, active.nodes)
    return all(node is not None and node.status is NodeStatus.UP for node in nodes)


def ends_ns(run: Run, active: Active, now_ns: int) -> int | None:
    """When an attempt has ended by its time limit, not before now; None without a limit.

    The limit counts from exec, which is after the grant and before Started.
    """
    longest = longest_s(run)
    if longest is None:
        return None
    begun_ns = active.since_ns if active.started else max(active.since_ns + _ns(STARTING_S), now_ns)
    return max(begun_ns + _ns(longest + ENDING_S), now_ns)


def _ns(seconds: float) -> int:
    return int(seconds * SECOND_NS)
