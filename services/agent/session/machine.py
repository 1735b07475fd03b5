"""The agent's session as a pure step: joining, grants, stops, ends and leaving (docs/protocol.md rules 5, 8 to 12).

Owns every decision of an agent; knows no clock, file, process or NATS: `session.shell` carries the actions out.

Actions that write come before the others, in the order in which they must happen. A step whose write fails did not
happen: the caller keeps the state before it, acknowledges nothing and takes the same input again.
"""

from __future__ import annotations

from msgspec.structs import replace

from events.types import AttemptRef
from services.agent.folders.files import StopReason
from services.agent.session.values import (
    WRITES,
    Ack,
    Action,
    AppendEnd,
    AppendJoined,
    AppendLeft,
    AppendStarted,
    Attempt,
    AttemptPlace,
    Begun,
    CountedLost,
    EndStored,
    ExitWritten,
    Finalise,
    FinaliseReason,
    Finish,
    FoldersPrepared,
    Forget,
    Found,
    Granted,
    Input,
    Joined,
    JoinRefused,
    Launch,
    LeaveAsked,
    LeaveStored,
    Name,
    NameRead,
    PrepareFolders,
    ReadName,
    Refuse,
    SessionPhase,
    SessionState,
    ShimAlive,
    ShimLost,
    StartedWritten,
    Step,
    StopOrdered,
    Sweep,
    Swept,
    WakeShim,
    WriteFolder,
    WriteGrant,
    WriteStop,
)

_APPENDING = frozenset(
    {SessionPhase.JOINED, SessionPhase.LEAVING, SessionPhase.RECLAIMING, SessionPhase.LEAVING_EMPTY}
)
_HOLDS = frozenset({AttemptPlace.UP, AttemptPlace.CLOSING})


def step(state: SessionState, event: Input) -> Step:
    """One input in; the new state and what to do now. Total: any input in any state has an answer."""
    if state.phase is SessionPhase.GONE:
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
            return _join_refused(state)
        case Granted() | StopOrdered() | CountedLost():
            return _decided(state, event)
        case (
            FoldersPrepared(ref)
            | StartedWritten(ref)
            | ShimLost(ref)
            | ShimAlive(ref)
            | ExitWritten(ref)
            | EndStored(ref)
        ):
            attempt = attempt_of(state, ref)
            return (state, ()) if attempt is None else _happened(state, attempt, event)
        case LeaveAsked(reclaim):
            return _leave_asked(state, reclaim)
        case LeaveStored():
            return _left(state)


# --- the way to NodeJoined: the name, the sweep, the join (rules 8 and 11) ----------------------------------


def _begun(state: SessionState, found: tuple[Found, ...]) -> Step:
    """The session begins: first its name is read."""
    attempts: list[Attempt] = []
    actions: list[Action] = []
    for each in found:
        place = AttemptPlace.OVER if each.ended else AttemptPlace.UP if each.alive else AttemptPlace.CLOSING
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
        if place is AttemptPlace.CLOSING:
            actions.append(Finalise(each.ref, "shim_lost" if each.started else "not_started"))
        elif place is AttemptPlace.UP and each.stop is not None:
            actions.append(WakeShim(each.ref))
    state = replace(state, phase=SessionPhase.READING, attempts=tuple(attempts))
    return state, (*actions, ReadName())


def _name_read(state: SessionState, name: Name) -> Step:
    """Sweep and join, once the name may be joined and whoever must end before has ended."""
    if state.phase is not SessionPhase.READING:
        return state, ()
    state = replace(state, name=name)
    removed = name.removed_of == state.incarnation and name.removed > name.joined
    if not removed and name.joined_by in (None, state.incarnation):
        return _sweep(state)
    # The log has given this incarnation up, or another has joined since: what runs here runs for nobody.
    state, actions = _stop_all(replace(state, phase=SessionPhase.CLEARING), StopReason.ENDED)
    state, more = _once_cleared(state)
    return state, actions + more


def _once_cleared(state: SessionState) -> Step:
    """Go on once no worker is left, where every worker had to end before the join."""
    if state.phase is not SessionPhase.CLEARING or any(
        each.place is not AttemptPlace.OVER for each in state.attempts
    ):
        return state, ()
    owner = _owner(state.name, state.incarnation)
    if owner is not None:
        return replace(state, phase=SessionPhase.GONE), (Refuse(owner),)
    return _sweep(state)


def _owner(name: Name, incarnation: str) -> str | None:
    """The other incarnation that the name belongs to (docs/protocol.md rule 11); None where it may be joined."""
    if name.joined_by in (None, incarnation):
        return None
    removed = name.removed_of == name.joined_by and name.removed > name.joined
    left = name.left_by == name.joined_by and name.left > name.joined and name.left_empty
    return None if removed or left else name.joined_by


