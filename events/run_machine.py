"""The run state machine: what each event of a run makes of it, and of the runs that wait for it.

Owns every transition of a run, retry and back-off included (docs/protocol.md rules 3-5, 7, 8); knows no epoch, and
nothing of how nodes come and go. Total; no clock, no I/O.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

import msgspec

from events import blame, rules
from events.change import NOTHING, Change, EndedAttempt, RunChange
from events.codec import StoredEvent
from events.config import RunConfig, stored_config
from events.state import BY_RUN, Active, Ended, Pending, Phase, Placement, Run, State
from events.types import (
    AttemptEnd,
    AttemptRef,
    Cancelled,
    CancelRequested,
    Completed,
    Dispatched,
    Failed,
    RetryRequested,
    RunEvent,
    Started,
    Stopping,
    Submitted,
    TimedOut,
)
from trainshed_client.errors import TrainshedError
from trainshed_client.json_limits import MAX_BYTES, MAX_INTEGER
from trainshed_client.statuses import AtFault, FailureReason, RunStatus
from trainshed_client.subjects import Role

SECOND_NS = 1_000_000_000
NOT_STARTED_MAX_BACKOFF_S = 60
_DISPATCHER = Role.DISPATCHER  # up to Python 3.11 an enum looks its members up slowly
_COMPLETED, _FAILED, _NODE = RunStatus.COMPLETED, RunStatus.FAILED, AtFault.NODE
_NOT_STARTED, _SPAWN_ERROR = FailureReason.NOT_STARTED, FailureReason.SPAWN_ERROR
MAX_BACKOFF_S = 100 * 365 * 86_400
"""More than anybody waits for; keeps every time in the range that clocks and calendars have."""


def evolve_run(state: State, stored: StoredEvent, event: RunEvent, history: Mapping[str, Run]) -> Change:
    """Fold an event of a run. ``history``: as for ``evolve``."""
    run = state.runs.get(event.run_id)
    match event:
        case Submitted():
            return NOTHING if run is not None else _submitted(state, stored, event, history)
        case RetryRequested():
            return _retried(state, run or history.get(event.run_id), event)
        case AttemptEnd():
            return _attempt_end(state, stored, run, event)
        case Stopping():
            return _stopping(state, run, event)
        case _ if run is None:
            return NOTHING
        case CancelRequested():
            return _replace(state, run, cancel_requested=True) if not run.cancel_requested else NOTHING
        case Dispatched():
            return _dispatched(state, stored, run, event)
        case Started():
            return _started(state, stored, run, event)
        case _:
            return NOTHING


def _submitted(state: State, stored: StoredEvent, event: Submitted, history: Mapping[str, Run]) -> Change:
    try:
        config = stored_config(event.config)
    except TrainshedError as error:
        return Change(unreadable=str(error))
    raw = bytes(event.config)
    if len(raw) > MAX_BYTES or not _in_range(config):
        return Change(unreadable="the run config is too large, or a number in it is")
    waiting: set[str] = set()
    failed: str | None = None
    for dependency in config.after:
        past = history.get(dependency)
        if past is None or not isinstance(past.phase, Ended):
            waiting.add(dependency)
        elif past.phase.status is not RunStatus.COMPLETED:
            failed = dependency
    phase = Pending(attempt=1, waiting_for=frozenset(waiting), failed_dependency=failed)
    run = run_of_config(event.run_id, stored.seq, raw, config, phase)
    if event.caller_path is not None:  # interned: a sweep's runs bear one and the same
        run = msgspec.structs.replace(run, caller_path=sys.intern(event.caller_path))
    if event.provenance is not None and config.code is not None:
        folder, ignore = sys.intern(event.provenance.folder), event.provenance.ignore
        run = msgspec.structs.replace(run, code_folder=folder, code_ignore=ignore)
    submitter = _submitter(state, event.submitted_by)
    if submitter != run.submitter:
        run = msgspec.structs.replace(run, submitter=sys.intern(submitter))
    state.put_run(run)
    return Change(runs=(RunChange(None, run),), config=config)


def _submitter(state: State, submitted_by: str) -> str:
    """Whose run it is: what the worker of a run submits is its submitter's, as long as that run is live."""
    kind, _, parent = submitted_by.partition("/")
    run = state.runs.get(parent) if kind == BY_RUN else None
    return submitted_by if run is None else run.submitter


