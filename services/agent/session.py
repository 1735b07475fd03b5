"""The agent's session as a pure step: joining, grants, stops, ends and leaving (docs/protocol.md rules 5, 8 to 12).

Owns every decision of the agent; knows no clock, file, process or NATS: `agent` carries the actions out.

Actions that write come before the others, in the order in which they must happen. A step whose write fails did not
happen: the caller keeps the state before it, acknowledges nothing and takes the same input again.
"""

from __future__ import annotations

from msgspec.structs import replace

from events.types import AttemptRef
from services.agent.attempt_files import StopReason
from services.agent.session_types import (
    WRITES,
    Ack,
    Action,
    AppendJoined,
    AppendLeft,
    Attempt,
    Begun,
    Bury,
    BuryReason,
    CountedLost,
    EndStored,
    Finish,
    Forget,
    Found,
    Granted,
    Input,
    Joined,
    JoinRefused,
    Launch,
    LeaveAsked,
    Left,
    Name,
    NameRead,
    Phase,
    Place,
    ReadName,
    Refuse,
    ShimDied,
    ShimFound,
    State,
    Step,
    StopOrdered,
    Sweep,
    Swept,
    TellEnd,
    TellStarted,
    TreeGone,
    WakeShim,
    WorkerUp,
    WriteFolder,
    WriteGrant,
    WriteStop,
)

_TELLING = frozenset({Phase.JOINED, Phase.LEAVING, Phase.RECLAIMING, Phase.LEAVING_EMPTY})
_HOLDS = frozenset({Place.UP, Place.CLOSING})


def step(state: State, event: Input) -> Step:
    """One input in; the new state and what to do now. Total: any input in any state has an answer."""
    if state.phase is Phase.GONE:
        return state, ()
    match event:
        case Begun(found):
            return _begun(state, found)
        case NameRead(name):
            return _name_read(state, name)
        case Swept():
            return _swept(state)
        case Joined(seq):
            return _joined(state, seq)
        case JoinRefused():
            if state.phase is not Phase.JOINING:
                return state, ()
            return replace(state, phase=Phase.READING), (ReadName(),)
        case Granted():
            return _granted(state, event)
        case StopOrdered():
            return _stop_ordered(state, event)
        case CountedLost():
            return _counted_lost(state, event)
        case WorkerUp(ref):
            return _worker_up(state, ref)
        case ShimDied(ref):
            return _shim_died(state, ref)
        case ShimFound(ref):
            return _shim_found(state, ref)
        case TreeGone(ref):
            return _tree_gone(state, ref)
        case EndStored(ref):
            return _end_stored(state, ref)
        case LeaveAsked(reclaim):
            return _leave_asked(state, reclaim)
        case Left():
            return _left(state)


def attempt_of(state: State, ref: AttemptRef) -> Attempt | None:
    """The attempt, while its end is not acknowledged."""
    for attempt in state.attempts:
        if attempt.ref == ref:
            return attempt
    return None


# --- joining -----------------------------------------------------------------------------------------------


def _begun(state: State, found: tuple[Found, ...]) -> Step:
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


def _name_read(state: State, name: Name) -> Step:
    if state.phase is not Phase.READING:
        return state, ()
    state = replace(state, name=name)
    removed = name.removed_of == state.incarnation and name.removed > name.joined
    if not removed and name.joined_by in (None, state.incarnation):
        return _sweep(state)
    # The log has given this incarnation up, or another has joined since: what runs here runs for nobody.
    state, actions = _stop_all(replace(state, phase=Phase.CLEARING), StopReason.ENDED)
    state, more = _cleared(state)
    return state, actions + more


def _cleared(state: State) -> Step:
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
    return replace(state, phase=Phase.SWEEPING), (Sweep(_refs(state)),)


def _swept(state: State) -> Step:
    if state.phase is not Phase.SWEEPING:
        return state, ()
    return replace(state, phase=Phase.JOINING), (AppendJoined(state.name.joined, _refs(state)),)


def _joined(state: State, seq: int) -> Step:
    if state.phase is not Phase.JOINING:
        return state, ()
    state = replace(state, phase=Phase.JOINED, joined=seq, upto=max(state.upto, seq))
    actions: list[Action] = []
    for attempt in state.attempts:
        if attempt.place is Place.WAITING:
            # Older than this NodeJoined and without a shim: never launched.
            state, more = _bury(state, attempt, "not_started")
            actions += more
    for attempt in state.attempts:
        state, more = _tell(state, attempt)
        actions += more
    return state, tuple(actions)


# --- decisions that were delivered ----------------------------------------------------------------------------


def _granted(state: State, event: Granted) -> Step:
    if state.phase is not Phase.JOINED:
        return state, ()  # redelivered
    if event.incarnation != state.incarnation:
        return _not_mine(state, event.seq, event.incarnation)
    ack = Ack(event.seq)
    if event.disk.ended or attempt_of(state, event.ref) is not None:
        return _noted(state, event.seq), (ack,)
    attempt = Attempt(ref=event.ref, seq=event.seq, slots=event.slots, place=Place.WAITING)
    if event.seq < state.joined or not event.usable or event.disk.started:
        state, actions = _bury(
            _noted(_put(state, attempt), event.seq),
            attempt,
            "shim_lost" if event.disk.started else "not_started",
        )
        return state, (WriteFolder(event.ref), ack, *actions)
    state, actions = _launch_free(_noted(_put(state, attempt), event.seq))
    return state, (WriteGrant(event.ref, event.seq), *actions, ack)


