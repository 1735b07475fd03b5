"""Who has the stack's password may publish in a node's name: the node knows what it said, and objects to the rest."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nats
import pytest

from events.codec import Writer
from events.types import Artifacts, ArtifactsHashed, Completed, Failed, RunEvent, Started
from services import failpoints
from tests.support.stack import Stack, service_endpoint, until
from trainshed_client.statuses import FailureReason
from trainshed_client.subjects import Role

NewStack = Callable[..., Stack]
OBJECTS = "this node objects to the event log"


async def forge(stack: Stack, *events: RunEvent, node: str) -> list[int]:
    """Publish these as the node's own words, by a plain client with the node's own credentials; their sequences."""
    endpoint = service_endpoint(stack.state_dir, "agent")
    nc = await nats.connect(endpoint.url, user=endpoint.user, password=endpoint.password)
    try:
        writer = Writer(Role.AGENT, time.time_ns, node=node)
        stored = []
        for event in events:
            new = writer.new(event)
            answer = await nc.request(new.subject, new.body, headers={"Nats-Msg-Id": new.id}, timeout=5)
            stored.append(json.loads(answer.data)["seq"])
        return stored
    finally:
        await nc.close()


def node_of(stack: Stack) -> dict[str, Any]:
    [node] = stack.trainshed("nodes", json=True)["nodes"]
    return dict(node)


def objection(stack: Stack, within: float = 10.0) -> dict[str, Any]:
    found = until(lambda: node_of(stack)["witness_objection"], within, what="the node's objection")
    assert found is not None
    assert found["kind"] == "not_said"
    return dict(found)


def said_errors(stack: Stack) -> list[dict[str, Any]]:
    return [line for line in stack.warnings() if line["event"] == OBJECTS]


@contextmanager
def held_back(stack: Stack) -> Iterator[Callable[[int], str]]:
    """A run that ends, with the code that is asked for, when the test says so."""
    gates: list[Path] = []

    def submit(code: int) -> str:
        gate = stack.state_dir / f"gate-{len(gates)}"
        gates.append(gate)
        run = stack.submit(shell=f"until [ -e {gate} ]; do sleep 0.05; done; exit {code}")
        stack.running(run)
        return run

    yield submit
    for gate in gates:
        gate.touch()


async def test_an_end_that_is_forged_while_the_worker_runs_is_objected_to_and_the_true_end_is_told(
    new_stack: NewStack,
) -> None:
    stack = new_stack()
    node = node_of(stack)["node"]
    with held_back(stack) as submit:
        run = submit(3)
        [seq] = await forge(stack, Completed(run_id=run, attempt=1, duration_s=1.0), node=node)
        found = objection(stack)
        what = f"event {seq} (completed of run {run} attempt 1)"
        assert found["event"] == seq
        assert what in found["text"]
        assert "its worker still runs" in found["text"]
        assert f"{node} objects to the log since" in stack.trainshed("nodes").stderr
        assert stack.record(run)["status"] == "COMPLETED"  # the log is what counts
        assert stack.workers().get(run)  # and no silence or word of another ends a worker
        verdict = stack.trainshed("audit", "verify", json=True, code=1)
        [violation] = verdict["violations"]
        assert (violation["invariant"], violation["seq"]) == ("I8", seq)
        assert what in violation["message"]
        after = stack.submit(shell="exit 0")
    until(lambda: stack.show(run)["attempts"][0]["late_result"] == "FAILED exit_code 3", 20.0)
    stack.wait(after)  # the node goes on working
    verdict = stack.trainshed("audit", "verify", json=True, code=1)
    assert {(one["invariant"], one["seq"] == seq) for one in verdict["violations"]} == {
        ("I8", True),
        ("I9", False),  # the node's own end is a second one
    }
    assert len(said_errors(stack)) == 1

    stack.stop(signal.SIGKILL)
    stack.start()
    assert objection(stack)["event"] == seq  # kept over a restart
    stack.trainshed("audit", "accept", "--reason", "a password that was lent is changed")
    until(lambda: node_of(stack)["witness_objection"] is None, 20.0, what="a new beginning")
    stack.wait(stack.submit(shell="exit 0"))
    assert node_of(stack)["witness_objection"] is None


async def test_words_that_are_forged_ahead_of_the_nodes_own_are_found_where_it_appends_its_own(
    new_stack: NewStack,
) -> None:
    stack = new_stack()
    node = node_of(stack)["node"]
    with held_back(stack) as submit:
        run = submit(0)
        seqs = await forge(
            stack,
            ArtifactsHashed(run_id=run, attempt=1, artifacts=Artifacts(count=0, bytes=0)),
            Started(run_id=run, attempt=1, pid=1, host="elsewhere"),
            node=node,
        )
    stack.wait(run)
    objection(stack)
    lines = until(lambda: said_errors(stack) if len(said_errors(stack)) == 2 else None, 10.0)
    assert lines is not None
    assert sorted(line["reason"].split()[1] for line in lines) == sorted(map(str, seqs))
    show = stack.show(run)
    assert show["run"]["status"] == "COMPLETED"
    assert show["attempts"][0]["late_result"] is None


async def test_a_failure_that_is_forged_and_retried_is_objected_to_by_the_node_that_knows_better(
    new_stack: NewStack,
) -> None:
    stack = new_stack()
    node = node_of(stack)["node"]
    with held_back(stack) as submit:
        run = submit(0)
        failed = Failed(run_id=run, attempt=1, failure_reason=FailureReason.NOT_STARTED)
        [seq] = await forge(stack, failed, node=node)
    found = objection(stack, 15.0)
    assert found["event"] == seq
    until(lambda: stack.show(run)["attempts"][0]["late_result"] == "COMPLETED", 20.0)


@pytest.mark.parametrize("point", ["agent.end_appended", "agent.exit_seen", "agent.started_appended"])
def test_a_node_that_is_killed_as_it_speaks_takes_its_own_words_for_its_own(
    new_stack: NewStack, tmp_path: Path, point: str
) -> None:
    (tmp_path / "struck").mkdir()
    armed = {failpoints.ARMED: f"{point}=kill@1", failpoints.ONCE_IN: str(tmp_path / "struck")}
    stack = new_stack(environment=armed)
    run = stack.submit(shell="sleep 1; exit 3")
    assert stack.process.wait(20) == -signal.SIGKILL
    stack.start()
    [record] = stack.wait(run, code=None)
    assert record["exit_code"] == 3
    end = stack.trainshed("audit", "verify", json=True)["seq"]
    until(lambda: (node_of(stack)["witnessed_size"] or 0) >= end, 20.0, what="the node's cosignature")
    assert node_of(stack)["witness_objection"] is None
    assert stack.show(run)["attempts"][0]["late_result"] is None
