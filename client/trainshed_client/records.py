"""The rows that everybody sees: of runs, attempts, slots and nodes.

Owns their fields and their JSON; times are aware (see `times`), unknown is null. Knows no table.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Optional, Union

import msgspec

from trainshed_client.not_finite import JsonNumber, from_json, in_json
from trainshed_client.statuses import AtFault, CodeSeen, FailureReason, NodeStatus, RunStatus, WaitReason
from trainshed_client.times import Time, utc_text

if TYPE_CHECKING:
    Metric = float
else:
    Metric = JsonNumber
"""A float to everybody who has a record; in its JSON one that is not finite is a string."""


def shown(record: msgspec.Struct) -> str:
    """A record in one short line."""
    from trainshed_client.rendering.reprs import shown

    return shown(record)


class Wait(msgspec.Struct, frozen=True, kw_only=True):
    """Why a queued run is not running yet, as data: made when asked, never stored.

    What ``numbers`` there are, and of which ``runs`` and ``nodes``, depends on the reason (docs/contracts/records.md);
    ``trainshed_client.rendering.waiting`` makes text of it.
    """

    reason: WaitReason
    numbers: Mapping[str, Union[int, float]] = {}
    runs: list[str] = []
    nodes: list[str] = []


class WaitsFor(msgspec.Struct, frozen=True, kw_only=True):
    """The same as text."""

    reason: str
    text: str


class AttemptUsage(msgspec.Struct, frozen=True, kw_only=True):
    """What an attempt used, from its worker's exec to the end of its tree; null where that is not known.

    ``cpu_s``: seconds of CPU time; ``memory_peak_mb``: MiB; ``gpu_busy_s``: seconds of its devices at work, two at work
    for one second being two; ``gpu_memory_peak_mb``: MiB of GPU memory. (docs/contracts/events.md has what each measures.)
    """

    cpu_s: Optional[float] = None
    memory_peak_mb: Optional[int] = None
    gpu_busy_s: Optional[float] = None
    gpu_memory_peak_mb: Optional[int] = None


NO_USAGE = AttemptUsage()


class SubmittedCode(msgspec.Struct, frozen=True, kw_only=True):
    """Of what code a run is: the digest in its config, and what was said with it when it was submitted; None: unknown.

    ``partial``: the digest is of a part alone. ``folder``: where it was read, on the submitter's machine; of a git
    repository ``commit``, and ``dirty``: whether what was there differed from it.
    """

    sha256: str
    partial: bool = False
    folder: Optional[str] = None
    commit: Optional[str] = None
    dirty: Optional[bool] = None


class ArtifactsLeft(msgspec.Struct, frozen=True, kw_only=True):
    """What lies in the ``artifacts/`` of a completed attempt: how many files, and their bytes together.

    ``partial``: there are more, which there was no time to count.
    """

    count: int
    bytes: int
    partial: bool = False


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A run's row. ``seq`` is the sequence of the event that last changed it.

    ``named``: whether somebody gave it its name; else that is only what its command gives (None: an older release's).
    ``waited_s``: seconds in the queue up to the last grant; since ``queued_at`` it waits again. ``duration_s``: the
    worker's own time by its node's clock, once it has ended (None: nobody saw it). ``error``: the line that tells most of
    why it failed. ``max_steps``: of its schedule. ``folder``: the run's on its node (None: it was not
    started there yet, or by an older release); ``artifacts``: what a completed one left; ``submitted_code``: of what code it
    is (None: its config names none).
    """

    run_id: str
    name: str
    status: RunStatus
    attempt: int
    digest: str
    seq: int
    submit_seq: int
    priority: int
    labels: dict[str, str]
    named: Optional[bool] = None
    node: Optional[str] = None
    host: Optional[str] = None
    slots: list[int] = msgspec.field(default_factory=list)
    cpus: int = 1
    gpus: int = 0
    pid: Optional[int] = None
    command: list[str] = msgspec.field(default_factory=list)
    cancel_requested: bool = False
    submitted_by: Optional[str] = None
    submitted_at: Optional[Time] = None
    queued_at: Optional[Time] = None
    waited_s: float = 0.0
    dispatched_at: Optional[Time] = None
    started_at: Optional[Time] = None
    ready_at: Optional[Time] = None
    ended_at: Optional[Time] = None
    updated_at: Optional[Time] = None
    last_heartbeat_at: Optional[Time] = None
    duration_s: Optional[float] = None
    exit_code: Optional[int] = None
    signal: Optional[int] = None
    failure_reason: Optional[FailureReason] = None
    error: Optional[str] = None
    code: Optional[CodeSeen] = None
    step: Union[int, float, None] = None
    progress: Optional[float] = None
    status_text: Optional[str] = None
    primary_metric: Optional[str] = None
    metrics: dict[str, Metric] = msgspec.field(default_factory=dict)
    passed_over: dict[str, str] = msgspec.field(default_factory=dict)
    usage: AttemptUsage = NO_USAGE
    memory_enforced: Optional[bool] = None
    max_steps: Optional[int] = None
    folder: Optional[str] = None
    artifacts: Optional[ArtifactsLeft] = None
    submitted_code: Optional[SubmittedCode] = None

    def __post_init__(self) -> None:
        _to_floats(self.metrics)

    __repr__ = shown


