"""What a session makes of the news of its workers: started, without a shim, gone, and the end stored.

Owns the way of an attempt from its launch to the end that the log has; knows no decision of the dispatcher.
"""

from __future__ import annotations

from msgspec.structs import replace

from events.types import AttemptRef
from services.agent.session.joining import once_cleared
from services.agent.session.leaving import once_reclaimed
from services.agent.session.parts import attempt_of, bury, launch_free, put, tell
from services.agent.session.values import Forget, Place, State, Step, WakeShim


def folders_prepared(state: State, ref: AttemptRef) -> Step:
    """The run's folder is there. Storage that hung may say so late: an attempt that was closed meanwhile stays closed."""
    attempt = attempt_of(state, ref)
    if attempt is None or attempt.place is not Place.WAITING:
        return state, ()
    return launch_free(put(state, replace(attempt, prepared=True)))


def worker_up(state: State, ref: AttemptRef) -> Step:
    """The worker runs."""
    attempt = attempt_of(state, ref)
    if attempt is None or attempt.started:
        return state, ()
    attempt = replace(attempt, started=True)
    return tell(put(state, attempt), attempt)


def shim_died(state: State, ref: AttemptRef) -> Step:
    """The shim is gone and left no exit.json, or there never was one: the attempt is buried."""
    attempt = attempt_of(state, ref)
    if attempt is None or attempt.place is not Place.UP:
        return state, ()
    return bury(state, attempt, "shim_lost" if attempt.started else "not_started")


def shim_found(state: State, ref: AttemptRef) -> Step:
    """The shim that was taken for gone runs after all."""
    attempt = attempt_of(state, ref)
    if attempt is None or attempt.place is not Place.CLOSING:
        return state, ()
    woken = (WakeShim(ref),) if attempt.stop is not None else ()
    return put(state, replace(attempt, place=Place.UP)), woken


def tree_gone(state: State, ref: AttemptRef) -> Step:
    """No process of the attempt is left and its exit.json is written: what waited for its slots is launched."""
    attempt = attempt_of(state, ref)
    if attempt is None or attempt.place is Place.OVER:
        return state, ()
    attempt = replace(attempt, place=Place.OVER)
    state, told = tell(put(state, attempt), attempt)
    state, launched = launch_free(state)
    state, cleared = once_cleared(state)
    return state, launched + told + cleared


def end_stored(state: State, ref: AttemptRef) -> Step:
    """The log has the end: the attempt is no more."""
    attempt = attempt_of(state, ref)
    if attempt is None or attempt.place is not Place.OVER:
        return state, ()
    state = replace(state, attempts=tuple(each for each in state.attempts if each.ref != ref))
    state, left = once_reclaimed(state)
    return state, (Forget(ref), *left)