def _sweep(state: SessionState) -> Step:
    return replace(state, phase=SessionPhase.SWEEPING), (Sweep(_refs(state)),)


def _swept(state: SessionState) -> Step:
    """Nothing runs here but what is listed: join."""
    if state.phase is not SessionPhase.SWEEPING:
        return state, ()
    return replace(state, phase=SessionPhase.JOINING), (AppendJoined(state.name.joined, _refs(state)),)


def _joined(state: SessionState, seq: int) -> Step:
    """The session's NodeJoined is stored as ``seq``: what was waiting for it is appended now."""
    if state.phase is not SessionPhase.JOINING:
        return state, ()
    state = replace(state, phase=SessionPhase.JOINED, joined=seq, upto=max(state.upto, seq))
    actions: list[Action] = []
    for attempt in state.attempts:
        if attempt.place is AttemptPlace.WAITING:
            # Older than this NodeJoined and without a shim: never launched.
            state, more = _finalise(state, attempt, "not_started")
            actions += more
    for attempt in state.attempts:
        state, more = _append_due(state, attempt)
        actions += more
    return state, tuple(actions)


def _join_refused(state: SessionState) -> Step:
    """Something was stored under the name since it was read: read it again."""
    if state.phase is not SessionPhase.JOINING:
        return state, ()
    return replace(state, phase=SessionPhase.READING), (ReadName(),)


# --- decisions of the dispatcher (rules 8, 10 and 11) -------------------------------------------------------


def _decided(state: SessionState, event: Granted | StopOrdered | CountedLost) -> Step:
    """For this session; another's has no effect if older than the own NodeJoined, else the name is another's now."""
    if state.phase is not SessionPhase.JOINED:
        return state, ()  # delivered again
    if event.incarnation != state.incarnation:
        if event.seq < state.joined:
            return state, (Ack(event.seq),)
        return replace(state, phase=SessionPhase.GONE), (Refuse(event.incarnation),)
    if not isinstance(event, CountedLost) and _is_over(state, event):
        return state, (Ack(event.seq),)
    match event:
        case Granted():
            return _granted(state, event)
        case StopOrdered():
            return _stop_ordered(state, event)
        case CountedLost():
            return _counted_lost(state, event)


def _is_over(state: SessionState, event: Granted | StopOrdered) -> bool:
    """Whether it was taken before and the attempt's end is stored, whatever its folder says: that may have vanished."""
    return state.joined < event.seq <= state.upto and attempt_of(state, event.ref) is None


def _granted(state: SessionState, event: Granted) -> Step:
    """A Dispatched: written down, and launched if it is this session's, once its folder is made and its slots have no tree
    (rule 5)."""
    ack = Ack(event.seq)
    if event.disk.ended or attempt_of(state, event.ref) is not None or event.ref in state.refused:
        return _noted(state, event.seq), (ack,)
    if event.unwritable:
        return _refuse_grant(state, event)
    attempt = Attempt(ref=event.ref, seq=event.seq, slots=event.slots, place=AttemptPlace.WAITING)
    unusable = not event.usable or has_older_slots(state, event)
    if event.seq < state.joined or unusable or event.disk.started:
        state, actions = _finalise(
            _noted(put(state, attempt), event.seq),
            attempt,
            "shim_lost" if event.disk.started else "not_started",
        )
        return state, (WriteFolder(event.ref), ack, *actions)
    # Acknowledged as soon as it is written down: storage that hangs must not hold up what is delivered after it.
    grant = (WriteGrant(event.ref, event.seq), PrepareFolders(event.ref), ack)
    return _noted(put(state, attempt), event.seq), grant


def has_older_slots(state: SessionState, event: Granted) -> bool:
    """Whether its slots were chosen by what this node had before its last join: they may number other devices (rule 8)."""
    return bool(event.slots) and event.view < state.joined


def _refuse_grant(state: SessionState, event: Granted) -> Step:
    """What cannot be written down is not launched, and its end goes to the log alone (rules 8, 10).

    Should this process die before that is stored, the next join lacks the attempt, and the dispatcher ends it.
    """
    attempt = Attempt(ref=event.ref, seq=event.seq, slots=(), place=AttemptPlace.OVER)
    state = replace(put(state, attempt), refused=state.refused | {event.ref})
    state, end = _append_due(state, attempt)
    return _noted(state, event.seq), (Ack(event.seq), *end)