def run_of_config(run_id: str, submit_seq: int, raw: bytes, config: RunConfig, phase: Phase) -> Run:
    """What a run config as stored (``raw``, read: ``config``) makes of a run."""
    return Run(
        run_id=run_id,
        submit_seq=submit_seq,
        config=raw,
        name=config.name,
        priority=config.priority,
        needs=config.needs,
        retry=config.retry,
        after=tuple(config.after),
        max_duration_s=config.max_duration_seconds,
        grace_s=config.stop.grace_s,
        phase=phase,
    )


def _retried(state: State, run: Run | None, event: RetryRequested) -> Change:
    if run is None or not isinstance(run.phase, Ended) or run.phase.attempt != event.attempt:
        return NOTHING
    # what it comes after may have been retried before it; the gateway refuses where one has ended otherwise
    waiting_for = frozenset(run_id for run_id in run.after if run_id in state.runs)
    phase = Pending(attempt=event.attempt + 1, waiting_for=waiting_for)
    again = msgspec.structs.replace(run, phase=phase, tries=0, unstarted=0, tried=(), cancel_requested=False)
    state.put_run(again)
    return Change(runs=(RunChange(run, again),))


def _dispatched(state: State, stored: StoredEvent, run: Run, event: Dispatched) -> Change:
    if not isinstance(run.phase, Pending) or run.phase.attempt != event.attempt:
        return NOTHING
    uuids, shared = _devices(state, event)
    if run.needs.whole:
        shared = ()  # also where its node has cut its devices anew since that was decided
    placement = Placement(
        node=event.node,
        incarnation=event.incarnation,
        slots=event.slots,
        cpus=event.cpus,
        memory_mb=event.memory_mb,
        uuids=uuids,
        shared=shared,
    )
    active = Active(
        attempt=event.attempt,
        placements=(placement,),
        dispatched_seq=stored.seq,
        since_ns=stored.stored_ns,
    )
    return _replace(state, run, phase=active, nodes=(event.node,))


def _devices(state: State, event: Dispatched) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The UUIDs of the granted slots, as the node's inventory has them now, and those of them that have more slots."""
    node = state.nodes.get(event.node)
    if node is None or node.incarnation != event.incarnation:
        return (), ()
    slots = event.slots
    uuids = {d.uuid for d in node.gpus if d.index in slots and d.uuid is not None}
    shared = {d.uuid for d in node.gpus if d.gpu is not None and d.index not in slots and d.uuid in uuids}
    return tuple(sorted(uuids)), tuple(sorted(uuids & shared))


def _stopping(state: State, run: Run | None, event: Stopping) -> Change:
    nodes = _stop_appended(state, event.node, AttemptRef(event.run_id, event.attempt))
    if run is not None and isinstance(run.phase, Active):
        placement = run.phase.on(event.node) if run.phase.attempt == event.attempt else None
        if placement is not None and not placement.stopping:
            changed = run.phase.with_placement(msgspec.structs.replace(placement, stopping=True))
            return _replace(state, run, phase=changed, nodes=nodes)
    return Change(nodes=nodes)


def _stop_appended(state: State, name: str, ref: AttemptRef) -> tuple[str, ...]:
    """A listed attempt of the node needs no Stopping any more; the node's name where that changed it."""
    node = state.nodes.get(name)
    if node is None or not node.to_stop or ref not in node.to_stop:
        return ()
    state.put_node(msgspec.structs.replace(node, to_stop=node.to_stop - {ref}))
    return (name,)


