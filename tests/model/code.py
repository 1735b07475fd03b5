"""The project's own pure functions as the model calls them, each of which a mutant may replace.

Owns the memory of what they answered and the checks on each answer of `evolve`; knows no machine and no move.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import msgspec
from msgspec.structs import replace

from events import evolve as evolving
from events import rules
from events.change import Change
from events.codec import StoredEvent
from events.evolve import ended_runs_needed
from events.state import Ended, Node, Run, State
from events.types import (
    AttemptEnd,
    AttemptRef,
    Dispatched,
    Event,
    NodeEvent,
    NodeJoined,
    NodeResumed,
    RetryRequested,
    SchedulerInfo,
    Started,
    View,
    Why,
)
from services.agent.session import machine
from services.agent.session.values import Input, SessionState, Step
from services.agent.shim import core
from services.dispatcher.decisions import Decisions
from services.dispatcher.in_flight import InFlight
from tests.model.ledger import audited
from tests.model.values import Cell, Cells, Fold, Sent
from tests.support.builders import facts, recomputed
from trainshed_client.statuses import FailureReason, RunStatus

AgentWord = Started | AttemptEnd
LATE_NS = 2**60
"""The clock of all decisions: every back-off is over."""
LAUNCH = cast(msgspec.Raw, b"")
NO_WHY = Why(free=0)
SCHEDULER = SchedulerInfo(name="model", version=1, settings=cast("dict[str, object]", ()))


class Broken(Exception):
    """A rule that holds at every state does not hold here; the text says which."""


class Code:
    """What is under test. The fields are the project's own functions, and what the server and the shell do for them."""

    def __init__(self, cells: Cells) -> None:
        self.cells = cells
        self.evolve: Callable[..., Change] = evolving.evolve
        self.session_step = machine.step
        self.core_step = core.step
        self.epoch_guard = True  # the server refuses what bears an older epoch
        self.join_guard = True  # and a NodeJoined against another's
        self.lock = True  # shim and agent take the attempt's lock
        self.looks = True  # a shim that has the lock looks at exit.json, started.json and stop.json
        self.makes_folder = False  # a shim makes the folder that it does not find
        self.sweeps = True  # the agent ends processes of attempts that it does not list
        self.keeps_folders = True  # the folder stays when the end is acknowledged
        self.remembers_sent = True  # a decision holds what it takes until it is folded
        self.stands_again = True  # after an append without an answer a dispatcher stands for election again
        self.clears_queue = True  # an election carries no older decision over
        self.left_guard = True  # the server refuses a NodeLeft of an older session
        self.remove_guard = True  # and a NodeRemoved that was decided before a join
        self.in_order = True  # one delivery at a time
        self.buries_trees = True  # what a killed shim left is ended before its exit.json is written
        self.reads_name = True  # an agent reads its name before it joins
        self.blames_what_it_finds = False  # an agent blames its node for what was in flight when it started
        self.objects = (
            False  # whether it is looked that nobody has reason to object to an honest node's word (rule 20)
        )
        self.may_grant: Callable[[State, Dispatched], bool] = _any_grant
        self.also_decides: Callable[[State, int], list[Event]] = _nothing_more  # beside what is to be decided
        self.says: Callable[[AgentWord], AgentWord] = (
            _as_it_is  # what an agent appends in the place of its word
        )
        self.stored: set[str] = set()
        self.fed: set[str] = set()
        """What occurred so far: names of events and of the session's inputs."""
        self._folded: dict[tuple[Cell, StoredEvent], tuple[Cell, Change]] = {}
        self._audited: dict[tuple[Cell, StoredEvent, Change], Cell] = {}
        self._decided: dict[tuple[object, ...], tuple[Event, ...]] = {}

    # --- evolve ---------------------------------------------------------------------------------------------

    def fold(self, fold: Cell, stored: StoredEvent) -> tuple[Cell, Change]:
        """What one event makes of a fold. Raises Broken where a rule on single events does not hold."""
        key = (fold, stored)
        known = self._folded.get(key)
        if known is None:
            self.stored.add(type(stored.event).__name__)
            try:
                known = self._folded[key] = self._fold(fold.value, stored)
            except Broken as broken:
                raise Broken(f"{broken}, at {_name(stored)}") from None
        return known

    def _fold(self, before: Fold, stored: StoredEvent) -> tuple[Cell, Change]:
        state = state_of(before, stored.seq - 1)
        ended = {run.run_id: run for run in before.ended}
        decisions = Decisions()
        decisions.rebuild(state)
        wanted = ended_runs_needed(state, stored)
        change = self.evolve(state, stored, {run_id: ended[run_id] for run_id in wanted if run_id in ended})
        decisions.note(state, stored, change)
        _check_event(ended, stored, change)
        _check_blame(state, stored, change)
        _check_whole(state, stored, change)
        _check_started(state, change)
        _check_retry(state, change)
        for run_change in change.runs:
            run = run_change.after
            ended.pop(run.run_id, None)
            if isinstance(run.phase, Ended):
                ended[run.run_id] = run
        after = _fold_of(state, ended)
        _check_state(state, after, decisions)
        return self.cells.of(after), change

    def audit(self, ledger: Cell, stored: StoredEvent, change: Change) -> Cell:
        """What `audit verify` remembers after an event. Raises Broken where it names a violation."""
        change = replace(change, config=None)  # which has no hash
        key = (ledger, stored, change)
        known = self._audited.get(key)
        if known is None:
            after, violations = audited(ledger.value, stored, change)
            for violation in violations:
                raise Broken(f"{violation.invariant}: {violation.message}, at {_name(stored)}")
            known = self._audited[key] = self.cells.of(after)
        return known

    def step(self, state: SessionState, event: Input) -> Step:
        """The session's step."""
        self.fed.add(type(event).__name__)
        return self.session_step(state, event)

    # --- the dispatcher ---------------------------------------------------------------------------------------

    def decide(
        self, fold: Cell, epoch: int, sent: tuple[Sent, ...], silent: frozenset[str] = frozenset()
    ) -> tuple[Event, ...]:
        """What a dispatcher with this fold and these decisions in flight appends next."""
        key = (fold, epoch, sent, silent)
        known = self._decided.get(key)
        if known is None:
            state = state_of(fold.value, 0)
            decisions = Decisions()
            decisions.rebuild(state)
            for each in sent:
                decisions.in_flight.add(each.event).seq = each.seq
            events = decisions.decide(state, 0, epoch, LATE_NS, dict.fromkeys(silent, 1.0))
            events = [
                event for event in events if not isinstance(event, Dispatched) or self.may_grant(state, event)
            ]
            _check_probes(state, sent, events)
            events += self.also_decides(state, epoch)
            known = self._decided[key] = tuple(_plain(state, event) for event in events)
        return known


