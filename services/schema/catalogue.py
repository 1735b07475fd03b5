"""Which types the schema has: those of records, answers, requests, events and heartbeats.

Owns the lists, and what of a message may be left out; knows nothing of how a schema is made of them.
"""

from __future__ import annotations

import msgspec

from events.config import RunConfig
from events.types import EVENT_KINDS, NodeHeartbeat, RunHeartbeat
from services import requests
from services.agent.output.service import OutputRequest
from services.enrol.service import CertRenewRequest
from services.enrol.wire import RenewAnswer
from services.projector.rebuild import Rebuilt
from services.schema import answers as made
from trainshed_client import answers, records

RECORDS: tuple[type[msgspec.Struct], ...] = (
    records.RunRecord,
    records.SlotRecord,
    records.NodeRecord,
    records.QueueRecord,
    records.AttemptRecord,
    records.QueuedRunRecord,
    records.ListedSlotRecord,
    records.TimelineEntry,
)
ANSWERS: tuple[type[msgspec.Struct], ...] = (
    answers.Submission,
    answers.Submissions,
    answers.Check,
    answers.Acknowledged,
    answers.NodeAnswer,
    answers.RunPage,
    answers.RunView,
    answers.Explanation,
    answers.SlotPage,
    answers.NodePage,
    answers.MomentAnswer,
    answers.RunFolder,
    answers.ArtifactPage,
    answers.NodeFiles,
    answers.Pruned,
    RenewAnswer,
    made.AppendedAnswer,
    made.ReadModelHealth,
    made.CheckpointAnswer,
    made.ConsistencyAnswer,
    made.InclusionAnswer,
    made.RebuildProgress,
    Rebuilt,
    made.RowsHead,
    made.RowsPart,
    made.ErrorAnswer,
)
REQUESTS: tuple[type[msgspec.Struct], ...] = (
    RunConfig,
    requests.SubmitRequest,
    requests.BatchRequest,
    requests.RunCommand,
    requests.NodeCommand,
    requests.AcceptRequest,
    requests.RunQuestion,
    requests.ListRequest,
    requests.AtRequest,
    requests.MomentRequest,
    requests.CheckpointRequest,
    requests.ConsistencyRequest,
    requests.InclusionRequest,
    requests.AttemptRequest,
    requests.ArtifactsRequest,
    requests.FilesRequest,
    requests.PruneRequest,
    CertRenewRequest,
    requests.NoFields,
    OutputRequest,
    made.DirectGet,
)
PUBLISHED: tuple[type[msgspec.Struct], ...] = (made.CheckpointMessage, made.TelemetryLine)
EVENTS: tuple[type[msgspec.Struct], ...] = tuple(kind.type for kind in EVENT_KINDS.values())
HEARTBEATS: tuple[type[msgspec.Struct], ...] = (RunHeartbeat, NodeHeartbeat)

WHOLE = (*RECORDS, *ANSWERS, *PUBLISHED)
"""What this release writes with every field there is, unknown being null; but for these:"""
LEFT_OUT: dict[str, frozenset[str]] = {
    "QueuedRunRecord": frozenset({"waits_for", "waiting", "node_status"}),
    "ListedSlotRecord": frozenset({"run_name"}),
    "RunPage": frozenset({"total"}),
    "Explanation": frozenset({"waiting"}),
    "RenewAnswer": frozenset({"certificate"}),
    "ReadModelHealth": frozenset({"person", "role"}),
}


def left_out(kind: type[msgspec.Struct]) -> frozenset[str]:
    """The fields of a type that are not always there."""
    stale = frozenset({"stale", "progress"})  # an answer that is true at its sequence bears neither
    found = LEFT_OUT.get(kind.__name__, frozenset())
    return found | stale if stale <= set(kind.__struct_fields__) else found
