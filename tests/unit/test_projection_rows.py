"""What each event makes of the rows, told by small logs."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bench.log_maker import LogMaker
from events.codec import Writer
from events.types import (
    Artifacts,
    ArtifactsHashed,
    AttemptMemory,
    AttemptRef,
    Cancelled,
    CancelRequested,
    Completed,
    Device,
    Failed,
    GpuReading,
    LastHeartbeat,
    NodeHeartbeat,
    NodeJoined,
    NodeLeft,
    NodeLost,
    NodeRemoved,
    RetryRequested,
    SlotHealthy,
    SlotUnhealthy,
    Started,
    Stopping,
    TimedOut,
)
from projections.read_model.database import Database
from projections.read_model.heartbeats import apply_heartbeats
from projections.read_model.projector import Projector
from tests.support.read_model import LOG_ID, dump, kept_hash, memory, recomputed_hash
from trainshed_client.direct_get import Message
from trainshed_client.provenance import Provenance
from trainshed_client.records import AttemptUsage
from trainshed_client.rendering.timeline import text_of_stored
from trainshed_client.statuses import AtFault, CodeSeen, FailureReason
from trainshed_client.subjects import Role

RETRIES: dict[str, object] = {
    "entry_point": "/usr/bin/python3",
    "arguments": ["train.py"],
    "labels": {"user": "ada"},
    "resources": {"gpus": {"requested": 1}},
    "retry": {"max_attempts": 2, "backoff_s": 10},
}
ATTEMPT_COLUMNS = (
    "node",
    "host",
    "pid",
    "dispatched_at",
    "started_at",
    "ready_at",
    "ended_at",
    "last_heartbeat_at",
    "exit_code",
    "signal",
    "failure_reason",
    "step",
    "progress",
    "status_text",
)
TOLD = LastHeartbeat(
    ready_at="2026-11-24T08:00:01.000000Z",
    last_heartbeat_at="2026-11-24T08:00:09.000000Z",
    step=1200,
    progress=0.5,
    status_text="learning",
    metrics={"reward": 195.5},
    seq=4,
)


class Model:
    """A log and the tables made of it so far, one message a batch, so that rows can be looked at in between."""

    def __init__(self) -> None:
        self.log = LogMaker()
        self.log.elect()
        self.log.join()
        self.database: Database = memory()
        self._projector = Projector.open(self.database, LOG_ID, 10**9)

    def table(self, name: str) -> list[dict[str, Any]]:
        for message in self.log.messages[self._projector.seq :]:
            self._projector.apply([message])
        dumped = dump(self.database)
        assert kept_hash(dumped) == recomputed_hash(dumped)
        return dumped[name]

    def run(self, run_id: str) -> dict[str, Any]:
        return next(row for row in self.table("runs") if row["run_id"] == run_id)

    def attempt(self, run_id: str, number: int = 1) -> dict[str, Any]:
        rows = self.table("attempts")
        return next(row for row in rows if (row["run_id"], row["attempt"]) == (run_id, number))

    def slot(self, index: int = 0, node: str = "gpu01") -> dict[str, Any] | None:
        rows = self.table("slots")
        return next((row for row in rows if (row["node"], row["index"]) == (node, index)), None)

    def node(self, name: str = "gpu01") -> dict[str, Any]:
        return next(row for row in self.table("nodes") if row["node"] == name)

    def past_runs(self) -> int:
        """How many forms of runs are kept that no longer stand."""
        with self.database.reading() as connection:
            return int(connection.exec_driver_sql("SELECT count(*) FROM past_runs").scalar_one())

    def heartbeat(self, node: str, *gpus: GpuReading) -> None:
        """A node's, heard once all that was told before is folded."""
        self.table("runs")
        said = NodeHeartbeat(node=node, incarnation=f"{node}-a", gpus=gpus)
        subject, _, body = Writer(Role.AGENT, lambda: 0, lambda: "id", node).heartbeat(said)
        apply_heartbeats(self._projector, [Message(1, 1, subject, body)])

    def told(self, run_id: str) -> list[tuple[str, str]]:
        return [
            (row["type"], text_of_stored(row["type"], row["data"]))
            for row in self.table("timeline")
            if row["run_id"] == run_id
        ]

    def running(self, config: dict[str, object] | None = None) -> str:
        run_id = self.log.submit(config)
        self.log.dispatch(run_id)
        self.log.start(run_id)
        return run_id

    def fail(self, run_id: str, attempt: int = 1, node: str = "gpu01", **fields: Any) -> int:
        event = Failed(run_id=run_id, attempt=attempt, failure_reason=FailureReason.EXIT_CODE, exit_code=3)
        return self.log.by_agent(msgspec.structs.replace(event, **fields), node)


