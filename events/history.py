"""An ended run's past, read back from the log: what the index no longer holds.

Owns which subjects that takes and the fold of one run; evolve itself is the only state machine.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from events.change import Change
from events.codec import StoredEvent
from events.evolve import ended_runs_needed, evolve
from events.log import EventLog
from events.state import Run, State
from trainshed_client import subjects


class History(Protocol):
    """Whoever knows the last value of a run that is no longer live."""

    async def run_before(self, run_id: str, seq: int) -> Run | None:
        """The run as it stood below sequence ``seq``; None where there was none."""
        ...


class LogHistory:
    """Reads a run's own events and those of nodes and elections, which decide how it ended."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    async def run_before(self, run_id: str, seq: int) -> Run | None:
        """See History. Costs a few milliseconds: asked for retries and for dependencies on ended runs only."""
        filters = (subjects.run_events(run_id), subjects.ALL_NODE_EVENTS, subjects.ALL_CONTROL_EVENTS)
        past = self._log.read(filters, end_seq=seq - 1)
        return last_value(run_id, [event async for event in past if isinstance(event, StoredEvent)])


def last_value(run_id: str, past: Iterable[StoredEvent]) -> Run | None:
    """Fold ``past`` and return the last value that run ``run_id`` had in it."""
    state, last = State(), None
    for stored in past:
        for change in evolve(state, stored, {run_id: last} if last is not None else {}).runs:
            if change.after.run_id == run_id:
                last = change.after
    return last


async def fold(state: State, stored: StoredEvent, history: History) -> Change:
    """Evolve ``state`` by one event, reading back first the ended runs that it refers to."""
    needed = ended_runs_needed(state, stored)
    if not needed:
        return evolve(state, stored)
    past = {run_id: await history.run_before(run_id, stored.seq) for run_id in needed}
    return evolve(state, stored, {run_id: run for run_id, run in past.items() if run is not None})
