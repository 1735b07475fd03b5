"""Each rule of docs/protocol.md that can be switched off, switched off once.

Owns what each mutant does otherwise and where it must be caught; the project's own code stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
from msgspec.structs import replace

from events import evolve as evolving
from events.codec import StoredEvent
from events.evolve import Change
from events.state import Active, Ended, Run, State
from events.types import (
    AttemptEnd,
    Dispatched,
    NodeJoined,
    NodeLeft,
    NodeLost,
    NodeRemoved,
    RetryRequested,
)
from services.agent import session
from services.agent.session_types import (
    Ack,
    AppendJoined,
    CountedLost,
    Granted,
    Input,
    NameRead,
    Phase,
    Step,
    StopOrdered,
    Swept,
)
from services.agent.session_types import (
    State as SessionState,
)
from services.agent.shim import core
from tests.model.code import Code
from tests.model.model import Config
from trainshed_client.statuses import NodeStatus


class Mutant(msgspec.Struct, frozen=True, kw_only=True):
    """``rule``: its number; ``catches``: how what is violated begins."""

    rule: int
    says: str
    apply: Callable[[Code], None]
    config: Config
    catches: str
    states: int = 20_000


def _config(total: int, /, **more: object) -> Config:
    faults = {name: total for name in str(more.pop("faults")).split(", ")}
    return Config(total=total, faults=faults, **more)  # type: ignore[arg-type]


# --- evolve --------------------------------------------------------------------------------------------------

Evolve = Callable[[State, StoredEvent, Mapping[str, Run]], Change]


def _evolve(
    other: Callable[[State, StoredEvent, Mapping[str, Run]], Change | None],
) -> Callable[[Code], None]:
    """Where ``other`` answers, its answer; else the project's."""

    def evolve(state: State, stored: StoredEvent, history: Mapping[str, Run]) -> Change:
        change = other(state, stored, history)
        return evolving.evolve(state, stored, history) if change is None else change

    def apply(code: Code) -> None:
        code.evolve = evolve

    return apply


def _free_on_silence(state: State, stored: StoredEvent, history: Mapping[str, Run]) -> Change | None:
    if not isinstance(stored.event, NodeLost):
        return None
    evolving.evolve(state, stored, history)
    node = state.nodes[stored.event.node]
    if node.status is not NodeStatus.LOST:
        return Change(nodes=(node.name,))
    removed = NodeRemoved(node=node.name, incarnation=node.incarnation)
    change = evolving._evolve_node(state, replace(stored, event=removed), removed)
    state.put_node(node)
    return change


def _ignores_lists(state: State, stored: StoredEvent, history: Mapping[str, Run]) -> Change | None:
    """A node's list is taken for everything that it ever had."""
    if not isinstance(stored.event, NodeJoined):
        return None
    held = [run.ref for run, _ in state.attempts_of(stored.event.node)]
    event = replace(stored.event, attempts=tuple({*stored.event.attempts, *held}))
    return evolving.evolve(state, replace(stored, event=event), history)


def _owes_no_stopping(state: State, stored: StoredEvent, history: Mapping[str, Run]) -> Change | None:
    if not isinstance(stored.event, NodeJoined):
        return None
    change = evolving.evolve(state, stored, history)
    node = state.nodes[stored.event.node]
    state.put_node(replace(node, to_stop=frozenset()))
    return change


def _keeps_told_stops(state: State, stored: StoredEvent, history: Mapping[str, Run]) -> Change | None:
    if not isinstance(stored.event, NodeJoined):
        return None
    change = evolving.evolve(state, stored, history)
    for each in change.runs:
        if each.before is not None:
            state.put_run(each.before)
    return replace(change, runs=())


def _takes_late_ends(state: State, stored: StoredEvent, history: Mapping[str, Run]) -> Change | None:
    change = evolving.evolve(state, stored, history)
    run = state.runs.get(change.late.run_id) if change.late is not None else None
    if run is None or not isinstance(stored.event, AttemptEnd) or isinstance(run.phase, Ended):
        return change
    status, reason = evolving.outcome(stored.event)
    ended = replace(run, phase=Ended(attempt=run.attempt, status=status, reason=reason))
    return evolving._end_run(state, run, ended, Change())


