"""A log with a run in every status, folded by a projector: what samples of the contract are made of.

Owns that story; knows neither schema nor file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench.log_maker import BASE_NS, LogMaker
from events.codec import Writer
from events.times import rfc3339
from events.types import (
    AttemptMemory,
    Cancelled,
    CancelRequested,
    Failed,
    GpuReading,
    NodeCosignature,
    NodeDrained,
    NodeHeartbeat,
    NodeLost,
    NodeObjection,
    RetryRequested,
    RunHeartbeat,
    SlotUnhealthy,
    TimedOut,
)
from projections.read_model.heartbeats import apply_heartbeats
from projections.read_model.projector import Projector
from tests.support.read_model import LOG_ID, Asked, memory
from trainshed_client.direct_get import Message
from trainshed_client.provenance import Provenance
from trainshed_client.records import AttemptUsage
from trainshed_client.statuses import CodeSeen, FailureReason
from trainshed_client.subjects import Role

ID = "0199d8a2-7e1c-7b3a-9c55-3f0e1d2c4b5a"
NOW_NS = BASE_NS + 90 * 1_000_000_000
NOW = rfc3339(NOW_NS)
TRAIN = ["train.py", "--seed", "7"]


def run_heartbeat(run_id: str) -> RunHeartbeat:
    """What a worker reported, with metrics that no JSON number is."""
    return RunHeartbeat(
        run_id=run_id,
        attempt=1,
        ready_at=rfc3339(BASE_NS + 3_000_000_000),
        last_heartbeat_at=rfc3339(BASE_NS + 80_000_000_000),
        step=12000,
        progress=0.6,
        status_text="learning",
        primary_metric="reward",
        metrics={"reward": 187.25, "loss": "NaN", "lr": 0.0003, "best": "-Infinity"},
        passed_over={"value": "X_METRIC_fps=1,5"},
    )


def node_heartbeat(run_id: str) -> NodeHeartbeat:
    """How a node's devices are while a run has one."""
    return NodeHeartbeat(
        node="gpu01",
        incarnation="gpu01-a",
        disk_free_mb=512_000,
        gpus=(
            GpuReading(index=0, utilisation=0, memory_used_mb=3, temperature_c=31),
            GpuReading(
                index=1,
                utilisation=97,
                memory_used_mb=10_240,
                temperature_c=74,
                other_pids=(4711,),
                attempts=(AttemptMemory(run_id=run_id, attempt=1, memory_mb=9_216),),
            ),
        ),
        cosignature=NodeCosignature(
            size=42, root="q6urq6ur" * 5 + "q6s=", time=1_790_000_080, signature="c2ln" * 21 + "cw=="
        ),
    )


OBJECTION = NodeObjection(
    kind="rolled_back",
    kept_size=90,
    size=40,
    since=NOW,
    text="the log is smaller than what was signed before",
)


