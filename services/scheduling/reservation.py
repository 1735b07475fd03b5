"""The reservation: which node, and which of its devices, the first run that does not fit waits for, and until when.

Owns the forecast by time limits (docs/decisions/0009, 0016); knows no queue, log or clock. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from events.config import Needs
from events.resources import NOTHING, Amount, fits, least_of, slots_of_devices
from events.run_machine import SECOND_NS
from events.state import Active, Pending, Run, State
from events.times import nanoseconds
from services.scheduling.offers import MARGIN_S, Claims, KeptRoom, Offer, blockers, uuids_of
from services.scheduling.order import Order, order_of
from services.scheduling.queue import longest_s
from trainshed_client.statuses import NodeStatus

STARTING_S = 5
"""From a grant to the worker's exec it takes less; a grant whose worker is not up by then is forecast from now on."""
ENDING_S = 1
"""From the last moment that limit and grace allow to the end in the log."""


class Reservation(NamedTuple):
    """The first run that does not fit, and the node that is kept for it; ``until_ns`` as in KeptRoom."""

    run: Run
    node: str
    until_ns: int | None


class HeldAmount(NamedTuple):
    """What one attempt, or a grant that is not folded, holds of a node, and when it has ended by its time limit.

    ``slots``: how many of each device, by its place. Who does not share a device here holds as many as it is.
    """

    order: Order
    ends_ns: int | None
    slots: Mapping[int, int]
    cpus: int
    memory_mb: int


class _Room:
    """What is had of a node for one run: its slots device by device, CPUs and memory."""

    def __init__(
        self, needs: Needs, slots: dict[int, int], sizes: Mapping[int, int], cpus: int, mb: int
    ) -> None:
        self.slots = slots
        self._needs = least_of(needs)
        self._wanted = sizes if needs.whole else dict.fromkeys(slots, 1)
        self._gpus = sum(slots[place] >= self._wanted[place] for place in slots)
        self.cpus, self.memory_mb = cpus, mb

    @property
    def over(self) -> Amount:
        """What is had beside what the run needs; negative where it lacks that."""
        return Amount(self._gpus, self.cpus, self.memory_mb).less(self._needs)

    @property
    def holds(self) -> bool:
        """Whether the run could start."""
        return fits(self._needs, self._gpus, self.cpus, self.memory_mb)

    def change(self, one: HeldAmount, sign: int) -> None:
        """Give back what one holds (1), or take it (-1)."""
        self.cpus += sign * one.cpus
        self.memory_mb += sign * one.memory_mb
        for place, slots in one.slots.items():
            if place in self.slots:
                wanted = self._wanted[place]
                self._gpus -= self.slots[place] >= wanted
                self.slots[place] += sign * slots
                self._gpus += self.slots[place] >= wanted

    def kept(self, now: Mapping[int, list[int]]) -> tuple[dict[int, int], int]:
        """The devices that are kept for the run, with how many slots it leaves of each, and how many slots of them are in
        its way (they are held by runs behind it).

        Those in whose way least is; of these the ones of which, by what is free ``now``, least is denied to others.
        """

        def badness(place: int) -> tuple[int, int, int]:
            left = self.slots[place] - self._wanted[place]
            return max(0, -left), max(0, len(now.get(place, ())) - max(0, left)), -place

        places = sorted(self.slots, key=badness)[: self._needs.gpus]
        left = {place: self.slots[place] - self._wanted[place] for place in places}
        return left, sum(max(0, -slots) for slots in left.values())


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
    """Keep one node for ``run``, and of it so many devices as it asks for. None where none could hold it; a suspect one is
    kept for nobody, nor one of ``avoid``.

    It is the node where it can start first by the time limits of what holds it; what runs behind get there does not put
    that off. Where no limit tells a time, the node where runs behind hold least of what it needs; of those where they
    hold nothing of it, the one that lacks least now. Elsewhere what is lacking now does not count: it goes up and down
    with the runs behind, and a reservation that moves to and fro with it would never be met. So the choice moves only to
    a node where less is in the way, and what is in the way of it never becomes more. The same goes for its devices.
    """
    needs = run.needs
    best: tuple[_Choice, Offer, KeptRoom] | None = None
    for o in offers.values():
        if o.node.suspect or o.node.name in avoid:
            continue
        if len(o.node.gpus) < least_of(needs).gpus:
            continue
        sizes = _sizes(state, o)
        whole = Amount(len(sizes), o.node.cpus, o.node.memory_mb)
        if not whole.holds(least_of(needs)):
            continue
        held = list(held_of(state, taken, o, sizes, now_ns))
        room = _Room(needs, _free_now(o, sizes, held), sizes, o.cpus, o.memory_mb)
        now = room.over.lacking
        until_ns = earliest(room, held, now_ns)
        if until_ns is not None:
            kept, _ = room.kept(o.free)
            choice = _Choice(False, until_ns, NOTHING, NOTHING, o.node.name)
        else:
            room = _Room(needs, dict(sizes), sizes, o.node.cpus, o.node.memory_mb)
            for one in held:
                if one.order > order_of(run):
                    room.change(one, -1)
            kept, gpus = room.kept(o.free)
            in_the_way = room.over.lacking._replace(gpus=gpus)
            choice = _Choice(True, 0, in_the_way, NOTHING if any(in_the_way) else now, o.node.name)
        if best is None or choice < best[0]:
            best = (choice, o, KeptRoom(o.node.name, room.over, kept, until_ns))
    if best is None:
        return None
    choice, chosen, room_kept = best
    chosen.keep(room_kept, offers.values())
    return Reservation(run, choice.node, room_kept.until_ns)


