"""The project's own functions with one rule of docs/protocol.md switched off each.

Owns what each does otherwise; knows no configuration and no search.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec.structs import replace

from events import evolve as evolving
from events import node_machine, rules, run_machine
from events.change import Change
from events.codec import StoredEvent
from events.state import Active, Ended, Node, Placement, Run, State
from events.types import (
    AttemptEnd,
    Dispatched,
    Event,
    Failed,
    NodeJoined,
    NodeLeft,
    NodeLost,
    NodeRemoved,
    RetryRequested,
    View,
)
from services.agent.session import machine
from services.agent.session.machine import attempt_of, put
from services.agent.session.values import (
    Ack,
    AppendEnd,
    AppendJoined,
    AttemptPlace,
    CountedLost,
    FoldersPrepared,
    Granted,
    Input,
    Launch,
    NameRead,
    SessionPhase,
    SessionState,
    Step,
    StopOrdered,
    Swept,
)
from services.agent.shim import core, core_types
from tests.model.code import LAUNCH, NO_WHY, AgentWord, Code
from trainshed_client.statuses import FailureReason, NodeStatus

# --- evolve --------------------------------------------------------------------------------------------------

Evolve = Callable[[State, StoredEvent, Mapping[str, Run]], Change]


def with_evolve(
    other: Callable[[State, StoredEvent, Mapping[str, Run]], Change | None],
) -> Callable[[Code], None]:
    """Where ``other`` answers, its answer; else the project's."""

    def evolve(state: State, stored: StoredEvent, history: Mapping[str, Run]) -> Change:
        change = other(state, stored, history)
        return evolving.evolve(state, stored, history) if change is None else change

    def apply(code: Code) -> None:
        code.evolve = evolve

    return apply


def free_on_silence(state: State, stored: StoredEvent, history: Mapping[str, Run]) -> Change | None:
    if not isinstance(stored.event, NodeLost):
        return None
    evolving.evolve(state, stored, history)
    node = state.nodes[stored.event.node]
    if node.status is not NodeStatus.LOST:
        return Change(nodes=(node.name,))
    removed = NodeRemoved(node=node.name, incarnation=node.incarnation)
    change = node_machine.evolve_node(state, replace(stored, event=removed), removed)
    state.put_node(node)
    return change


def ignores_lists(state: State, stored: StoredEvent, history: Mapping[str, Run]) -> Change | None:
    """A node's list is taken for everything that it ever had."""
    if not isinstance(stored.event, NodeJoined):
        return None
    held = [run.ref for run, _, _ in state.attempts_of(stored.event.node)]
    event = replace(stored.event, attempts=tuple({*stored.event.attempts, *held}))
    return evolving.evolve(state, replace(stored, event=event), history)


def owes_no_stopping(state: State, stored: StoredEvent, history: Mapping[str, Run]) -> Change | None:
    if not isinstance(stored.event, NodeJoined):
        return None
    change = evolving.evolve(state, stored, history)
    node = state.nodes[stored.event.node]
    state.put_node(replace(node, to_stop=frozenset()))
    return change


def keeps_told_stops(state: State, stored: StoredEvent, history: Mapping[str, Run]) -> Change | None:
    if not isinstance(stored.event, NodeJoined):
        return None
    change = evolving.evolve(state, stored, history)
    for each in change.runs:
        if each.before is not None:
            state.put_run(each.before)
    return replace(change, runs=())


def takes_every_epoch(state: State, stored: StoredEvent, history: Mapping[str, Run]) -> Change | None:
    epoch = getattr(stored.event, "epoch", None)
    if epoch is None:
        return None
    present, state.epoch = state.epoch, epoch
    change = evolving.evolve(state, stored, history)
    state.epoch = present
    return change


def takes_late_ends(state: State, stored: StoredEvent, history: Mapping[str, Run]) -> Change | None:
    change = evolving.evolve(state, stored, history)
    run = state.runs.get(change.late.run_id) if change.late is not None else None
    if run is None or not isinstance(stored.event, AttemptEnd) or isinstance(run.phase, Ended):
        return change
    status, reason = run_machine.outcome(stored.event)
    ended = replace(run, phase=Ended(attempt=run.attempt, status=status, reason=reason))
    return run_machine._end_run(state, run, ended, Change())