@pytest.fixture
def model() -> Model:
    return Model()


def test_a_record_says_where_the_run_has_its_folder_until_another_attempt_waits(model: Model) -> None:
    run_id = model.log.submit(RETRIES)
    model.log.dispatch(run_id)
    assert model.run(run_id)["folder"] is None
    model.log.start(run_id)
    folder = f"/srv/runs/{run_id}"
    assert (model.run(run_id)["folder"], model.attempt(run_id)["folder"]) == (folder, folder)
    model.fail(run_id)
    assert (model.run(run_id)["folder"], model.attempt(run_id)["folder"]) == (None, folder)
    model.log.dispatch(run_id, 2)
    older = Started(run_id=run_id, attempt=2, pid=1, host="gpu01.lab")  # an agent of 0.1 does not name it
    model.log.by_agent(older, "gpu01")
    assert model.run(run_id)["folder"] is None
    model.fail(run_id, 2)
    assert model.run(run_id)["status"] == "FAILED"


def test_a_record_says_of_what_code_the_run_is(model: Model) -> None:
    read = Provenance(folder="/home/ada/lab", commit="a" * 40, dirty=True, ignore=("*.pt",))
    config: dict[str, object] = {"entry_point": "/bin/true", "code": {"sha256": "0" * 64}}
    run_id = model.log.submit(config, provenance=read)
    assert msgspec.json.decode(model.run(run_id)["submitted_code"]) == {
        "sha256": "0" * 64,
        "partial": False,
        "folder": "/home/ada/lab",
        "commit": "a" * 40,
        "dirty": True,
    }
    unsaid = model.log.submit({**config, "submission_key": "unsaid"})
    told = msgspec.json.decode(model.run(unsaid)["submitted_code"])
    assert (told["folder"], told["commit"], told["dirty"]) == (None, None, None)
    assert model.run(model.running())["submitted_code"] == "null"


def test_a_record_says_what_artifacts_were_left_and_what_became_of_them(model: Model) -> None:
    run_id = model.running()
    listed = Artifacts(count=200, bytes=7, partial=True)
    model.log.by_agent(
        ArtifactsHashed(run_id=run_id, attempt=1, artifacts=listed), "gpu01"
    )  # nobody does: it runs
    assert model.run(run_id)["artifacts"] == "null"
    end = model.log.by_agent(Completed(run_id=run_id, attempt=1, artifacts=listed), "gpu01")
    said = {"count": 200, "bytes": 7, "partial": True}
    for row in (model.run(run_id), model.attempt(run_id)):
        assert msgspec.json.decode(row["artifacts"]) == said
    # hashed as they were listed: the record is what it was, and no past of it is kept
    model.log.by_agent(ArtifactsHashed(run_id=run_id, attempt=1, artifacts=listed), "gpu01")
    assert (model.run(run_id)["seq"], model.past_runs()) == (end, 0)
    more = Artifacts(count=201, bytes=9)
    seq = model.log.by_agent(ArtifactsHashed(run_id=run_id, attempt=1, artifacts=more), "gpu01")
    run = model.run(run_id)
    assert msgspec.json.decode(run["artifacts"]) == {"count": 201, "bytes": 9, "partial": False}
    assert (run["seq"], run["status"], model.past_runs()) == (seq, "COMPLETED", 1)
    model.log.by_agent(ArtifactsHashed(run_id=run_id, attempt=1), "gpu01")  # they are gone
    assert (model.run(run_id)["artifacts"], model.attempt(run_id)["artifacts"]) == ("null", "null")
    model.log.by_agent(ArtifactsHashed(run_id=run_id, attempt=1, artifacts=more), "gpu02")
    assert model.run(run_id)["artifacts"] == "null"


