"""A session's way to its NodeJoined: the name, the sweep, the join (docs/protocol.md rules 8 and 11).

Owns whose the name is and what must have ended before the join; knows no decision of the dispatcher.
"""

from __future__ import annotations

from msgspec.structs import replace

from services.agent.folders.files import StopReason
from services.agent.session.parts import bury, refs, stop_all, tell
from services.agent.session.values import (
    Action,
    AppendJoined,
    Attempt,
    Bury,
    Found,
    Name,
    Phase,
    Place,
    ReadName,
    Refuse,
    State,
    Step,
    Sweep,
    WakeShim,
)


def begun(state: State, found: tuple[Found, ...]) -> Step:
    """The session begins: first its name is read."""
    attempts: list[Attempt] = []
    actions: list[Action] = []
    for each in found:
        place = Place.OVER if each.ended else Place.UP if each.alive else Place.CLOSING
        attempts.append(
            Attempt(
                ref=each.ref,
                seq=each.seq,
                slots=each.slots,
                place=place,
                stop=each.stop,
                started=each.started,
            )
        )
        if place is Place.CLOSING:
            actions.append(Bury(each.ref, "shim_lost" if each.started else "not_started"))
        elif place is Place.UP and each.stop is not None:
            actions.append(WakeShim(each.ref))
    state = replace(state, phase=Phase.READING, attempts=tuple(attempts))
    return state, (*actions, ReadName())


def name_read(state: State, name: Name) -> Step:
    """Sweep and join, once the name may be joined and whoever must end before has ended."""
    if state.phase is not Phase.READING:
        return state, ()
    state = replace(state, name=name)
    removed = name.removed_of == state.incarnation and name.removed > name.joined
    if not removed and name.joined_by in (None, state.incarnation):
        return _sweep(state)
    # The log has given this incarnation up, or another has joined since: what runs here runs for nobody.
    state, actions = stop_all(replace(state, phase=Phase.CLEARING), StopReason.ENDED)
    state, more = once_cleared(state)
    return state, actions + more


def once_cleared(state: State) -> Step:
    """Go on once no worker is left, where every worker had to end before the join."""
    if state.phase is not Phase.CLEARING or any(each.place is not Place.OVER for each in state.attempts):
        return state, ()
    owner = _owner(state.name, state.incarnation)
    if owner is not None:
        return replace(state, phase=Phase.GONE), (Refuse(owner),)
    return _sweep(state)


def _owner(name: Name, incarnation: str) -> str | None:
    """The other incarnation that the name belongs to (docs/protocol.md rule 11); None where it may be joined."""
    if name.joined_by in (None, incarnation):
        return None
    removed = name.removed_of == name.joined_by and name.removed > name.joined
    left = name.left_by == name.joined_by and name.left > name.joined and name.left_empty
    return None if removed or left else name.joined_by


def _sweep(state: State) -> Step:
    return replace(state, phase=Phase.SWEEPING), (Sweep(refs(state)),)


def swept(state: State) -> Step:
    """Nothing runs here but what is listed: join."""
    if state.phase is not Phase.SWEEPING:
        return state, ()
    return replace(state, phase=Phase.JOINING), (AppendJoined(state.name.joined, refs(state)),)


def joined(state: State, seq: int) -> Step:
    """The session's NodeJoined is stored as ``seq``: what was waiting for it is told now."""
    if state.phase is not Phase.JOINING:
        return state, ()
    state = replace(state, phase=Phase.JOINED, joined=seq, upto=max(state.upto, seq))
    actions: list[Action] = []
    for attempt in state.attempts:
        if attempt.place is Place.WAITING:
            # Older than this NodeJoined and without a shim: never launched.
            state, more = bury(state, attempt, "not_started")
            actions += more
    for attempt in state.attempts:
        state, more = tell(state, attempt)
        actions += more
    return state, tuple(actions)


def join_refused(state: State) -> Step:
    """Something was stored under the name since it was read: read it again."""
    if state.phase is not Phase.JOINING:
        return state, ()
    return replace(state, phase=Phase.READING), (ReadName(),)
