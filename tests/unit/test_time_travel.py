"""Every moment of a log is answered as by a read model that has read it up to there, whatever came after and however it came."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.log_maker import LogMaker
from events.codec import Writer
from events.types import CancelRequested, Failed, NodeDrained, NodeResumed, RetryRequested, RunHeartbeat
from projections.past.moment import Moment, Past
from projections.queries.answers import Queries
from projections.queries.listing import run_query
from projections.read_model import tables
from projections.read_model.database import Database
from projections.read_model.frames import FrameMaker
from projections.read_model.frames import decoded as frame_of
from projections.read_model.heartbeats import apply_heartbeats
from projections.read_model.projector import Projector
from services.projector.waiting import WaitingRuns
from tests.support.random_log import ComingAndGoing, RandomLog
from tests.support.read_model import LOG_ID, decoded, memory
from tests.support.replayed_at import ReplayedAt, without_heartbeats
from trainshed_client.direct_get import Message
from trainshed_client.statuses import FailureReason
from trainshed_client.subjects import Role


class AskedThen:
    """What a projector answers about a moment of the past."""

    def __init__(self, database: Database, messages: Sequence[Message], seq: int) -> None:
        past = Past(database)
        kept = past.before(seq)
        self.moment: Moment = past.after(kept, messages[kept.live.seq : seq])
        self.queries: Queries = past.queries(seq, self.moment)
        self._waiting = WaitingRuns(lambda: self.moment.stored_ns)

    def runs(self, **query: Any) -> dict[str, Any]:
        """``run.list``."""
        return decoded(self._waiting.listing(self.queries.runs(run_query(**query))))

    def run(self, run_id: str) -> dict[str, Any]:
        """``run.get``."""
        return decoded(self._waiting.run(self.queries.run(run_id)))

    def explain(self, run_id: str) -> dict[str, Any]:
        """``run.explain``."""
        return decoded(self._waiting.explain(self.queries.run(run_id)))

    def slots(self) -> dict[str, Any]:
        """``slot.list``."""
        return decoded(self.queries.slots())

    def nodes(self) -> dict[str, Any]:
        """``node.list``."""
        return decoded(self.queries.nodes())

    def state_hash(self) -> str:
        """``state_hash`` of ``audit.at``."""
        return f"{self.moment.live.state_hash:064x}"


LISTINGS: tuple[dict[str, Any], ...] = (
    {"limit": 2},
    {"live": True},
    {"ended": True, "limit": 3},
    {"status": ["PENDING", "RUNNING"]},
    {"status": ["COMPLETED"], "limit": 1},
    {"labels": {"n": "1"}},
    {"name": "w3"},
    {"run": "w"},
)


def answers(asked: AskedThen | ReplayedAt, chosen: int) -> dict[str, Any]:
    """What is asked of a moment: all that is live, all runs, and one other listing and one run, by the number ``chosen``."""
    listed = asked.runs()
    found: dict[str, Any] = {
        "hash": asked.state_hash(),
        "slots": asked.slots(),
        "nodes": asked.nodes(),
        "runs": listed,
        "others": asked.runs(**LISTINGS[chosen % len(LISTINGS)]),
    }
    if listed["runs"]:
        run = listed["runs"][chosen % len(listed["runs"])]
        found["page"] = asked.runs(limit=2, before_seq=run["submit_seq"])
        found["run"] = asked.run(run["run_id"])
        found["why"] = asked.explain(run["run_id"])
    return {key: one if key == "hash" else without_heartbeats(one) for key, one in found.items()}


def made_log(seed: int, events: int) -> list[Message]:
    log = RandomLog(seed) if seed % 2 else ComingAndGoing(seed)
    for _ in range(events):
        log.grow()
    return log.messages


def _cut(messages: list[Message], seed: int) -> list[list[Message]]:
    chooser = random.Random(seed)
    batches, at = [], 0
    while at < len(messages):
        size = chooser.choice([1, 1, 2, 5, 40])
        batches.append(messages[at : at + size])
        at += size
    return batches


def folded(batches: list[list[Message]], every: int, reopen: int) -> Database:
    """A read model with a frame every so many events, of a projector that is opened anew after so many batches."""
    database = memory()
    for at in range(0, len(batches), reopen):
        projector = Projector.open(database, LOG_ID, 10**9)
        projector.frames = FrameMaker(projector.projection, every)
        for batch in batches[at : at + reopen]:
            projector.apply(batch)
        projector.close()
    return database


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10**9),
    cut=st.integers(0, 10**9),
    every=st.integers(1, 20),
    reopen=st.sampled_from([1, 7, 1_000]),
)
def test_each_moment_is_what_a_replay_up_to_there_answers(
    seed: int, cut: int, every: int, reopen: int
) -> None:
    messages = made_log(seed, 60)
    database = folded(_cut(messages, cut), every, reopen)
    replayed = ReplayedAt(messages)
    for seq in range(1, len(messages) + 1):
        then, chosen = AskedThen(database, messages, seq), seed + seq
        assert answers(then, chosen) == answers(replayed.at(seq), chosen), seq
    replayed.close()
    database.close()


def test_a_long_queue_is_kept_once_and_what_changes_in_it_from_then_on() -> None:
    log = LogMaker()
    log.elect()
    log.join()
    waiting = [log.submit() for _ in range(400)]
    for run_id in waiting[:40]:
        log.dispatch(run_id)
        log.start(run_id)
        log.complete(run_id)
    database = folded([log.messages[at : at + 10] for at in range(0, log.seq, 10)], 20, 1_000)
    with database.reading() as connection:
        frames = connection.execute(tables.frames.select().order_by(tables.frames.c.seq)).all()
    whole = [row.seq for row in frames if row.seq == row.base_seq]
    assert whole[0] == frames[0].seq
    assert len(whole) < len(frames) / 3
    since: dict[int, int] = {}
    for row in frames:
        since[row.base_seq] = since.get(row.base_seq, 0) + len(row.data)
    sizes = {row.seq: len(row.data) for row in frames}
    assert all(together < 3 * sizes[base] + max(sizes.values()) for base, together in since.items())
    last = frame_of(frames[-1].data)
    assert (len(last.queued), len(last.runs)) == (0, 1)  # what began, and nothing of those that wait
    then = AskedThen(database, log.messages, frames[-1].seq)
    assert then.runs(status=["PENDING"])["total"] == 360
    database.close()


def test_what_a_worker_told_while_it_ran_is_no_part_of_the_past() -> None:
    log = LogMaker()
    log.elect()
    log.join()
    run_id = log.submit()
    log.dispatch(run_id)
    log.start(run_id)
    database = memory()
    projector = Projector.open(database, LOG_ID, 10**9)
    projector.frames = FrameMaker(projector.projection, 3)
    projector.apply(log.messages)
    report = RunHeartbeat(run_id=run_id, attempt=1, step=7, metrics={"loss": 0.5})
    subject, _, body = Writer(Role.AGENT, lambda: 0, lambda: "id", "gpu01").heartbeat(report)
    assert apply_heartbeats(projector, [Message(1, log.now_ns, subject, body)]).runs
    log.by_gateway(CancelRequested(run_id=run_id))
    projector.apply(log.messages)
    projector.close()
    for seq in range(1, log.seq + 1):
        for run in AskedThen(database, log.messages, seq).runs()["runs"]:
            assert (run["step"], run["metrics"], run["updated_at"]) == (None, {}, None)
    database.close()


def failed(log: LogMaker, run_id: str, attempt: int = 1) -> None:
    log.by_agent(
        Failed(run_id=run_id, attempt=attempt, failure_reason=FailureReason.EXIT_CODE, exit_code=3), "gpu01"
    )


@pytest.mark.parametrize("every", [1, 2, 3, 100])
def test_what_has_ended_is_as_it_was_before_a_late_end_a_retry_or_another_submission(every: int) -> None:
    log = LogMaker()
    log.elect()
    log.join()
    config: dict[str, object] = {"entry_point": "/bin/true"}
    run_id = log.submit(config)
    log.dispatch(run_id)
    failed(log, run_id)
    log.complete(run_id)  # late
    log.by_gateway(RetryRequested(run_id=run_id, attempt=1))
    log.dispatch(run_id, 2)
    log.complete(run_id, 2)
    failed(log, run_id, 2)  # late
    log.submit(config)  # no guarded writer does that
    log.dispatch(run_id)
    messages = log.messages
    for size in (1, 4, len(messages)):
        cut = [messages[at : at + size] for at in range(0, len(messages), size)]
        database = folded(cut, every, 1_000)
        replayed = ReplayedAt(messages)
        for seq in range(3, len(messages) + 1):
            then, now = AskedThen(database, messages, seq), replayed.at(seq)
            assert then.state_hash() == now.state_hash()
            for one, other in ((then.run(run_id), now.run(run_id)), (then.runs(), now.runs())):
                assert without_heartbeats(one) == without_heartbeats(other), (seq, size)
        replayed.close()
        database.close()
    then = AskedThen(folded([messages], every, 1_000), messages, 5)
    assert [one["late_result"] for one in then.run(run_id)["attempts"]] == [None]


@pytest.mark.parametrize("every", [1, 2, 3])
def test_what_a_waiting_run_comes_after_is_as_far_as_it_was(every: int) -> None:
    log = LogMaker()
    log.elect()
    log.join()
    first = log.submit()
    second = log.submit({"entry_point": "/bin/true", "after": [first]})
    log.dispatch(first)
    log.complete(first)
    log.elect()
    log.elect()
    database = folded([[message] for message in log.messages], every, 1_000)
    for seq, reason in ((4, "dependency"), (5, "dependency"), (6, "turn"), (7, "turn"), (8, "turn")):
        assert AskedThen(database, log.messages, seq).explain(second)["waiting"]["reason"] == reason
    database.close()


@pytest.mark.parametrize("every", [1, 2, 3])
def test_a_node_is_as_it_was_also_where_its_fold_changed_between_frames(every: int) -> None:
    log = LogMaker()
    log.elect()
    log.join()
    run_id = log.submit()
    log.by_gateway(NodeDrained(node="gpu01", incarnation="gpu01-a"))
    for _ in range(4):
        log.elect()
    log.by_gateway(NodeResumed(node="gpu01", incarnation="gpu01-a"))
    log.elect()
    database = folded([[message] for message in log.messages], every, 1_000)
    for seq in range(3, log.seq + 1):
        then = AskedThen(database, log.messages, seq)
        reason = "no_node" if 4 <= seq < 9 else "turn"
        assert then.explain(run_id)["waiting"]["reason"] == reason, seq
        assert then.nodes()["nodes"][0]["drained"] is (reason == "no_node")
    database.close()
