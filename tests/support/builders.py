"""Short builders of runs, nodes and stored events, and a story: events folded one after the other in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from events.change import Change
from events.codec import StoredEvent, event_subject
from events.evolve import ended_runs_needed, evolve
from events.rules import KNOWN
from events.state import Active, Ended, Node, Pending, Run, State, restore, snapshot
from events.types import (
    Artifact,
    Artifacts,
    ArtifactsHashed,
    AttemptRef,
    Cancelled,
    CancelRequested,
    Completed,
    Device,
    Dispatched,
    Elected,
    Event,
    Failed,
    LastHeartbeat,
    LogAccepted,
    NodeDrained,
    NodeJoined,
    NodeLeft,
    NodeLost,
    NodeRemoved,
    NodeResumed,
    OutputBytes,
    RetryRequested,
    SchedulerInfo,
    SlotHealthy,
    SlotUnhealthy,
    Started,
    Stopping,
    Submitted,
    TimedOut,
    View,
    Why,
)
from services.agent.machine.inventory import slots_of
from trainshed_client.provenance import Provenance
from trainshed_client.records import AttemptUsage
from trainshed_client.statuses import AtFault, CodeSeen, FailureReason, RunStatus
from trainshed_client.subjects import Role

SECOND_NS = 1_000_000_000
START_NS = 1_790_000_000 * SECOND_NS
LAUNCH = msgspec.Raw(b'{"entry_point":"/bin/true"}')

EXAMPLES: dict[str, tuple[Role, Event]] = {
    "submitted": (
        Role.GATEWAY,
        Submitted(
            run_id="r1",
            config=msgspec.Raw(b'{"entry_point":"/bin/true","code":{"sha256":"12"}}'),
            digest="ab" * 32,
            provenance=Provenance(folder="/srv/project", commit="9d31", dirty=True, ignore=("*.ipynb",)),
            caller_path="/opt/bin:/bin",
        ),
    ),
    "cancel_requested": (Role.GATEWAY, CancelRequested(run_id="r1", reason="no longer needed")),
    "retry_requested": (Role.GATEWAY, RetryRequested(run_id="r1", attempt=2, requested_by="ann")),
    "node_drained": (Role.GATEWAY, NodeDrained(node="gpu01", incarnation="a", reason="new disk")),
    "node_resumed": (Role.GATEWAY, NodeResumed(node="gpu01", incarnation="a")),
    "node_removed": (Role.GATEWAY, NodeRemoved(node="gpu01", incarnation="a")),
    "log_accepted": (Role.GATEWAY, LogAccepted(reason="restored from last night", accepted_by="ann")),
    "elected": (
        Role.DISPATCHER,
        Elected(name="box/1", scheduler=SchedulerInfo(name="s", version=3, settings={"x": [1]}), rules=2),
    ),
    "dispatched": (
        Role.DISPATCHER,
        Dispatched(
            run_id="r1",
            attempt=1,
            epoch=1,
            node="gpu01",
            incarnation="a",
            slots=(0, 1),
            cpus=2,
            memory_mb=512,
            launch=LAUNCH,
            view=View(seq=9, now="2026-11-24T08:17:40.123456Z"),
            why=Why(free=2, passed_over=("r0",), passed_over_count=1),
        ),
    ),
    "stopping": (
        Role.DISPATCHER,
        Stopping(run_id="r1", attempt=1, epoch=1, node="gpu01", incarnation="a", reason="cancel"),
    ),
    "node_lost": (Role.DISPATCHER, NodeLost(node="gpu01", incarnation="a", epoch=1, silent_s=15.1)),
    "node_joined": (
        Role.AGENT,
        NodeJoined(
            node="gpu01",
            incarnation="a",
            host="gpu01.lab",
            cpus=8,
            memory_mb=64_000,
            gpus=(Device(index=0, uuid="GPU-0", name="T4", memory_mb=15_360), Device(index=1)),
            attempts=(AttemptRef("r1", 1),),
            borrowed=True,
            version="0.1.0",
            witness="trainshed/0/gpu01+00000000+BA==",
        ),
    ),
    "node_left": (
        Role.AGENT,
        NodeLeft(node="gpu01", incarnation="a", upto=7, attempts=(AttemptRef("r1", 1),), reason="stopped"),
    ),
    "slot_unhealthy": (Role.AGENT, SlotUnhealthy(node="gpu01", incarnation="a", index=1, reason="lost")),
    "slot_healthy": (Role.AGENT, SlotHealthy(node="gpu01", incarnation="a", index=1)),
    "started": (
        Role.AGENT,
        Started(run_id="r1", attempt=1, pid=42, host="gpu01.lab", threads=8, slots=(0,), devices=("GPU-0",)),
    ),
    "completed": (
        Role.AGENT,
        Completed(
            run_id="r1",
            attempt=1,
            duration_s=1.5,
            last_heartbeat=LastHeartbeat(step=5, progress=1.0, metrics={"reward": 200.0}, seq=3),
            usage=AttemptUsage(cpu_s=3.25, memory_peak_mb=512, gpu_busy_s=1.5, gpu_memory_peak_mb=2048),
            artifacts=Artifacts(count=1, bytes=3, entries=(Artifact(path="m.npz", bytes=3),)),
            code=CodeSeen.SAME,
            output=OutputBytes(stdout=1_024, stderr=0),
        ),
    ),
    "artifacts_hashed": (
        Role.AGENT,
        ArtifactsHashed(
            run_id="r1",
            attempt=1,
            artifacts=Artifacts(
                count=1, bytes=3, entries=(Artifact(path="m.npz", bytes=3, sha256="0f"),), sha256="0a"
            ),
        ),
    ),
    "failed": (
        Role.AGENT,
        Failed(
            run_id="r1",
            attempt=1,
            failure_reason=FailureReason.EXIT_CODE,
            exit_code=3,
            output_tail="oops\n",
            output_of="stderr",
        ),
    ),
    "cancelled": (Role.AGENT, Cancelled(run_id="r1", attempt=1, reason="cancel", signal=15)),
    "timed_out": (
        Role.AGENT,
        TimedOut(run_id="r1", attempt=1, failure_reason=FailureReason.WORKER_TIMEOUT, timeout_s=300.0),
    ),
}
"""One event of each type, with as many fields set as it has."""


def config(**fields: object) -> msgspec.Raw:
    """A stored run config: a CPU-only run unless it says otherwise."""
    return msgspec.Raw(msgspec.json.encode({"entry_point": "/bin/true", **fields}))


def needs(
    gpus: int = 0, cpus: int = 1, memory_mb: int = 0, *, mandatory: bool = True, whole: bool = False
) -> dict[str, object]:
    """The ``resources`` of a config."""
    return {
        "cpus": cpus,
        "memory_mb": memory_mb,
        "gpus": {"requested": gpus, "mandatory": mandatory, "whole": whole},
    }


def stored(
    seq: int, role: Role, event: Event, node: str | None = None, *, at_s: float | None = None
) -> StoredEvent:
    """``event`` as the log has it at ``seq``, stored ``at_s`` seconds after the log's start (default: ``seq``)."""
    stored_ns = START_NS + int((seq if at_s is None else at_s) * SECOND_NS)
    return StoredEvent(
        seq=seq,
        stored_ns=stored_ns,
        subject=event_subject(event, role, node),
        id=f"id-{seq}",
        source=f"{role}/{node}" if node else role,
        event=event,
    )


