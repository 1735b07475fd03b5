"""A session's end: NodeLeft, and where its workers are reclaimed a second one without attempts (docs/protocol.md rule 8).

Owns when which of them is appended; knows no decision of the dispatcher and no word of a shim.
"""

from __future__ import annotations

from msgspec.structs import replace

from services.agent.folders.files import StopReason
from services.agent.session.parts import refs, stop_all
from services.agent.session.values import AppendLeft, Finish, Phase, State, Step


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
    """NodeLeft is stored, or can never be: exit, or where attempts are to be reclaimed end them first."""
    match state.phase:
        case Phase.LEAVING if state.reclaim and state.left_some:
            state, stopped = stop_all(replace(state, phase=Phase.RECLAIMING), StopReason.RECLAIMED)
            state, leave = once_reclaimed(state)
            return state, stopped + leave
        case Phase.LEAVING | Phase.LEAVING_EMPTY:
            return replace(state, phase=Phase.GONE), (Finish(),)
        case _:
            return state, ()


def once_reclaimed(state: State) -> Step:
    """Leave once more, without attempts, when the last end of a reclaiming session is stored."""
    if state.phase is not Phase.RECLAIMING or state.attempts:
        return state, ()
    return replace(state, phase=Phase.LEAVING_EMPTY), (_leave(state),)


def _leave(state: State) -> AppendLeft:
    return AppendLeft(state.joined, state.upto, refs(state))
