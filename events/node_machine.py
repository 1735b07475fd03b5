"""The node state machine: what each event of a node makes of it, and of the attempts that it has.

Owns every transition of a node and its sessions (docs/protocol.md rules 6, 8, 12); knows no epoch, and nothing of how a
run goes on after an end. Total; no clock, no I/O.
"""

from __future__ import annotations

import msgspec

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
        case NodeLeft(upto=upto, attempts=attempts):
            return _node(
                state, stored, node, status=NodeStatus.LEFT, left_upto=upto, left_attempts=len(attempts)
            )
        case NodeLost() if node.status is NodeStatus.UP:
            return _node(state, stored, node, status=NodeStatus.LOST)
        case NodeDrained():
            return _node(state, stored, node, drained=True)
        case NodeResumed():
            return _node(state, stored, node, drained=False)
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
        listed=listed,
        to_stop=frozenset(ref for ref in listed if not _holds(state, event, ref)),
        earlier=_earlier(before, event),
    )
    state.put_node(node)
    return Change(runs=_to_tell_again(state, event), nodes=(event.node,))


def _to_tell_again(state: State, event: NodeJoined) -> tuple[RunChange, ...]:
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


def _earlier(before: Node | None, event: NodeJoined) -> tuple[Session, ...]:
    """What a join of another incarnation must not make forgotten: a grant may still be held that nobody will end."""
    if before is None:
        return ()
    sessions = [
        one for one in before.earlier if one.incarnation not in (event.incarnation, before.incarnation)
    ]
    if before.incarnation != event.incarnation:
        sessions.append(before.session)
    return tuple(sessions[-EARLIER_KEPT:])


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


def _removed(state: State, stored: StoredEvent, node: Node) -> Change:
    """The operator's word is itself the end of this incarnation's live attempts (docs/protocol.md rule 12)."""
    state.put_node(
        msgspec.structs.replace(node, status=NodeStatus.REMOVED, seq=stored.seq, to_stop=frozenset())
    )
    runs: list[RunChange] = []
    ended: list[EndedAttempt] = []
    nodes = [node.name]
    gone = [(r, a) for r, a, p in state.attempts_of(node.name) if p.incarnation == node.incarnation]
    for run, active in sorted(gone, key=lambda pair: pair[1].dispatched_seq):
        change = end_attempt(state, run, active, RunStatus.FAILED, FailureReason.NODE_LOST, stored)
        runs += change.runs
        ended += change.ended
    return Change(runs=tuple(runs), nodes=tuple(nodes), ended=tuple(ended))


def _node(state: State, stored: StoredEvent, node: Node, **fields: object) -> Change:
    state.put_node(msgspec.structs.replace(node, seq=stored.seq, **fields))
    return Change(nodes=(node.name,))
