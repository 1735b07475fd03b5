"""The sums of the read model are those of its rows."""

from __future__ import annotations

from collections import Counter

import pytest

from projections.queries.totals import ENDED_SHARE, Adder
from tests.support.random_log import RandomLog
from tests.support.read_model import dump, fold, memory


@pytest.mark.parametrize("seed", range(5))
def test_sums_are_those_of_the_rows(seed: int) -> None:
    made = RandomLog(seed)
    for _ in range(400):
        made.grow()
    database = memory()
    fold(database, [made.messages])
    totals, rows = Adder(database).totals(), dump(database)
    assert {s: n for s, n in totals.runs.items() if n} == Counter(row["status"] for row in rows["runs"])
    waiting = [row["submitted_at"] for row in rows["runs"] if row["status"] == "PENDING"]
    assert totals.oldest_pending_at == min(waiting, default=None)
    assert dict(totals.nodes) == Counter(row["status"] for row in rows["nodes"])
    assert totals.slots_used == sum(row["run_id"] is not None for row in rows["slots"])
    status = {row["node"]: row["status"] for row in rows["nodes"]}
    there = [
        row
        for row in rows["slots"]
        if row["run_id"] or status.get(row["node"], "left") not in ("left", "removed")
    ]
    assert totals.slots == len(there)
    assert totals.quarantined == len(rows["quarantine"])
    assert totals.seq == rows["checkpoint"][0]["seq"]


def test_a_long_history_is_counted_anew_in_proportion_to_what_that_costs() -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 1.0  # each look at the clock is a second later: a count takes one
        return now[0]

    made = RandomLog(5)
    for _ in range(200):
        made.grow()
    database = memory()
    fold(database, [made.messages])
    adder = Adder(database, clock)
    first = adder.totals()
    seen = len(made.messages)
    for _ in range(600):
        made.grow()
    fold(database, [made.messages[seen:]])
    assert adder.totals().runs["COMPLETED"] == first.runs["COMPLETED"]
    now[0] += ENDED_SHARE
    exact = Counter(row["status"] for row in dump(database)["runs"])
    assert adder.totals().runs["COMPLETED"] == exact["COMPLETED"] != first.runs["COMPLETED"]
