"""What a session makes of the dispatcher's decisions that are delivered to it: Dispatched, Stopping, NodeLost.

Owns what of them is launched, closed or acknowledged without effect (docs/protocol.md rules 8, 10 and 11); knows nothing
of joining and leaving.
"""

from __future__ import annotations

from msgspec.structs import replace

from services.agent.session.parts import attempt_of, bury, put, stop_attempt
from services.agent.session.values import (
    Ack,
    Attempt,
    BuryReason,
    CountedLost,
    Granted,
    Phase,
    Place,
    PrepareFolders,
    ReadName,
    Refuse,
    State,
    Step,
    StopOrdered,
    WakeShim,
    WriteFolder,
    WriteGrant,
    WriteStop,
)


def granted(state: State, event: Granted) -> Step:
    """A Dispatched: written down, and launched if it is this session's, once its folder is made and its slots have no tree
    (rule 5)."""
    if state.phase is not Phase.JOINED:
        return state, ()  # redelivered
    if event.incarnation != state.incarnation:
        return _not_mine(state, event.seq, event.incarnation)
    ack = Ack(event.seq)
    if event.disk.ended or attempt_of(state, event.ref) is not None:
        return _noted(state, event.seq), (ack,)
    attempt = Attempt(ref=event.ref, seq=event.seq, slots=event.slots, place=Place.WAITING)
    if event.seq < state.joined or not event.usable or event.disk.started:
        state, actions = bury(
            _noted(put(state, attempt), event.seq),
            attempt,
            "shim_lost" if event.disk.started else "not_started",
        )
        return state, (WriteFolder(event.ref), ack, *actions)
    # Acknowledged as soon as it is written down: storage that hangs must not hold up what is delivered after it.
    grant = (WriteGrant(event.ref, event.seq), PrepareFolders(event.ref), ack)
    return _noted(put(state, attempt), event.seq), grant


def stop_ordered(state: State, event: StopOrdered) -> Step:
    """A Stopping: written down for the shim; an attempt never seen is closed before it could be launched."""
    if state.phase is not Phase.JOINED:
        return state, ()
    if event.incarnation != state.incarnation:
        return _not_mine(state, event.seq, event.incarnation)
    ack = Ack(event.seq)
    state = _noted(state, event.seq)
    attempt = attempt_of(state, event.ref)
    if attempt is None and event.disk.ended:
        return state, (ack,)
    stop = WriteStop(event.ref, event.reason, event.seq)
    if attempt is None:
        # Never seen: closed before any Dispatched can launch it.
        attempt = Attempt(ref=event.ref, seq=0, slots=(), place=Place.WAITING, stop=event.reason)
        reason: BuryReason = "shim_lost" if event.disk.started else "not_started"
        state, actions = bury(put(state, attempt), attempt, reason)
        return state, (WriteFolder(event.ref), stop, ack, *actions)
    if attempt.place is Place.OVER:
        return state, (ack,)
    if attempt.stop is not None:
        again = (WakeShim(event.ref),) if attempt.place is Place.UP else ()
        return state, (ack, *again)
    state, actions = stop_attempt(state, attempt, event.reason, event.seq)
    return state, (*actions, ack)


def counted_lost(state: State, event: CountedLost) -> Step:
    """A NodeLost of this session: the next one begins."""
    if state.phase is not Phase.JOINED:
        return state, ()
    if event.incarnation != state.incarnation:
        return _not_mine(state, event.seq, event.incarnation)
    if event.seq < state.joined:
        return state, (Ack(event.seq),)
    return replace(state, phase=Phase.READING), (Ack(event.seq), ReadName())


def _not_mine(state: State, seq: int, incarnation: str) -> Step:
    """Another incarnation's: without effect if older than the own NodeJoined, else the name is another's now."""
    if seq < state.joined:
        return state, (Ack(seq),)
    return replace(state, phase=Phase.GONE), (Refuse(incarnation),)


def _noted(state: State, seq: int) -> State:
    return replace(state, upto=max(state.upto, seq))
