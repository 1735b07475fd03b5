"""The figures of a timetable: makespan, waits, slowdown, utilisation.

Owns what each of them means; knows neither where a timetable comes from nor how it is printed. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from events.run_machine import SECOND_NS
from services.simulation.timetable import Timetable, spans_of

SHORTEST_S = 1.0
"""What a slowdown counts at least as a job's own time: of one that ends at once it would be infinite."""


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """``jobs`` counts all; seconds are those of the jobs that began. ``p95_wait_s`` is a wait that was had (nearest rank).

    ``mean_slowdown``: from submission to the last end, by the time that its attempts ran. ``gpu_utilisation``: the part (0
    to 1) of the slots that there were which was held, from the first submission to the last end. None where no job began.
    """

    jobs: int
    makespan_s: float | None
    mean_wait_s: float | None
    p95_wait_s: float | None
    max_wait_s: float | None
    mean_slowdown: float | None
    gpu_utilisation: float | None
    unplaceable: int


def figures_of(timetable: Timetable, unplaceable: int = 0) -> Figures:
    """The figures of all jobs; what runs still is counted up to the last event."""
    begun = [job for job in timetable.jobs.values() if job.spans]
    jobs = len(timetable.jobs) + unplaceable
    if not begun:
        nothing = dict.fromkeys(
            ("makespan_s", "mean_wait_s", "p95_wait_s", "max_wait_s", "mean_slowdown", "gpu_utilisation")
        )
        return Figures(jobs=jobs, unplaceable=unplaceable, **nothing)
    now_ns = timetable.end_ns
    waits = sorted((job.spans[0].begin_ns - job.submit_ns) / SECOND_NS for job in begun)
    first = min(job.submit_ns for job in begun)
    ends = [now_ns if job.spans[-1].end_ns is None else job.spans[-1].end_ns for job in begun]
    slowdowns = [
        _slowdown((end - job.submit_ns) / SECOND_NS, sum(span.seconds(now_ns) for span in job.spans))
        for job, end in zip(begun, ends, strict=True)
    ]
    held = math.fsum(len(span.slots) * span.seconds(now_ns) for _, span in spans_of(begun))
    there = timetable.slot_seconds(first, max(ends))
    return Figures(
        jobs=jobs,
        makespan_s=(max(ends) - first) / SECOND_NS,
        mean_wait_s=_mean(waits),
        p95_wait_s=waits[math.ceil(0.95 * len(waits)) - 1],
        max_wait_s=waits[-1],
        mean_slowdown=_mean(slowdowns),
        gpu_utilisation=held / there if there else None,
        unplaceable=unplaceable,
    )


def _slowdown(whole_s: float, ran_s: float) -> float:
    return max(1.0, whole_s / max(ran_s, SHORTEST_S))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