def _forgets_cancel(state: State, stored: StoredEvent, history: Mapping[str, Run]) -> Change | None:
    if not isinstance(stored.event, Dispatched):
        return None
    change = evolving.evolve(state, stored, history)
    for each in change.runs:
        state.put_run(replace(each.after, cancel_requested=False))
    runs = tuple(replace(each, after=replace(each.after, cancel_requested=False)) for each in change.runs)
    return replace(change, runs=runs)


def _ignores_grants_of_lost(state: State, stored: StoredEvent, history: Mapping[str, Run]) -> Change | None:
    event = stored.event
    if isinstance(event, Dispatched) and state.nodes[event.node].status is not NodeStatus.UP:
        state.seq = stored.seq
        return Change()
    return None


def _removes_what_is_up(state: State, stored: StoredEvent, history: Mapping[str, Run]) -> Change | None:
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
            return evolving._requeue(state, run, stored, 0.0, Change(), 0, 0)
    return None


def _removal_ends_nothing(state: State, stored: StoredEvent, history: Mapping[str, Run]) -> Change | None:
    event = stored.event
    node = state.nodes.get(event.node) if isinstance(event, NodeRemoved) else None
    if node is None:
        return None
    state.seq = stored.seq
    state.put_node(replace(node, status=NodeStatus.REMOVED))
    return Change(nodes=(node.name,))


def _forgets_upto(state: State, stored: StoredEvent, history: Mapping[str, Run]) -> Change | None:
    if not isinstance(stored.event, NodeLeft):
        return None
    change = evolving.evolve(state, stored, history)
    state.put_node(replace(state.nodes[stored.event.node], left_upto=None))
    return change


# --- the agent -----------------------------------------------------------------------------------------------


def _session(other: Callable[[SessionState, Input], Step | None]) -> Callable[[Code], None]:
    def step(state: SessionState, event: Input) -> Step:
        answer = other(state, event)
        return session.step(state, event) if answer is None else answer

    def apply(code: Code) -> None:
        code.session_step = step

    return apply


def _launches_old_grants(state: SessionState, event: Input) -> Step | None:
    if not isinstance(event, Granted):
        return None
    after, actions = session.step(replace(state, joined=0), event)
    return replace(after, joined=state.joined), actions


def _stays_when_lost(state: SessionState, event: Input) -> Step | None:
    if isinstance(event, CountedLost) and state.phase is Phase.JOINED:
        return state, (Ack(event.seq),)
    return None


def _acknowledges_first(state: SessionState, event: Input) -> Step | None:
    if not isinstance(event, Granted | StopOrdered):
        return None
    after, actions = session.step(state, event)
    return after, tuple(sorted(actions, key=lambda action: not isinstance(action, Ack)))


def _takes_every_incarnation(state: SessionState, event: Input) -> Step | None:
    if isinstance(event, Granted | StopOrdered | CountedLost):
        return session.step(state, replace(event, incarnation=state.incarnation))
    return None


def _ignores_removal(state: SessionState, event: Input) -> Step | None:
    if not isinstance(event, NameRead):
        return None
    return session.step(state, NameRead(replace(event.name, removed=0, removed_of=None)))


def _takes_every_leave_for_empty(state: SessionState, event: Input) -> Step | None:
    if not isinstance(event, NameRead):
        return None
    return session.step(state, NameRead(replace(event.name, left_empty=True)))


def _passes_over_unseen_stops(state: SessionState, event: Input) -> Step | None:
    if isinstance(event, StopOrdered) and session.attempt_of(state, event.ref) is None:
        return state, (Ack(event.seq),)
    return None


def _lists_nothing(state: SessionState, event: Input) -> Step | None:
    if not isinstance(event, Swept):
        return None
    after, actions = session.step(state, event)
    return after, tuple(
        replace(action, attempts=()) if isinstance(action, AppendJoined) else action for action in actions
    )


def _launches_over_a_tree(state: SessionState, event: Input) -> Step | None:
    """A slot is free to the agent as soon as the log says so."""
    if not isinstance(event, Granted) or state.phase is not Phase.JOINED or event.seq < state.joined:
        return None
    others = tuple(a for a in state.attempts if a.ref != event.ref)
    alone = replace(state, attempts=tuple(a for a in state.attempts if a.ref == event.ref))
    after, actions = session.step(alone, event)
    return replace(after, attempts=(*others, *after.attempts)), actions


