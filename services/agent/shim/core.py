"""What a shim does next: a pure step from state and input to state and actions.

Owns limits, stop and end of one attempt; knows no clock, process, file or socket: `supervise` carries the actions out.
"""

from __future__ import annotations

from services.agent.shim.core_types import (
    Action,
    CheckOutput,
    EndedBeforeExec,
    ExecFailed,
    Fields,
    HandedIn,
    Input,
    KeepMetrics,
    KillTree,
    Notified,
    OutOfMemory,
    OutputGrew,
    PassedOver,
    Reason,
    Released,
    SendToAgent,
    ShimMessage,
    ShimPhase,
    ShimState,
    SignalTree,
    Source,
    Step,
    StopAsked,
    Tick,
    TreeGone,
    WorkerExited,
    WriteExit,
)
from services.agent.shim.values import replace

KILL_AGAIN_MAX_S = 1.0
"""Seconds from one SIGKILL of the whole tree to the next at the most."""
SEND_EVERY_S = 1.0
"""A run's heartbeats are coalesced to one in this many seconds."""
SIGKILL = 9
MAX_METRICS = 64
"""Metric names that one attempt may use; further names are passed over."""


def next_deadline(state: ShimState) -> float | None:
    """When the next Tick is due at the latest; None: only an input can change anything."""
    times = [time for time in (state.due, _time_limit(state), _silence_limit(state)) if time is not None]
    if state.unsent and state.sent_at is not None:
        times.append(state.sent_at + SEND_EVERY_S)
    return min(times, default=None)


def step(state: ShimState, event: Input) -> Step:
    """One input in; the new state and what to do now. Total: any input in any state has an answer."""
    if state.phase is ShimPhase.GONE:
        return state, ()
    match event:
        case Released():
            return _released(state, event)
        case ExecFailed():
            return _exec_failed(state, event)
        case EndedBeforeExec():
            return _ended_before_exec(state)
        case WorkerExited():
            return _worker_exited(state, event)
        case OutOfMemory():
            return _out_of_memory(state, event)
        case Notified():
            return _notified(state, event)
        case HandedIn():
            return _handed_in(state, event)
        case OutputGrew():
            return _output_grew(state, event)
        case StopAsked():
            return _stop_asked(state, event)
        case Tick():
            return _tick(state, event.now)
        case TreeGone():
            return _tree_gone(state, event)


def _released(state: ShimState, event: Released) -> Step:
    if state.phase is not ShimPhase.COMING_UP:
        return state, ()
    state = replace(state, phase=ShimPhase.RUNNING, released_at=event.now, alive_at=event.now)
    send: tuple[Action, ...] = (SendToAgent(ShimMessage.STARTED),)
    if state.stop_reason is None:
        return state, send
    # Asked for between the look at the folder and exec: no signal of ours has reached it, the first would have ended it.
    state, actions = _end(state, event.now, Reason.STOPPED)
    return state, send + actions


def _exec_failed(state: ShimState, event: ExecFailed) -> Step:
    if state.phase is not ShimPhase.COMING_UP:
        return state, ()
    state = replace(state, phase=ShimPhase.GONE, reason=Reason.SPAWN_ERROR)
    end = _exit(state, event.message, event.at_fault)
    return state, (end, SendToAgent(ShimMessage.EXITED))


def _ended_before_exec(state: ShimState) -> Step:
    """The agent closes an attempt whose shim leaves without an end."""
    if state.phase is not ShimPhase.COMING_UP:
        return state, ()
    return replace(state, phase=ShimPhase.GONE, due=None), ()


def _worker_exited(state: ShimState, event: WorkerExited) -> Step:
    if state.worker_gone_at is not None:
        return state, ()
    if state.phase is ShimPhase.COMING_UP:
        state = replace(state, released_at=event.now)
    state = replace(state, worker_gone_at=event.now, exit_code=event.exit_code, signal=event.signal)
    if state.phase in (ShimPhase.ENDING, ShimPhase.KILLING):
        return state, ()
    if state.stop_reason is not None:
        reason = Reason.STOPPED
    elif event.out_of_memory is not None and (event.signal == SIGKILL or event.exit_code):
        reason, state = Reason.OUT_OF_MEMORY, replace(state, message=event.out_of_memory)
    else:
        reason = Reason.EXITED if event.signal is None else Reason.SIGNALLED
    # What it left behind is ended in the same way, before the end is written.
    return _end(state, event.now, reason)