LAST_WORDS = "Traceback (most recent call last):\n  File \"train.py\", line 1\nModuleNotFoundError: No module named 'torch'\n"


def test_an_end_bears_the_line_that_tells_why_and_a_requeue_clears_it_in_the_run(model: Model) -> None:
    run_id = model.running({**RETRIES, "schedule": {"max_steps": 500}})
    model.fail(run_id, output_tail=LAST_WORDS)
    told = "ModuleNotFoundError: No module named 'torch'"
    assert (model.attempt(run_id)["error"], model.run(run_id)["error"]) == (told, None)
    assert model.run(run_id)["max_steps"] == 500
    model.log.dispatch(run_id, attempt=2)
    model.log.start(run_id, attempt=2)
    model.fail(run_id, attempt=2, output_tail="no data\n", output_of="stderr")
    assert (model.attempt(run_id, 2)["error"], model.run(run_id)["error"]) == ("no data", "no data")
    model.log.by_gateway(RetryRequested(run_id=run_id, attempt=2))
    assert (model.attempt(run_id, 2)["error"], model.run(run_id)["error"]) == ("no data", None)


def test_a_submitted_run_is_pending_with_its_next_attempt_and_its_config(model: Model) -> None:
    run_id = model.log.submit(RETRIES, by="ada")
    run = model.run(run_id)
    assert (run["status"], run["attempt"], run["seq"], run["submit_seq"]) == ("PENDING", 1, 3, 3)
    assert (run["name"], run["cpus"], run["gpus"], run["submitted_by"]) == ("python3", 1, 1, "ada")
    assert msgspec.json.decode(run["command"]) == ["/usr/bin/python3", "train.py"]
    assert msgspec.json.decode(run["config"]) == RETRIES
    assert run["submitted_at"] == run["updated_at"] == "2026-09-21T14:13:20.003000Z"


def test_a_grant_and_a_start_are_told_by_run_attempt_slot_and_node(model: Model) -> None:
    run_id = model.log.submit(RETRIES)
    granted = model.log.dispatch(run_id, slots=(1,))
    run, slot, node = model.run(run_id), model.slot(1), model.node()
    assert (run["status"], run["node"], run["slots"], run["host"]) == ("DISPATCHING", "gpu01", "[1]", None)
    assert slot is not None
    assert (slot["run_id"], slot["attempt"], slot["seq"]) == (run_id, 1, granted)
    assert (node["slots_used"], node["cpus_used"], node["seq"]) == (1, 1, granted)
    started = model.log.start(run_id, slots=(1,))
    run, attempt = model.run(run_id), model.attempt(run_id)
    assert (run["status"], run["pid"], run["host"], run["seq"]) == ("RUNNING", 4242, "gpu01.lab", started)
    assert (attempt["status"], attempt["pid"], attempt["node"]) == ("RUNNING", 4242, "gpu01")
    assert model.node()["seq"] == granted, "a start changes nothing of a node"


