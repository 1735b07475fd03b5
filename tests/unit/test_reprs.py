"""How records read in a notebook."""

from __future__ import annotations

from tests.support.times import at
from tests.unit.test_cli_words import failed, record
from trainshed_client.answers import Submission
from trainshed_client.records import NodeRecord, QueuePlace, QueueRecord, SlotRecord
from trainshed_client.statuses import FailureReason, NodeStatus, RunStatus

RUN = "k3f2q7" + "a" * 20


def test_records_read_as_one_short_line() -> None:
    one = record(RUN, node="gpu01", attempt=2, step=120_000, metrics={"fps": 900.0, "reward": 195.21})
    assert repr(one) == "<run k3f2q7 'ppo' RUNNING on gpu01, attempt 2, step 120000, reward 195.2>"
    assert repr(failed(FailureReason.EXIT_CODE, exit_code=3)) == "<run k3f2q7 'ppo' FAILED, exit code 3>"
    assert repr(failed(FailureReason.NODE_LOST)) == "<run k3f2q7 'ppo' FAILED, node_lost>"
    assert repr(SlotRecord(node="gpu01", index=0)) == "<slot gpu01:0 free>"
    assert repr(SlotRecord(node="gpu01", index=0, run_id=RUN)) == "<slot gpu01:0 held by run k3f2q7>"
    assert repr(SlotRecord(node="gpu01", index=1, healthy=False)) == "<slot gpu01:1 unhealthy>"
    node = NodeRecord(
        node="gpu01", host="h", incarnation="i", status=NodeStatus.UP, drained=True, cpus=8, cpus_used=3
    )
    assert repr(node) == "<node gpu01 up, drained, 0 of 0 slots and 3 of 8 CPUs used>"
    queue = QueueRecord(seq=1, at=at("2026-11-24T09:00:00Z"), total=1, runs=[QueuePlace(run_id=RUN)])
    assert repr(queue) == "<queue of 1 run, first k3f2q7>"
    answer = Submission(run_id=RUN, digest="d", created=True, status=RunStatus.PENDING, seq=1)
    assert repr(answer) == f"<submission of run {RUN} PENDING, created>"
