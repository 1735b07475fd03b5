"""Evolve: what each event makes of a state. The one fold of live services, replay and audit.

Owns which events count (docs/protocol.md rule 15) and which ended runs one needs; knows nothing of what an event does to
a run (`events/run_machine.py`) or a node (`events/node_machine.py`). Total; no clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from events import rules
from events.change import NOTHING, Change
from events.codec import StoredEvent
from events.config import stored_config
from events.node_machine import begin_forgetting, evolve_node, forget
from events.run_machine import evolve_run
from events.state import NO_HISTORY, Run, State
from events.types import Elected, Event, NodeEvent, RetryRequested, RunEvent, Submitted
from trainshed_client.errors import TrainshedError
from trainshed_client.subjects import Role

_DISPATCHER = Role.DISPATCHER  # up to Python 3.11 an enum looks its members up slowly


def ended_runs_needed(state: State, stored: StoredEvent) -> tuple[str, ...]:
    """The ended runs that ``stored`` refers to: whoever folds reads each one's past back and hands it to evolve."""
    match stored.event:
        case RetryRequested(run_id=run_id):
            return () if run_id in state.runs else (run_id,)
        case Submitted(config=config) if b'"after"' in bytes(config):
            return tuple(run_id for run_id in _after(config) if run_id not in state.runs)
        case _:
            return ()


def evolve(state: State, stored: StoredEvent, history: Mapping[str, Run] = NO_HISTORY) -> Change:
    """Fold one event into ``state`` and return what it changed.

    ``history`` holds the last value of each run that :func:`ended_runs_needed` names. An event that was folded
    before changes nothing (docs/protocol.md rule 15).
    """
    if stored.seq <= state.seq:
        return NOTHING
    state.seq = stored.seq
    event = stored.event
    if stored.subject.role == _DISPATCHER and not _of_present_epoch(state, event):
        return NOTHING
    match event:
        case RunEvent():
            change = evolve_run(state, stored, event, history)
        case NodeEvent():
            change = evolve_node(state, stored, event)
        case Elected():
            return _elected(state, stored.seq, event)
        case _:
            return NOTHING
    if change.nodes and state.rules >= rules.FORGETTING:
        forget(state, change.nodes)
    return change


def _elected(state: State, seq: int, event: Elected) -> Change:
    """The rules that it names hold for what is stored after it, and never again older ones (rule 17)."""
    state.epoch, state.epoch_of = seq, event.name
    before, state.rules = state.rules, max(state.rules, event.rules)
    if before < rules.FORGETTING <= state.rules:
        return Change(nodes=begin_forgetting(state))
    return NOTHING


def _of_present_epoch(state: State, event: Event) -> bool:
    return isinstance(event, Elected) or getattr(event, "epoch", None) == state.epoch


def _after(config: msgspec.Raw) -> tuple[str, ...]:
    try:
        return stored_config(config).after
    except TrainshedError:
        return ()