def test_an_end_keeps_what_the_worker_told_last_and_frees_the_slot(model: Model) -> None:
    run_id = model.running()
    ended = model.log.by_agent(Completed(run_id=run_id, attempt=1, last_heartbeat=TOLD), "gpu01")
    run, attempt, slot = model.run(run_id), model.attempt(run_id), model.slot()
    for row in (run, attempt):
        assert (row["status"], row["exit_code"], row["step"]) == ("COMPLETED", 0, 1200)
        assert (row["ready_at"], row["metrics"]) == (TOLD.ready_at, '{"reward":195.5}')
        assert row["ended_at"] == "2026-09-21T14:13:20.006000Z"
    assert (run["seq"], run["node"]) == (ended, "gpu01")
    assert slot is not None
    assert (slot["run_id"], slot["attempt"], slot["seq"]) == (None, None, ended)
    assert (model.node()["slots_used"], model.node()["seq"]) == (0, ended)


def test_an_end_without_a_last_heartbeat_clears_what_was_told(model: Model) -> None:
    run_id = model.running()
    model.fail(run_id)
    run = model.run(run_id)
    assert (run["status"], run["failure_reason"], run["exit_code"]) == ("FAILED", "exit_code", 3)
    assert (run["step"], run["last_heartbeat_at"], run["metrics"]) == (None, None, "{}")


def test_a_requeue_clears_the_attempts_columns_and_keeps_them_with_the_attempt(model: Model) -> None:
    run_id = model.running(RETRIES)
    model.fail(run_id, last_heartbeat=TOLD)
    run, attempt = model.run(run_id), model.attempt(run_id)
    assert (run["status"], run["attempt"], run["slots"], run["metrics"]) == ("PENDING", 2, "[]", "{}")
    assert {name: run[name] for name in ATTEMPT_COLUMNS} == dict.fromkeys(ATTEMPT_COLUMNS)
    assert (attempt["status"], attempt["exit_code"], attempt["step"]) == ("FAILED", 3, 1200)
    assert model.told(run_id)[-1] == ("failed", "exit 3, queued again: attempt 2 in 10 s")


def test_whether_memory_is_enforced_is_with_node_attempt_and_run_from_the_start_on(model: Model) -> None:
    assert model.node()["memory_enforced"] is None
    node = NodeJoined(
        node="gpu01", incarnation="gpu01-a", host="h", cpus=8, memory_mb=64_000, memory_enforced=True
    )
    model.log.by_agent(node, "gpu01")
    assert model.node()["memory_enforced"] == 1
    run_id = model.log.submit(RETRIES)
    model.log.dispatch(run_id)
    started = Started(run_id=run_id, attempt=1, pid=7, host="h", memory_enforced=False)
    model.log.by_agent(started, "gpu01")
    assert (model.run(run_id)["memory_enforced"], model.attempt(run_id)["memory_enforced"]) == (0, 0)
    model.fail(run_id, failure_reason=FailureReason.OUT_OF_MEMORY, message="it needed more")
    assert (model.run(run_id)["memory_enforced"], model.attempt(run_id)["memory_enforced"]) == (None, 0)
    assert model.told(run_id)[-1][1].startswith("out of memory: it needed more, queued again")


def test_waiting_is_the_time_in_the_queue_and_running_the_workers_own(model: Model) -> None:
    """Each event of these logs is stored 1 ms after the one before."""
    run_id = model.log.submit(RETRIES)
    first = model.run(run_id)
    assert (first["queued_at"], first["waited_s"], first["duration_s"]) == (first["submitted_at"], 0.0, None)
    model.log.dispatch(run_id)
    model.log.start(run_id)
    assert (model.run(run_id)["queued_at"], model.run(run_id)["waited_s"]) == (None, 0.001)
    model.fail(run_id, duration_s=3.5)
    again, attempt = model.run(run_id), model.attempt(run_id)
    assert (again["queued_at"], again["duration_s"]) == (again["updated_at"], None)
    assert attempt["duration_s"] == 3.5
    model.log.by_gateway(CancelRequested(run_id=run_id))
    model.log.by_dispatcher(Cancelled(run_id=run_id, attempt=2, epoch=model.log.epoch))
    ended = model.run(run_id)
    assert (ended["status"], ended["queued_at"], ended["waited_s"]) == ("CANCELLED", None, 0.003)