def forgets_cancel(state: State, stored: StoredEvent, history: Mapping[str, Run]) -> Change | None:
    if not isinstance(stored.event, Dispatched):
        return None
    change = evolving.evolve(state, stored, history)
    for each in change.runs:
        state.put_run(replace(each.after, cancel_requested=False))
    runs = tuple(replace(each, after=replace(each.after, cancel_requested=False)) for each in change.runs)
    return replace(change, runs=runs)


def shares_everything(state: State, stored: StoredEvent, history: Mapping[str, Run]) -> Change | None:
    return _shared_by(state, stored, history, lambda node, placement: placement.uuids)


def shares_by_slots(state: State, stored: StoredEvent, history: Mapping[str, Run]) -> Change | None:
    def by_slots(node: Node, placement: Placement) -> tuple[str, ...]:
        rest = {device.uuid for device in node.gpus if device.index not in placement.slots}
        return tuple(uuid for uuid in placement.uuids if uuid in rest)

    return _shared_by(state, stored, history, by_slots)


def _shared_by(
    state: State,
    stored: StoredEvent,
    history: Mapping[str, Run],
    shared: Callable[[Node, Placement], tuple[str, ...]],
) -> Change | None:
    if not isinstance(stored.event, Dispatched):
        return None
    change = evolving.evolve(state, stored, history)
    runs = []
    for each in change.runs:
        phase, node = each.after.phase, state.nodes.get(stored.event.node)
        assert isinstance(phase, Active)
        (placement,) = phase.placements
        if node is not None:
            placement = replace(placement, shared=shared(node, placement))
        after = replace(each.after, phase=phase.with_placement(placement))
        state.put_run(after)
        runs.append(replace(each, after=after))
    return replace(change, runs=tuple(runs))


def blames_over_a_join(state: State, stored: StoredEvent, history: Mapping[str, Run]) -> Change | None:
    """A node that joins is blamed for what it could not start before."""
    event = stored.event
    before = state.nodes.get(event.node) if isinstance(event, NodeJoined) else None
    if before is None:
        return None
    change = evolving.evolve(state, stored, history)
    state.put_node(replace(state.nodes[before.name], failed_starts=before.failed_starts))
    return change


def blames_for_older_grants(state: State, stored: StoredEvent, history: Mapping[str, Run]) -> Change | None:
    """A node is blamed for what was granted to it before its last join too."""
    node = state.nodes.get(stored.subject.node) if isinstance(stored.event, AttemptEnd) else None
    if node is None:
        return None
    state.put_node(replace(node, joined_seq=0))
    change = evolving.evolve(state, stored, history)
    state.put_node(replace(state.nodes[node.name], joined_seq=node.joined_seq))
    return change


def requeues_what_started(state: State, stored: StoredEvent, history: Mapping[str, Run]) -> Change | None:
    """not_started queues a run again and counts no try, also where the log has its Started."""
    event = stored.event
    run = state.runs.get(event.run_id) if isinstance(event, Failed) else None
    if run is None or not isinstance(run.phase, Active):
        return None
    was, state.rules = state.rules, rules.FORGETTING
    change = evolving.evolve(state, stored, history)
    state.rules = was
    return change


def ends_for_want_of_memory(state: State, stored: StoredEvent, history: Mapping[str, Run]) -> Change | None:
    """An out_of_memory is retried only where `retry.on` names it, as by the rules before."""
    event = stored.event
    if not isinstance(event, Failed) or event.failure_reason is not FailureReason.OUT_OF_MEMORY:
        return None
    was, state.rules = state.rules, rules.FORGETTING
    change = evolving.evolve(state, stored, history)
    state.rules = was
    return change


def not_where_it_was_tried(state: State, grant: Dispatched) -> bool:
    return grant.node not in state.runs[grant.run_id].tried


def not_to_suspects(state: State, grant: Dispatched) -> bool:
    return not state.nodes[grant.node].suspect


def grants_what_is_held(state: State, epoch: int) -> list[Event]:
    """To an attempt that no run has: evolve passes it over, and its node would act on it."""
    return [
        Dispatched(
            run_id=other.run_id,
            attempt=other.attempt + 1,
            epoch=epoch,
            node=placement.node,
            incarnation=placement.incarnation,
            slots=placement.slots,
            cpus=placement.cpus,
            memory_mb=placement.memory_mb,
            launch=LAUNCH,
            view=View(seq=0, now=""),
            why=NO_WHY,
        )
        for run in state.runs.values()
        if isinstance(run.phase, Active)
        for placement in run.phase.placements
        for other in state.runs.values()
        if other.run_id != run.run_id
    ]