def earliest(room: _Room, held: Iterable[HeldAmount], now_ns: int) -> int | None:
    """When the run could start at the latest, by the time limits of what is held; ``room`` is then what is had.

    None where something without a limit is in the way. What ends at that very moment may be left out of what is had:
    that takes nothing from the one that waits.
    """
    at = now_ns
    for one in sorted((one for one in held if one.ends_ns is not None), key=_end):
        if room.holds:
            break
        room.change(one, 1)
        at = _end(one)
    return at if room.holds else None


def _end(one: HeldAmount) -> int:
    assert one.ends_ns is not None
    return one.ends_ns


def _sizes(state: State, o: Offer) -> dict[int, int]:
    """The devices of a node that could be had of it, and how many slots each is.

    One that is held on a node that is away is as good as none, until that is back or removed.
    """
    sizes = slots_of_devices(o.node, unhealthy_too=False)
    for place, uuid in o.elsewhere.items():
        if not all(_comes_back(state, active) for _, active in blockers(state, o.node, place, uuid)):
            del sizes[place]
    return sizes


def _free_now(o: Offer, sizes: Mapping[int, int], held: Iterable[HeldAmount]) -> dict[int, int]:
    """The slots that are free now, of each device; below nothing where more than one must end before one is."""
    free = {place: len(o.free.get(place, ())) for place in sizes}
    for place in o.elsewhere.keys() & sizes.keys():
        free[place] = sizes[place] - sum(one.slots.get(place, 0) for one in held)
    return free


def held_of(
    state: State, taken: Claims, o: Offer, sizes: Mapping[int, int], now_ns: int
) -> Iterator[HeldAmount]:
    """What is held of a node: by the attempts of the log, and by grants that are not folded, those of its devices
    (``sizes``: the slots of each) on other nodes among them."""
    node = o.node
    places = {d.index: d.index if d.gpu is None else d.gpu for d in node.gpus}
    for run, active, placement in state.attempts_of(node.name):
        slots = _counted(places, placement.slots)
        yield HeldAmount(
            order_of(run), ends_ns(run, active, now_ns), slots, placement.cpus, placement.memory_mb
        )
    for place, uuid in o.elsewhere.items():
        if place not in sizes:
            continue
        for run, active in blockers(state, node, place, uuid):
            yield HeldAmount(order_of(run), ends_ns(run, active, now_ns), {place: sizes[place]}, 0, 0)
    for grant in taken.grants:
        here = grant.node == node.name
        if not here and not o.elsewhere:
            continue
        waiting = state.runs.get(grant.run_id)
        if waiting is None or not isinstance(waiting.phase, Pending):
            continue
        longest = longest_s(waiting)
        ends = None if longest is None else nanoseconds(grant.view.now) + _ns(MARGIN_S + longest)
        if here:
            slots = _counted(places, grant.slots)
            yield HeldAmount(order_of(waiting), ends, slots, grant.cpus, grant.memory_mb)
        elif (granted_on := state.nodes.get(grant.node)) is not None:
            uuids = uuids_of(granted_on, grant.slots)
            slots = {
                place: sizes[place] for place, uuid in o.elsewhere.items() if uuid in uuids and place in sizes
            }
            yield HeldAmount(order_of(waiting), ends, slots, 0, 0)


def _counted(places: Mapping[int, int], slots: Iterable[int]) -> Mapping[int, int]:
    """How many of these slots each device is."""
    counted: dict[int, int] = {}
    for index in slots:
        if (place := places.get(index)) is not None:
            counted[place] = counted.get(place, 0) + 1
    return counted


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
