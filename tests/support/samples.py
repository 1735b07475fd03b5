"""Samples of the contract: each message at least once, and records in every status, made by what makes them in the services.

``python -m tests.support.samples`` writes docs/schema/samples.json anew.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from bench.log_maker import BASE_NS
from events.codec import Writer
from events.config import RunConfig
from services.api import error_answer
from services.enrol.wire import RenewAnswer
from services.projector.rebuild import Rebuilt
from services.scheduling.whole_queue import WholeQueue
from services.schema import answers as made
from services.schema.bundle import envelope_name
from tests.support.builders import EXAMPLES
from tests.support.read_model import decoded
from tests.support.sample_log import ID, NOW, NOW_NS, OBJECTION, SampleLog, node_heartbeat, run_heartbeat
from tests.support.times import at
from trainshed_client import answers
from trainshed_client.errors import ErrorCode, TrainshedError, WrongField
from trainshed_client.fold_progress import FoldProgress
from trainshed_client.provenance import Provenance
from trainshed_client.statuses import NodeStatus, RunStatus
from trainshed_client.subjects import Role
from trainshed_client.times import with_texts

FILE = Path(__file__).resolve().parents[2] / "docs" / "schema" / "samples.json"
SHA256 = "ab" * 32
ROOT = "q6urq6ur" * 5 + "q6s="
PEM = "-----BEGIN CERTIFICATE-----\n…\n-----END CERTIFICATE-----\n"
VKEY = "trainshed/0199d8a2+1f2e3d4c+AausrKysrKysrKysrKysrKysrKysrKysrKysrKysrKys"
NOTE = f"trainshed/0199d8a2\n42\n{ROOT}\n\n— trainshed/0199d8a2 Hy49TKusrKysrKysrKys\n"

Samples = dict[str, dict[str, Any]]
"""Definition → what a sample shows → its JSON value."""


def samples() -> Samples:
    """All of them; the same each time."""
    log = SampleLog()
    found: Samples = {}
    for part in (_records(log), _queries(log), _answers(log), _requests(log), _events(log), _published()):
        found |= part
    return dict(sorted(found.items()))


def text(found: Samples) -> str:
    """As the file has them."""
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def _records(log: SampleLog) -> Samples:
    named = {run_id: what for what, run_id in log.runs.items()}
    queries = log.asked.queries
    live, ended = queries.bucket_runs()
    slots = {f"{node}_{index}": _value(record) for node, index, record in queries.bucket_slots()}
    state = log.projector.projection.working.state
    queue = _value(msgspec.json.encode(with_texts(WholeQueue().at(state, log.log.seq, NOW_NS))))
    empty = {**queue, "total": 0, "runs": []}
    views = {
        what: log.asked.run(log.runs[what]) for what in ("completed", "failed", "retried", "late", "running")
    }
    return {
        "RunRecord": {named[run_id]: _value(record) for run_id, record in (*live, *ended)},
        "SlotRecord": slots,
        "NodeRecord": {node: _value(record) for node, record in queries.bucket_nodes()},
        "QueueRecord": {"two": queue, "empty": empty},
        "AttemptRecord": {
            f"{what}_{attempt['attempt']}": attempt
            for what, view in views.items()
            for attempt in view["attempts"]
        },
        "TimelineEntry": {entry["type"]: entry for view in views.values() for entry in view["timeline"]},
    }


def _queries(log: SampleLog) -> Samples:
    queries, runs = log.asked.queries, log.runs
    page = log.asked.runs(limit=3)
    slots = decoded(queries.slots())
    return {
        "RunView": {what: log.asked.run(runs[what]) for what in ("completed", "retried", "pending", "away")},
        "QueuedRunRecord": {
            what: log.asked.run(runs[what])["run"] for what in ("pending", "pending_after", "away")
        },
        "RunPage": {
            "first": page,
            "next": log.asked.runs(limit=3, before_seq=page["runs"][-1]["submit_seq"]),
            "stale": {**page, "stale": True, "progress": {"folded": 40, "events": 50}},
        },
        "Explanation": {
            what: log.asked.explain(runs[what]) for what in ("pending", "pending_after", "failed")
        },
        "SlotPage": {"all": slots},
        "ListedSlotRecord": {"held": slots["slots"][1], "free": slots["slots"][0]},
        "NodePage": {"all": decoded(queries.nodes())},
    }


def _answers(log: SampleLog) -> Samples:
    run_id, digest = log.runs["pending"], SHA256
    submission = answers.Submission(
        run_id=run_id, digest=digest, created=True, status=RunStatus.PENDING, seq=40
    )
    again = msgspec.structs.replace(submission, created=False, status=RunStatus.UNSPECIFIED)
    file = answers.FileNow(path="policy.npz", bytes=1024, sha256=SHA256)
    left = answers.AttemptFiles(
        run_id=run_id, attempt=1, output=answers.OutputNow(stdout=812, stderr=0), artifacts=(file,)
    )
    gone = answers.AttemptFiles(run_id=run_id, attempt=2, pruned_at=at(NOW))
    entry = answers.ArtifactFile(path="policy.npz", bytes=1024)
    page = answers.ArtifactPage(node="gpu01", artifacts=[entry])
    health = {**decoded(log.asked.queries.health()), "gap": None, "log_id": ID, "last_seq": 50}
    behind = {
        "gap": 7,
        "log_id": None,
        "last_seq": None,
        "stale": True,
        "progress": {"folded": 1, "events": 9},
    }
    head = {"v": 1, "seq": log.log.seq, "state_hash": SHA256, "log_id": ID, "schema_version": 12}
    proved = {"v": 1, "seq": 42, "root": ROOT}
    errors = [
        WrongField("priority", "must be an integer, not a string"),
        WrongField("gpus", "unknown field."),
    ]
    return {
        "Submission": _encoded(created=submission, there=again),
        "Submissions": _encoded(two=answers.Submissions([submission, again])),
        "Check": _encoded(
            new=answers.Check(run_id=run_id, digest=digest, new=True, nodes=["gpu01"]),
            there=answers.Check(run_id=run_id, digest=digest, new=False, status=RunStatus.RUNNING),
        ),
        "Acknowledged": _encoded(
            cancelled=answers.Acknowledged(run_id=run_id, status=RunStatus.CANCELLED, seq=43)
        ),
        "NodeAnswer": _encoded(drained=answers.NodeAnswer(node="gpu01", status=NodeStatus.UP, seq=44)),
        "MomentAnswer": _encoded(one=answers.MomentAnswer(seq=12, time=at(NOW), state_hash=SHA256)),
        "RunFolder": _encoded(
            one=answers.RunFolder(
                node="gpu01",
                host="gpu01.lab",
                folder=f"/srv/runs/{run_id}",
                exists=True,
                output=f"/srv/runs/{run_id}/attempts/1",
                output_bytes={"stdout": 812, "stderr": None},
                artifacts=1,
                artifacts_bytes=1024,
            )
        ),
        "ArtifactPage": _encoded(last=page, more=msgspec.structs.replace(page, next="policy.npz")),
        "NodeFiles": _encoded(
            two=answers.NodeFiles(node="gpu01", incarnation="gpu01-a", handled=2, attempts=[left, gone])
        ),
        "Pruned": _encoded(
            one=answers.Pruned(
                node="gpu01",
                handled=2,
                runs=[run_id],
                bytes=4096,
                kept=[answers.PruneKept(run_id=log.runs["running"], reason="its end is not acknowledged")],
            )
        ),
        "RenewAnswer": _encoded(
            due=RenewAnswer(due=True, authorities=PEM),
            renewed=RenewAnswer(due=False, authorities=PEM, certificate=PEM),
        ),
        "AppendedAnswer": _encoded(one=made.AppendedAnswer(seq=45)),
        "ReadModelHealth": {
            "ok": {**health, "ok": True, "records": True},
            "behind": {**health, **behind, "ok": False, "records": False},
            "of a person": {**health, "ok": True, "records": True, "person": "sam", "role": "submitter"},
        },
        "CheckpointAnswer": {
            "one": {**proved, "origin": "trainshed/0199d8a2", "size": 42, "vkey": VKEY, "checkpoint": NOTE}
            | {"cosigned_by": ["gpu01"], "gap": None}
        },
        "ConsistencyAnswer": {
            "one": {
                "v": 1,
                "seq": 42,
                "from": 40,
                "to": 42,
                "from_root": ROOT,
                "to_root": ROOT,
                "proof": [ROOT],
            }
        },
        "InclusionAnswer": {
            "one": {**proved, "event": 12, "index": 11, "size": 42, "leaf": ROOT, "proof": [ROOT]}
        },
        "RebuildProgress": _encoded(one=made.RebuildProgress(v=1, progress=FoldProgress(500, 900))),
        "Rebuilt": _encoded(
            same=Rebuilt(
                seq=900, state_hash=SHA256, same=True, seconds=1.25, database="/srv/read.db", host="box"
            )
        ),
        "RowsHead": {
            "one": {**head, "counts": {"runs": 1, "attempts": 0, "slots": 0, "nodes": 0, "timeline": 1}}
        },
        "RowsPart": {"one": {"part": 1, "table": "slots", "rows": [{"node": "gpu01", "index": 0}]}},
        "ErrorAnswer": {
            "several": _error(TrainshedError(ErrorCode.INVALID, errors[0].message, "priority", errors, 3)),
            "not_found": _error(TrainshedError(ErrorCode.NOT_FOUND, "no run 'x'")),
            "behind": _error(
                TrainshedError(ErrorCode.UNAVAILABLE, "it is only starting", progress=FoldProgress(1, 9))
            ),
        },
    }


def _requests(log: SampleLog) -> Samples:
    run_id = log.runs["running"]
    whole = decoded({"config": msgspec.to_builtins(RunConfig(entry_point="python3", run_name="whole"))})[
        "config"
    ]
    older = {
        "metadata": {
            "worker": {
                "module": "trainer.worker",
                "config": {"lr": 0.0003},
                "worker_id": "w1",
                "spare": True,
            },
            "owner": "ada",
        }
    }
    config = {
        "run_name": "ppo-cartpole",
        "entry_point": "/usr/bin/python3",
        "arguments": ["train.py", "--out", "{{run_dir}}/out"],
        "environment": {"WANDB_MODE": "offline"},
        "secrets": {"WANDB_API_KEY": {"file": "/etc/wandb"}},
        "resources": {"cpus": 4, "memory_mb": 8000, "gpus": {"requested": 1}},
        "retry": {"max_attempts": 3, "backoff_s": 30, "on": ["node_lost", "out_of_memory"]},
        "after": [run_id],
        "code": {"sha256": SHA256},
    }
    beside = {
        "caller_path": "/usr/bin:/bin",
        "provenance": _encoded(it=Provenance(folder="/srv/project"))["it"],
    }
    attempt = {"run_id": run_id, "attempt": 1}
    return {
        "RunConfig": {"least": {"entry_point": "/bin/true"}, "some": config, "older": older, "whole": whole},
        "CertRenewRequest": {"asked": {"using": SHA256}, "renewed": {"request": PEM, "using": SHA256}},
        "SubmitRequest": {"least": {"config": config}, "beside": {"config": older, **beside}},
        "BatchRequest": {"two": {"runs": [config, {"config": older, **beside}], "provenance": None}},
        "RunCommand": {"least": {"run_id": run_id}, "why": {"run_id": run_id, "reason": "no longer needed"}},
        "NodeCommand": {"least": {"node": "gpu01"}},
        "AcceptRequest": {"one": {"reason": "restored from last night's backup"}},
        "RunQuestion": {"now": {"run_id": run_id}, "then": {"run_id": run_id, "at": 12}},
        "ListRequest": {
            "all": {},
            "some": {
                "status": ["PENDING", "RUNNING"],
                "labels": {"who": "ada"},
                "limit": 100,
                "before_seq": 40,
            },
        },
        "AtRequest": {"now": {}, "then": {"at": 12}},
        "MomentRequest": {"seq": {"seq": 12}, "time": {"time": NOW}},
        "CheckpointRequest": {"whole": {}, "size": {"size": 40}},
        "ConsistencyRequest": {"one": {"from": 40, "to": 42}},
        "InclusionRequest": {"one": {"event": 12}},
        "AttemptRequest": {"one": attempt},
        "ArtifactsRequest": {"first": attempt, "next": {**attempt, "after": "policy.npz"}},
        "FilesRequest": {"one": {"attempts": [{**attempt, "artifacts": ["policy.npz"], "list": True}]}},
        "PruneRequest": {"dry": {"runs": [attempt], "dry_run": True}},
        "NoFields": {"none": {}},
        "OutputRequest": {
            "least": attempt,
            "tail": {**attempt, "stream": "stderr", "offset": -4096, "limit": 4096},
        },
        "DirectGet": {
            "log": {"seq": 1, "batch": 500, "next_by_subj": "trainshed.events.>"},
            "records": {"multi_last": ["$KV.trainshed_runs.>"], "batch": 500},
        },
    }


def _events(log: SampleLog) -> Samples:
    found: Samples = {}
    for name, (role, event) in EXAMPLES.items():
        node = "gpu01" if role is Role.AGENT else None
        body = Writer(role, lambda: BASE_NS, lambda: ID, node).new(event).body
        found[envelope_name(type(event))] = {name: _value(body)}
        found["LogEvent"] = {**found.get("LogEvent", {}), name: _value(body)}
    for heartbeat in (run_heartbeat(log.runs["running"]), node_heartbeat(log.runs["running"])):
        body = Writer(Role.AGENT, lambda: NOW_NS, lambda: ID, "gpu01").heartbeat(heartbeat)[2]
        found[envelope_name(type(heartbeat))] = {"one": _value(body)}
    objecting = msgspec.structs.replace(node_heartbeat(log.runs["running"]), objection=OBJECTION)
    body = Writer(Role.AGENT, lambda: NOW_NS, lambda: ID, "gpu01").heartbeat(objecting)[2]
    found["NodeHeartbeatMessage"]["objecting"] = _value(body)
    return found


def _published() -> Samples:
    accepted = {
        "seq": 9,
        "stored_ns": NOW_NS,
        "subject": "trainshed.events.control.log.gateway.log_accepted._",
        "body": "",
    }
    checkpoint = {"v": 1, "log_id": ID, "vkey": VKEY, "checkpoint": NOTE, "accepted": None}
    return {
        "CheckpointMessage": {"one": checkpoint, "accepted": {**checkpoint, "accepted": accepted}},
        "TelemetryLine": {
            "step": {"type": "step", "n": 12, "reward": 1.5},
            "event": {"event": "epoch", "epoch": 3},
        },
    }


def _encoded(**values: msgspec.Struct) -> dict[str, Any]:
    return {name: _value(msgspec.json.encode(with_texts(value))) for name, value in values.items()}


def _error(error: TrainshedError) -> Any:
    return _value(msgspec.json.encode(error_answer(error)))


def _value(body: bytes) -> Any:
    return json.loads(body)


if __name__ == "__main__":
    FILE.write_text(text(samples()))