def _out_of_memory(state: ShimState, event: OutOfMemory) -> Step:
    """What is left of the tree would go on without a process that it counts on, or wait for it for ever."""
    if state.phase is not ShimPhase.RUNNING:
        return state, ()
    return _kill(replace(state, reason=Reason.OUT_OF_MEMORY, message=event.message), event.now)


def _notified(state: ShimState, event: Notified) -> Step:
    """A worker of which nothing was taken has shown no sign of life: garbage is none."""
    if not event.fields.alive:
        known = dict(state.heartbeat.passed_over)
        if all(kind in known for kind, _ in event.fields.passed_over):
            return state, ()
        return _reported(state, event.now, event.fields)
    ready_now = event.fields.ready and state.heartbeat.ready_at is None
    heartbeat = replace(
        state.heartbeat,
        ready_at=event.now if ready_now else state.heartbeat.ready_at,
        last_heartbeat_at=event.now,
    )
    state = replace(state, heartbeat=heartbeat)
    if state.limits.source is Source.NOTIFY:
        state = replace(state, alive_at=event.now)
    return _reported(state, event.now, event.fields, at_once=ready_now)


def _handed_in(state: ShimState, event: HandedIn) -> Step:
    """The agent may hand a line in more than once, and is no worker: a line of stdout is no sign of life."""
    if event.offset <= state.handed_in:
        return state, ()
    state = replace(state, handed_in=event.offset)
    return _reported(state, event.now, event.fields, offset=event.offset)


def _reported(
    state: ShimState, now: float, fields: Fields, *, at_once: bool = False, offset: int | None = None
) -> Step:
    old = state.heartbeat
    new, left_out = _accepted(old.metrics, fields.metrics)
    keep: tuple[Action, ...] = ()
    if fields.step is not None or new:
        keep = (KeepMetrics(fields.step, fields.progress, new, offset),)
    heartbeat = replace(
        old,
        step=old.step if fields.step is None else fields.step,
        progress=old.progress if fields.progress is None else fields.progress,
        status_text=old.status_text if fields.status_text is None else fields.status_text,
        primary_metric=old.primary_metric if fields.primary_metric is None else fields.primary_metric,
        metrics=tuple({**dict(old.metrics), **dict(new)}.items()),
        passed_over=_first_of_each(old.passed_over, fields.passed_over + left_out),
    )
    state = replace(state, heartbeat=heartbeat, unsent=True)
    if at_once or state.sent_at is None or now >= state.sent_at + SEND_EVERY_S:
        state, send = _send_heartbeat(state, now)
        return state, keep + send
    return state, keep


def _output_grew(state: ShimState, event: OutputGrew) -> Step:
    if state.phase is not ShimPhase.RUNNING or state.limits.source is not Source.OUTPUT:
        return state, ()
    state = replace(state, alive_at=max(state.alive_at, min(event.now, event.grew_at)))
    limit = _silence_limit(state)
    if limit is not None and event.now >= limit:
        return _end(state, event.now, Reason.WORKER_TIMEOUT, state.limits.heartbeat_timeout_s)
    return state, ()


def _stop_asked(state: ShimState, event: StopAsked) -> Step:
    # The first order counts; a worker that went by itself before it was not stopped.
    if state.stop_reason is not None or state.worker_gone_at is not None:
        return state, ()
    state = replace(state, stop_reason=event.reason)
    if state.phase is ShimPhase.COMING_UP:
        # On storage that hangs this may last. What waits there is not the program yet, but may be at any moment.
        stopping, actions = _end(state, event.now, Reason.STOPPED)
        return replace(stopping, phase=ShimPhase.COMING_UP, reason=None), actions
    if state.phase is ShimPhase.RUNNING:
        return _end(state, event.now, Reason.STOPPED)
    return state, ()