def ends_what_is_not_granted(state: State, epoch: int) -> list[Event]:
    return [
        Failed(
            run_id=run.run_id,
            attempt=run.attempt + 1,
            epoch=epoch,
            failure_reason=FailureReason.NOT_STARTED,
        )
        for run in state.runs.values()
    ]


def says_of_the_next(word: AgentWord) -> AgentWord:
    return replace(word, attempt=word.attempt + 1)


def _ignores_grants_of_lost(state: State, stored: StoredEvent, history: Mapping[str, Run]) -> Change | None:
    event = stored.event
    if isinstance(event, Dispatched) and state.nodes[event.node].status is not NodeStatus.UP:
        state.seq = stored.seq
        return Change()
    return None


def removes_what_is_up(state: State, stored: StoredEvent, history: Mapping[str, Run]) -> Change | None:
    event = stored.event
    if isinstance(event, NodeRemoved) and event.node in state.nodes:
        node = state.nodes[event.node]
        if node.incarnation == event.incarnation and node.status is NodeStatus.UP:
            state.put_node(replace(node, status=NodeStatus.LOST))
    return None


def _starts_again(state: State, stored: StoredEvent, history: Mapping[str, Run]) -> Change | None:
    """A requeue in the writer's words instead of in evolve: an ended run is put back."""
    event = stored.event
    if isinstance(event, RetryRequested) and event.run_id in state.runs:
        run = state.runs[event.run_id]
        if isinstance(run.phase, Active):
            state.seq = stored.seq
            return run_machine._requeue(state, run, stored, 0.0, Change(), 0, 0, ())
    return None


def removal_ends_nothing(state: State, stored: StoredEvent, history: Mapping[str, Run]) -> Change | None:
    event = stored.event
    node = state.nodes.get(event.node) if isinstance(event, NodeRemoved) else None
    if node is None:
        return None
    state.seq = stored.seq
    state.put_node(replace(node, status=NodeStatus.REMOVED))
    return Change(nodes=(node.name,))


def forgets_upto(state: State, stored: StoredEvent, history: Mapping[str, Run]) -> Change | None:
    if not isinstance(stored.event, NodeLeft):
        return None
    change = evolving.evolve(state, stored, history)
    state.put_node(replace(state.nodes[stored.event.node], left_upto=None))
    return change


def removal_closes_nothing(state: State, stored: StoredEvent, history: Mapping[str, Run]) -> Change | None:
    """As by the first rules: what is granted to a removed incarnation is nobody's to end."""
    event = stored.event
    before = state.nodes.get(event.node) if isinstance(event, NodeRemoved) else None
    if before is None:
        return None
    change = evolving.evolve(state, stored, history)
    if change.nodes:
        state.put_node(replace(before, status=NodeStatus.REMOVED, left_upto=None, to_stop=frozenset()))
    return change


def forgets_who_holds(state: State, stored: StoredEvent, history: Mapping[str, Run]) -> Change | None:
    """A node on loan is forgotten as it leaves, whatever it holds."""
    event = stored.event
    if not isinstance(event, NodeLeft):
        return None
    change = evolving.evolve(state, stored, history)
    node = state.nodes.get(event.node)
    if node is not None and node.status is NodeStatus.LEFT and node.borrowed:
        state.drop_node(node.name)
    return change


def knows_whom_it_grants(state: State, stored: StoredEvent, history: Mapping[str, Run]) -> Change | None:
    """A grant makes its node known, as one that may yet take it."""
    event = stored.event
    change = evolving.evolve(state, stored, history)
    if isinstance(event, Dispatched) and change.runs and event.node not in state.nodes:
        state.put_node(
            Node(
                name=event.node,
                host="",
                incarnation=event.incarnation,
                status=NodeStatus.LOST,
                joined_seq=0,
                joined_ns=0,
                seq=0,
                cpus=0,
                memory_mb=0,
            )
        )
    return change


# --- the agent -----------------------------------------------------------------------------------------------


def with_session(other: Callable[[SessionState, Input], Step | None]) -> Callable[[Code], None]:
    def step(state: SessionState, event: Input) -> Step:
        answer = other(state, event)
        return machine.step(state, event) if answer is None else answer

    def apply(code: Code) -> None:
        code.session_step = step

    return apply


def launches_old_grants(state: SessionState, event: Input) -> Step | None:
    if not isinstance(event, Granted):
        return None
    after, actions = machine.step(replace(state, joined=0, upto=0), event)
    return replace(after, joined=state.joined, upto=max(state.upto, after.upto)), actions


