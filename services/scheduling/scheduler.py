"""The scheduler: which waiting run gets which slots of which node now. Pure: the same view gives the same grants.

Owns the order of decisions, fit and the choice of node; the reservation is services/scheduling/reservation.py's.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from itertools import chain
from typing import NamedTuple

import msgspec

from events.config import Needs
from events.resources import Amount, fits, least_of
from events.state import SUSPECT_AFTER, Node, Run, State
from events.types import SchedulerInfo
from services.scheduling.kept_offers import KeptOffers
from services.scheduling.offers import MARGIN_S, Claims, Offer, offers_of, uuids_of
from services.scheduling.queue import PendingQueue, shape_of
from services.scheduling.reservation import Reservation, reserve
from services.scheduling.suspects import FIRST_PROBE_S, LAST_PROBE_S, avoided, open_to, probes_of

SCHEDULER = SchedulerInfo(
    name="priority-fifo",
    version=4,
    settings={
        "reservation": "head",
        "backfill": "time_limit",
        "margin_s": MARGIN_S,
        "devices": "least_loaded",
        "suspect_after": SUSPECT_AFTER,
        "probe_s": [FIRST_PROBE_S, LAST_PROBE_S],
    },
)
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


class Plan(NamedTuple):
    """What a decision comes to: the grants, for whom a node is kept, and what is left of each node that takes work."""

    grants: list[Grant]
    reservation: Reservation | None
    offers: dict[str, Offer]


def schedule(
    state: State,
    queue: PendingQueue,
    taken: Claims,
    limit: int,
    now_ns: int,
    *,
    strict: bool = False,
    kept: KeptOffers | None = None,
) -> list[Grant]:
    """Grants for the runs that fit now (ns since 1970), in the queue's order, ``limit`` at most: see `plan`."""
    if not queue.queued:
        return []
    return plan(state, queue, taken, limit, now_ns, strict=strict, kept=kept).grants


def plan(
    state: State,
    queue: PendingQueue,
    taken: Claims,
    limit: int,
    now_ns: int,
    *,
    strict: bool = False,
    kept: KeptOffers | None = None,
) -> Plan:
    """The decision as a whole.

    The first run that does not fit yet keeps a reservation on one node: those behind it get there only what would be left
    beside it when it starts, or what they give back before that by their time limits, so that a large run is not starved
    by small ones. The same goes for that node's devices where another node was given them too. A suspect node is granted
    single runs, and only what has no room elsewhere.

    ``strict``: nobody passes the first run that does not fit (a simulation's `fifo`). ``kept``: the offers as they were kept
    since the last decision, which makes no difference to what is decided.
    """
    found = None if kept is None else kept.at(state, taken)
    if found is None:
        kept = None
    offers = offers_of(state, taken) if found is None else found
    usual = [] if kept is not None else [o for o in offers.values() if not o.node.suspect]
    probes = (
        probes_of(state, taken, offers.values(), now_ns) if kept is None and len(usual) < len(offers) else []
    )
    uuids = state.held_uuids.keys() | taken.uuids.keys()
    most = _most_of(offers.values()) if kept is None else kept.most()
    grants: list[Grant] = []
    refused: dict[tuple[Needs, tuple[str, ...]], float] = {}
    reservation: Reservation | None = None
    heads = queue.heads()
    for run in heads:
        if len(grants) >= limit or not offers:
            break
        if run.run_id in taken.runs:
            continue
        needs, longest = run.needs, shape_of(run).longest_s
        kind = (needs, run.tried)
        lasting = math.inf if longest is None else longest
        # a decision only takes, and who lasts longer passes no sooner: so it costs by needs, not by time limits
        if kind in refused and lasting >= refused[kind]:
            heads.block()
            continue
        avoid = avoided(state, needs, run.tried)
        choice = None
        if most.holds(least_of(needs)):
            among = usual if kept is None else offers.values() if avoid else kept.candidates(needs)
            choice = choose(needs, longest, open_to(among, avoid), now_ns)
            if choice is None and probes:
                choice = choose(needs, longest, open_to(probes, avoid), now_ns)
        if choice is None:
            if strict:
                break
            heads.block()
            refused[kind] = lasting
            if reservation is None:
                reservation = reserve(state, taken, run, offers, now_ns, avoid)
                if kept is not None and reservation is not None:
                    kept.reserved(reservation.node)
            continue
        if choice.node.suspect:
            probes.remove(choice)
        in_time = choice.ends_in_time(longest, now_ns)
        chosen = choice.choose(needs, in_time=in_time)
        slots = tuple(sorted(chain.from_iterable(chosen.values())))
        over, count = heads.passed_over()
        grants.append(
            Grant(run, choice.node.name, choice.node.incarnation, slots, choice.free_slots, over, count)
        )
        choice.take(chosen, needs.cpus, needs.memory_mb, in_time=in_time)
        if kept is not None:
            kept.took(choice)
        _share(offers, choice.node, slots, uuids)
    return Plan(grants, reservation, offers)


def choose(needs: Needs, longest: float | None, offers: Iterable[Offer], now_ns: int) -> Offer | None:
    """The node for a run that lasts ``longest`` seconds at most (None: nobody knows), or None where it fits nowhere.

    Where fewest others are on the devices that it gets, then the tightest fit; for a run without GPUs the node with the
    fewest.
    """
    least, simple = least_of(needs), not needs.whole
    fitting = [
        (o, gpus)
        for o in offers
        if fits(least, len(o.free) if simple else o.gpus_free(needs), o.cpus, o.memory_mb)
        and (gpus := _gpus_of(needs, longest, o, now_ns)) is not None
    ]
    if not fitting:
        return None
    if needs.gpus == 0:
        return min((o for o, _ in fitting), key=lambda o: (len(o.node.gpus), -o.cpus, o.node.name))
    enough = [o for o, gpus in fitting if gpus == needs.gpus]
    if enough:

        def key(o: Offer) -> tuple[int, int, int, str]:
            load = o.load(needs, in_time=o.ends_in_time(longest, now_ns)) if o.sizes else 0
            return load, len(o.free), o.cpus, o.node.name

        return min(enough, key=key)
    return max(fitting, key=lambda fit: (fit[1], fit[0].cpus, fit[0].node.name))[0]


def _most_of(offers: Collection[Offer]) -> Amount:
    """More than this of anything none of the offers has."""
    return Amount(
        max((len(o.free) for o in offers), default=0),
        max((o.cpus for o in offers), default=0),
        max((o.memory_mb for o in offers), default=0),
    )


def _gpus_of(needs: Needs, longest: float | None, o: Offer, now_ns: int) -> int | None:
    """How many devices a run gets of an offer that has room for it; None where that is kept for the one that waits."""
    kept = o.kept
    if kept is None or o.ends_in_time(longest, now_ns):
        return min(needs.gpus, o.gpus_free(needs))
    if kept.node == o.node.name and not kept.left.holds(Amount(0, needs.cpus, needs.memory_mb)):
        return None
    gpus = o.gpus_for(needs, in_time=False)
    return None if needs.mandatory and gpus < needs.gpus else gpus


def _share(offers: Mapping[str, Offer], node: Node, slots: tuple[int, ...], uuids: set[str]) -> None:
    """A device that is now granted is granted on no other node that was given it too."""
    granted = uuids_of(node, slots) - uuids
    if not granted:
        return
    uuids |= granted
    for other in offers.values():
        if other.node.name != node.name:
            other.lose(granted)
