"""The oracle of time travel against a read model that was asked while the log grew, with heartbeats in between."""

from __future__ import annotations

import random
from typing import Any

import pytest

from events.codec import Writer
from events.state import Active
from events.types import RunHeartbeat
from projections.read_model.heartbeats import apply_heartbeats
from projections.read_model.projector import Projector
from tests.support.random_log import RandomLog
from tests.support.read_model import LOG_ID, Asked, decoded, dump, kept_hash, memory
from tests.support.replayed_at import ReplayedAt, without_heartbeats
from trainshed_client.direct_get import Message
from trainshed_client.subjects import Role


@pytest.mark.parametrize("seed", range(3))
def test_a_moment_is_answered_as_it_was_answered_then_but_for_heartbeats(seed: int) -> None:
    log, database = RandomLog(seed), memory()
    projector = Projector.open(database, LOG_ID, 10**9)
    asked = Asked(database, lambda: log.messages[projector.seq - 1].stored_ns)
    then: dict[int, dict[str, Any]] = {}
    told = False
    while log.seq < 150:
        log.grow()
        for message in log.messages[projector.seq :]:
            projector.apply([message])
        told |= _heartbeats(projector, log)
        then[log.seq] = _everything(asked, kept_hash(dump(database)))
    assert told
    replayed = ReplayedAt(log.messages)
    for seq in random.Random(seed).sample(sorted(then), 40):
        replayed.at(seq)
        found: dict[str, Any] = {
            "runs": replayed.runs(),
            "first": replayed.runs(limit=1),
            "slots": replayed.slots(),
            "nodes": replayed.nodes(),
            "hash": replayed.state_hash(),
            **{run["run_id"]: replayed.run(run["run_id"]) for run in replayed.runs()["runs"]},
        }
        assert _cleared(found) == _cleared(then[seq])
        assert found["runs"]["seq"] == replayed.seq == seq
        live = [run for run in found["runs"]["runs"] if run["ended_at"] is None]
        assert all(run["step"] is None and run["metrics"] == {} for run in live)
    replayed.close()
    projector.close()


def _heartbeats(projector: Projector, log: RandomLog) -> bool:
    """One of each live attempt; whether there was one."""
    said = [
        Message(1, log.now_ns, *_heartbeat(run.run_id, phase.attempt, phase.placements[0].node, log.seq))
        for run in projector.projection.working.state.runs.values()
        if isinstance(phase := run.phase, Active)
    ]
    return bool(apply_heartbeats(projector, said).runs)


def _heartbeat(run_id: str, attempt: int, node: str, step: int) -> tuple[str, bytes]:
    report = RunHeartbeat(run_id=run_id, attempt=attempt, step=step, metrics={"loss": 0.5})
    subject, _, body = Writer(Role.AGENT, lambda: 0, lambda: "id", node).heartbeat(report)
    return subject, body


def _everything(asked: Asked, state_hash: str) -> dict[str, Any]:
    runs = asked.runs()
    return {
        "runs": runs,
        "first": asked.runs(limit=1),
        "slots": decoded(asked.queries.slots()),
        "nodes": decoded(asked.queries.nodes()),
        "hash": state_hash,
        **{run["run_id"]: asked.run(run["run_id"]) for run in runs["runs"]},
    }


def _cleared(answers: dict[str, Any]) -> dict[str, Any]:
    return {key: one if key == "hash" else without_heartbeats(one) for key, one in answers.items()}
