"""The named failpoints: where each sits, which service has it, and what makes it come.

Owns that list, which docs/faults.md and the code must agree with; `services.failpoints` strikes.
"""

from __future__ import annotations

from typing import NamedTuple

from tests.faults.cluster import Role


class Point(NamedTuple):
    """``first_only``: a process passes it once in its life. ``by_term``: only on its way out. ``by_hand``: only where somebody
    asks for it, which the suite does not."""

    role: Role
    where: str
    first_only: bool = False
    by_term: bool = False
    by_hand: bool = False


POINTS: dict[str, Point] = {
    "gateway.submitted": Point(Role.GATEWAY, "Submitted is stored, nobody is answered"),
    "gateway.commanded": Point(Role.GATEWAY, "CancelRequested, RetryRequested or a node's word is stored"),
    "dispatcher.elected": Point(Role.DISPATCHER, "Elected is stored, not folded", first_only=True),
    "dispatcher.decided": Point(Role.DISPATCHER, "decided and counted as in flight, not appended"),
    "dispatcher.appended": Point(Role.DISPATCHER, "Dispatched, Stopping or NodeLost is stored, not folded"),
    "dispatcher.consumer_reconciled": Point(Role.DISPATCHER, "a node's push consumer is made or removed"),
    "agent.joined": Point(Role.AGENT, "NodeJoined is stored, the session has not begun", first_only=True),
    "agent.swept": Point(
        Role.AGENT, "what belongs to no attempt is ended, nothing is joined", first_only=True
    ),
    "agent.delivered": Point(Role.AGENT, "a decision has arrived, nothing is written"),
    "agent.intent_written": Point(Role.AGENT, "intent.json is written, Dispatched not acknowledged"),
    "agent.stop_written": Point(Role.AGENT, "stop.json is written, Stopping not acknowledged, no shim woken"),
    "agent.acknowledged": Point(
        Role.AGENT, "the decision is acknowledged (perhaps: the bytes may not have left)"
    ),
    "agent.handed_over": Point(Role.AGENT, "a shim has the folder, nothing is told"),
    "agent.start_seen": Point(Role.AGENT, "the worker runs, Started is not appended"),
    "agent.started_appended": Point(Role.AGENT, "Started is stored"),
    "agent.exit_seen": Point(Role.AGENT, "exit.json is there, its end not appended"),
    "agent.finalised": Point(Role.AGENT, "the agent has written exit.json for a shim that is gone"),
    "agent.end_appended": Point(Role.AGENT, "the end is stored, the agent does not know it"),
    "agent.end_noted": Point(Role.AGENT, "the end is stored and its marker removed"),
    "agent.hashed_appended": Point(Role.AGENT, "ArtifactsHashed is stored, its marker not removed"),
    "agent.witness_cosigned": Point(Role.AGENT, "a checkpoint is cosigned, nothing is kept or said"),
    "agent.witness_kept": Point(Role.AGENT, "the cosigned checkpoint is kept, no heartbeat says so"),
    "agent.left": Point(Role.AGENT, "NodeLeft is stored, the agent not gone", first_only=True, by_term=True),
    "shim.locked": Point(Role.AGENT, "the shim holds the lock, started.json is not written", first_only=True),
    "shim.started_written": Point(
        Role.AGENT, "started.json is written, the worker not exec'd", first_only=True
    ),
    "shim.released": Point(Role.AGENT, "the worker has exec'd, nobody is told", first_only=True),
    "shim.tree_gone": Point(Role.AGENT, "the tree is gone, exit.json not written", first_only=True),
    "shim.exit_written": Point(Role.AGENT, "exit.json is written, the shim not gone", first_only=True),
    "projector.read": Point(Role.PROJECTOR, "events have arrived, nothing is committed"),
    "projector.committed": Point(Role.PROJECTOR, "rows and position are committed, no record is put"),
    "projector.put": Point(Role.PROJECTOR, "the records are put"),
    "projector.rebuilding": Point(
        Role.PROJECTOR, "events are committed to a read model that is built beside the live one", by_hand=True
    ),
    "projector.swapping": Point(
        Role.PROJECTOR, "both read models are whole and closed, the new one not in its place", by_hand=True
    ),
    "projector.swapped": Point(
        Role.PROJECTOR, "the new read model is in its place, nobody is told", by_hand=True
    ),
    "server.store_given": Point(
        Role.SERVER,
        "an older release's store is its account's, the server has not been started",
        by_hand=True,
    ),
}
