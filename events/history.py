"""An ended run's past, read back from the log: what the index no longer holds.

Owns which subjects that takes and the fold of one run; evolve itself is the only state machine. Costs what the run and
the nodes that it was on cost (docs/decisions/0003): that others are not folded changes no run (docs/protocol.md rule 18).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from events.change import Change
from events.codec import StoredEvent
from events.evolve import ended_runs_needed, evolve
from events.log import EventLog
from events.state import Run, State
from events.types import Dispatched, Failed
from trainshed_client import subjects
from trainshed_client.statuses import FailureReason


class History(Protocol):
    """Whoever knows the last value of a run that is no longer live."""

    async def run_before(self, run_id: str, seq: int) -> Run | None:
        """The run as it stood below sequence ``seq``; None where there was none."""
        ...


class LogHistory:
    """Reads a run's own events, then those of elections and of the nodes that it was on, which decide how it ended."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    async def run_before(self, run_id: str, seq: int) -> Run | None:
        """See History. Costs a few milliseconds: asked for retries and for dependencies on ended runs only."""
        own = await self._read((subjects.run_events(run_id),), seq)
        nodes = (
            (subjects.ALL_NODE_EVENTS,) if asks_for_others(own) else map(subjects.node_events, nodes_of(own))
        )
        beside = (subjects.ALL_CONTROL_EVENTS, *nodes)
        past = [*own, *(await self._read(beside, seq))] if own else []
        return last_value(run_id, sorted(past, key=lambda stored: stored.seq))

    async def _read(self, filters: tuple[str, ...], before_seq: int) -> list[StoredEvent]:
        past = self._log.read(filters, end_seq=before_seq - 1)
        return [stored async for stored in past if isinstance(stored, StoredEvent)]


def nodes_of(own: Iterable[StoredEvent]) -> list[str]:
    """The nodes that a run was ever granted, from its own events."""
    return sorted({stored.event.node for stored in own if isinstance(stored.event, Dispatched)})


def asks_for_others(own: Iterable[StoredEvent]) -> bool:
    """Whether it depended on nodes that the run was never on how it went on: on who could yet have started it
    (docs/protocol.md rule 19)."""
    ends = (stored.event for stored in own)
    return any(isinstance(end, Failed) and end.failure_reason is FailureReason.SPAWN_ERROR for end in ends)


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