def test_what_an_attempt_used_is_with_it_and_with_the_run_that_ended_so(model: Model) -> None:
    run_id = model.running(RETRIES)
    model.fail(run_id, usage=AttemptUsage(cpu_s=2.5, memory_peak_mb=300))
    assert model.run(run_id)["usage"] == "{}"
    told = {"cpu_s": 2.5, "gpu_busy_s": None, "gpu_memory_peak_mb": None, "memory_peak_mb": 300}
    assert msgspec.json.decode(model.attempt(run_id)["usage"]) == told
    model.log.dispatch(run_id, 2)
    model.log.start(run_id, 2)
    model.log.by_agent(Completed(run_id=run_id, attempt=2, usage=AttemptUsage(cpu_s=3.5)), "gpu01")
    assert msgspec.json.decode(model.run(run_id)["usage"])["cpu_s"] == 3.5
    assert msgspec.json.decode(model.attempt(run_id)["usage"]) == told
    model.log.by_gateway(RetryRequested(run_id=run_id, attempt=2))
    assert model.run(run_id)["usage"] == "{}"


def test_what_a_node_saw_of_the_code_is_with_each_attempt_and_with_the_run_that_ended_so(
    model: Model,
) -> None:
    run_id = model.running(RETRIES)
    model.fail(run_id, code=CodeSeen.CHANGED)
    assert (model.run(run_id)["code"], model.attempt(run_id)["code"]) == (None, "changed")
    model.log.dispatch(run_id, 2)
    model.log.start(run_id, 2)
    model.fail(run_id, 2, code=CodeSeen.SAME)
    assert [model.run(run_id)["code"], *(model.attempt(run_id, n)["code"] for n in (1, 2))] == [
        "same",
        "changed",
        "same",
    ]
    model.log.by_gateway(RetryRequested(run_id=run_id, attempt=2))
    assert model.run(run_id)["code"] is None


def test_where_the_code_stood_is_told_with_the_submission(model: Model) -> None:
    provenance = Provenance(folder="/srv/rl", commit="9d31", dirty=True)
    run_id = model.log.submit(provenance=provenance, caller_path="/srv/venv/bin:/bin")
    (row,) = (one for one in model.table("timeline") if one["run_id"] == run_id)
    told = {
        "by": "local",
        "caller_path": "/srv/venv/bin:/bin",
        "commit": "9d31",
        "dirty": True,
        "folder": "/srv/rl",
    }
    assert msgspec.json.decode(row["data"]) == told
    plain = model.log.submit()
    (row,) = (one for one in model.table("timeline") if one["run_id"] == plain)
    assert msgspec.json.decode(row["data"]) == {"by": "local"}


def test_a_retry_of_an_ended_run_is_its_next_attempt(model: Model) -> None:
    run_id = model.running()
    model.log.by_gateway(CancelRequested(run_id=run_id))
    model.fail(run_id)
    assert model.run(run_id)["status"] == "CANCELLED"
    seq = model.log.by_gateway(RetryRequested(run_id=run_id, attempt=1, requested_by="ada"))
    run = model.run(run_id)
    assert (run["status"], run["attempt"], run["seq"]) == ("PENDING", 2, seq)
    assert (run["cancel_requested"], run["exit_code"], run["ended_at"]) == (False, None, None)
    assert model.attempt(run_id)["exit_code"] == 3
    assert model.told(run_id)[-2:] == [
        ("failed", "exit 3, cancelled as requested"),
        ("retry_requested", "retry requested by ada: attempt 2 is queued"),
    ]


def test_a_late_end_changes_the_attempts_late_result_alone(model: Model) -> None:
    run_id = model.running()
    model.log.by_gateway(CancelRequested(run_id=run_id, reason="too slow"))
    model.log.by_agent(Cancelled(run_id=run_id, attempt=1), "gpu01")
    before = model.run(run_id)
    model.log.complete(run_id)
    assert model.run(run_id) == before
    assert model.attempt(run_id)["late_result"] == "COMPLETED"
    model.fail(run_id)
    assert model.attempt(run_id)["late_result"] == "FAILED exit_code 3"
    assert model.told(run_id)[-1] == ("failed", "too late to count: gpu01 reported attempt 1 as exit 3")


