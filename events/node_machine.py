"""The node state machine: what each event of a node makes of it, and of the attempts that it has.

Owns every transition of a node and its sessions, up to its being forgotten (docs/protocol.md rules 6, 8, 12, 18); knows no epoch, and nothing of how a
run goes on after an end. Total; no clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from events import rules
from events.change import NOTHING, Change, EndedAttempt, RunChange
from events.codec import StoredEvent
from events.run_machine import end_attempt
from events.state import Active, Node, Session, State
from events.types import (
    AttemptRef,
    NodeDrained,
    NodeEvent,
    NodeJoined,
    NodeLeft,
    NodeLost,
    NodeRemoved,
    NodeResumed,
    SlotHealthy,
    SlotUnhealthy,
)
from trainshed_client.statuses import FailureReason, NodeStatus, RunStatus

EARLIER_KEPT = 8


def evolve_node(state: State, stored: StoredEvent, event: NodeEvent) -> Change:
    """Fold an event of a node."""
    node = state.nodes.get(event.node)
    if isinstance(event, NodeJoined):
        return _joined(state, stored, node, event)
    if node is None or node.incarnation != event.incarnation or node.status is NodeStatus.REMOVED:
        return NOTHING
    match event:
        case NodeLeft() if state.rules < rules.FORGETTING:
            return _left(state, stored, node, event, event.upto)
        case NodeLeft(upto=upto) if node.status is not NodeStatus.LEFT:
            return _left(state, stored, node, event, min(upto, stored.seq))
        case NodeLost() if node.status is NodeStatus.UP:
            return _node(state, stored, node, status=NodeStatus.LOST)
        case NodeDrained():
            return _node(state, stored, node, drained=True)
        case NodeResumed():
            return _node(state, stored, node, drained=False, failed_starts=())
        case SlotUnhealthy(index=index):
            return _node(state, stored, node, unhealthy=node.unhealthy | {index})
        case SlotHealthy(index=index):
            return _node(state, stored, node, unhealthy=node.unhealthy - {index})
        case NodeRemoved() if node.status in (NodeStatus.LOST, NodeStatus.LEFT):
            return _removed(state, stored, node)
        case _:
            return NOTHING


def _joined(state: State, stored: StoredEvent, before: Node | None, event: NodeJoined) -> Change:
    listed = frozenset(event.attempts)
    node = Node(
        name=event.node,
        host=event.host,
        incarnation=event.incarnation,
        status=NodeStatus.UP,
        joined_seq=stored.seq,
        joined_ns=stored.stored_ns,
        seq=stored.seq,
        cpus=event.cpus,
        memory_mb=event.memory_mb,
        gpus=event.gpus,
        drained=before.drained if before is not None else False,
        borrowed=event.borrowed,
        memory_enforced=event.memory_enforced,
        listed=listed,
        to_stop=frozenset(ref for ref in listed if not _holds(state, event, ref)),
        earlier=_earlier(state, before, event),
    )
    state.put_node(node)
    return Change(runs=_stops_owed_again(state, event), nodes=(event.node,))


def _stops_owed_again(state: State, event: NodeJoined) -> tuple[RunChange, ...]:
    """The attempts of this incarnation that were told to stop before: a consumer that is made anew from this join
    would not bring that word (docs/protocol.md rules 3, 10), so it is owed again."""
    changes: list[RunChange] = []
    stopping = [found for found in state.attempts_of(event.node) if found[2].stopping]
    for run, active, placement in sorted(stopping, key=lambda found: found[1].dispatched_seq):
        if placement.incarnation == event.incarnation:
            phase = active.with_placement(msgspec.structs.replace(placement, stopping=False))
            again = msgspec.structs.replace(run, phase=phase)
            state.put_run(again)
            changes.append(RunChange(run, again))
    return tuple(changes)


def _earlier(state: State, before: Node | None, event: NodeJoined) -> tuple[Session, ...]:
    """What a join of another incarnation must not make forgotten: a grant may still be held that nobody will end.

    A session that holds none need not be known: whatever is granted to it yet is owed its end (rule 18).
    """
    if before is None:
        return ()
    sessions = [
        one for one in before.earlier if one.incarnation not in (event.incarnation, before.incarnation)
    ]
    if before.incarnation != event.incarnation:
        sessions.append(before.session)
    if state.rules < rules.FORGETTING:
        return tuple(sessions[-EARLIER_KEPT:])
    holders = {placement.incarnation for _, _, placement in state.attempts_of(event.node)}
    return tuple(_closed(one, state.seq) for one in sessions if one.incarnation in holders)


def _closed(session: Session, seq: int) -> Session:
    """Nothing that is granted above ``seq`` was ever taken by this session."""
    return session if session.left_upto is not None else msgspec.structs.replace(session, left_upto=seq)


def _holds(state: State, event: NodeJoined, ref: AttemptRef) -> bool:
    run = state.runs.get(ref.run_id)
    if run is None or not isinstance(run.phase, Active):
        return False
    placement = run.phase.on(event.node)
    return (
        run.phase.attempt == ref.attempt
        and placement is not None
        and placement.incarnation == event.incarnation
    )


def _left(state: State, stored: StoredEvent, node: Node, event: NodeLeft, upto: int) -> Change:
    left = len(event.attempts)
    return _node(state, stored, node, status=NodeStatus.LEFT, left_upto=upto, left_attempts=left)


def _removed(state: State, stored: StoredEvent, node: Node) -> Change:
    """The operator's word is itself the end of this incarnation's live attempts (docs/protocol.md rule 12).

    A grant that it left without having taken it is owed its end as it was before (rule 18): that a node which is gone
    is still known changes no run.
    """
    upto = stored.seq
    removed = msgspec.structs.replace(node, status=NodeStatus.REMOVED, seq=upto, to_stop=frozenset())
    if state.rules >= rules.FORGETTING:
        upto = upto if node.left_upto is None else node.left_upto
        removed = msgspec.structs.replace(removed, left_upto=upto)
    state.put_node(removed)
    runs: list[RunChange] = []
    ended: list[EndedAttempt] = []
    nodes = [node.name]
    gone = [
        (run, active)
        for run, active, placement in state.attempts_of(node.name)
        if placement.incarnation == node.incarnation and active.dispatched_seq <= upto
    ]
    for run, active in sorted(gone, key=lambda pair: pair[1].dispatched_seq):
        change = end_attempt(state, run, active, RunStatus.FAILED, FailureReason.NODE_LOST, stored)
        runs += change.runs
        ended += change.ended
    return Change(runs=tuple(runs), nodes=tuple(nodes), ended=tuple(ended))


def _node(state: State, stored: StoredEvent, node: Node, **fields: object) -> Change:
    state.put_node(msgspec.structs.replace(node, seq=stored.seq, **fields))
    return Change(nodes=(node.name,))


def begin_forgetting(state: State) -> tuple[str, ...]:
    """What an Elected does that is the first to name these rules; the names of the nodes that it changed."""
    changed: dict[str, None] = {}
    for node in list(state.nodes.values()):
        # what it still holds was granted to it after its removal
        upto = node.joined_seq if node.status is NodeStatus.REMOVED else node.left_upto
        earlier = tuple(_closed(one, state.seq) for one in node.earlier)
        closed = msgspec.structs.replace(node, left_upto=upto, earlier=earlier)
        if closed != node:
            state.put_node(closed)
            changed[node.name] = None
    changed.update(dict.fromkeys(forget(state, tuple(state.nodes))))
    return tuple(changed)


def forget(state: State, names: Iterable[str]) -> tuple[str, ...]:
    """Forget those of these nodes that are gone, hold nothing and are owed nothing (docs/protocol.md rule 18)."""
    gone = tuple(name for name in names if _is_over(state, state.nodes.get(name)))
    for name in gone:
        state.drop_node(name)
    return gone


def _is_over(state: State, node: Node | None) -> bool:
    """A drained node is kept: that it is granted nothing is the operator's word, until NodeResumed."""
    if node is None or node.drained or node.to_stop or state.usage_of(node.name).attempts:
        return False
    return node.status is NodeStatus.REMOVED or (node.status is NodeStatus.LEFT and node.borrowed)
