"""What a waiting run waits for, in the scheduler's own terms: its place, the reservation, and who holds what it needs.

Owns what `run.explain` tells of a PENDING run; decides nothing, reads no table and no clock. Pure.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from events.resources import could_hold
from events.state import Node, Pending, Run, State
from events.times import rfc3339
from projections.standing import Standing
from services.scheduling.queue import shape_of
from services.scheduling.reservation import (
    MARGIN_S,
    Reservation,
    Taken,
    ends_ns,
    holders_elsewhere,
    offer,
    offers_of,
    reserve,
)
from services.scheduling.scheduler import choose
from trainshed_client.answers import Holder, Reserved, Waiting
from trainshed_client.statuses import NodeStatus

MOST_HOLDERS = 50
MOST_COMMANDS = 3
LOOKED_AT = 1_000
"""So many runs at the head of the queue are looked at for the one that has the reservation."""
_NOBODY = Taken()


def outlook(standing: Standing, now_ns: int) -> Waiting:
    """All that `explain` says of a run that waits."""
    run, reason, text = standing.run, standing.waits_for.reason, standing.waits_for.text
    if standing.place is None:
        return Waiting(reason=reason, text=text, of=standing.of, commands=_for_dependencies(run))
    state = standing.state
    reservation = _reservation(standing, now_ns)
    offers = offers_of(state, _NOBODY)
    longest = shape_of(run).longest_s
    if reservation is not None and reservation.run.run_id != run.run_id:
        room = choose(run.needs, longest, offers.values(), now_ns)
        reserve(state, _NOBODY, reservation.run, offers, now_ns)
        if room is not None and choose(run.needs, longest, offers.values(), now_ns) is None:
            reason, text = "reservation", _behind(run, reservation, room.node.name)
    holders = list(_holders(state, run, reason, reservation, now_ns))
    return Waiting(
        reason=reason,
        text=text,
        place=standing.place,
        of=standing.of,
        reservation=None if reservation is None else _reserved(reservation),
        holders=holders[:MOST_HOLDERS],
        holders_total=len(holders),
        commands=_for_nodes(state, run, reason),
    )


def _reservation(standing: Standing, now_ns: int) -> Reservation | None:
    """The one that the scheduler makes: for the first run in the queue that has to wait, perhaps for this one itself."""
    offers = offers_of(standing.state, _NOBODY)
    for run in _until(standing):
        if choose(run.needs, shape_of(run).longest_s, offers.values(), now_ns) is None:
            reservation = reserve(standing.state, _NOBODY, run, offers, now_ns)
            if reservation is not None:
                return reservation
    return None


def _until(standing: Standing) -> Iterator[Run]:
    # all that fit are granted within milliseconds, and what no node could hold is rare: it is among the first
    yield from itertools.islice(standing.ahead, LOOKED_AT)
    yield standing.run


def _behind(run: Run, reservation: Reservation, room: str) -> str:
    """Why it may not have the room that the node ``room`` has."""
    first = f"for run {reservation.run.run_id[:6]}, which comes first"
    kept = f"{reservation.node} has room, but keeps it {first}"
    if room != reservation.node:
        kept = f"{room} has room, but on devices that {reservation.node} keeps {first}"
    if reservation.until_ns is None:
        return f"{kept}; what that waits for has no time limit"
    if run.max_duration_s is None:
        return f"{kept}; this one has no time limit to be over before that"
    lasts = f"{run.max_duration_s:g} s and {run.grace_s:g} s of grace, and {MARGIN_S} s are kept spare"
    return f"{kept}; this one may last until after that starts ({lasts})"


def _reserved(reservation: Reservation) -> Reserved:
    run, until_ns = reservation.run, reservation.until_ns
    return Reserved(
        run_id=run.run_id,
        name=run.name,
        node=reservation.node,
        starts_by=None if until_ns is None else rfc3339(until_ns),
    )


def _holders(
    state: State, run: Run, reason: str, reservation: Reservation | None, now_ns: int
) -> Iterator[Holder]:
    """The attempts that hold what the run lacks of the nodes that could hold it, be it a device granted on another."""
    if reason == "turn":
        return
    nodes = [
        node
        for node in state.nodes.values()
        if node.takes_work and could_hold(node, run.needs, unhealthy_too=False)
    ]
    if reason == "reservation" and reservation is not None:
        nodes = [node for node in nodes if node.name == reservation.node]
    found = {
        holder.run_id: (holder, active) for node in nodes for holder, active in state.attempts_of(node.name)
    }
    if reason in ("gpus", "reservation"):
        uuids = [uuid for node in nodes for uuid in offer(state, node, _NOBODY).elsewhere]
        found |= {holder.run_id: (holder, active) for holder, active, _ in holders_elsewhere(state, uuids)}
    for holder, active in sorted(
        found.values(), key=lambda one: (one[1].node, one[1].slots, one[0].submit_seq)
    ):
        if reason != "gpus" or active.slots:
            ends = ends_ns(holder, active, now_ns)
            yield Holder(
                run_id=holder.run_id,
                name=holder.name,
                node=active.node,
                slots=list(active.slots),
                cpus=active.cpus,
                memory_mb=active.memory_mb,
                since=rfc3339(active.since_ns),
                ends_by=None if ends is None else rfc3339(ends),
            )


def _for_dependencies(run: Run) -> list[str]:
    phase = run.phase
    if not isinstance(phase, Pending):
        return []
    return [f"trainshed explain {run_id[:6]}" for run_id in sorted(phase.waiting_for)[:MOST_COMMANDS]]


def _for_nodes(state: State, run: Run, reason: str) -> list[str]:
    """What makes a node that could hold the run take work again."""
    could = [node for node in state.nodes.values() if could_hold(node, run.needs, unhealthy_too=False)]
    drained = [node for node in could if node.status is NodeStatus.UP and node.drained]
    commands = [f"trainshed resume {node.name}" for node in sorted(drained, key=_name)[:MOST_COMMANDS]]
    if reason in ("no_node", "too_large") and any(
        node.status in (NodeStatus.LOST, NodeStatus.LEFT) for node in could
    ):
        commands.append("trainshed nodes")
    return commands


def _name(node: Node) -> str:
    return node.name