def test_a_late_end_of_a_node_that_never_had_the_attempt_is_passed_over(model: Model) -> None:
    run_id = model.running()
    model.fail(run_id)
    before = model.told(run_id)
    model.fail(run_id, node="gpu02")
    assert model.attempt(run_id)["late_result"] is None
    assert model.told(run_id) == before


def test_what_does_not_count_is_not_told(model: Model) -> None:
    run_id = model.log.submit(RETRIES)
    model.log.by_gateway(CancelRequested(run_id=run_id))
    before = model.told(run_id), model.run(run_id)
    model.log.by_gateway(CancelRequested(run_id=run_id))
    model.log.submit(RETRIES)
    model.log.dispatch(run_id, attempt=7)
    model.log.dispatch(run_id, epoch=99)
    model.log.start(run_id)
    assert (model.told(run_id), model.run(run_id)) == before


def test_a_run_cancelled_in_the_queue_ends_without_an_attempt(model: Model) -> None:
    run_id = model.log.submit()
    model.log.by_gateway(CancelRequested(run_id=run_id, reason="a typo", requested_by="ada"))
    model.log.by_dispatcher(Cancelled(run_id=run_id, attempt=1, epoch=model.log.epoch, reason="a typo"))
    run = model.run(run_id)
    assert (run["status"], run["cancel_requested"], run["failure_reason"]) == ("CANCELLED", True, None)
    assert run["ended_at"] is not None
    assert model.table("attempts") == []
    assert [text for _, text in model.told(run_id)] == [
        "submitted by local",
        "cancel requested by ada: a typo",
        "cancelled: a typo",
    ]


def test_a_removed_node_ends_its_attempts_and_loses_its_slots(model: Model) -> None:
    run_id = model.running(RETRIES)
    lost = NodeLost(node="gpu01", incarnation="gpu01-a", epoch=model.log.epoch, silent_s=15)
    model.log.by_dispatcher(lost)
    assert model.node()["status"] == "lost"
    assert model.run(run_id)["status"] == "RUNNING"
    model.log.by_gateway(NodeRemoved(node="gpu01", incarnation="gpu01-a"))
    assert model.run(run_id)["status"] == "PENDING"
    assert model.attempt(run_id)["failure_reason"] == "node_lost"
    assert model.table("nodes") == []
    assert model.table("slots") == []
    text = "node gpu01 was removed, queued again: attempt 2 in 10 s"
    assert model.told(run_id)[-1] == ("node_removed", text)


def test_a_node_on_loan_takes_its_rows_with_it_and_comes_back_as_a_new_one(model: Model) -> None:
    model.log.join(borrowed=True)
    run_id = model.running()
    left = NodeLeft(
        node="gpu01", incarnation="gpu01-a", upto=model.log.seq, attempts=(AttemptRef(run_id, 1),)
    )
    model.log.by_agent(left, "gpu01")
    assert (model.node()["status"], model.node()["slots_used"]) == ("left", 1)
    model.log.complete(run_id)
    assert (model.table("nodes"), model.table("slots")) == ([], [])
    assert model.run(run_id)["node"] == "gpu01"
    seq = model.log.join(slots=1, borrowed=True)
    assert (model.node()["status"], model.node()["seq"], model.node()["slots_used"]) == ("up", seq, 0)
    assert len(model.table("slots")) == 1


def test_a_slot_that_left_the_inventory_stays_while_an_attempt_holds_it(model: Model) -> None:
    run_id = model.log.submit()
    model.log.dispatch(run_id, slots=(1,))
    model.log.join(slots=1, attempts=(AttemptRef(run_id, 1),))
    slot = model.slot(1)
    assert slot is not None
    assert slot["run_id"] == run_id
    model.log.complete(run_id)
    assert model.slot(1) is None
    assert model.slot(0) is not None