def still_in_flight(sent: tuple[Sent, ...], position: int) -> tuple[Sent, ...]:
    """What the fold has not passed stays taken (docs/protocol.md rule 1)."""
    flight = InFlight()
    for each in sent:
        flight.add(each.event).seq = each.seq
    flight.folded(position)
    return tuple(Sent(decision.event, decision.seq) for decision in flight._decisions)


def state_of(fold: Fold, seq: int) -> State:
    """The index that evolve changes."""
    state = State()
    state.seq, state.epoch, state.rules = seq, fold.epoch, fold.rules
    state.nodes = {node.name: node for node in fold.nodes}
    for run in fold.runs:
        state.put_run(run)
    return state


def _fold_of(state: State, ended: dict[str, Run]) -> Fold:
    nodes = sorted(state.nodes.values(), key=lambda node: node.name)
    return Fold(
        epoch=state.epoch,
        rules=state.rules,
        runs=tuple(sorted(state.runs.values(), key=lambda run: run.submit_seq)),
        nodes=tuple(_without_display(node) for node in nodes),
        ended=tuple(sorted(ended.values(), key=lambda run: run.submit_seq)),
    )


def _without_display(node: Node) -> Node:
    return replace(node, seq=0, joined_ns=0)


def _plain(state: State, event: Event) -> Event:
    """Without what no decision of anybody depends on: of a view only which join of the node it has seen."""
    if isinstance(event, Dispatched):
        view = View(seq=state.nodes[event.node].joined_seq, now="")
        return replace(event, launch=LAUNCH, view=view, why=NO_WHY)
    return event


def _any_grant(state: State, grant: Dispatched) -> bool:
    return True


def _nothing_more(state: State, epoch: int) -> list[Event]:
    return []


def _as_it_is(word: AgentWord) -> AgentWord:
    return word


