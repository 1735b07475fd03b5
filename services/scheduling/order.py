"""The one order in which waiting runs are considered, and which of them could be granted at all.

Owns priority, then submission, and what must be over first; knows no node, no need and no clock of its own. Pure.
"""

from __future__ import annotations

from events.state import Pending, Run

Order = tuple[int, int, str]
"""(minus priority, sequence of Submitted, run id): smaller is considered earlier."""


def order_of(run: Run) -> Order:
    """Where a run stands in the queue."""
    return (-run.priority, run.submit_seq, run.run_id)


def due_ns(run: Run) -> int | None:
    """From when on (ns since 1970) a run could be granted; 0: at once. None while something else must happen first."""
    phase = run.phase
    if not isinstance(phase, Pending) or run.cancel_requested:
        return None
    if phase.waiting_for or phase.failed_dependency is not None:
        return None
    return phase.not_before_ns


def could_be_granted(run: Run, now_ns: int) -> bool:
    """Whether only room decides: it waits for no run, none of those failed, its back-off is over, no cancel was asked for."""
    due = due_ns(run)
    return due is not None and due <= now_ns
