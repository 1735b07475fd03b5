"""The statuses of the older gRPC trainer API, as ours: what one of its clients would have been shown of a run, and back.

Owns that mapping (docs/coming-from-grpc.md has it as a table); knows no wire.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Optional

from trainshed_client._compat import StrEnum
from trainshed_client.statuses import ENDED, FailureReason, RunStatus

if TYPE_CHECKING:
    from trainshed_client.records import AttemptRecord, RunRecord


class OlderStatus(StrEnum):
    """Status of a run there. PAUSED is never one of ours: nothing here is paused."""

    INIT = "INIT"
    HANDSHAKE = "HANDSHAKE"
    READY = "READY"
    EXECUTING = "EXECUTING"
    PAUSED = "PAUSED"
    TERMINATED = "TERMINATED"
    FAULTED = "FAULTED"
    UNSPECIFIED = "UNSPECIFIED"


class OlderOutcome(StrEnum):
    """How a TERMINATED run ended, spelled as there."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


class OurStatus(NamedTuple):
    """A status here, and whether `ready_at` is set in it (None: either)."""

    status: RunStatus
    ready: Optional[bool] = None


FAULTS = (
    FailureReason.WORKER_TIMEOUT,
    FailureReason.SPAWN_ERROR,
    FailureReason.SHIM_LOST,
    FailureReason.NODE_LOST,
    FailureReason.NODE_RECLAIMED,
)
"""Where a run FAILED so, its worker did not end by itself or at a limit of its own: it fell silent, was lost, or never began."""

_OURS = {
    OlderStatus.INIT: (OurStatus(RunStatus.PENDING),),
    OlderStatus.HANDSHAKE: (OurStatus(RunStatus.DISPATCHING), OurStatus(RunStatus.RUNNING, ready=False)),
    OlderStatus.READY: (OurStatus(RunStatus.RUNNING, ready=True),),
    OlderStatus.EXECUTING: (OurStatus(RunStatus.RUNNING),),
    OlderStatus.TERMINATED: tuple(OurStatus(status) for status in ENDED),
    OlderStatus.FAULTED: (OurStatus(RunStatus.FAILED),),
}


def older_status(record: RunRecord | AttemptRecord) -> OlderStatus:
    """What the run would have been there.

    A RUNNING one is EXECUTING once it has reported a step, a progress or a metric; before that READY where it said that it
    is (`ready_at`), else still in HANDSHAKE, as a worker that never registered.
    """
    status = record.status
    if status is RunStatus.PENDING:
        return OlderStatus.INIT
    if status is RunStatus.DISPATCHING:
        return OlderStatus.HANDSHAKE
    if status is RunStatus.RUNNING:
        if record.step is not None or record.progress is not None or record.metrics:
            return OlderStatus.EXECUTING
        return OlderStatus.HANDSHAKE if record.ready_at is None else OlderStatus.READY
    if status is RunStatus.FAILED and record.failure_reason in FAULTS:
        return OlderStatus.FAULTED
    return OlderStatus.TERMINATED if status in ENDED else OlderStatus.UNSPECIFIED


def older_outcome(record: RunRecord | AttemptRecord) -> OlderOutcome | None:
    """How the run ended there; None where it has not, or is FAULTED."""
    if older_status(record) is not OlderStatus.TERMINATED:
        return None
    if record.status is RunStatus.COMPLETED:
        return OlderOutcome.SUCCEEDED
    return OlderOutcome.CANCELED if record.status is RunStatus.CANCELLED else OlderOutcome.FAILED


def our_statuses(older: OlderStatus) -> tuple[OurStatus, ...]:
    """In which statuses here a run may be that is ``older`` there: what a query or a watch is filtered by, before
    `older_status` decides of each record. Empty for PAUSED and UNSPECIFIED."""
    return _OURS.get(older, ())
