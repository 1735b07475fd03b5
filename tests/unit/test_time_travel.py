"""Every moment of a log is answered as by a read model that has read it up to there, whatever came after and however it came."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from events.feed import Message
from projections.past.moment import Moment, Past
from projections.queries.answers import Queries
from projections.queries.listing import run_query
from projections.read_model.database import Database
from services.projector.waiting import WaitingRuns
from tests.support.random_log import ComingAndGoing, RandomLog
from tests.support.read_model import decoded, fold, memory
from tests.support.replayed_at import ReplayedAt, without_heartbeats


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


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 10**9), cut=st.integers(0, 10**9), reopen=st.booleans())
def test_each_moment_is_what_a_replay_up_to_there_answers(seed: int, cut: int, reopen: bool) -> None:
    messages = made_log(seed, 60)
    database = memory()
    fold(database, _cut(messages, cut), reopen=reopen)
    replayed = ReplayedAt(messages)
    for seq in range(1, len(messages) + 1):
        then, chosen = AskedThen(database, messages, seq), seed + seq
        assert answers(then, chosen) == answers(replayed.at(seq), chosen), seq
    replayed.close()
    database.close()