def stays_when_lost(state: SessionState, event: Input) -> Step | None:
    if isinstance(event, CountedLost) and state.phase is SessionPhase.JOINED:
        return state, (Ack(event.seq),)
    return None


def acknowledges_first(state: SessionState, event: Input) -> Step | None:
    if not isinstance(event, Granted | StopOrdered):
        return None
    after, actions = machine.step(state, event)
    return after, tuple(sorted(actions, key=lambda action: not isinstance(action, Ack)))


def takes_every_incarnation(state: SessionState, event: Input) -> Step | None:
    if isinstance(event, Granted | StopOrdered | CountedLost):
        return machine.step(state, replace(event, incarnation=state.incarnation))
    return None


def ignores_removal(state: SessionState, event: Input) -> Step | None:
    if not isinstance(event, NameRead):
        return None
    return machine.step(state, NameRead(replace(event.name, removed=0, removed_of=None)))


def takes_every_leave_for_empty(state: SessionState, event: Input) -> Step | None:
    if not isinstance(event, NameRead):
        return None
    return machine.step(state, NameRead(replace(event.name, left_empty=True)))


def passes_over_unseen_stops(state: SessionState, event: Input) -> Step | None:
    if isinstance(event, StopOrdered) and attempt_of(state, event.ref) is None:
        return state, (Ack(event.seq),)
    return None


def lists_nothing(state: SessionState, event: Input) -> Step | None:
    if not isinstance(event, Swept):
        return None
    after, actions = machine.step(state, event)
    return after, tuple(
        replace(action, attempts=()) if isinstance(action, AppendJoined) else action for action in actions
    )


def takes_older_slots(state: SessionState, event: Input) -> Step | None:
    """Slots are taken for what they number now, whichever inventory they were chosen by."""
    return machine.step(state, replace(event, view=state.joined)) if isinstance(event, Granted) else None


def launches_over_a_tree(state: SessionState, event: Input) -> Step | None:
    """A slot is free to the agent as soon as the log says so."""
    if not isinstance(event, Granted | FoldersPrepared) or state.phase is not SessionPhase.JOINED:
        return None
    if isinstance(event, Granted) and event.seq < state.joined:
        return None
    others = tuple(a for a in state.attempts if a.ref != event.ref)
    alone = replace(state, attempts=tuple(a for a in state.attempts if a.ref == event.ref))
    after, actions = machine.step(alone, event)
    return replace(after, attempts=(*others, *after.attempts)), actions


def forgets_what_it_refused(state: SessionState, event: Input) -> Step | None:
    after, actions = forgets_what_it_took(replace(state, refused=frozenset()), event)
    left = after.refused if any(isinstance(action, AppendEnd) for action in actions) else frozenset()
    return replace(after, refused=left), actions


def forgets_what_it_took(state: SessionState, event: Input) -> Step:
    """A decision that comes again is known only by what the attempt's folder says."""
    after, actions = machine.step(replace(state, upto=min(state.upto, state.joined)), event)
    return replace(after, upto=max(state.upto, after.upto)), actions


def launches_whatever_has_folders(state: SessionState, event: Input) -> Step | None:
    """A launch that storage held up comes when it answers, also of an attempt that was closed meanwhile."""
    attempt = attempt_of(state, event.ref) if isinstance(event, FoldersPrepared) else None
    if attempt is None or state.phase is not SessionPhase.JOINED:
        return None
    return put(state, replace(attempt, place=AttemptPlace.UP)), (Launch(attempt.ref),)


# --- shim, server, dispatcher --------------------------------------------------------------------------------


def _writes_early(state: core_types.ShimState, event: core_types.Input) -> core_types.Step:
    """The end is written when the worker is gone, not when its tree is."""
    after, actions = core.step(state, event)
    if isinstance(event, core_types.WorkerExited):
        after, more = core.step(after, core_types.TreeGone(event.now))
        actions = (*actions, *more)
    return after, actions


def with_flags(**flags: object) -> Callable[[Code], None]:
    def apply(code: Code) -> None:
        for name, value in flags.items():
            assert hasattr(code, name)
            setattr(code, name, value)

    return apply


def both(*changes: Callable[[Code], None]) -> Callable[[Code], None]:
    def apply(code: Code) -> None:
        for change in changes:
            change(code)

    return apply


def writes_ends_early(code: Code) -> None:
    code.core_step = _writes_early