# --- shim, server, dispatcher --------------------------------------------------------------------------------


def _writes_early(state: core.State, event: core.Input) -> core.Step:
    """The end is written when the worker is gone, not when its tree is."""
    after, actions = core.step(state, event)
    if isinstance(event, core.WorkerExited):
        after, more = core.step(after, core.TreeGone(event.now))
        actions = (*actions, *more)
    return after, actions


def _set(**flags: object) -> Callable[[Code], None]:
    def apply(code: Code) -> None:
        for name, value in flags.items():
            assert hasattr(code, name)
            setattr(code, name, value)

    return apply


def _both(*changes: Callable[[Code], None]) -> Callable[[Code], None]:
    def apply(code: Code) -> None:
        for change in changes:
            change(code)

    return apply


def _shims(code: Code) -> None:
    code.core_step = _writes_early


MUTANTS: dict[str, Mutant] = {
    "no epoch guard": Mutant(
        rule=1,
        says="a deposed dispatcher's append is stored",
        apply=_set(epoch_guard=False),
        config=_config(2, faults="election"),
        catches="I3",
    ),
    "acknowledgement releases": Mutant(
        rule=1,
        says="a decision holds nothing once it is acknowledged",
        apply=_set(remembers_sent=False),
        config=_config(1, faults="submit"),
        catches="I2",
    ),
    "free on silence": Mutant(
        rule=6,
        says="NodeLost ends the attempts of its node",
        apply=_evolve(_free_on_silence),
        config=_config(1, faults="silence"),
        catches="I3",
    ),
    "late ends count": Mutant(
        rule=7,
        says="an end after the attempt's first ends the run",
        apply=_evolve(_takes_late_ends),
        config=_config(3, faults="silence, remove"),
        catches="",
    ),
    "cancel dropped by a grant": Mutant(
        rule=3,
        says="Dispatched clears cancel_requested",
        apply=_evolve(_forgets_cancel),
        config=_config(1, faults="cancel", hang=True),
        catches="I1",
    ),
    "lists are ignored": Mutant(
        rule=8,
        says="what a NodeJoined lacks is not ended",
        apply=_evolve(_ignores_lists),
        config=_config(2, faults="crash, wipe"),
        catches="I1",
    ),
    "listed and ended is not stopped": Mutant(
        rule=8,
        says="no Stopping for what a NodeJoined lists and the log has ended",
        apply=_evolve(_owes_no_stopping),
        config=_config(2, faults="silence, remove", hang=True),
        catches="I1",
    ),
    "launch below NodeJoined": Mutant(
        rule=8,
        says="a grant of an earlier session is launched",
        apply=_session(_launches_old_grants),
        config=_config(1, faults="crash"),
        catches="I3",
    ),
    "no session fence": Mutant(
        rule=8,
        says="an agent that was counted lost does not join again",
        apply=_session(_stays_when_lost),
        config=_config(1, faults="silence"),
        catches="I1",
    ),
    "no sweep": Mutant(
        rule=8,
        says="what is not listed is not ended before the join",
        apply=_set(sweeps=False),
        config=_config(2, faults="crash, wipe"),
        catches="I3",
    ),
    "removal is not read": Mutant(
        rule=8,
        says="an incarnation that was removed joins with its workers",
        apply=_session(_ignores_removal),
        config=_config(2, faults="silence, remove"),
        catches="I3",
    ),
    "lock not taken": Mutant(
        rule=9,
        says="a shim is started and buried without the lock",
        apply=_set(lock=False),
        config=_config(1, faults="crash"),
        catches="I3",
    ),
    "shim does not look": Mutant(
        rule=9,
        says="a shim with the lock does not look at exit.json",
        apply=_set(looks=False),
        config=_config(1, faults="crash"),
        catches="I3",
    ),
    "shim makes its folder": Mutant(
        rule=9,
        says="a late shim makes the folder that was wiped",
        apply=_set(makes_folder=True, sweeps=False),
        config=_config(2, faults="crash, wipe"),
        catches="I3",
    ),
    "folders do not stay": Mutant(
        rule=9,
        says="the folder goes with the acknowledged end",
        apply=_set(keeps_folders=False),
        config=_config(1, faults="duplicate"),
        catches="I3",
    ),
    "tree left behind": Mutant(
        rule=5,
        says="the end is written when the worker is gone, and its tree is not",
        apply=_shims,
        config=_config(1, faults="crash"),
        catches="I3",
    ),
    "acknowledged before it is written": Mutant(
        rule=10,
        says="a decision is acknowledged before its file is written",
        apply=_session(_acknowledges_first),
        config=_config(1, faults="full"),
        catches="I1",
    ),
    "launch over a tree": Mutant(
        rule=5,
        says="a slot is free to the agent when the log says so",
        apply=_session(_launches_over_a_tree),
        config=_config(2, faults="silence, remove", runs=2),
        catches="I2",
    ),
    "name not read": Mutant(
        rule=11,
        says="a second state folder joins under the name of the first",
        apply=_set(reads_name=False),
        config=_config(1, faults="crash", machines=(("n", "a"), ("n", "b"))),
        catches="I",
    ),
    "join not guarded": Mutant(
        rule=11,
        says="a NodeJoined is stored beside another's",
        apply=_set(join_guard=False),
        config=_config(2, faults="silence, remove", machines=(("n", "a"), ("n", "b"))),
        catches="I",
    ),
    "incarnation not checked": Mutant(
        rule=11,
        says="an agent takes what is another incarnation's",
        apply=_session(_takes_every_incarnation),
        config=_config(2, faults="silence, remove", machines=(("n", "a"), ("n", "b"))),
        catches="I",
    ),
    "removal counts while up": Mutant(
        rule=12,
        says="NodeRemoved, not guarded, ends the attempts of a node that is back",
        apply=_both(_evolve(_removes_what_is_up), _set(remove_guard=False)),
        config=_config(3, faults="silence, remove, timeout"),
        catches="I1",
    ),
    "removal ends nothing": Mutant(
        rule=12,
        says="the attempts of a machine that was removed stay",
        apply=_evolve(_removal_ends_nothing),
        config=_config(2, faults="new disk, crash"),
        catches="I1",
    ),
    "leave not guarded": Mutant(
        rule=8,
        says="a NodeLeft of an older session is stored after the next join",
        apply=_set(left_guard=False),
        config=_config(2, faults="leave, timeout"),
        catches="I1",
    ),
    "left counts as empty": Mutant(
        rule=11,
        says="the name of a node that left with attempts is free",
        apply=_session(_takes_every_leave_for_empty),
        config=_config(1, faults="leave", machines=(("n", "a"), ("n", "b"))),
        catches="I1",
    ),
    "several deliveries at a time": Mutant(
        rule=10,
        says="Stopping is delivered before Dispatched, and passed over",
        apply=_both(_session(_passes_over_unseen_stops), _set(in_order=False)),
        config=_config(1, faults="cancel", hang=True),
        catches="I1",
    ),
    "stop acknowledged before it is written": Mutant(
        rule=10,
        says="Stopping is acknowledged before stop.json is written",
        apply=_session(_acknowledges_first),
        config=_config(2, faults="cancel, full", hang=True),
        catches="I1",
    ),
    "stop is not owed again": Mutant(
        rule=10,
        says="a join does not make a Stopping owed again that came before it",
        apply=_evolve(_keeps_told_stops),
        config=_config(3, faults="cancel, crash, consumer", hang=True),
        catches="I1",
    ),
    "trees of killed shims stay": Mutant(
        rule=14,
        says="what a killed shim's worker left is not swept",
        apply=_set(buries_trees=False),
        config=_config(1, faults="kill"),
        catches="I3",
    ),
    "join lists nothing": Mutant(
        rule=8,
        says="NodeJoined does not carry the attempts that the agent has",
        apply=_session(_lists_nothing),
        config=_config(1, faults="crash"),
        catches="I3",
    ),
    "older decisions carried over": Mutant(
        rule=1,
        says="what was decided before an election is appended after it",
        apply=_set(clears_queue=False),
        config=_config(3, faults="timeout, election, submit"),
        catches="I2",
    ),
    "left grants are not ended": Mutant(
        rule=8,
        says="a grant on its way to an agent that left stays",
        apply=_evolve(_forgets_upto),
        config=_config(1, faults="leave", machines=(("n", "a"), ("o", "c")), stays_away=True),
        catches="I1",
    ),
}