def _stop_ordered(state: State, event: StopOrdered) -> Step:
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
        state, actions = _bury(_put(state, attempt), attempt, reason)
        return state, (WriteFolder(event.ref), stop, ack, *actions)
    if attempt.place is Place.OVER:
        return state, (ack,)
    if attempt.stop is not None:
        again = (WakeShim(event.ref),) if attempt.place is Place.UP else ()
        return state, (ack, *again)
    state, actions = _stop(state, attempt, event.reason, event.seq)
    return state, (*actions, ack)


def _counted_lost(state: State, event: CountedLost) -> Step:
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


# --- workers and ends --------------------------------------------------------------------------------------


def _worker_up(state: State, ref: AttemptRef) -> Step:
    attempt = attempt_of(state, ref)
    if attempt is None or attempt.started:
        return state, ()
    attempt = replace(attempt, started=True)
    return _tell(_put(state, attempt), attempt)


def _shim_died(state: State, ref: AttemptRef) -> Step:
    attempt = attempt_of(state, ref)
    if attempt is None or attempt.place is not Place.UP:
        return state, ()
    return _bury(state, attempt, "shim_lost" if attempt.started else "not_started")


def _shim_found(state: State, ref: AttemptRef) -> Step:
    attempt = attempt_of(state, ref)
    if attempt is None or attempt.place is not Place.CLOSING:
        return state, ()
    woken = (WakeShim(ref),) if attempt.stop is not None else ()
    return _put(state, replace(attempt, place=Place.UP)), woken


def _tree_gone(state: State, ref: AttemptRef) -> Step:
    attempt = attempt_of(state, ref)
    if attempt is None or attempt.place is Place.OVER:
        return state, ()
    attempt = replace(attempt, place=Place.OVER)
    state, told = _tell(_put(state, attempt), attempt)
    state, launched = _launch_free(state)
    state, cleared = _cleared(state)
    return state, launched + told + cleared


def _end_stored(state: State, ref: AttemptRef) -> Step:
    attempt = attempt_of(state, ref)
    if attempt is None or attempt.place is not Place.OVER:
        return state, ()
    state = replace(state, attempts=tuple(each for each in state.attempts if each.ref != ref))
    state, left = _reclaimed(state)
    return state, (Forget(ref), *left)


def _launch_free(state: State) -> Step:
    """Launch what waits for nothing any more, the oldest first (docs/protocol.md rule 5)."""
    if state.phase is not Phase.JOINED:
        return state, ()
    actions: list[Action] = []
    for attempt in sorted(state.attempts, key=lambda each: each.seq):
        if attempt.place is Place.WAITING and not any(_blocks(each, attempt) for each in state.attempts):
            state = _put(state, replace(attempt, place=Place.UP))
            actions.append(Launch(attempt.ref))
    return state, tuple(actions)


def _blocks(other: Attempt, attempt: Attempt) -> bool:
    if other.ref == attempt.ref or not (
        other.place in _HOLDS or (other.place is Place.WAITING and other.seq < attempt.seq)
    ):
        return False
    return other.ref.run_id == attempt.ref.run_id or not set(other.slots).isdisjoint(attempt.slots)


def _tell(state: State, attempt: Attempt) -> Step:
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
    return _put(state, attempt), tuple(actions)


def _stop(state: State, attempt: Attempt, reason: StopReason, seq: int) -> Step:
    """Write the word to stop and see that it is heard."""
    attempt = replace(attempt, stop=reason)
    write = WriteStop(attempt.ref, reason, seq)
    if attempt.place is Place.WAITING:
        state, actions = _bury(_put(state, attempt), attempt, "not_started")
        return state, (write, *actions)
    woken = (WakeShim(attempt.ref),) if attempt.place is Place.UP else ()
    return _put(state, attempt), (write, *woken)


def _stop_all(state: State, reason: StopReason) -> Step:
    writes: list[Action] = []
    others: list[Action] = []
    for attempt in state.attempts:
        if attempt.place is Place.OVER:
            continue
        if attempt.place is Place.WAITING:
            state, actions = _bury(state, attempt, "not_started")
        elif attempt.stop is not None:
            actions = (WakeShim(attempt.ref),) if attempt.place is Place.UP else ()
        else:
            state, actions = _stop(state, attempt, reason, 0)
        for action in actions:
            (writes if isinstance(action, WRITES) else others).append(action)
    return state, (*writes, *others)


def _bury(state: State, attempt: Attempt, reason: BuryReason) -> Step:
    return _put(state, replace(attempt, place=Place.CLOSING)), (Bury(attempt.ref, reason),)


# --- leaving -----------------------------------------------------------------------------------------------


def _leave_asked(state: State, reclaim: bool) -> Step:
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


def _left(state: State) -> Step:
    match state.phase:
        case Phase.LEAVING if state.reclaim and state.left_some:
            state, stopped = _stop_all(replace(state, phase=Phase.RECLAIMING), StopReason.RECLAIMED)
            state, left = _reclaimed(state)
            return state, stopped + left
        case Phase.LEAVING | Phase.LEAVING_EMPTY:
            return replace(state, phase=Phase.GONE), (Finish(),)
        case _:
            return state, ()


def _reclaimed(state: State) -> Step:
    if state.phase is not Phase.RECLAIMING or state.attempts:
        return state, ()
    return replace(state, phase=Phase.LEAVING_EMPTY), (_leave(state),)


def _leave(state: State) -> AppendLeft:
    return AppendLeft(state.joined, state.upto, _refs(state))


# --- small things ------------------------------------------------------------------------------------------


def _noted(state: State, seq: int) -> State:
    return replace(state, upto=max(state.upto, seq))


def _put(state: State, attempt: Attempt) -> State:
    others = tuple(each for each in state.attempts if each.ref != attempt.ref)
    return replace(state, attempts=(*others, attempt))


def _refs(state: State) -> tuple[AttemptRef, ...]:
    return tuple(each.ref for each in state.attempts)
