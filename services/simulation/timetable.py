"""Which job waited and ran when, and how many slots there were: read off any fold, of a recorded log or of a simulation.

Owns these values and how events fill them; knows no scheduler, no trace and no picture. Pure.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

import msgspec

from events.change import Change
from events.codec import StoredEvent
from events.run_machine import SECOND_NS
from events.state import Active, State
from events.types import AttemptEnd, Completed, Failed, NodeEvent, Submitted
from trainshed_client.statuses import NodeStatus, RunStatus


class Span(msgspec.Struct, kw_only=True):
    """One attempt from its grant to its end (ns since 1970; None: it has not ended), and the event that ended it: how alone,
    nothing of whose end it was and what was used.

    ``cancelled``: with it or after it the run was cancelled.
    """

    attempt: int
    node: str
    slots: tuple[int, ...]
    begin_ns: int
    end_ns: int | None = None
    end: AttemptEnd | None = None
    cancelled: bool = False

    def seconds(self, until_ns: int) -> float:
        """How long it lasted, or has lasted by ``until_ns``."""
        return ((until_ns if self.end_ns is None else self.end_ns) - self.begin_ns) / SECOND_NS


class Job(msgspec.Struct, kw_only=True):
    """One run: when it was submitted, and its attempts."""

    run_id: str
    name: str
    submit_ns: int
    spans: list[Span] = msgspec.field(default_factory=list)


class Timetable:
    """``jobs`` by run id in the order of submission; ``capacity``: from when on there were how many slots in all.

    ``nodes`` are all that were ever there, with the most slots that each had; ``end_ns`` is when the last event was stored.
    """

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.capacity: list[tuple[int, int]] = []
        self.nodes: dict[str, int] = {}
        self.end_ns = 0
        self._ends: dict[AttemptEnd, AttemptEnd] = {}
        self._slots: dict[tuple[int, ...], tuple[int, ...]] = {}

    def observe(self, state: State, stored: StoredEvent, change: Change) -> None:
        """Take in an event and what it changed."""
        at_ns = self.end_ns = max(self.end_ns, stored.stored_ns)
        for ended in change.ended:
            span = self.jobs[ended.run_id].spans[-1]
            span.end_ns = at_ns
            if isinstance(stored.event, AttemptEnd):
                end = how_alone(stored.event)
                span.end = self._ends.setdefault(end, end)
        for run_change in change.runs:
            run, phase = run_change.after, run_change.after.phase
            if isinstance(stored.event, Submitted) and run.run_id not in self.jobs:
                self.jobs[run.run_id] = Job(run_id=run.run_id, name=run.name, submit_ns=at_ns)
            if run.status is RunStatus.CANCELLED and self.jobs[run.run_id].spans:
                self.jobs[run.run_id].spans[-1].cancelled = True
            before = None if run_change.before is None else run_change.before.phase
            if isinstance(phase, Active) and not isinstance(before, Active):
                for placement in phase.placements:
                    slots = self._slots.setdefault(placement.slots, placement.slots)
                    name = sys.intern(placement.node)
                    span = Span(attempt=phase.attempt, node=name, slots=slots, begin_ns=at_ns)
                    self.jobs[run.run_id].spans.append(span)
        if isinstance(stored.event, NodeEvent) and change.nodes:
            up = [node for node in state.nodes.values() if node.status is NodeStatus.UP]
            self.capacity.append((at_ns, sum(len(node.gpus) for node in up)))
            for node in up:
                self.nodes[node.name] = max(self.nodes.get(node.name, 0), len(node.gpus))

    def slot_seconds(self, begin_ns: int, end_ns: int) -> float:
        """How many slots there were, times how long, between two moments."""
        total, since, slots = 0, begin_ns, 0
        for at_ns, count in [*self.capacity, (end_ns, 0)]:
            at_ns = min(max(at_ns, since), end_ns)
            total += slots * (at_ns - since)
            since, slots = at_ns, count
        return total / SECOND_NS


def how_alone(end: AttemptEnd) -> AttemptEnd:
    """How an attempt ended, the same for all that ended so: a long log has very many of them."""
    alone = msgspec.structs.replace(
        end,
        run_id="",
        attempt=0,
        duration_s=None,
        last_heartbeat=None,
        usage=None,
        code=None,
        output=None,
    )
    match alone:
        case Completed():
            return msgspec.structs.replace(alone, artifacts=None)
        case Failed():
            return msgspec.structs.replace(alone, output_tail=None, output_of=None)
        case _:
            return alone


def spans_of(jobs: Iterable[Job]) -> list[tuple[Job, Span]]:
    """Every attempt, with its job."""
    return [(job, span) for job in jobs for span in job.spans]
