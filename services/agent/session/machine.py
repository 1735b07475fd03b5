"""The agent's session as a pure step: joining, grants, stops, ends and leaving (docs/protocol.md rules 5, 8 to 12).

Owns the one entry and which module decides on what comes in; knows no clock, file, process or NATS: `session.shell`
carries the actions out.

Actions that write come before the others, in the order in which they must happen. A step whose write fails did not
happen: the caller keeps the state before it, acknowledges nothing and takes the same input again.
"""

from __future__ import annotations

from services.agent.session import decisions, joining, leaving, workers
from services.agent.session.values import (
    Begun,
    CountedLost,
    EndStored,
    FoldersPrepared,
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
            return joining.begun(state, found)
        case NameRead(name):
            return joining.name_read(state, name)
        case Swept():
            return joining.swept(state)
        case Joined(seq):
            return joining.joined(state, seq)
        case JoinRefused():
            return joining.join_refused(state)
        case Granted():
            return decisions.granted(state, event)
        case StopOrdered():
            return decisions.stop_ordered(state, event)
        case CountedLost():
            return decisions.counted_lost(state, event)
        case FoldersPrepared(ref):
            return workers.folders_prepared(state, ref)
        case WorkerUp(ref):
            return workers.worker_up(state, ref)
        case ShimDied(ref):
            return workers.shim_died(state, ref)
        case ShimFound(ref):
            return workers.shim_found(state, ref)
        case TreeGone(ref):
            return workers.tree_gone(state, ref)
        case EndStored(ref):
            return workers.end_stored(state, ref)
        case LeaveAsked(reclaim):
            return leaving.leave_asked(state, reclaim)
        case Left():
            return leaving.left(state)
