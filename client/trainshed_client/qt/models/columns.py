"""The columns of runs, slots and nodes: what each shows of a record, and by what it is ordered.

Owns these; pure, and knows no Qt.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any, NamedTuple, Union

from trainshed_client.records import NodeRecord, RunRecord, SlotRecord
from trainshed_client.rendering.durations import format_duration
from trainshed_client.rendering.progress import shown_metric, shown_progress
from trainshed_client.statuses import RunStatus

SortValue = Union[int, float, str, None]


class TableColumn(NamedTuple):
    """``text``: what is shown; ``sort``: the raw value; ``tip``: what is longer, if anything. Numbers stand to the right."""

    title: str
    text: Callable[[Any], str]
    sort: Callable[[Any], SortValue]
    is_number: bool = False
    tip: Callable[[Any], str] | None = None


def number(value: float | None) -> str:
    """As short as it reads well: ``12,000``, ``0.0312``; nothing where there is none."""
    if value is None:
        return ""
    if isinstance(value, int) or (abs(value) < 1e15 and value == int(value)):
        return f"{int(value):,}"
    return f"{value:.4g}"


def seconds_of(moment: datetime.datetime | str | None) -> float | None:
    """Seconds since 1970."""
    if isinstance(moment, str):
        moment = datetime.datetime.fromisoformat(moment.replace("Z", "+00:00"))
    return None if moment is None else moment.timestamp()


def clock(moment: datetime.datetime | str | None) -> str:
    """A time as the GUI's machine has it: ``14:03:07``, of another day ``3 May 14:03``."""
    seconds = seconds_of(moment)
    if seconds is None:
        return ""
    local = datetime.datetime.fromtimestamp(seconds)
    if local.date() == datetime.datetime.now().date():
        return f"{local:%H:%M:%S}"
    return f"{local.day} {local:%b %H:%M}"


def _duration(seconds: float | None) -> str:
    return "" if seconds is None else format_duration(seconds)


_RANKS = {
    status: rank
    for rank, status in enumerate(
        (
            *(RunStatus.RUNNING, RunStatus.DISPATCHING, RunStatus.PENDING),
            *(RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.COMPLETED),
        )
    )
}


def _status(run: RunRecord) -> str:
    if run.cancel_requested and not run.status.ended:
        return "cancelling"
    return run.status.lower()


def _why(run: RunRecord) -> str:
    reason = "" if run.failure_reason is None else str(run.failure_reason).replace("_", " ")
    return " · ".join(filter(None, (reason, run.error)))


def _percent(run: RunRecord) -> str:
    progress = shown_progress(run)
    return "" if progress is None else f"{progress:.0%}"


def _metric(run: RunRecord) -> str:
    name = shown_metric(run.metrics, run.primary_metric, run.labels)
    return "" if name is None else f"{name} {number(run.metrics[name])}"


def _metric_value(run: RunRecord) -> float | None:
    name = shown_metric(run.metrics, run.primary_metric, run.labels)
    return None if name is None else run.metrics[name]


def _place(run: RunRecord) -> str:
    if run.node is None:
        return ""
    return f"{run.node} {','.join(map(str, run.slots))}".rstrip()


RUN_COLUMNS = (
    TableColumn(
        "Run", lambda run: run.name, lambda run: run.name.casefold(), tip=lambda run: str(run.run_id)
    ),
    TableColumn("Status", _status, lambda run: _RANKS.get(run.status, len(_RANKS)), tip=_why),
    TableColumn("Progress", _percent, shown_progress, True),
    TableColumn("Step", lambda run: number(run.step), lambda run: run.step, True),
    TableColumn("Metric", _metric, _metric_value),
    TableColumn("Place", _place, _place, tip=lambda run: run.host or ""),
    TableColumn("Attempt", lambda run: str(run.attempt), lambda run: run.attempt, True),
    TableColumn(
        "Submitted", lambda run: clock(run.submitted_at), lambda run: seconds_of(run.submitted_at), True
    ),
    TableColumn("Waited", lambda run: _duration(run.waited_s), lambda run: run.waited_s, True),
    TableColumn("Took", lambda run: _duration(run.duration_s), lambda run: run.duration_s, True),
    TableColumn("Why", _why, _why, tip=_why),
)


def _device(slot: SlotRecord) -> str:
    return slot.device or ("" if slot.gpu is None else f"GPU {slot.gpu}")


def _slot_state(slot: SlotRecord) -> str:
    if not slot.healthy:
        return f"unhealthy: {slot.unhealthy_reason}" if slot.unhealthy_reason else "unhealthy"
    return "free" if slot.run_id is None else "held"


def _memory(slot: SlotRecord) -> str:
    if slot.memory_mb is None or slot.memory_used_mb is None:
        return ""
    return f"{slot.memory_used_mb / 1024:.1f} of {slot.memory_mb / 1024:.0f} GiB"


SLOT_COLUMNS = (
    TableColumn(
        "Slot", lambda slot: f"{slot.node}.{slot.index}", lambda slot: f"{slot.node}.{slot.index:06}"
    ),
    TableColumn("Device", _device, _device, tip=lambda slot: slot.uuid or ""),
    TableColumn("State", _slot_state, _slot_state),
    TableColumn("Run", lambda slot: slot.run_id or "", lambda slot: slot.run_id),
    TableColumn(
        "Busy",
        lambda slot: "" if slot.utilisation is None else f"{slot.utilisation} %",
        lambda slot: slot.utilisation,
        True,
    ),
    TableColumn("Memory", _memory, lambda slot: slot.memory_used_mb, True),
)


def _node_state(node: NodeRecord) -> str:
    if node.status == "up" and node.drained:
        return "drained"
    return "suspect" if node.status == "up" and node.suspect_since is not None else str(node.status)


NODE_COLUMNS = (
    TableColumn("Node", lambda node: node.node, lambda node: node.node, tip=lambda node: node.host),
    TableColumn("State", _node_state, _node_state, tip=lambda node: node.suspect_reason or ""),
    TableColumn(
        "Slots", lambda node: f"{node.slots_used} of {node.slots_total}", lambda node: node.slots_used, True
    ),
    TableColumn("CPUs", lambda node: f"{node.cpus_used} of {node.cpus}", lambda node: node.cpus_used, True),
    TableColumn(
        "Memory",
        lambda node: f"{node.memory_used_mb / 1024:.1f} of {node.memory_mb / 1024:.1f} GiB",
        lambda node: node.memory_used_mb,
        True,
    ),
    TableColumn(
        "Disk free",
        lambda node: "" if node.disk_free_mb is None else f"{node.disk_free_mb / 1024:.0f} GiB",
        lambda node: node.disk_free_mb,
        True,
    ),
    TableColumn(
        "Last heard",
        lambda node: clock(node.last_heartbeat_at),
        lambda node: seconds_of(node.last_heartbeat_at),
        True,
    ),
)
