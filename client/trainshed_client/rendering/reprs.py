"""Records and answers in one short line each, as a notebook shows them.

Owns these lines; everything that is not in them is in the record's fields.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trainshed_client.answers import RunView, Submission
from trainshed_client.records import AttemptRecord, NodeRecord, QueueRecord, RunRecord, SlotRecord
from trainshed_client.rendering.progress import shown_metric

_ID_SHOWN = 6


def shown(record: object) -> str:
    """The line of any of them."""
    return _SHOWN[next(kind for kind in type(record).__mro__ if kind in _SHOWN)](record)


def of_run(record: RunRecord) -> str:
    """``<run k3f2q7 'ppo' RUNNING on gpu01, attempt 2, step 120000, reward 195.2>``."""
    parts = [f"run {record.run_id[:_ID_SHOWN]} {record.name!r} {_placed(record)}"]
    if record.attempt > 1:
        parts.append(f"attempt {record.attempt}")
    return f"<{', '.join(parts + _measured(record))}>"


def of_attempt(record: AttemptRecord) -> str:
    """``<attempt 2 of run k3f2q7 FAILED on gpu01, exit code 3>``."""
    first = f"attempt {record.attempt} of run {record.run_id[:_ID_SHOWN]} {_placed(record)}"
    return f"<{', '.join([first, *_measured(record)])}>"


def of_slot(record: SlotRecord) -> str:
    """``<slot gpu01:0 held by run k3f2q7>``, ``free`` or ``unhealthy``."""
    how = "free" if record.healthy else "unhealthy"
    if record.run_id is not None:
        how = f"held by run {record.run_id[:_ID_SHOWN]}"
    return f"<slot {record.node}:{record.index} {how}>"


def of_node(record: NodeRecord) -> str:
    """``<node gpu01 up, 1 of 2 slots and 3 of 8 CPUs used>``."""
    drained = ", drained" if record.drained else ""
    used = (
        f"{record.slots_used} of {record.slots_total} slots and {record.cpus_used} of {record.cpus} CPUs used"
    )
    return f"<node {record.node} {record.status}{drained}, {used}>"


def of_queue(record: QueueRecord) -> str:
    """``<queue of 12 runs, first k3f2q7>``."""
    first = f", first {record.runs[0].run_id[:_ID_SHOWN]}" if record.runs else ""
    return f"<queue of {record.total} run{'' if record.total == 1 else 's'}{first}>"


def of_submission(answer: Submission) -> str:
    """``<submission of run … PENDING, created>``, the id whole."""
    return f"<submission of run {answer.run_id} {answer.status}, {'created' if answer.created else 'there already'}>"


def of_view(answer: RunView) -> str:
    """``<view of <run …>: 2 attempts, 8 events>``."""
    return f"<view of {answer.run!r}: {len(answer.attempts)} attempts, {len(answer.timeline)} events>"


def _placed(record: RunRecord | AttemptRecord) -> str:
    return f"{record.status}{'' if record.node is None else f' on {record.node}'}"


def _measured(record: RunRecord | AttemptRecord) -> list[str]:
    parts = [] if record.step is None else [f"step {record.step}"]
    if (name := shown_metric(record.metrics, record.primary_metric)) is not None:
        parts.append(f"{name} {record.metrics[name]:.4g}")
    if record.exit_code:
        parts.append(f"exit code {record.exit_code}")
    elif record.failure_reason is not None:
        parts.append(str(record.failure_reason))
    return parts


_SHOWN: dict[type, Callable[[Any], str]] = {
    RunRecord: of_run,
    AttemptRecord: of_attempt,
    SlotRecord: of_slot,
    NodeRecord: of_node,
    QueueRecord: of_queue,
    Submission: of_submission,
    RunView: of_view,
}