def test_an_unhealthy_slot_is_told_by_its_own_row(model: Model) -> None:
    before = model.slot(1)
    seq = model.log.by_agent(SlotUnhealthy(node="gpu01", incarnation="gpu01-a", index=0), "gpu01")
    slot = model.slot(0)
    assert slot is not None
    assert (slot["healthy"], slot["seq"]) == (False, seq)
    assert model.slot(1) == before
    assert model.node()["seq"] < seq, "none of the node's own columns changed"


def test_a_suspect_node_says_since_when_and_why_until_a_worker_is_started_there(model: Model) -> None:
    runs = [model.log.submit() for _ in range(4)]
    for number, run_id in enumerate(runs[:3]):
        assert model.node()["suspect_since"] is model.node()["suspect_reason"] is None
        model.log.dispatch(run_id)
        failed = Failed(
            run_id=run_id,
            attempt=1,
            failure_reason=FailureReason.NOT_STARTED,
            at_fault=AtFault.NODE,
            message=f"full {number}",
        )
        ended = model.log.by_agent(failed, "gpu01")
        assert model.attempt(run_id)["at_fault"] == "node"
    node = model.node()
    assert (node["suspect_reason"], node["seq"], node["status"]) == ("full 2", ended, "up")
    assert node["suspect_since"] == model.attempt(runs[0])["ended_at"]
    model.log.dispatch(runs[3])
    started = model.log.start(runs[3])
    node = model.node()
    assert (node["suspect_since"], node["suspect_reason"], node["seq"]) == (None, None, started)


def test_why_a_slot_is_unhealthy_is_told_until_it_is_healthy(model: Model) -> None:
    of = {"node": "gpu01", "incarnation": "gpu01-a"}
    for event, told in (
        (SlotUnhealthy(**of, index=0, reason="external"), (False, "external")),
        (SlotUnhealthy(**of, index=1, reason="lost"), (False, "external")),
        (SlotHealthy(**of, index=0), (True, None)),
        (SlotUnhealthy(**of, index=0), (False, None)),
    ):
        model.log.by_agent(event, "gpu01")
        slot = model.slot(0)
        assert slot is not None and (slot["healthy"], slot["unhealthy_reason"]) == told