class Story:
    """A log told event by event and folded as it goes, as every reader folds it.

    ``log`` is what was told; ``past`` the last values of the runs that ended; ``change`` what the last event did.
    """

    def __init__(self) -> None:
        self.state = State()
        self.log: list[StoredEvent] = []
        self.past: dict[str, Run] = {}
        self.change = Change()
        self.seq = 0
        self.at_s: float | None = None

    def put(self, role: Role, event: Event, node: str | None = None) -> int:
        """Store and fold an event; returns its sequence."""
        self.seq += 1
        one = stored(self.seq, role, event, node, at_s=self.at_s)
        self.log.append(one)
        self.fold(one)
        return self.seq

    def fold(self, one: StoredEvent) -> Change:
        """Fold an event that is stored already (again, perhaps)."""
        wanted = ended_runs_needed(self.state, one)
        self.change = evolve(
            self.state, one, {run_id: self.past[run_id] for run_id in wanted if run_id in self.past}
        )
        for change in self.change.runs:
            self.past[change.after.run_id] = change.after
        return self.change

    # --- what is there --------------------------------------------------------------------------------------

    def run(self, run_id: str = "r1") -> Run:
        """A run's last value, live or ended."""
        return self.past[run_id]

    def pending(self, run_id: str = "r1") -> Pending:
        """Its phase, which must be this one."""
        phase = self.run(run_id).phase
        assert isinstance(phase, Pending), phase
        return phase

    def active(self, run_id: str = "r1") -> Active:
        """Its phase, which must be this one."""
        phase = self.run(run_id).phase
        assert isinstance(phase, Active), phase
        return phase

    def ended(self, run_id: str = "r1") -> Ended:
        """Its phase, which must be this one."""
        phase = self.run(run_id).phase
        assert isinstance(phase, Ended), phase
        return phase

    def status(self, run_id: str = "r1") -> RunStatus:
        """A run's status."""
        return self.run(run_id).status

    def node(self, name: str = "gpu01") -> Node:
        """A node's value."""
        return self.state.nodes[name]

    # --- the gateway ----------------------------------------------------------------------------------------

    def submit(self, run_id: str = "r1", **fields: Any) -> int:
        """Submit a run with this id (evolve takes the log's word for it)."""
        return self.put(Role.GATEWAY, Submitted(run_id=run_id, config=config(**fields), digest="0" * 64))

    def cancel(self, run_id: str = "r1") -> int:
        """Somebody wants it to end."""
        return self.put(Role.GATEWAY, CancelRequested(run_id=run_id))

    def retry(self, run_id: str = "r1", attempt: int = 1) -> int:
        """Somebody wants it again."""
        return self.put(Role.GATEWAY, RetryRequested(run_id=run_id, attempt=attempt))

    def drain(self, node: str = "gpu01", incarnation: str = "a") -> int:
        """No more grants."""
        return self.put(Role.GATEWAY, NodeDrained(node=node, incarnation=incarnation))

    def resume(self, node: str = "gpu01", incarnation: str = "a") -> int:
        """Grants again."""
        return self.put(Role.GATEWAY, NodeResumed(node=node, incarnation=incarnation))

    def remove(self, node: str = "gpu01", incarnation: str = "a") -> int:
        """The machine is off."""
        return self.put(Role.GATEWAY, NodeRemoved(node=node, incarnation=incarnation))

    # --- the dispatcher -------------------------------------------------------------------------------------

    def elect(self, name: str = "box/1", *, rules: int = KNOWN) -> int:
        """A new epoch."""
        scheduler = SchedulerInfo(name="fifo", version=1)
        return self.put(Role.DISPATCHER, Elected(name=name, scheduler=scheduler, rules=rules))

    def dispatch(
        self,
        run_id: str = "r1",
        attempt: int = 1,
        *,
        node: str = "gpu01",
        incarnation: str = "a",
        slots: Sequence[int] = (),
        cpus: int = 1,
        memory_mb: int = 0,
        epoch: int | None = None,
        view_seq: int | None = None,
    ) -> int:
        """A grant, of the present epoch and decided by all that is stored, unless it says another."""
        return self.put(
            Role.DISPATCHER,
            Dispatched(
                run_id=run_id,
                attempt=attempt,
                epoch=self.state.epoch if epoch is None else epoch,
                node=node,
                incarnation=incarnation,
                slots=tuple(slots),
                cpus=cpus,
                memory_mb=memory_mb,
                launch=LAUNCH,
                view=View(seq=self.seq if view_seq is None else view_seq, now="2026-11-24T08:00:00.000000Z"),
                why=Why(free=0),
            ),
        )

    def by_dispatcher(self, event: Event) -> int:
        """Any other word of the dispatcher."""
        return self.put(Role.DISPATCHER, event)

    def stop(
        self,
        run_id: str = "r1",
        attempt: int = 1,
        *,
        node: str = "gpu01",
        reason: str = "cancel",
        epoch: int | None = None,
    ) -> int:
        """Stopping."""
        return self.put(
            Role.DISPATCHER,
            Stopping(
                run_id=run_id,
                attempt=attempt,
                epoch=self.state.epoch if epoch is None else epoch,
                node=node,
                incarnation="a",
                reason=reason,
            ),
        )

    def lose(self, node: str = "gpu01", incarnation: str = "a", *, epoch: int | None = None) -> int:
        """NodeLost."""
        return self.put(
            Role.DISPATCHER,
            NodeLost(
                node=node,
                incarnation=incarnation,
                epoch=self.state.epoch if epoch is None else epoch,
                silent_s=15.1,
            ),
        )

    def verdict(
        self, reason: FailureReason, run_id: str = "r1", attempt: int = 1, *, epoch: int | None = None
    ) -> int:
        """The dispatcher's Failed."""
        return self.put(
            Role.DISPATCHER,
            Failed(
                run_id=run_id,
                attempt=attempt,
                failure_reason=reason,
                epoch=self.state.epoch if epoch is None else epoch,
            ),
        )

    def cancelled_unstarted(
        self,
        run_id: str = "r1",
        attempt: int = 1,
        *,
        reason: FailureReason | None = None,
        epoch: int | None = None,
    ) -> int:
        """The dispatcher's Cancelled."""
        return self.put(
            Role.DISPATCHER,
            Cancelled(
                run_id=run_id,
                attempt=attempt,
                failure_reason=reason,
                epoch=self.state.epoch if epoch is None else epoch,
            ),
        )

    # --- agents ---------------------------------------------------------------------------------------------

    def join(
        self,
        node: str = "gpu01",
        incarnation: str = "a",
        *,
        slots: int = 2,
        cpus: int = 8,
        memory_mb: int = 64_000,
        attempts: Sequence[tuple[str, int]] = (),
        uuids: Sequence[str] | None = None,
        slots_per_gpu: int = 1,
        borrowed: bool = False,
    ) -> int:
        """NodeJoined; the devices are GPU-<node>-<index> unless ``uuids`` names them."""
        names = [f"GPU-{node}-{index}" for index in range(slots)] if uuids is None else list(uuids)
        return self.put(
            Role.AGENT,
            NodeJoined(
                node=node,
                incarnation=incarnation,
                host=f"{node}.lab",
                cpus=cpus,
                memory_mb=memory_mb,
                gpus=slots_of((Device(index=i, uuid=uuid) for i, uuid in enumerate(names)), slots_per_gpu),
                attempts=tuple(AttemptRef(run_id, attempt) for run_id, attempt in attempts),
                borrowed=borrowed,
            ),
            node,
        )

    def leave(
        self,
        node: str = "gpu01",
        incarnation: str = "a",
        *,
        upto: int,
        attempts: Sequence[tuple[str, int]] = (),
    ) -> int:
        """NodeLeft."""
        return self.put(
            Role.AGENT,
            NodeLeft(
                node=node,
                incarnation=incarnation,
                upto=upto,
                attempts=tuple(AttemptRef(run_id, attempt) for run_id, attempt in attempts),
            ),
            node,
        )

    def start(self, run_id: str = "r1", attempt: int = 1, *, node: str = "gpu01") -> int:
        """The worker runs."""
        return self.put(Role.AGENT, Started(run_id=run_id, attempt=attempt, pid=42, host=f"{node}.lab"), node)

    def complete(self, run_id: str = "r1", attempt: int = 1, *, node: str = "gpu01") -> int:
        """The worker exited with 0."""
        return self.put(Role.AGENT, Completed(run_id=run_id, attempt=attempt), node)

    def artifacts_hashed(self, run_id: str = "r1", attempt: int = 1, *, node: str = "gpu01") -> int:
        """What the completed attempt left is hashed."""
        return self.put(Role.AGENT, ArtifactsHashed(run_id=run_id, attempt=attempt), node)

    def fail(
        self,
        run_id: str = "r1",
        attempt: int = 1,
        *,
        reason: FailureReason = FailureReason.EXIT_CODE,
        node: str = "gpu01",
        at_fault: AtFault | None = None,
        message: str | None = None,
    ) -> int:
        """The agent's Failed."""
        failed = Failed(
            run_id=run_id, attempt=attempt, failure_reason=reason, at_fault=at_fault, message=message
        )
        return self.put(Role.AGENT, failed, node)

    def stopped(self, run_id: str = "r1", attempt: int = 1, *, node: str = "gpu01") -> int:
        """The agent's Cancelled."""
        return self.put(Role.AGENT, Cancelled(run_id=run_id, attempt=attempt, reason="cancel"), node)

    def time_out(
        self,
        run_id: str = "r1",
        attempt: int = 1,
        *,
        reason: FailureReason = FailureReason.WORKER_TIMEOUT,
        node: str = "gpu01",
    ) -> int:
        """The agent's TimedOut."""
        return self.put(Role.AGENT, TimedOut(run_id=run_id, attempt=attempt, failure_reason=reason), node)


def facts(state: State) -> dict[str, object]:
    """Everything that a State says, as plain values that can be compared."""
    return {
        "snapshot": snapshot(state),
        "usage": {
            name: (
                {index: frozenset(refs) for index, refs in usage.slots.items()},
                frozenset(usage.attempts),
                usage.cpus,
                usage.memory_mb,
            )
            for name, usage in state.usage.items()
        },
        "held_uuids": {uuid: frozenset(refs) for uuid, refs in state.held_uuids.items()},
        "waiting": {run_id: frozenset(runs) for run_id, runs in state.waiting.items()},
    }


def recomputed(state: State) -> dict[str, object]:
    """The same, with the index made anew from runs and nodes alone."""
    return facts(restore(snapshot(state)))