def _check_probes(state: State, sent: tuple[Sent, ...], events: list[Event]) -> None:
    """What is granted to a suspect node is the one run there that has not started (docs/protocol.md rule 19)."""
    grants = [event for event in events if isinstance(event, Dispatched)]
    before = [each.event for each in sent if isinstance(each.event, Dispatched)]
    for name in {grant.node for grant in grants}:
        if state.nodes[name].suspect:
            waiting = sum(not active.started for _, active, _ in state.attempts_of(name))
            if waiting + sum(grant.node == name for grant in [*before, *grants]) > 1:
                raise Broken(f"rule 19: {name} is suspect, and a second run is granted to it")


def _check_blame(state: State, stored: StoredEvent, change: Change) -> None:
    """Who starts a worker, joins or is resumed is blamed for nothing (docs/protocol.md rule 19)."""
    event = stored.event
    if not isinstance(event, Started | NodeJoined | NodeResumed) or not (change.runs or change.nodes):
        return
    node = state.nodes.get(stored.subject.node)
    if node is not None and node.failed_starts and state.rules >= rules.BLAMING:
        raise Broken(f"rule 19: {node.name} is still blamed")


def _check_whole(state: State, stored: StoredEvent, change: Change) -> None:
    """No decision takes a device that a run has whole (docs/protocol.md rule 5).

    One that was chosen by an older inventory may name it without knowing, and its agent refuses it (rule 8).
    """
    event = stored.event
    node = state.nodes.get(event.node) if isinstance(event, Dispatched) and change.runs else None
    if node is None or not isinstance(event, Dispatched) or event.view.seq < node.joined_seq:
        return
    own = AttemptRef(event.run_id, event.attempt)
    for uuid, refs in state.held_uuids.items():
        if own in refs and len(refs) > 1 and any(state.runs[ref.run_id].needs.whole for ref in refs):
            raise Broken(f"I2: {uuid} is held by {len(refs)}, one of which has it whole")


def _check_started(state: State, change: Change) -> None:
    """What the log has Started of was started (docs/protocol.md rule 9)."""
    for end in change.ended:
        if end.reason is FailureReason.NOT_STARTED and end.attempt.started and state.rules >= rules.BLAMING:
            raise Broken(f"rule 9: {end.run_id}.{end.attempt.attempt} was started, and ends not_started")


def _check_retry(state: State, change: Change) -> None:
    """Whose end `retry.on` covers is queued again while it has a try left (docs/protocol.md rule 4)."""
    for run_change in change.runs:
        run, phase = run_change.after, run_change.after.phase
        if not isinstance(phase, Ended) or phase.status is not RunStatus.FAILED:
            continue
        covered = {phase.reason}
        if phase.reason is FailureReason.OUT_OF_MEMORY and state.rules >= rules.BLAMING:
            covered.add(FailureReason.SIGNAL)
        untried = phase.reason is not FailureReason.SPAWN_ERROR  # else other nodes decide (rule 19)
        if covered & {*run.retry.on} and untried and run.tries < run.retry.max_attempts:
            raise Broken(f"rule 4: {run.run_id} ends {phase.reason}, and has a try left")


def _check_event(ended: dict[str, Run], stored: StoredEvent, change: Change) -> None:
    for run_change in change.runs:
        run = run_change.after
        was = ended.get(run.run_id)
        if was is not None and not isinstance(stored.event, RetryRequested):
            raise Broken(f"{_name(stored)} took {run.run_id} out of {was.status}")
    if isinstance(stored.event, AttemptEnd) and change.late is not None and change.runs:
        raise Broken(f"{_name(stored)} came too late and changed {change.runs[0].after.run_id}")


def _check_state(state: State, fold: Fold, decisions: Decisions) -> None:
    for name, usage in state.usage.items():
        for index, holders in usage.slots.items():
            if len(holders) > 1:
                held = " and ".join(sorted(f"{ref.run_id}.{ref.attempt}" for ref in holders))
                raise Broken(f"I2: slot {index} of {name} is held by {held}")
    if facts(state) != recomputed(state):
        raise Broken("the index is not what its runs and nodes say")
    again = Decisions()
    again.rebuild(state_of(fold, 0))
    noted = decisions.decide(state, 0, fold.epoch, LATE_NS, {})
    anew = again.decide(state, 0, fold.epoch, LATE_NS, {})
    # the order goes by what was noted first
    if {_plain(state, event) for event in noted} != {_plain(state, event) for event in anew}:
        raise Broken("the dispatcher's index, kept from changes, is not what the state says")


def _name(stored: StoredEvent) -> str:
    event = stored.event
    about = event.node if isinstance(event, NodeEvent) else getattr(event, "run_id", "")
    return f"{type(event).__name__} {about}".strip()