class QueuedRunRecord(RunRecord, frozen=True, kw_only=True):
    """A run's record in an answer: with what a PENDING one waits for, and the node's status where a live one's is away.

    ``waiting`` is None in that of an older release. ``node_status``: `lost` or `left`, else None.
    """

    waits_for: Optional[WaitsFor] = None
    waiting: Optional[Wait] = None
    node_status: Optional[NodeStatus] = None


class AttemptRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One grant of a run. ``late_result`` keeps an end that came after the first (it changes nothing). ``folder`` and
    ``artifacts``: as in the run's.

    ``at_fault``: whose trouble it was that no worker was started; None where one was, or that is not known.
    """

    run_id: str
    attempt: int
    status: RunStatus
    node: str
    host: Optional[str] = None
    slots: list[int] = msgspec.field(default_factory=list)
    pid: Optional[int] = None
    dispatched_at: Optional[Time] = None
    started_at: Optional[Time] = None
    ready_at: Optional[Time] = None
    ended_at: Optional[Time] = None
    last_heartbeat_at: Optional[Time] = None
    duration_s: Optional[float] = None
    exit_code: Optional[int] = None
    signal: Optional[int] = None
    failure_reason: Optional[FailureReason] = None
    error: Optional[str] = None
    at_fault: Optional[AtFault] = None
    code: Optional[CodeSeen] = None
    step: Union[int, float, None] = None
    progress: Optional[float] = None
    status_text: Optional[str] = None
    primary_metric: Optional[str] = None
    metrics: dict[str, Metric] = msgspec.field(default_factory=dict)
    passed_over: dict[str, str] = msgspec.field(default_factory=dict)
    gpu_memory_mb: Optional[int] = None
    usage: AttemptUsage = NO_USAGE
    memory_enforced: Optional[bool] = None
    late_result: Optional[str] = None
    folder: Optional[str] = None
    artifacts: Optional[ArtifactsLeft] = None

    def __post_init__(self) -> None:
        _to_floats(self.metrics)

    __repr__ = shown


def json_of(record: RunRecord | AttemptRecord) -> dict[str, Any]:
    """The record as its JSON has it, for an encoder: times as texts, and metrics that are not finite too."""
    return {
        **{
            name: utc_text(value) if isinstance(value, datetime) else value
            for name, value in msgspec.structs.asdict(record).items()
        },
        "metrics": {name: in_json(value) for name, value in record.metrics.items()},
    }


def _to_floats(metrics: dict[str, float]) -> None:
    for name, value in metrics.items():
        metrics[name] = from_json(value)


class SlotRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One schedulable GPU share of a node and who holds it.

    ``gpu``: the place of its device among the node's, which slots of one device share; so do ``memory_used_mb``,
    ``utilisation`` and ``other_pids``. ``attempt_memory_mb`` is what its holder uses of that device.
    """

    node: str
    index: int
    gpu: Optional[int] = None
    uuid: Optional[str] = None
    device: Optional[str] = None
    memory_mb: Optional[int] = None
    memory_used_mb: Optional[int] = None
    attempt_memory_mb: Optional[int] = None
    utilisation: Optional[int] = None
    other_pids: list[int] = msgspec.field(default_factory=list)
    healthy: bool = True
    unhealthy_reason: Optional[str] = None
    run_id: Optional[str] = None
    attempt: Optional[int] = None
    seq: int = 0
    updated_at: Optional[Time] = None

    __repr__ = shown