def _started(state: State, stored: StoredEvent, run: Run, event: Started) -> Change:
    phase = run.phase
    if not isinstance(phase, Active) or phase.started or not _is_of(phase, event.attempt, stored):
        return NOTHING
    started = msgspec.structs.replace(phase, started=True, since_ns=stored.stored_ns)
    nodes = blame.starts_again(state, stored.subject.node)
    return _replace(state, run, phase=started, unstarted=0, nodes=nodes)


def _attempt_end(state: State, stored: StoredEvent, run: Run | None, event: AttemptEnd) -> Change:
    if stored.subject.role == _DISPATCHER:
        return _dispatchers_end(state, stored, run, event)
    ref = AttemptRef(event.run_id, event.attempt)
    nodes = _stop_appended(state, stored.subject.node, ref)
    if run is None or not isinstance(run.phase, Active) or not _is_of(run.phase, event.attempt, stored):
        return Change(late=ref, nodes=nodes)
    at_fault = None if run.phase.started else blame.fault_of(state, event)
    if at_fault is _NODE and isinstance(event, Failed):
        blame.could_not_start(state, stored, run.phase, event)
    return end_attempt(state, run, run.phase, *outcome(event), stored, at_fault)


def _dispatchers_end(state: State, stored: StoredEvent, run: Run | None, event: AttemptEnd) -> Change:
    if run is None or run.phase.attempt != event.attempt:
        return NOTHING
    match event, run.phase:
        case Cancelled(failure_reason=reason), Pending():
            ended = msgspec.structs.replace(
                run, phase=Ended(attempt=event.attempt, status=RunStatus.CANCELLED, reason=reason)
            )
            return _end_run(state, run, ended, Change())
        case Failed(failure_reason=reason), Active() as active if reason is verdict_on(state, run, active):
            return end_attempt(state, run, active, RunStatus.FAILED, reason, stored)
        case _:
            return NOTHING


def verdict_on(state: State, run: Run, active: Active) -> FailureReason | None:
    """Why the dispatcher may end this attempt without its agent's word; None where it may not.

    The last join of its incarnation lists it no longer, or that left before it took it (docs/protocol.md rule 8), or
    its incarnation is not there any more (rule 18).
    """
    forgetting = state.rules >= rules.FORGETTING
    unseen = FailureReason.SHIM_LOST if active.started else FailureReason.NOT_STARTED
    for placement in active.placements:
        node = state.nodes.get(placement.node)
        session = None if node is None else node.session_of(placement.incarnation)
        if session is None:
            if forgetting:
                return unseen
            continue
        if active.dispatched_seq < session.joined_seq and run.ref not in session.listed:
            return unseen
        if session.left_upto is not None and active.dispatched_seq > session.left_upto:
            return unseen if forgetting else FailureReason.NOT_STARTED
    return None


def outcome(event: AttemptEnd) -> tuple[RunStatus, FailureReason | None]:
    """How an attempt stands after this end."""
    match event:
        case Completed():
            return _COMPLETED, None
        case Cancelled(failure_reason=reason):
            return RunStatus.CANCELLED, reason
        case Failed(failure_reason=reason) | TimedOut(failure_reason=reason):
            return RunStatus.FAILED, reason
        case _:
            return RunStatus.UNSPECIFIED, None


