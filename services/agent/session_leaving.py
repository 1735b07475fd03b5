"""A session's end: NodeLeft, and the workers that are taken back before it (docs/protocol.md rule 8).

Owns when a leave is said, and once more without attempts; knows no delivery and no word of a shim.
"""

from __future__ import annotations

from msgspec.structs import replace

from services.agent.session_types import (
    Phase,
    State,
    Step,
)


def leave_asked(state: State, reclaim: bool) -> Step:
    """Leave; with ``reclaim`` the workers are ended, and the node is left without attempts."""
    state = replace(state, reclaim=state.reclaim or reclaim)
    match state.phase:
        case Phase.JOINED:
            left_some = bool(state.attempts)
            return replace(state, phase=Phase.LEAVING, left_some=left_some), (_leave(state),)
        case Phase.LEAVING | Phase.RECLAIMING | Phase.LEAVING_EMPTY | Phase.GONE:
            return state, ()
        case Phase.READING | Phase.CLEARING | Phase.SWEEPING | Phase.JOINING:
            # Between sessions nothing is appended; its workers stay with their shims.
            return replace(state, phase=Phase.GONE), (Finish(),)


def left(state: State) -> Step:
    """A NodeLeft is stored."""
    match state.phase:
        case Phase.LEAVING if state.reclaim and state.left_some:
            state, stopped = stop_all(replace(state, phase=Phase.RECLAIMING), StopReason.RECLAIMED)
            state, left = reclaimed(state)
            return state, stopped + left
        case Phase.LEAVING | Phase.LEAVING_EMPTY:
            return replace(state, phase=Phase.GONE), (Finish(),)
        case _:
            return state, ()


def reclaimed(state: State) -> Step:
    """Leave once more, without attempts, when the last end of a reclaiming session is stored."""
    if state.phase is not Phase.RECLAIMING or state.attempts:
        return state, ()
    return replace(state, phase=Phase.LEAVING_EMPTY), (_leave(state),)


def _leave(state: State) -> AppendLeft:
    return AppendLeft(state.joined, state.upto, refs(state))
