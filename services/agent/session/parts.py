"""The attempts of a session, for whatever comes in: to launch, to tell, to stop and to bury one.

Owns when a waiting attempt may be launched (docs/protocol.md rule 5) and what is told of it; knows no input and nothing
of joining or leaving.
"""

from __future__ import annotations

from msgspec.structs import replace

from events.types import AttemptRef
from services.agent.folders.files import StopReason
from services.agent.session.values import (
    WRITES,
    Action,
    Attempt,
    Bury,
    BuryReason,
    Launch,
    Phase,
    Place,
    State,
    Step,
    TellEnd,
    TellStarted,
    WakeShim,
    WriteStop,
)

_TELLING = frozenset({Phase.JOINED, Phase.LEAVING, Phase.RECLAIMING, Phase.LEAVING_EMPTY})
_HOLDS = frozenset({Place.UP, Place.CLOSING})


def attempt_of(state: State, ref: AttemptRef) -> Attempt | None:
    """The attempt, while its end is not acknowledged."""
    for attempt in state.attempts:
        if attempt.ref == ref:
            return attempt
    return None


def put(state: State, attempt: Attempt) -> State:
    """The state with this attempt in the place of what it had of it."""
    others = tuple(each for each in state.attempts if each.ref != attempt.ref)
    return replace(state, attempts=(*others, attempt))


def refs(state: State) -> tuple[AttemptRef, ...]:
    """The list that is told and kept: the attempts whose end is not acknowledged."""
    return tuple(each.ref for each in state.attempts)


def launch_free(state: State) -> Step:
    """Launch what waits for nothing any more, the oldest first (docs/protocol.md rule 5)."""
    if state.phase is not Phase.JOINED:
        return state, ()
    actions: list[Action] = []
    for attempt in sorted(state.attempts, key=lambda each: each.seq):
        ready = attempt.place is Place.WAITING and attempt.prepared
        if ready and not any(_blocks(each, attempt) for each in state.attempts):
            state = put(state, replace(attempt, place=Place.UP))
            actions.append(Launch(attempt.ref))
    return state, tuple(actions)


def _blocks(other: Attempt, attempt: Attempt) -> bool:
    if other.ref == attempt.ref or not (
        other.place in _HOLDS or (other.place is Place.WAITING and other.seq < attempt.seq)
    ):
        return False
    return other.ref.run_id == attempt.ref.run_id or not set(other.slots).isdisjoint(attempt.slots)


def tell(state: State, attempt: Attempt) -> Step:
    """What of this attempt is to be appended now: nothing before the session's NodeJoined is stored."""
    if state.phase not in _TELLING:
        return state, ()
    actions: list[Action] = []
    if attempt.started and not attempt.started_told:
        attempt = replace(attempt, started_told=True)
        actions.append(TellStarted(attempt.ref))
    if attempt.place is Place.OVER and not attempt.end_told:
        attempt = replace(attempt, end_told=True)
        actions.append(TellEnd(attempt.ref))
    return put(state, attempt), tuple(actions)


def stop_attempt(state: State, attempt: Attempt, reason: StopReason, seq: int) -> Step:
    """Write the word to stop and see that it is heard."""
    attempt = replace(attempt, stop=reason)
    write = WriteStop(attempt.ref, reason, seq)
    if attempt.place is Place.WAITING:
        state, actions = bury(put(state, attempt), attempt, "not_started")
        return state, (write, *actions)
    woken = (WakeShim(attempt.ref),) if attempt.place is Place.UP else ()
    return put(state, attempt), (write, *woken)


def stop_all(state: State, reason: StopReason) -> Step:
    """The word to stop to each attempt that has none; who has one is woken for it again. Writes come first."""
    writes: list[Action] = []
    others: list[Action] = []
    for attempt in state.attempts:
        if attempt.place is Place.OVER:
            continue
        if attempt.place is Place.WAITING:
            state, actions = bury(state, attempt, "not_started")
        elif attempt.stop is not None:
            actions = (WakeShim(attempt.ref),) if attempt.place is Place.UP else ()
        else:
            state, actions = stop_attempt(state, attempt, reason, 0)
        for action in actions:
            (writes if isinstance(action, WRITES) else others).append(action)
    return state, (*writes, *others)


def bury(state: State, attempt: Attempt, reason: BuryReason) -> Step:
    """End what may be left of the attempt, and write its end for it."""
    return put(state, replace(attempt, place=Place.CLOSING)), (Bury(attempt.ref, reason),)
