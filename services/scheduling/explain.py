"""Why each waiting run of a state waits, as data, by the scheduler's own decision: the two cannot disagree.

Owns the reasons, their order, and who holds what a run lacks; makes no text, reads no table and no clock. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from events.config import Needs
from events.resources import could_hold, fits, least_of, whole_of
from events.run_machine import SECOND_NS
from events.state import Active, Node, Pending, Placement, Run, State
from services.scheduling.offers import MARGIN_S, Claims, Offer, holders, offer
from services.scheduling.order import could_be_granted
from services.scheduling.queue import PendingQueue, Shape, shape_of
from services.scheduling.reservation import Reservation, ends_ns
from services.scheduling.scheduler import choose, plan
from services.scheduling.suspects import avoided, open_to, probe_due_ns, under_way
from trainshed_client.answers import Holder, Reserved, SuspectNode, Waiting
from trainshed_client.records import Wait
from trainshed_client.statuses import NodeStatus, WaitReason
from trainshed_client.times import moment

MOST_GRANTED = 1_000
"""So many grants are looked at; whoever has room beside them has its turn too, only not at once."""
MOST_HOLDERS = 50
MOST_COMMANDS = 3
MOST_SUSPECT = 10
MOST_RUNS = 10
"""So many of the runs that one waits for are named; the others are counted."""


class Explainer:
    """One state at one moment (ns since 1970), explained: one decision for all of its runs.

    What that decision would grant has its turn. Every other run is judged by its shape against what the decision leaves.
    ``state`` must not change meanwhile. ``before``: one of an earlier moment, whose queue need not be made anew; ``queue``:
    that of the state at this moment, where somebody keeps it.
    """

    def __init__(
        self,
        state: State,
        now_ns: int,
        before: Explainer | None = None,
        *,
        queue: PendingQueue | None = None,
        most_granted: int = MOST_GRANTED,
    ) -> None:
        self._state = state
        self._now_ns = now_ns
        if queue is None:
            queue = self._queue_after(None if before is None or before._now_ns > now_ns else before)
        self._queue = queue
        decision = plan(state, self._queue, Claims(), most_granted, now_ns)
        self._granted = {grant.run.run_id for grant in decision.grants}
        self._granted_on = {grant.node for grant in decision.grants}
        self._reservation = decision.reservation
        self._offers = list(decision.offers.values())
        self._unbound = [msgspec.structs.replace(o, kept=None, closed=frozenset()) for o in self._offers]
        self._by_shape: dict[Shape, Wait] = {}
        self._without_room: dict[tuple[Needs, tuple[str, ...]], Wait] = {}
        self._wholes = {o.node.name: whole_of(o.node, unhealthy_too=False) for o in self._offers}

    def wait_of(self, run: Run) -> Wait:
        """Why ``run``, which is PENDING, is not running."""
        phase = run.phase
        assert isinstance(phase, Pending)
        if not could_be_granted(run, self._now_ns):
            return _not_yet(run, phase, self._now_ns)
        if run.run_id in self._granted:
            return _TURN
        shape = shape_of(run)
        wait = self._by_shape.get(shape)
        if wait is None:
            wait = self._by_shape[shape] = self._of_shape(run, shape)
        return self._behind(run, wait) if wait.reason is WaitReason.RESERVATION else wait

    def explain(self, run: Run) -> Waiting:
        """All that is known of why ``run`` waits: its place, for whom a node is kept, and who holds what it lacks."""
        wait = self.wait_of(run)
        waiting = Waiting(
            reason=wait.reason,
            numbers=wait.numbers,
            runs=wait.runs,
            nodes=wait.nodes,
            place=self._queue.place_of(run),
            of=self._queue.queued,
        )
        if waiting.place is None:
            return msgspec.structs.replace(waiting, commands=_for_dependencies(wait))
        holders = list(self._holders(run, wait.reason))
        return msgspec.structs.replace(
            waiting,
            reservation=None if self._reservation is None else _reserved(self._reservation),
            holders=holders[:MOST_HOLDERS],
            holders_total=len(holders),
            avoids=sorted(avoided(self._state, run.needs, run.tried)),
            suspects=self._suspects(wait) if wait.reason is WaitReason.SUSPECT else [],
            commands=self._for_nodes(run, wait.reason),
        )

    def _queue_after(self, before: Explainer | None) -> PendingQueue:
        queue = PendingQueue() if before is None else before._queue.copy()
        queue.follow({} if before is None else before._state.runs, self._state.runs, self._now_ns)
        return queue

    def _of_shape(self, run: Run, shape: Shape) -> Wait:
        """Why a run that the decision did not grant has no room."""
        needs, tried = run.needs, shape.tried
        if not self._offers:
            return self._no_node()
        if (needs, tried) in self._without_room:  # how long it lasts makes no difference to that
            return self._without_room[needs, tried]
        avoid = avoided(self._state, needs, tried)
        offers, unbound = (
            [o for o in open_to(all_, avoid) if not o.node.suspect] for all_ in (self._offers, self._unbound)
        )
        room = choose(needs, shape.longest_s, unbound, self._now_ns)
        if room is not None:
            if choose(needs, shape.longest_s, offers, self._now_ns) is not None:
                return _TURN
            return Wait(reason=WaitReason.RESERVATION, nodes=[room.node.name])
        wait = self._without_room[needs, tried] = self._of_needs(needs, list(offers), avoid)
        return wait

    def _of_needs(self, needs: Needs, offers: list[Offer], avoid: frozenset[str]) -> Wait:
        """What is short where no node has room."""
        least = least_of(needs)
        fitting = [o for o in offers if self._wholes[o.node.name].holds(least)]
        suspects = [o for o in open_to(self._unbound, avoid) if o.node.suspect]
        if choose(needs, None, suspects, self._now_ns) is not None or not fitting:
            suspect = self._suspect(needs, suspects)
            if suspect is not None:
                return suspect
        if not fitting:
            return Wait(
                reason=WaitReason.TOO_LARGE,
                numbers={"gpus": least.gpus, "cpus": least.cpus, "memory_mb": least.memory_mb},
            )
        with_gpus = [
            o for o in fitting if fits(least._replace(cpus=0, memory_mb=0), o.gpus_free(needs), 0, 0)
        ]
        if not with_gpus:
            free = sum(o.gpus_free(needs) for o in fitting)
            total = sum(self._wholes[o.node.name].gpus for o in fitting)
            numbers: dict[str, int | float] = {"gpus": least.gpus, "free": free, "total": total}
            if needs.whole:
                numbers["whole"] = least.gpus
            return Wait(reason=WaitReason.GPUS, numbers=numbers)
        with_cpus = [o for o in with_gpus if fits(least._replace(memory_mb=0), o.gpus_free(needs), o.cpus, 0)]
        if not with_cpus:
            most = max(o.cpus for o in with_gpus)
            return Wait(reason=WaitReason.CPUS, numbers={"cpus": least.cpus, "free": most})
        most = max(o.memory_mb for o in with_cpus)
        return Wait(reason=WaitReason.MEMORY, numbers={"memory_mb": least.memory_mb, "free": most})

    def _suspect(self, needs: Needs, suspects: list[Offer]) -> Wait | None:
        """That nodes which could hold the run are suspect, and when one is probed next; None where none could."""
        nodes = [o.node for o in suspects if self._wholes[o.node.name].holds(least_of(needs))]
        if not nodes:
            return None
        nodes.sort(key=lambda node: (probe_due_ns(node), node.name))
        numbers: dict[str, int | float] = {"suspect": len(nodes)}
        due = [probe_due_ns(node) for node in nodes if not self._is_probed(node)]
        if due:
            numbers["probe_in_s"] = max(0, -((self._now_ns - min(due)) // SECOND_NS))
        return Wait(
            reason=WaitReason.SUSPECT, numbers=numbers, nodes=[node.name for node in nodes[:MOST_SUSPECT]]
        )

    def _suspects(self, wait: Wait) -> list[SuspectNode]:
        nodes = [self._state.nodes[name] for name in wait.nodes]
        return [
            SuspectNode(
                node=node.name,
                since=moment(node.failed_starts[0].at_ns),
                why=node.failed_starts[-1].why,
                probe_at=None if self._is_probed(node) else moment(probe_due_ns(node)),
            )
            for node in nodes
        ]

    def _is_probed(self, node: Node) -> bool:
        return node.name in self._granted_on or under_way(self._state, Claims(), node.name)

    def _no_node(self) -> Wait:
        nodes = self._state.nodes.values()
        drained = sum(node.status is NodeStatus.UP and node.drained for node in nodes)
        away = sum(node.status in (NodeStatus.LOST, NodeStatus.LEFT) for node in nodes)
        return Wait(reason=WaitReason.NO_NODE, numbers={"drained": drained, "away": away})

    def _behind(self, run: Run, wait: Wait) -> Wait:
        """With the run that comes first, its node, and why this one may not pass it."""
        reservation = self._reservation
        assert reservation is not None  # what has room and was not granted is behind it
        numbers: dict[str, int | float] = {}
        if reservation.until_ns is not None:
            numbers["starts_in_s"] = max(0, -((self._now_ns - reservation.until_ns) // SECOND_NS))
        if run.max_duration_s is not None:
            numbers |= {"limit_s": run.max_duration_s, "grace_s": run.grace_s, "spare_s": MARGIN_S}
        return Wait(
            reason=wait.reason,
            numbers=numbers,
            runs=[reservation.run.run_id],
            nodes=[*wait.nodes, reservation.node],
        )

    def _holders(self, run: Run, reason: WaitReason) -> Iterator[Holder]:
        """The attempts that hold what the run lacks of the nodes that could hold it, be it a device granted on another."""
        if reason in (WaitReason.TURN, WaitReason.SUSPECT):
            return
        state = self._state
        nodes = [o.node for o in self._offers if could_hold(o.node, run.needs, unhealthy_too=False)]
        if reason is WaitReason.RESERVATION and self._reservation is not None:
            nodes = [node for node in nodes if node.name == self._reservation.node]
        found = {r.run_id: (r, active) for node in nodes for r, active, _ in state.attempts_of(node.name)}
        if reason in (WaitReason.GPUS, WaitReason.RESERVATION):
            uuids = {uuid for node in nodes for uuid in offer(state, node, Claims()).elsewhere.values()}
            found |= {r.run_id: (r, active) for uuid in sorted(uuids) for r, active in holders(state, uuid)}
        held = [(p, holder, active) for holder, active in found.values() for p in active.placements]
        for placement, holder, active in sorted(
            held, key=lambda one: (one[0].node, one[0].slots, one[1].submit_seq)
        ):
            if reason is not WaitReason.GPUS or placement.slots:
                yield _holder(holder, active, placement, self._now_ns)

    def _for_nodes(self, run: Run, reason: WaitReason) -> list[str]:
        """What makes a node that could hold the run take work again."""
        could = [
            node for node in self._state.nodes.values() if could_hold(node, run.needs, unhealthy_too=False)
        ]
        drained = sorted(node.name for node in could if node.status is NodeStatus.UP and node.drained)
        suspect = sorted(node.name for node in could if node.suspect and node.takes_work)
        resumed = suspect if reason is WaitReason.SUSPECT else drained
        commands = [f"trainshed resume {name}" for name in resumed[:MOST_COMMANDS]]
        away = reason in (WaitReason.NO_NODE, WaitReason.TOO_LARGE) and any(map(_is_away, could))
        if away or reason is WaitReason.SUSPECT:
            commands.append("trainshed nodes")
        return commands


_TURN = Wait(reason=WaitReason.TURN)


def _not_yet(run: Run, phase: Pending, now_ns: int) -> Wait:
    """Why a run could not be granted, whatever room there is."""
    if run.cancel_requested:
        return Wait(reason=WaitReason.CANCEL)
    if phase.failed_dependency is not None:
        return Wait(reason=WaitReason.DEPENDENCY, numbers={"failed": 1}, runs=[phase.failed_dependency])
    if phase.waiting_for:
        runs = sorted(phase.waiting_for)
        return Wait(reason=WaitReason.DEPENDENCY, numbers={"runs": len(runs)}, runs=runs[:MOST_RUNS])
    seconds = -((now_ns - phase.not_before_ns) // SECOND_NS)  # rounded up: never "in 0 s"
    return Wait(reason=WaitReason.BACKOFF, numbers={"seconds": seconds})


def _reserved(reservation: Reservation) -> Reserved:
    run, until_ns = reservation.run, reservation.until_ns
    return Reserved(
        run_id=run.run_id,
        name=run.name,
        node=reservation.node,
        starts_by=None if until_ns is None else moment(until_ns),
    )


def _holder(run: Run, active: Active, placement: Placement, now_ns: int) -> Holder:
    ends = ends_ns(run, active, now_ns)
    return Holder(
        run_id=run.run_id,
        name=run.name,
        node=placement.node,
        slots=list(placement.slots),
        cpus=placement.cpus,
        memory_mb=placement.memory_mb,
        since=moment(active.since_ns),
        ends_by=None if ends is None else moment(ends),
    )


def _for_dependencies(wait: Wait) -> list[str]:
    if wait.reason is not WaitReason.DEPENDENCY or wait.numbers.get("failed"):
        return []
    return [f"trainshed explain {run_id[:6]}" for run_id in wait.runs[:MOST_COMMANDS]]


def _is_away(node: Node) -> bool:
    return node.status in (NodeStatus.LOST, NodeStatus.LEFT)