def end_attempt(
    state: State,
    run: Run,
    active: Active,
    status: RunStatus,
    reason: FailureReason | None,
    stored: StoredEvent,
    at_fault: AtFault | None = None,
) -> Change:
    """The end of an attempt ends the run or queues it again: never through FAILED (docs/protocol.md rules 3, 4, 9, 19)."""
    if reason is _NOT_STARTED and active.started and state.rules >= rules.BLAMING:
        reason = FailureReason.SHIM_LOST  # its agent found no started.json any more, and could not know
    change = Change(
        nodes=active.nodes,
        ended=(EndedAttempt(run.run_id, active, status, reason),),
    )
    no_fault = reason is _NOT_STARTED or at_fault is _NODE
    tries, tried = run.tries if no_fault else run.tries + 1, run.tried
    if state.rules >= rules.BLAMING and (reason is _SPAWN_ERROR or at_fault is _NODE):
        tried = tuple(sorted({*tried, *active.nodes}))
    if status is not _COMPLETED and run.cancel_requested:
        status, reason = RunStatus.CANCELLED, None
    elif status is _FAILED and no_fault:
        backoff_s = float(min(2 ** min(run.unstarted, 10), NOT_STARTED_MAX_BACKOFF_S))
        return _requeue(state, run, stored, backoff_s, change, tries, run.unstarted + 1, tried)
    elif (
        status is _FAILED
        and _is_retried(state, run, reason)
        and tries < run.retry.max_attempts
        and (reason is not _SPAWN_ERROR or blame.may_start_elsewhere(state, run, tried))
    ):
        return _requeue(state, run, stored, run.retry.backoff_s, change, tries, 0, tried)
    ended = Ended(attempt=active.attempt, status=status, reason=reason)
    return _end_run(state, run, msgspec.structs.replace(run, phase=ended, tries=tries, tried=tried), change)


def _is_retried(state: State, run: Run, reason: FailureReason | None) -> bool:
    """Whether ``retry.on`` names the reason. The kernel's SIGKILL for want of memory is a signal as well."""
    is_signal = reason is FailureReason.OUT_OF_MEMORY and state.rules >= rules.BLAMING
    return reason in run.retry.on or (is_signal and FailureReason.SIGNAL in run.retry.on)


def _requeue(
    state: State,
    run: Run,
    stored: StoredEvent,
    backoff_s: float,
    change: Change,
    tries: int,
    unstarted: int,
    tried: tuple[str, ...],
) -> Change:
    again = msgspec.structs.replace(
        run,
        phase=Pending(
            attempt=run.phase.attempt + 1,
            not_before_ns=stored.stored_ns + int(min(backoff_s, MAX_BACKOFF_S) * SECOND_NS),
        ),
        tries=tries,
        unstarted=unstarted,
        tried=tried,
    )
    state.put_run(again)
    return msgspec.structs.replace(change, runs=(RunChange(run, again),))


def _end_run(state: State, before: Run, after: Run, change: Change) -> Change:
    """Take the run out of the index and tell the runs that wait for it."""
    dependents = sorted(state.waiting.get(before.run_id, ()))
    state.put_run(after)
    changes = [RunChange(before, after)]
    completed = after.status is _COMPLETED
    for run_id in dependents:
        run = state.runs.get(run_id)
        if run is None or not isinstance(run.phase, Pending):
            continue
        phase = msgspec.structs.replace(
            run.phase,
            waiting_for=run.phase.waiting_for - {before.run_id},
            failed_dependency=run.phase.failed_dependency if completed else before.run_id,
        )
        changed = msgspec.structs.replace(run, phase=phase)
        state.put_run(changed)
        changes.append(RunChange(run, changed))
    return msgspec.structs.replace(change, runs=tuple(changes))


def _is_of(active: Active, attempt: int, stored: StoredEvent) -> bool:
    return active.attempt == attempt and active.on(stored.subject.node) is not None


def _replace(state: State, run: Run, *, nodes: tuple[str, ...] = (), **fields: object) -> Change:
    after = msgspec.structs.replace(run, **fields)
    state.put_run(after)
    return Change(runs=(RunChange(run, after),), nodes=nodes)


def _in_range(config: RunConfig) -> bool:
    """What the gateway accepts has such numbers; a raw writer's may not, and no reader could keep them."""
    needs = config.needs
    numbers = (config.priority, config.retry.max_attempts, needs.cpus, needs.memory_mb, needs.gpus)
    return all(-MAX_INTEGER <= number <= MAX_INTEGER for number in numbers)