def _tick(state: ShimState, now: float) -> Step:
    actions: tuple[Action, ...] = ()
    if state.unsent and state.sent_at is not None and now >= state.sent_at + SEND_EVERY_S:
        state, actions = _send_heartbeat(state, now)
    time_limit, silence_limit = _time_limit(state), _silence_limit(state)
    more: tuple[Action, ...] = ()
    if time_limit is not None and now >= time_limit:
        state, more = _end(state, now, Reason.TIME_LIMIT, state.limits.max_duration_s)
    elif silence_limit is not None and now >= silence_limit:
        if state.limits.source is Source.OUTPUT:
            more = (CheckOutput(),)
        else:
            state, more = _end(state, now, Reason.WORKER_TIMEOUT, state.limits.heartbeat_timeout_s)
    elif state.due is not None and now >= state.due:
        state, more = _kill(state, now)
    return state, actions + more


def _tree_gone(state: ShimState, event: TreeGone) -> Step:
    if state.worker_gone_at is None:
        return state, ()
    state = replace(state, phase=ShimPhase.GONE, due=None)
    return state, (_exit(state, state.message), SendToAgent(ShimMessage.EXITED))


def _end(state: ShimState, now: float, reason: Reason, timeout_s: float | None = None) -> Step:
    """The stop signal to the whole tree, or at once SIGKILL where there is no grace."""
    state = replace(state, phase=ShimPhase.ENDING, reason=reason, timeout_s=timeout_s)
    if state.limits.grace_s <= 0:
        return _kill(state, now)
    return replace(state, due=now + state.limits.grace_s), (SignalTree(state.limits.stop_signal),)


def _kill(state: ShimState, now: float) -> Step:
    again_s = state.kill_again_s
    phase = ShimPhase.COMING_UP if state.phase is ShimPhase.COMING_UP else ShimPhase.KILLING
    state = replace(state, phase=phase, due=now + again_s, kill_again_s=min(2 * again_s, KILL_AGAIN_MAX_S))
    return state, (KillTree(),)


def _send_heartbeat(state: ShimState, now: float) -> Step:
    return replace(state, sent_at=now, unsent=False), (SendToAgent(ShimMessage.HEARTBEAT),)


def _exit(state: ShimState, message: str | None, at_fault: str | None = None) -> WriteExit:
    assert state.reason is not None
    gone_at = state.worker_gone_at
    return WriteExit(
        reason=state.reason,
        exit_code=state.exit_code,
        signal=state.signal,
        stop_reason=state.stop_reason,
        message=message,
        timeout_s=state.timeout_s,
        duration_s=0.0 if gone_at is None else max(0.0, gone_at - state.released_at),
        at_fault=at_fault,
    )


def _time_limit(state: ShimState) -> float | None:
    limit = state.limits.max_duration_s
    return state.released_at + limit if state.phase is ShimPhase.RUNNING and limit is not None else None


def _silence_limit(state: ShimState) -> float | None:
    limits = state.limits
    if (
        state.phase is not ShimPhase.RUNNING
        or limits.source is Source.PROCESS
        or limits.heartbeat_timeout_s is None
    ):
        return None
    return state.alive_at + limits.heartbeat_timeout_s


def _accepted(
    old: tuple[tuple[str, float], ...], new: tuple[tuple[str, float], ...]
) -> tuple[tuple[tuple[str, float], ...], tuple[tuple[PassedOver, str], ...]]:
    """What of the new metrics counts, and what does not: an attempt may use so many names."""
    names = {name for name, _ in old}
    accepted, left_out = [], []
    for name, number in new:
        if name in names or len(names) < MAX_METRICS:
            names.add(name)
            accepted.append((name, number))
        else:
            left_out.append((PassedOver.TOO_MANY, name))
    return tuple(accepted), tuple(left_out)


def _first_of_each(
    old: tuple[tuple[PassedOver, str], ...], new: tuple[tuple[PassedOver, str], ...]
) -> tuple[tuple[PassedOver, str], ...]:
    return tuple({**dict(reversed(new)), **dict(old)}.items()) if new else old