def _stop_ordered(state: SessionState, event: StopOrdered) -> Step:
    """A Stopping: written down for the shim; an attempt never seen is closed before it could be launched."""
    ack = Ack(event.seq)
    state = _noted(state, event.seq)
    attempt = attempt_of(state, event.ref)
    if attempt is None and (event.disk.ended or event.ref in state.refused):
        return state, (ack,)
    stop = WriteStop(event.ref, event.reason, event.seq)
    if attempt is None:
        # Never seen: closed before any Dispatched can launch it.
        attempt = Attempt(ref=event.ref, seq=0, slots=(), place=AttemptPlace.WAITING, stop=event.reason)
        reason: FinaliseReason = "shim_lost" if event.disk.started else "not_started"
        state, actions = _finalise(put(state, attempt), attempt, reason)
        return state, (WriteFolder(event.ref), stop, ack, *actions)
    if attempt.place is AttemptPlace.OVER:
        return state, (ack,)
    if attempt.stop is not None:
        again = (WakeShim(event.ref),) if attempt.place is AttemptPlace.UP else ()
        return state, (ack, *again)
    state, actions = _stop_attempt(state, attempt, event.reason, event.seq)
    return state, (*actions, ack)


def _counted_lost(state: SessionState, event: CountedLost) -> Step:
    """A NodeLost of this session: the next one begins."""
    if event.seq < state.joined:
        return state, (Ack(event.seq),)
    return replace(state, phase=SessionPhase.READING), (Ack(event.seq), ReadName())


def _noted(state: SessionState, seq: int) -> SessionState:
    return replace(state, upto=max(state.upto, seq))


# --- news of workers ----------------------------------------------------------------------------------------


def _happened(
    state: SessionState,
    attempt: Attempt,
    event: FoldersPrepared | StartedWritten | ShimLost | ShimAlive | ExitWritten | EndStored,
) -> Step:
    """What became of an attempt; what is known already, or comes too late, changes nothing."""
    match event:
        case FoldersPrepared() if attempt.place is AttemptPlace.WAITING:  # else closed while its storage hung
            return _launch_free(put(state, replace(attempt, prepared=True)))
        case StartedWritten() if not attempt.started:
            attempt = replace(attempt, started=True)
            return _append_due(put(state, attempt), attempt)
        case ShimLost() if attempt.place is AttemptPlace.UP:
            return _finalise(state, attempt, "shim_lost" if attempt.started else "not_started")
        case ShimAlive() if attempt.place is AttemptPlace.CLOSING:  # taken for gone, it runs after all
            woken = (WakeShim(attempt.ref),) if attempt.stop is not None else ()
            return put(state, replace(attempt, place=AttemptPlace.UP)), woken
        case ExitWritten() if attempt.place is not AttemptPlace.OVER:
            attempt = replace(attempt, place=AttemptPlace.OVER)
            state, due = _append_due(put(state, attempt), attempt)
            state, launched = _launch_free(state)
            state, cleared = _once_cleared(state)
            return state, launched + due + cleared
        case EndStored() if attempt.place is AttemptPlace.OVER:
            state = replace(state, attempts=tuple(each for each in state.attempts if each != attempt))
            state, left = _once_reclaimed(state)
            return state, (Forget(attempt.ref), *left)
        case _:
            return state, ()


# --- NodeLeft, and a second one where the workers are reclaimed (rule 8) ------------------------------------


def _leave_asked(state: SessionState, reclaim: bool) -> Step:
    """Leave; with ``reclaim`` the workers are ended, and the node is left without attempts."""
    state = replace(state, reclaim=state.reclaim or reclaim)
    match state.phase:
        case SessionPhase.JOINED:
            left_some = bool(state.attempts)
            return replace(state, phase=SessionPhase.LEAVING, left_some=left_some), (_leave(state),)
        case SessionPhase.LEAVING | SessionPhase.RECLAIMING | SessionPhase.LEAVING_EMPTY | SessionPhase.GONE:
            return state, ()
        case SessionPhase.READING | SessionPhase.CLEARING | SessionPhase.SWEEPING | SessionPhase.JOINING:
            # Between sessions nothing is appended; its workers stay with their shims.
            return replace(state, phase=SessionPhase.GONE), (Finish(),)


def _left(state: SessionState) -> Step:
    """NodeLeft is stored, or can never be: exit, or where attempts are to be reclaimed end them first."""
    match state.phase:
        case SessionPhase.LEAVING if state.reclaim and state.left_some:
            state, stopped = _stop_all(replace(state, phase=SessionPhase.RECLAIMING), StopReason.RECLAIMED)
            state, leave = _once_reclaimed(state)
            return state, stopped + leave
        case SessionPhase.LEAVING | SessionPhase.LEAVING_EMPTY:
            return replace(state, phase=SessionPhase.GONE), (Finish(),)
        case _:
            return state, ()


