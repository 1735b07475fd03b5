"""Every event of the log as a typed value: what its data holds and who may write it.

Owns the names and fields that are stored for ever; knows neither how they are encoded nor what they do to a state.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from trainshed_client.json_limits import MAX_INTEGER
from trainshed_client.not_finite import JsonNumber
from trainshed_client.provenance import Provenance
from trainshed_client.records import AttemptUsage
from trainshed_client.statuses import AtFault, CodeSeen, FailureReason
from trainshed_client.subjects import Role, Scope

Integer = Annotated[int, msgspec.Meta(ge=-MAX_INTEGER, le=MAX_INTEGER)]
"""What decisions count with: an event with a number that no store could keep is unreadable."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all events: immutable facts in the past tense."""


class RunEvent(Event, frozen=True, kw_only=True):
    """About one run."""

    run_id: str


class NodeEvent(Event, frozen=True, kw_only=True):
    """About one incarnation of a node; ``incarnation`` is the id in its state folder."""

    node: str
    incarnation: str


# --- gateway ---------------------------------------------------------------------------------------------


class Submitted(RunEvent, frozen=True, kw_only=True):
    """A run config was accepted. ``config`` is the normalised config, as JSON.

    ``caller_path``: the PATH of who submitted a command, for its worker; it stands outside the digest, so that two
    terminals ask for one run. None: the worker has its node's. ``provenance``, of its code, is outside the digest too, and
    so is ``named``: whether somebody gave the run its name, which may be the one that it would have anyway; None: not known.
    """

    config: msgspec.Raw
    digest: str
    submitted_by: str = "local"
    caller_path: str | None = None
    provenance: Provenance | None = None
    named: bool | None = None


class CancelRequested(RunEvent, frozen=True, kw_only=True):
    """Somebody wants the run to end."""

    reason: str | None = None
    requested_by: str = "local"


class RetryRequested(RunEvent, frozen=True, kw_only=True):
    """Somebody wants an ended run again; ``attempt`` is the one that it ended with."""

    attempt: Integer
    reason: str | None = None
    requested_by: str = "local"


class NodeDrained(NodeEvent, frozen=True, kw_only=True):
    """The node is granted nothing until NodeResumed."""

    reason: str | None = None
    requested_by: str = "local"


class NodeResumed(NodeEvent, frozen=True, kw_only=True):
    """The node is granted runs again."""

    reason: str | None = None
    requested_by: str = "local"


class NodeRemoved(NodeEvent, frozen=True, kw_only=True):
    """The operator's word that the machine is off: ends the live attempts of this incarnation."""

    reason: str | None = None
    requested_by: str = "local"


class LogAccepted(Event, frozen=True, kw_only=True):
    """Somebody answers for it that the log is no longer what was signed before, as after a restore from a backup.

    It changes nothing that is folded: it tells the witnesses where to begin anew, and every later audit that they did.
    """

    reason: str
    accepted_by: str = "local"


# --- dispatcher ------------------------------------------------------------------------------------------


class SchedulerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Which scheduler decides in an epoch, so that a replay can take the same."""

    name: str
    version: int
    settings: dict[str, Any] = {}


class Elected(Event, frozen=True, kw_only=True):
    """A dispatcher became the active one; the event's sequence is its epoch.

    ``rules``: the rules of ``evolve`` for what is stored after it (`events/rules.py`); absent in release 0.1.
    """

    name: str
    scheduler: SchedulerInfo
    rules: Integer = 1


class View(msgspec.Struct, frozen=True, kw_only=True):
    """What the scheduler saw: the last sequence folded and the clock it was given (RFC 3339)."""

    seq: Integer
    now: str


class Why(msgspec.Struct, frozen=True, kw_only=True):
    """Why this grant: free slots of its node before it, and the runs ahead of it that could not start."""

    free: int
    passed_over: tuple[str, ...] = ()
    passed_over_count: int = 0


class Dispatched(RunEvent, frozen=True, kw_only=True):
    """A grant: attempt ``attempt`` of the run may start on the node with these slots.

    ``launch`` is all that the node needs to start the worker (the run config's part of it, as JSON).
    """

    attempt: Integer
    epoch: Integer
    node: str
    incarnation: str
    slots: tuple[Integer, ...]
    cpus: Integer
    memory_mb: Integer
    launch: msgspec.Raw
    view: View
    why: Why


class Stopping(RunEvent, frozen=True, kw_only=True):
    """The node is to end this attempt: its run was cancelled, or the log has it ended (``ended``)."""

    attempt: Integer
    epoch: Integer
    node: str
    incarnation: str
    reason: str


class NodeLost(NodeEvent, frozen=True, kw_only=True):
    """A verdict, not an end: the node was silent too long and is granted nothing until it joins again."""

    epoch: Integer
    silent_s: float


# --- agent -----------------------------------------------------------------------------------------------


class AttemptRef(msgspec.Struct, frozen=True):
    """One attempt of one run."""

    run_id: str
    attempt: Integer


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """A slot's device as the node's inventory has it; no UUID where NVML knows none.

    ``index`` is the slot's. ``gpu`` is the device's place among those of the node, where several slots may be of one;
    absent: the slot has a device of its own, whose place is the slot's.
    """

    index: Integer
    uuid: str | None = None
    name: str | None = None
    memory_mb: Integer | None = None
    gpu: Integer | None = None

    @property
    def place(self) -> int:
        """The device's place among those of the node: slots of one place are shares of one device."""
        return self.index if self.gpu is None else self.gpu


class NodeJoined(NodeEvent, frozen=True, kw_only=True):
    """An agent's session begins; ``attempts`` are those whose end it has not seen acknowledged.

    ``memory_enforced``: whether a worker that needs more than its ``memory_mb`` is ended; None: an older agent's.
    ``witness``: the key with which the node cosigns the log's checkpoints, as signed-note writes a verifier key; None: an
    older agent's, or it has none.
    """

    host: str
    cpus: Integer
    memory_mb: Integer
    gpus: tuple[Device, ...] = ()
    attempts: tuple[AttemptRef, ...] = ()
    borrowed: bool = False
    version: str | None = None
    memory_enforced: bool | None = None
    witness: str | None = None


class NodeLeft(NodeEvent, frozen=True, kw_only=True):
    """A clean shutdown: no new grants. ``upto`` is the last decision that the agent wrote down."""

    upto: Integer
    attempts: tuple[AttemptRef, ...] = ()
    reason: str | None = None


class SlotUnhealthy(NodeEvent, frozen=True, kw_only=True):
    """A device cannot be used; its slot is granted to nobody."""

    index: Integer
    reason: str | None = None


class SlotHealthy(NodeEvent, frozen=True, kw_only=True):
    """The device can be used again."""

    index: Integer


class WorkerReport(msgspec.Struct, frozen=True, kw_only=True):
    """All that a worker has reported so far in its heartbeats (times RFC 3339).

    ``primary_metric``: the name of the metric that the worker said matters most; None: it said none.
    ``passed_over``: what it told that could not be taken, the first of each kind (`trainshed_client.rendering.passed_over`).
    """

    ready_at: str | None = None
    last_heartbeat_at: str | None = None
    step: int | float | None = None
    progress: float | None = None
    status_text: str | None = None
    primary_metric: str | None = None
    metrics: dict[str, JsonNumber] = {}
    passed_over: dict[str, str] = {}


class LastHeartbeat(WorkerReport, frozen=True, kw_only=True):
    """What an end sets for good, with the heartbeat's sequence (0: none was stored)."""

    seq: int = 0


class Started(RunEvent, frozen=True, kw_only=True):
    """The worker runs. ``threads``: how many its libraries were told to start; None: nothing was told.

    ``memory_enforced``: whether it is held to its ``memory_mb``; None where it asked for none. ``folder``: the run's on its
    node, an absolute path; None: an older agent's.
    """

    attempt: Integer
    pid: int
    host: str
    threads: Integer | None = None
    slots: tuple[Integer, ...] = ()
    devices: tuple[str, ...] = ()
    memory_enforced: bool | None = None
    folder: str | None = None


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """A file that the worker left; ``sha256`` up to 64 MiB."""

    path: str
    bytes: int
    sha256: str | None = None


class Artifacts(msgspec.Struct, frozen=True, kw_only=True):
    """What lies in the run's ``artifacts/``: the first 200 entries and, once hashed, the digest of the full list.

    ``partial``: there was no time to list more.
    """

    count: int
    bytes: int
    entries: tuple[Artifact, ...] = ()
    sha256: str | None = None
    partial: bool = False


class OutputBytes(msgspec.Struct, frozen=True, kw_only=True):
    """How many bytes each file of an attempt's output had at its end; None: its storage did not say so in time."""

    stdout: int | None = None
    stderr: int | None = None


class AttemptEnd(RunEvent, frozen=True, kw_only=True):
    """Base of the four ways an attempt ends. An end without ``last_heartbeat`` clears those columns.

    ``usage``: None where no worker ran, or nobody measured it.
    ``code``: whether the run's code was still that of its config when the worker started; None where it names none.
    ``output``: None where no worker ran, and in older logs.
    """

    attempt: Integer
    duration_s: float | None = None
    last_heartbeat: LastHeartbeat | None = None
    usage: AttemptUsage | None = None
    code: CodeSeen | None = None
    output: OutputBytes | None = None


class Completed(AttemptEnd, frozen=True, kw_only=True):
    """The worker exited with 0."""

    exit_code: int = 0
    artifacts: Artifacts | None = None


class ArtifactsHashed(RunEvent, frozen=True, kw_only=True):
    """What a completed attempt left, with its hashes: follows its Completed once. None: it is gone meanwhile."""

    attempt: Integer
    artifacts: Artifacts | None = None


class Failed(AttemptEnd, frozen=True, kw_only=True):
    """The attempt failed; the dispatcher's bears its ``epoch`` (docs/protocol.md rule 8).

    ``output_of``: of which stream ``output_tail`` is; None: not known.

    ``at_fault``: of an attempt whose worker was never started, whose trouble that was; None: not known.
    """

    failure_reason: FailureReason
    at_fault: AtFault | None = None
    exit_code: int | None = None
    signal: int | None = None
    message: str | None = None
    output_tail: str | None = None
    output_of: str | None = None
    epoch: Integer | None = None


class Cancelled(AttemptEnd, frozen=True, kw_only=True):
    """The attempt was stopped by a cancel or, by the dispatcher (``epoch``), never started."""

    reason: str | None = None
    failure_reason: FailureReason | None = None
    exit_code: int | None = None
    signal: int | None = None
    epoch: Integer | None = None


class TimedOut(AttemptEnd, frozen=True, kw_only=True):
    """The attempt was silent too long or over its time limit, and its tree is gone."""

    failure_reason: FailureReason
    timeout_s: float | None = None
    exit_code: int | None = None
    signal: int | None = None


# --- heartbeats (a stream of their own) --------------------------------------------------------------------


class RunHeartbeat(WorkerReport, frozen=True, kw_only=True):
    """What a live attempt's worker has reported so far."""

    run_id: str
    attempt: Integer


class AttemptMemory(msgspec.Struct, frozen=True, kw_only=True):
    """How much of a device's memory the processes of one attempt use, in MiB."""

    run_id: str
    attempt: Integer
    memory_mb: int


class GpuReading(msgspec.Struct, frozen=True, kw_only=True):
    """One device at one moment, by its first slot; what NVML does not know is null, or left out of ``attempts``."""

    index: Integer
    utilisation: int | None = None
    memory_used_mb: int | None = None
    temperature_c: int | None = None
    other_pids: tuple[int, ...] = ()
    attempts: tuple[AttemptMemory, ...] = ()


class NodeCosignature(msgspec.Struct, frozen=True, kw_only=True):
    """That the node has seen the log's tree at this size, with this root, at this time (s since 1970, as it is signed);
    ``root`` and ``signature``, the 64 bytes of Ed25519, in base64."""

    size: int
    root: str
    time: int
    signature: str


class NodeObjection(msgspec.Struct, frozen=True, kw_only=True):
    """What the node as a witness has against the log. ``kept_size``: of the checkpoint that it holds to; ``size``: of the
    one that does not fit it; ``since``: RFC 3339; ``text``: for people; ``event``: the sequence of the one that it did not say."""

    kind: str
    kept_size: int
    size: int
    since: str
    text: str
    event: int | None = None


class NodeHeartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """The node is alive. ``disk_free_mb``: MiB free where its runs' folders lie; None where that is not known.

    ``cosignature``: the last that it gave as a witness of the log; ``objection``: what it has against it (docs/protocol.md
    rule 20).
    """

    node: str
    incarnation: str
    gpus: tuple[GpuReading, ...] = ()
    disk_free_mb: int | None = None
    cosignature: NodeCosignature | None = None
    objection: NodeObjection | None = None


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table of events: its struct, what it is about and which roles may write it."""

    type: type[Event]
    scope: Scope
    roles: frozenset[Role]
    version: int = 1


def _kind(type_: type[Event], scope: Scope, *roles: Role) -> Kind:
    return Kind(type=type_, scope=scope, roles=frozenset(roles))


EVENT_KINDS: dict[str, Kind] = {
    "submitted": _kind(Submitted, Scope.RUN, Role.GATEWAY),
    "cancel_requested": _kind(CancelRequested, Scope.RUN, Role.GATEWAY),
    "retry_requested": _kind(RetryRequested, Scope.RUN, Role.GATEWAY),
    "node_drained": _kind(NodeDrained, Scope.NODE, Role.GATEWAY),
    "node_resumed": _kind(NodeResumed, Scope.NODE, Role.GATEWAY),
    "node_removed": _kind(NodeRemoved, Scope.NODE, Role.GATEWAY),
    "log_accepted": _kind(LogAccepted, Scope.CONTROL, Role.GATEWAY),
    "elected": _kind(Elected, Scope.CONTROL, Role.DISPATCHER),
    "dispatched": _kind(Dispatched, Scope.RUN, Role.DISPATCHER),
    "stopping": _kind(Stopping, Scope.RUN, Role.DISPATCHER),
    "node_lost": _kind(NodeLost, Scope.NODE, Role.DISPATCHER),
    "node_joined": _kind(NodeJoined, Scope.NODE, Role.AGENT),
    "node_left": _kind(NodeLeft, Scope.NODE, Role.AGENT),
    "slot_unhealthy": _kind(SlotUnhealthy, Scope.NODE, Role.AGENT),
    "slot_healthy": _kind(SlotHealthy, Scope.NODE, Role.AGENT),
    "started": _kind(Started, Scope.RUN, Role.AGENT),
    "completed": _kind(Completed, Scope.RUN, Role.AGENT),
    "failed": _kind(Failed, Scope.RUN, Role.AGENT, Role.DISPATCHER),
    "cancelled": _kind(Cancelled, Scope.RUN, Role.AGENT, Role.DISPATCHER),
    "timed_out": _kind(TimedOut, Scope.RUN, Role.AGENT),
    "artifacts_hashed": _kind(ArtifactsHashed, Scope.RUN, Role.AGENT),
}
"""Event name in subjects and types → what it is. A new event begins with a row here."""

EVENT_NAMES: dict[type[Event], str] = {kind.type: name for name, kind in EVENT_KINDS.items()}
