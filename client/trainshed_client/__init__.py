"""Talk to a Trainshed stack from other programs: submit, follow and watch runs over NATS.

Owns what is public; importing it costs next to nothing, for nats-py is imported when a connection is made.

    from trainshed_client import Trainshed

    async with await Trainshed.connect() as trainshed:
        submission = await trainshed.submit({"entry_point": "/usr/bin/python3", "arguments": ["train.py"]})
        (record,) = await trainshed.wait([submission.run_id])
        print(record.status, record.exit_code)

Inside a worker it reaches the stack that runs the worker, and there the runs that the worker submitted.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from trainshed_client.answers import (
        Acknowledged,
        ArtifactFile,
        Check,
        Explanation,
        NodeAnswer,
        RunPage,
        RunView,
        Submission,
    )
    from trainshed_client.client import Trainshed
    from trainshed_client.code import code_of
    from trainshed_client.endpoint import Endpoint, discover
    from trainshed_client.errors import ErrorCode, TrainshedError
    from trainshed_client.follow import RunOutput
    from trainshed_client.log_reading.events import EventStream
    from trainshed_client.log_reading.log_event import LogEvent
    from trainshed_client.metrics import MetricsPoint
    from trainshed_client.output_range import OutputChunk
    from trainshed_client.prune import NodePruned, PruneReport
    from trainshed_client.records import (
        AttemptRecord,
        NodeRecord,
        QueuedRunRecord,
        QueueRecord,
        RunRecord,
        SlotRecord,
        TimelineEntry,
        Wait,
    )
    from trainshed_client.run_lines import RunLines
    from trainshed_client.statuses import CodeSeen, FailureReason, NodeStatus, RunStatus, WaitReason
    from trainshed_client.sync import SyncTrainshed
    from trainshed_client.sync_base import Iteration
    from trainshed_client.telemetry import TelemetryEntry
    from trainshed_client.watching.newest import PRESENT, Gone
    from trainshed_client.watching.watch import RecordWatch

__all__ = [
    "PRESENT",
    "Acknowledged",
    "ArtifactFile",
    "AttemptRecord",
    "Check",
    "CodeSeen",
    "Endpoint",
    "ErrorCode",
    "EventStream",
    "Explanation",
    "FailureReason",
    "Gone",
    "Iteration",
    "LogEvent",
    "MetricsPoint",
    "NodeAnswer",
    "NodePruned",
    "NodeRecord",
    "NodeStatus",
    "OutputChunk",
    "PruneReport",
    "QueueRecord",
    "QueuedRunRecord",
    "RecordWatch",
    "RunLines",
    "RunOutput",
    "RunPage",
    "RunRecord",
    "RunStatus",
    "RunView",
    "SlotRecord",
    "Submission",
    "SyncTrainshed",
    "TelemetryEntry",
    "TimelineEntry",
    "Trainshed",
    "TrainshedError",
    "Wait",
    "WaitReason",
    "code_of",
    "discover",
]

_MODULE_OF = {
    "Acknowledged": "answers",
    "ArtifactFile": "answers",
    "AttemptRecord": "records",
    "Check": "answers",
    "CodeSeen": "statuses",
    "Endpoint": "endpoint",
    "ErrorCode": "errors",
    "EventStream": "log_reading.events",
    "Explanation": "answers",
    "FailureReason": "statuses",
    "Gone": "watching.newest",
    "Iteration": "sync_base",
    "LogEvent": "log_reading.log_event",
    "MetricsPoint": "metrics",
    "NodeAnswer": "answers",
    "NodePruned": "prune",
    "NodeRecord": "records",
    "NodeStatus": "statuses",
    "OutputChunk": "output_range",
    "PRESENT": "watching.newest",
    "PruneReport": "prune",
    "QueueRecord": "records",
    "QueuedRunRecord": "records",
    "RecordWatch": "watching.watch",
    "RunLines": "run_lines",
    "RunOutput": "follow",
    "RunPage": "answers",
    "RunRecord": "records",
    "RunStatus": "statuses",
    "RunView": "answers",
    "SlotRecord": "records",
    "Submission": "answers",
    "SyncTrainshed": "sync",
    "TelemetryEntry": "telemetry",
    "TimelineEntry": "records",
    "Trainshed": "client",
    "TrainshedError": "errors",
    "Wait": "records",
    "WaitReason": "statuses",
    "code_of": "code",
    "discover": "endpoint",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used (PEP 562)."""
    import importlib

    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