class ListedSlotRecord(SlotRecord, frozen=True, kw_only=True):
    """A slot's record in an answer: with the name of the run that holds it, as a list shows it."""

    run_name: Optional[str] = None


class WitnessObjection(msgspec.Struct, frozen=True, kw_only=True):
    """What a node as a witness has against the log: the checkpoint of ``kept_size`` leaves, which it holds to, does not go
    with that of ``size``; or the node did not say ``event`` (a sequence), which stands in its name. ``text``: that for people;
    ``since``: RFC 3339."""

    kind: str
    kept_size: int
    size: int
    since: Time
    text: str
    event: Optional[int] = None


class NodeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A machine with an agent, what it has and what is granted of it.

    ``disk_free_mb``: MiB free where its runs' folders lie, by its last heartbeat. ``suspect_since``: when the first of the
    last three runs ended that it could not start, and ``suspect_reason`` why the last of them was not; None where it starts
    what it is granted. ``witness``: the key with which it cosigns the log's checkpoints; by its last heartbeat
    ``witnessed_size``, ``witnessed_root`` (base64), ``witnessed_at`` (s since 1970) and ``witness_signature`` (base64): the
    last that it cosigned; ``witness_objection``: what it has against the log.
    """

    node: str
    host: str
    incarnation: str
    status: NodeStatus
    drained: bool = False
    cpus: int = 0
    memory_mb: int = 0
    gpus: int = 0
    slots_total: int = 0
    cpus_used: int = 0
    memory_used_mb: int = 0
    slots_used: int = 0
    joined_at: Optional[Time] = None
    last_heartbeat_at: Optional[Time] = None
    disk_free_mb: Optional[int] = None
    memory_enforced: Optional[bool] = None
    suspect_since: Optional[Time] = None
    suspect_reason: Optional[str] = None
    witness: Optional[str] = None
    witnessed_size: Optional[int] = None
    witnessed_root: Optional[str] = None
    witnessed_at: Optional[int] = None
    witness_signature: Optional[str] = None
    witness_objection: Optional[WitnessObjection] = None
    seq: int = 0
    updated_at: Optional[Time] = None

    __repr__ = shown


class QueuePlace(msgspec.Struct, frozen=True, kw_only=True):
    """A queued run, its place among those that could be granted (from 1 on; None while it waits for something else),
    and what it waits for."""

    run_id: str
    place: Optional[int] = None
    waiting: Optional[Wait] = None


class QueueRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The queue as a whole, as it is once event ``seq`` is folded: how many wait, and the first 500 in their order.

    ``at``: when it was made (RFC 3339).
    """

    seq: int
    at: Time
    total: int
    runs: list[QueuePlace]
    v: int = 1

    __repr__ = shown


class TimelineEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a run's life: what it bears, and that in words (``rendering/timeline.py`` makes them)."""

    seq: int
    time: Time
    type: str
    data: dict[str, Any] = msgspec.field(default_factory=dict)
    text: str
