"""What would come of the same jobs on other nodes or under another policy, beside what happened.

Owns which jobs take part and what is to be told of them; knows no file, no command line and no picture. Pure.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import msgspec

from events.config import Needs, stored_config
from events.types import NodeEvent, NodeJoined, RetryRequested, Submitted
from services.dispatcher.decided_again import DecidedAgain
from services.simulation.figures import Figures, figures_of
from services.simulation.nodes import EmptyNodes, joins
from services.simulation.recorded import Recording, lasting, without_priority
from services.simulation.timetable import Job, Span, Timetable
from services.simulation.trace import Task, given_by, nanoseconds_of, run_id_of
from services.simulation.world import Given, simulate


class Policy(enum.StrEnum):
    """``fifo``: by submission alone, and the head of the queue blocks; ``default``: the dispatcher's own."""

    DEFAULT = "default"
    FIFO = "fifo"


class WhatIf(msgspec.Struct, frozen=True, kw_only=True):
    """``happened`` is None where nobody knows. Of the jobs ``unplaceable`` fit no node even when it is empty, ``censored``
    were ended by others, ``unknown`` never began, so that they are left out; ``waiting`` did not begin in the simulation.
    ``again``: of a recorded log in which nothing is changed, its grants decided again."""

    happened: Timetable | None
    simulated: Timetable
    nodes: int
    slots: int
    again: DecidedAgain | None = None
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


def of_log(recording: Recording, nodes: Sequence[NodeJoined] | None, policy: Policy) -> WhatIf:
    """A recorded log on these nodes (None: on its own, as they came and went) by this policy.

    With its own nodes and the default nothing is changed: then it is decided again grant by grant, by the view of each.
    """
    happened = recording.timetable
    if nodes is None and policy is Policy.DEFAULT:
        return WhatIf(
            happened=happened,
            simulated=happened,
            nodes=len(happened.nodes),
            slots=sum(happened.nodes.values()),
            again=recording.again,
        )
    known = {run_id: lasting(job, happened.end_ns) for run_id, job in happened.jobs.items()}
    censored = sum(one.censored for one in known.values() if one is not None)
    outcomes = {run_id: one.outcomes for run_id, one in known.items() if one is not None}
    empty = EmptyNodes(recording.joined if nodes is None else nodes)
    given: list[Given] = []
    unplaceable: set[str] = set()
    for one in recording.given:
        event = one.event
        match event:
            case Submitted(run_id=run_id, config=config) if run_id in outcomes:
                if not empty.could_hold(stored_config(config).needs):
                    unplaceable.add(run_id)
                    continue
                given.append(one)
            case RetryRequested(run_id=run_id) if run_id in outcomes and run_id not in unplaceable:
                given.append(one)
            case NodeEvent() if nodes is None:
                given.append(one)
            case _:
                pass
    if nodes is not None:
        given = [*joins(nodes, min((one.at_ns for one in given), default=0)), *given]
    fifo = policy is Policy.FIFO
    simulated = simulate(without_priority(given) if fifo else given, outcomes, strict=fifo)
    return WhatIf(
        happened=happened,
        simulated=simulated,
        nodes=len(happened.nodes if nodes is None else nodes),
        slots=sum(happened.nodes.values()) if nodes is None else sum(len(node.gpus) for node in nodes),
        unplaceable=len(unplaceable),
        censored=censored,
        unknown=len(known) - len(outcomes),
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