def _once_reclaimed(state: SessionState) -> Step:
    """Leave once more, without attempts, when the last end of a reclaiming session is stored."""
    if state.phase is not SessionPhase.RECLAIMING or state.attempts:
        return state, ()
    return replace(state, phase=SessionPhase.LEAVING_EMPTY), (_leave(state),)


def _leave(state: SessionState) -> AppendLeft:
    return AppendLeft(state.joined, state.upto, _refs(state))


# --- one attempt: launched, appended, stopped, closed -------------------------------------------------------


def attempt_of(state: SessionState, ref: AttemptRef) -> Attempt | None:
    """The attempt, while its end is not acknowledged."""
    for attempt in state.attempts:
        if attempt.ref == ref:
            return attempt
    return None


def put(state: SessionState, attempt: Attempt) -> SessionState:
    """The state with this attempt in the place of what it had of it."""
    others = tuple(each for each in state.attempts if each.ref != attempt.ref)
    return replace(state, attempts=(*others, attempt))


def _refs(state: SessionState) -> tuple[AttemptRef, ...]:
    """The list that is appended and kept: the attempts whose end is not acknowledged."""
    return tuple(each.ref for each in state.attempts)


def _launch_free(state: SessionState) -> Step:
    """Launch what waits for nothing any more, the oldest first (docs/protocol.md rule 5)."""
    if state.phase is not SessionPhase.JOINED:
        return state, ()
    actions: list[Action] = []
    for attempt in sorted(state.attempts, key=lambda each: each.seq):
        ready = attempt.place is AttemptPlace.WAITING and attempt.prepared
        if ready and not any(_blocks(each, attempt) for each in state.attempts):
            state = put(state, replace(attempt, place=AttemptPlace.UP))
            actions.append(Launch(attempt.ref))
    return state, tuple(actions)


def _blocks(other: Attempt, attempt: Attempt) -> bool:
    if other.ref == attempt.ref or not (
        other.place in _HOLDS or (other.place is AttemptPlace.WAITING and other.seq < attempt.seq)
    ):
        return False
    return other.ref.run_id == attempt.ref.run_id or not set(other.slots).isdisjoint(attempt.slots)


def _append_due(state: SessionState, attempt: Attempt) -> Step:
    """What of this attempt is to be appended now: nothing before the session's NodeJoined is stored."""
    if state.phase not in _APPENDING:
        return state, ()
    actions: list[Action] = []
    if attempt.started and not attempt.started_appended:
        attempt = replace(attempt, started_appended=True)
        actions.append(AppendStarted(attempt.ref))
    if attempt.place is AttemptPlace.OVER and not attempt.end_appended:
        attempt = replace(attempt, end_appended=True)
        actions.append(AppendEnd(attempt.ref))
    return put(state, attempt), tuple(actions)


def _stop_attempt(state: SessionState, attempt: Attempt, reason: StopReason, seq: int) -> Step:
    """Write the order to stop and wake the shim for it."""
    attempt = replace(attempt, stop=reason)
    write = WriteStop(attempt.ref, reason, seq)
    if attempt.place is AttemptPlace.WAITING:
        state, actions = _finalise(put(state, attempt), attempt, "not_started")
        return state, (write, *actions)
    woken = (WakeShim(attempt.ref),) if attempt.place is AttemptPlace.UP else ()
    return put(state, attempt), (write, *woken)


def _stop_all(state: SessionState, reason: StopReason) -> Step:
    """The order to stop to each attempt that has none; who has one is woken for it again. Writes come first."""
    writes: list[Action] = []
    others: list[Action] = []
    for attempt in state.attempts:
        if attempt.place is AttemptPlace.OVER:
            continue
        if attempt.place is AttemptPlace.WAITING:
            state, actions = _finalise(state, attempt, "not_started")
        elif attempt.stop is not None:
            actions = (WakeShim(attempt.ref),) if attempt.place is AttemptPlace.UP else ()
        else:
            state, actions = _stop_attempt(state, attempt, reason, 0)
        for action in actions:
            (writes if isinstance(action, WRITES) else others).append(action)
    return state, (*writes, *others)


def _finalise(state: SessionState, attempt: Attempt, reason: FinaliseReason) -> Step:
    """End what may be left of the attempt, and write its end for it."""
    return put(state, replace(attempt, place=AttemptPlace.CLOSING)), (Finalise(attempt.ref, reason),)