class SampleLog:
    """A log with a run in every status, folded by a projector."""

    def __init__(self) -> None:
        self.log = LogMaker()
        self.database = memory()
        self.projector = Projector.open(self.database, LOG_ID, 10**9)
        self.projector.warns = False
        self.asked = Asked(self.database, lambda: NOW_NS)
        self.runs: dict[str, str] = {}
        self.log.elect()
        self.log.join(slots=4)
        self.log.join("gpu02", slots=1)
        self.log.join("cpu01", slots=0)
        self.log.by_gateway(NodeDrained(node="gpu02", incarnation="gpu02-a", reason="new disk"))
        self.log.by_dispatcher(
            NodeLost(node="cpu01", incarnation="cpu01-a", epoch=self.log.epoch, silent_s=15.2)
        )
        self.log.by_agent(
            SlotUnhealthy(node="gpu01", incarnation="gpu01-a", index=3, reason="the device is gone"), "gpu01"
        )
        self._tell()

    def _tell(self) -> None:
        self.submit("completed", labels={"who": "ada"})
        self.granted("completed")
        self.log.complete(self.runs["completed"])
        self.submit("failed")
        self.granted("failed")
        self.end(
            "failed",
            lambda run: Failed(
                run_id=run,
                attempt=1,
                failure_reason=FailureReason.EXIT_CODE,
                exit_code=1,
                output_tail="Traceback (most recent call last):\nRuntimeError: loss is NaN\n",
                output_of="stderr",
                duration_s=4.5,
                usage=AttemptUsage(cpu_s=4.25, memory_peak_mb=812, gpu_busy_s=3.5, gpu_memory_peak_mb=2048),
                code=CodeSeen.SAME,
            ),
        )
        self.submit("timed_out", schedule={"max_duration_seconds": 60})
        self.granted("timed_out")
        self.end(
            "timed_out",
            lambda run: TimedOut(
                run_id=run, attempt=1, failure_reason=FailureReason.TIME_LIMIT, timeout_s=60, signal=15
            ),
        )
        self.submit("cancelled")
        self.granted("cancelled")
        self.log.by_gateway(CancelRequested(run_id=self.runs["cancelled"], reason="no longer needed"))
        self.end("cancelled", lambda run: Cancelled(run_id=run, attempt=1, reason="cancel", signal=15))
        self.submit("unspecified")
        self.granted("unspecified")
        self.unknown_end("unspecified")
        self.submit("late")
        self.granted("late")
        self.end("late", lambda run: Failed(run_id=run, attempt=1, failure_reason=FailureReason.SHIM_LOST))
        self.log.complete(self.runs["late"])
        self.submit("retried")
        self.granted("retried")
        self.end(
            "retried",
            lambda run: Failed(run_id=run, attempt=1, failure_reason=FailureReason.SIGNAL, signal=9),
        )
        self.log.by_gateway(RetryRequested(run_id=self.runs["retried"], attempt=1))
        self.granted("retried", attempt=2)
        self.submit("running", schedule={"max_steps": 20000})
        self.granted("running", slots=(1,))
        self.submit("dispatching")
        self.log.dispatch(self.runs["dispatching"], slots=(2,))
        self.submit("away", gpus=0)
        self.granted("away", node="cpu01", slots=())
        self.submit("pending", gpus=2)
        self.submit("pending_after", after=[self.runs["running"]])
        self.projector.apply(self.log.messages)
        self.heartbeats()

    def submit(self, what: str, *, gpus: int = 1, **fields: Any) -> None:
        """A run of this name."""
        config = {
            "run_name": what,
            "entry_point": "/usr/bin/python3",
            "arguments": TRAIN,
            "resources": {"gpus": {"requested": gpus}},
            **fields,
        }
        provenance = Provenance(folder="/home/ada/project", commit="9d31f0c", dirty=False)
        self.runs[what] = self.log.submit(config, by="ada", named=True, provenance=provenance)

    def granted(
        self, what: str, *, node: str = "gpu01", attempt: int = 1, slots: tuple[int, ...] = (0,)
    ) -> None:
        """It is granted and starts."""
        self.log.dispatch(self.runs[what], attempt, node, slots)
        self.log.start(self.runs[what], attempt, node, slots)

    def end(self, what: str, event: Callable[[str], Failed | Cancelled | TimedOut]) -> None:
        """Its agent has it ended."""
        self.log.by_agent(event(self.runs[what]), "gpu01")

    def unknown_end(self, what: str) -> None:
        """It failed for a reason of a newer release."""
        failed = Failed(run_id=self.runs[what], attempt=1, failure_reason=FailureReason.SIGNAL)
        new = Writer(Role.AGENT, lambda: self.log.now_ns, lambda: ID, "gpu01").new(failed)
        self.log.raw(new.subject, new.body.replace(b'"signal"', b'"melted"', 1))

    def heartbeats(self) -> None:
        """What workers and nodes reported last."""
        self._hear(run_heartbeat(self.runs["running"]), "gpu01")
        later = RunHeartbeat(
            run_id=self.runs["retried"], attempt=2, step=0.5, progress=0.01, metrics={"loss": "Infinity"}
        )
        self._hear(later, "gpu01")
        self._hear(node_heartbeat(self.runs["running"]), "gpu01")
        self._hear(NodeHeartbeat(node="gpu02", incarnation="gpu02-a", objection=OBJECTION), "gpu02")

    def _hear(self, heartbeat: RunHeartbeat | NodeHeartbeat, node: str) -> None:
        subject, _, body = Writer(Role.AGENT, lambda: NOW_NS, lambda: ID, node).heartbeat(heartbeat)
        apply_heartbeats(self.projector, [Message(1, NOW_NS, subject, body)])
