"""The agent's session as a pure step: joining, grants, stops, ends and leaving (docs/protocol.md rules 5, 8 to 12).

Owns the one entry and which module decides on what comes in; knows no clock, file, process or NATS: `session_shell`
carries the actions out.

Actions that write come before the others, in the order in which they must happen. A step whose write fails did not
happen: the caller keeps the state before it, acknowledges nothing and takes the same input again.
"""

from __future__ import annotations

from services.agent import session_decisions, session_joining, session_leaving, session_workers
from services.agent.session_types import (
    Begun,
    CountedLost,
    EndStored,
    Granted,
    Input,
    Joined,
    JoinRefused,
    LeaveAsked,
    Left,
    NameRead,
    Phase,
    ShimDied,
    ShimFound,
    State,
    Step,
    StopOrdered,
    Swept,
    TreeGone,
    WorkerUp,
)


def step(state: State, event: Input) -> Step:
    """One input in; the new state and what to do now. Total: any input in any state has an answer."""
    if state.phase is Phase.GONE:
        return state, ()
    match event:
        case Begun(found):
            return session_joining.begun(state, found)
        case NameRead(name):
            return session_joining.name_read(state, name)
        case Swept():
            return session_joining.swept(state)
        case Joined(seq):
            return session_joining.joined(state, seq)
        case JoinRefused():
            return session_joining.join_refused(state)
        case Granted():
            return session_decisions.granted(state, event)
        case StopOrdered():
            return session_decisions.stop_ordered(state, event)
        case CountedLost():
            return session_decisions.counted_lost(state, event)
        case WorkerUp(ref):
            return session_workers.worker_up(state, ref)
        case ShimDied(ref):
            return session_workers.shim_died(state, ref)
        case ShimFound(ref):
            return session_workers.shim_found(state, ref)
        case TreeGone(ref):
            return session_workers.tree_gone(state, ref)
        case EndStored(ref):
            return session_workers.end_stored(state, ref)
        case LeaveAsked(reclaim):
            return session_leaving.leave_asked(state, reclaim)
        case Left():
            return session_leaving.left(state)
