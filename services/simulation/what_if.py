"""What would come of the same jobs on other nodes or under another policy, beside what happened.

Owns which jobs take part and what is to be told of them; knows no file, no command line and no picture. Pure.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import msgspec

from events.config import Needs
from events.types import NodeJoined
from services.simulation.figures import Figures, figures_of
from services.simulation.nodes import EmptyNodes, joins
from services.simulation.timetable import Job, Span, Timetable
from services.simulation.trace import Task, given_by, nanoseconds_of, run_id_of
from services.simulation.world import simulate


class Policy(enum.StrEnum):
    """``fifo``: by submission alone, and the head of the queue blocks; ``default``: the dispatcher's own."""

    DEFAULT = "default"
    FIFO = "fifo"


class WhatIf(msgspec.Struct, frozen=True, kw_only=True):
    """``happened`` is None where nobody knows. Of the jobs ``unplaceable`` fit no node even when it is empty, ``censored``
    were ended by others, ``unknown`` never began, so that they are left out; ``waiting`` did not begin in the simulation."""

    happened: Timetable | None
    simulated: Timetable
    nodes: int
    slots: int
    unplaceable: int = 0
    censored: int = 0
    unknown: int = 0
    waiting: int = 0

    @property
    def figures(self) -> Figures:
        """Of the simulation."""
        return figures_of(self.simulated, self.unplaceable)


def of_trace(tasks: Sequence[Task], nodes: Sequence[NodeJoined], policy: Policy) -> WhatIf:
    """A trace on these nodes, all of which are there from the first submission on."""
    empty = EmptyNodes(nodes)
    fifo = policy is Policy.FIFO
    given, outcomes = given_by(tasks, with_priority=not fifo)
    placeable = [empty.could_hold(Needs(task.cpus, task.memory_mb, task.gpus, True)) for task in tasks]
    taking_part = [one for one, could in zip(given, placeable, strict=True) if could]
    first_ns = min((one.at_ns for one in given), default=0)
    there = joins(nodes, first_ns)
    simulated = simulate([*there, *taking_part], outcomes, strict=fifo)
    for place, task in enumerate(tasks):
        if placeable[place]:
            simulated.jobs[run_id_of(place)].name = task.name
    return WhatIf(
        happened=_happened(tasks, nodes, first_ns),
        simulated=simulated,
        nodes=len(nodes),
        slots=sum(len(node.gpus) for node in nodes),
        unplaceable=placeable.count(False),
        censored=sum(task.censored for task in tasks),
        waiting=sum(not job.spans for job in simulated.jobs.values()),
    )


def _happened(tasks: Sequence[Task], nodes: Sequence[NodeJoined], first_ns: int) -> Timetable | None:
    """What the trace says of when its jobs began; on which nodes it does not say."""
    if all(task.began_s is None for task in tasks):
        return None
    table = Timetable()
    table.capacity.append((first_ns, sum(len(node.gpus) for node in nodes)))
    for place, task in enumerate(tasks):
        spans = []
        if task.began_s is not None:
            begin_ns = nanoseconds_of(task.began_s)
            end_ns = begin_ns + nanoseconds_of(task.duration_s)
            slots = tuple(range(task.gpus))
            spans.append(Span(attempt=1, node="", slots=slots, begin_ns=begin_ns, end_ns=end_ns))
            table.end_ns = max(table.end_ns, end_ns)
        submit_ns = nanoseconds_of(task.submit_s)
        run_id = run_id_of(place)
        table.jobs[run_id] = Job(run_id=run_id, name=task.name, submit_ns=submit_ns, spans=spans)
    return table
