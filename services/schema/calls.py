"""The API's calls for the schema: what each takes and answers, and what it is for.

Owns this table; a test holds it against what the services serve.
"""

from __future__ import annotations

from typing import NamedTuple

from trainshed_client import subjects


class ApiCall(NamedTuple):
    """A call: its requests and answers by the names of their definitions, and what it does.

    ``node``: it is answered by a node's agent. ``many``: in several messages; ``ends``: an empty one comes last. ``raw``: in
    bytes, with headers.
    """

    requests: tuple[str, ...]
    answers: tuple[str, ...]
    text: str
    node: bool = False
    many: bool = False
    ends: bool = False
    raw: bool = False


CALLS: dict[str, ApiCall] = {
    "run.submit": ApiCall(
        ("RunConfig", "SubmitRequest"),
        ("Submission",),
        "Queue a run. The same config is the same run: then `created` is false and nothing starts.",
    ),
    "run.submit_batch": ApiCall(
        ("BatchRequest",), ("Submissions",), "Queue up to 1,000 runs, all or none; 1 MB at most."
    ),
    "run.check": ApiCall(
        ("RunConfig", "SubmitRequest"), ("Check",), "What a submit would do; nothing is queued."
    ),
    "run.cancel": ApiCall(("RunCommand",), ("Acknowledged",), "End a run, queued or running."),
    "run.retry": ApiCall(("RunCommand",), ("Acknowledged",), "Run an ended run again, as its next attempt."),
    "run.get": ApiCall(("RunQuestion",), ("RunView",), "Everything about one run."),
    "run.list": ApiCall(
        ("ListRequest",), ("RunPage",), "A page of runs; the next is asked for by `before_seq`."
    ),
    "run.explain": ApiCall(
        ("RunQuestion",), ("Explanation",), "Why a run waits, and what happened to it last."
    ),
    "slot.list": ApiCall(("AtRequest",), ("SlotPage",), "All slots."),
    "node.list": ApiCall(("AtRequest",), ("NodePage",), "All nodes."),
    "node.drain": ApiCall(
        ("NodeCommand",), ("NodeAnswer",), "Grant a node nothing more; what runs there goes on."
    ),
    "node.resume": ApiCall(("NodeCommand",), ("NodeAnswer",), "Grant a drained node runs again."),
    "node.remove": ApiCall(
        ("NodeCommand",), ("NodeAnswer",), "The machine is off: its live attempts end as `node_lost`."
    ),
    "audit.accept": ApiCall(
        ("AcceptRequest",), ("AppendedAnswer",), "Accept the log as it is, as after a restore from a backup."
    ),
    "audit.at": ApiCall(
        ("MomentRequest",), ("MomentAnswer",), "The event at a sequence, or the last one by a time."
    ),
    "audit.rows": ApiCall(
        ("NoFields",), ("RowsHead", "RowsPart"), "All rows of the read model.", many=True, ends=True
    ),
    "audit.rebuild": ApiCall(
        ("NoFields",),
        ("RebuildProgress", "Rebuilt"),
        "Build the read model again from the log; what came of it comes last.",
        many=True,
    ),
    "audit.checkpoint": ApiCall(
        ("CheckpointRequest",), ("CheckpointAnswer",), "A signed checkpoint of the log's tree."
    ),
    "audit.consistency": ApiCall(
        ("ConsistencyRequest",), ("ConsistencyAnswer",), "That one size of the log's tree extends another."
    ),
    "audit.inclusion": ApiCall(
        ("InclusionRequest",), ("InclusionAnswer",), "That an event is in the log's tree."
    ),
    "cert.renew": ApiCall(
        ("CertRenewRequest",),
        ("RenewAnswer",),
        "A certificate for a new key, by the connection that the older one made; or whether one is due.",
    ),
    "health": ApiCall(("NoFields",), ("ReadModelHealth",), "How the read model is."),
    "output": ApiCall(
        ("OutputRequest",),
        (),
        "A range of what an attempt wrote, or of a file in artifacts/.",
        node=True,
        raw=True,
    ),
    "folder": ApiCall(
        ("AttemptRequest",), ("RunFolder",), "Where an attempt's run has its folder.", node=True
    ),
    "artifacts": ApiCall(
        ("ArtifactsRequest",), ("ArtifactPage",), "What lies in artifacts/, a page of it.", node=True
    ),
    "files": ApiCall(
        ("FilesRequest",), ("NodeFiles",), "Sizes and SHA-256 of what attempts left.", node=True
    ),
    "prune": ApiCall(
        ("PruneRequest",), ("Pruned",), "Delete the folders of runs that ended long ago.", node=True
    ),
}


def address(name: str, call: ApiCall) -> str:
    """Where a request is sent."""
    return subjects.api(f"node.{{node}}.{name}" if call.node else name)