def test_slots_of_one_device_share_what_is_read_of_it_and_a_run_has_its_own_memory(model: Model) -> None:
    one = Device(index=0, uuid="GPU-x", gpu=0)
    gpus = (
        one,
        *(msgspec.structs.replace(one, index=i, gpu=i // 2, uuid=f"GPU-{i // 2}") for i in (1, 2, 3)),
    )
    join = NodeJoined(node="gpu02", incarnation="gpu02-a", host="h", cpus=9, memory_mb=9, gpus=gpus)
    model.log.by_agent(join, "gpu02")
    assert (model.node("gpu02")["gpus"], model.node("gpu02")["slots_total"]) == (2, 4)
    first, both = model.log.submit(), model.log.submit()
    model.log.dispatch(first, node="gpu02", slots=(0,))
    model.log.dispatch(both, node="gpu02", slots=(1, 2))
    used = [
        AttemptMemory(run_id=run_id, attempt=1, memory_mb=mb) for run_id, mb in ((first, 300), (both, 40))
    ]
    seq = model.run(both)["seq"]
    ended = AttemptMemory(run_id=first, attempt=9, memory_mb=7)
    model.heartbeat(
        "gpu02",
        GpuReading(index=0, memory_used_mb=500, utilisation=60, other_pids=(7,), attempts=(*used, ended)),
        GpuReading(index=2, memory_used_mb=80, attempts=(used[1],)),
    )
    columns = ("gpu", "memory_used_mb", "utilisation", "other_pids", "attempt_memory_mb")
    slots = [slot for slot in model.table("slots") if slot["node"] == "gpu02"]
    assert [tuple(slot[name] for name in columns) for slot in slots] == [
        (0, 500, 60, "[7]", 300),
        (0, 500, 60, "[7]", 40),
        (1, 80, None, "[]", 40),
        (1, 80, None, "[]", None),
    ]
    assert (model.attempt(first)["gpu_memory_mb"], model.attempt(both)["gpu_memory_mb"]) == (300, 80)
    assert model.run(both)["seq"] == seq
    model.heartbeat("gpu02", GpuReading(index=0, memory_used_mb=500, utilisation=60, attempts=(used[0],)))
    assert (model.attempt(first)["gpu_memory_mb"], model.attempt(both)["gpu_memory_mb"]) == (300, None)
    model.log.complete(first, node="gpu02")
    slot = model.slot(0, "gpu02")
    assert slot is not None and (slot["attempt_memory_mb"], slot["memory_used_mb"]) == (None, 500)
    assert model.attempt(first)["gpu_memory_mb"] is None


def test_a_stopping_moves_no_column_and_is_told_once(model: Model) -> None:
    run_id = model.running()
    before = model.run(run_id)
    stopping = Stopping(
        run_id=run_id,
        attempt=1,
        epoch=model.log.epoch,
        node="gpu01",
        incarnation="gpu01-a",
        reason="cancel",
    )
    model.log.by_dispatcher(stopping)
    model.log.by_dispatcher(stopping)
    after = model.run(run_id)
    assert {k: v for k, v in after.items() if k != "fold"} == {k: v for k, v in before.items() if k != "fold"}
    assert [type_ for type_, _ in model.told(run_id)].count("stopping") == 1


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (
            TimedOut(run_id="", attempt=1, failure_reason=FailureReason.WORKER_TIMEOUT, timeout_s=300),
            "silent for 300 s",
        ),
        (
            TimedOut(run_id="", attempt=1, failure_reason=FailureReason.TIME_LIMIT, timeout_s=60),
            "stopped at its time limit of 60 s",
        ),
        (Failed(run_id="", attempt=1, failure_reason=FailureReason.SIGNAL, signal=9), "killed by signal 9"),
        (
            Failed(run_id="", attempt=1, failure_reason=FailureReason.SPAWN_ERROR, message="no such file: x"),
            "could not be started: no such file: x",
        ),
        (Completed(run_id="", attempt=1), "completed"),
    ],
)
def test_each_end_is_told_in_plain_words(model: Model, event: Any, text: str) -> None:
    run_id = model.running()
    model.log.by_agent(msgspec.structs.replace(event, run_id=run_id), "gpu01")
    assert model.told(run_id)[-1][1] == text


def test_an_unknown_failure_reason_counts_as_unspecified_and_is_kept_aside(
    model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = model.running()
    model.fail(run_id)
    message = model.log.messages.pop()
    body = message.body.replace(b'"failure_reason":"exit_code"', b'"failure_reason":"cosmic_ray"')
    model.log.messages.append(message._replace(body=body))
    assert model.run(run_id)["failure_reason"] == "UNSPECIFIED"
    [kept] = model.table("quarantine")
    assert (kept["seq"], kept["subject"], kept["body"]) == (message.seq, message.subject, body)
    [warning] = [record for record in caplog.records if record.name == "trainshed.projector"]
    assert str(message.seq) in warning.getMessage()
    assert message.subject in warning.getMessage()


def test_poison_is_kept_aside_and_what_follows_is_folded(model: Model) -> None:
    poison = model.log.raw("trainshed.events.run.abc.agent.exploded.gpu01", b"\xff not json")
    run_id = model.log.submit()
    assert model.run(run_id)["status"] == "PENDING"
    [kept] = model.table("quarantine")
    assert (kept["seq"], kept["body"]) == (poison, b"\xff not json")
    assert "exploded" in kept["reason"]
