"""Who is to blame where no worker was started, and what follows from it (docs/protocol.md rule 19).

Owns what nodes and runs are noted with for it; knows no transition of either. Total; no clock, no I/O.
"""

from __future__ import annotations

import msgspec

from events import rules
from events.codec import StoredEvent
from events.resources import could_hold
from events.state import SUSPECT_AFTER, Active, FailedStart, Node, Run, State
from events.types import AttemptEnd, Failed
from trainshed_client.statuses import AtFault, FailureReason, NodeStatus

MAX_WHY = 300
"""Characters that are kept of why a node could not start a run."""


def fault_of(state: State, event: AttemptEnd) -> AtFault | None:
    """Whose fault it was that no worker was started, where that counts (docs/protocol.md rule 19)."""
    if state.rules < rules.BLAMING or not isinstance(event, Failed):
        return None
    never_started = event.failure_reason in (FailureReason.NOT_STARTED, FailureReason.SPAWN_ERROR)
    return event.at_fault if never_started else None


def could_not_start(state: State, stored: StoredEvent, active: Active, event: Failed) -> None:
    """Note with the node that it could not start this run; not of what was granted to it before its last join."""
    node = state.nodes.get(stored.subject.node)
    placement = active.on(stored.subject.node)
    if node is None or placement is None or node.incarnation != placement.incarnation:
        return
    if active.dispatched_seq > node.joined_seq:
        others = [one for one in node.failed_starts if one.run_id != event.run_id]
        why = (event.message or "")[:MAX_WHY]
        last = FailedStart(event.run_id, stored.stored_ns, why, _probes(node, active))
        failed_starts = (*others, last)[-SUSPECT_AFTER:]
        state.put_node(msgspec.structs.replace(node, failed_starts=failed_starts))


def _probes(node: Node, active: Active) -> int:
    """How many probes have failed there with this attempt; what was granted before the last one failed is none."""
    if not node.suspect:
        return 0
    last = node.failed_starts[-1]
    return last.probes + (active.since_ns > last.at_ns)


def starts_again(state: State, name: str) -> tuple[str, ...]:
    """A worker was started on this node: it is blamed for nothing any more. Its name where that changed it."""
    node = state.nodes.get(name)
    if node is None or not node.failed_starts:
        return ()
    state.put_node(msgspec.structs.replace(node, failed_starts=()))
    return (name,)


def may_start_elsewhere(state: State, run: Run, tried: tuple[str, ...]) -> bool:
    """Whether a node that is up could hold the run when empty and was not tried.

    It goes by what nodes' own events say: who reads a run back folds those, and nothing of other runs (events/history.py).
    """
    if state.rules < rules.BLAMING:
        return True
    return any(
        node.status is NodeStatus.UP
        and node.name not in tried
        and could_hold(node, run.needs, unhealthy_too=False)
        for node in state.nodes.values()
    )
