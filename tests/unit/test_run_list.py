"""`run.list` on a read model in memory: how many match, the last that ended, and records that are quickly made."""

from __future__ import annotations

from typing import Any

import pytest

from bench.log_maker import LogMaker
from events.types import NodeLost
from projections.queries.listing import RunQuery, run_query, selected
from tests.support.read_model import Asked, decoded, fold, memory
from trainshed_client.errors import ErrorCode, TrainshedError


class Model:
    """A made log, folded before each question."""

    def __init__(self) -> None:
        self.made = LogMaker()
        self.made.elect()
        self.made.join(slots=4)
        self.database = memory()
        self._folded = 0

    def asked(self) -> Asked:
        fold(self.database, [self.made.messages[self._folded :]])
        self._folded = len(self.made.messages)
        return Asked(self.database, lambda: self.made.now_ns)

    def listing(self, **asked: Any) -> dict[str, Any]:
        return self.asked().runs(**asked)

    def ids(self, **asked: Any) -> list[str]:
        return [run["run_id"] for run in self.listing(**asked)["runs"]]

    def begun(self, slot: int = 0, **config: object) -> str:
        run_id = self.made.submit(
            {"entry_point": "/bin/true", "submission_key": str(self.made.seq), **config}
        )
        self.made.dispatch(run_id, slots=(slot,))
        self.made.start(run_id, slots=(slot,))
        return run_id


@pytest.fixture
def model() -> Model:
    return Model()


def test_a_first_page_tells_how_many_match_and_a_later_one_does_not(model: Model) -> None:
    for number in range(5):
        model.begun(labels={"exp": "a" if number % 2 else "A"})
    first = model.listing(limit=2)
    assert (len(first["runs"]), first["total"]) == (2, 5)
    assert "total" not in model.listing(limit=2, before_seq=first["runs"][-1]["submit_seq"])
    assert model.listing(limit=5)["total"] == model.listing()["total"] == 5
    assert model.listing(limit=1, labels={"exp": "a"})["total"] == 2
    assert model.listing(limit=1, labels={"exp": "b"})["total"] == 0
    assert model.listing(limit=1, status=["RUNNING"])["total"] == 5
    assert model.listing(limit=1, status=["FAILED"])["total"] == 0


def test_the_last_that_ended_are_told_by_their_ends(model: Model) -> None:
    runs = [model.begun() for _ in range(4)]
    for run_id in (runs[3], runs[0], runs[2]):
        model.made.complete(run_id)
    assert model.ids(ended=True) == [runs[2], runs[0], runs[3]]
    page = model.listing(ended=True, limit=2)
    assert [run["run_id"] for run in page["runs"]] == [runs[2], runs[0]]
    assert page["total"] == 3
    assert model.ids(live=True) == [runs[1]]


@pytest.mark.parametrize("asked", [{"live": True, "ended": True}, {"ended": True, "before_seq": 3}])
def test_what_contradicts_itself_is_refused_by_its_field(asked: dict[str, Any]) -> None:
    with pytest.raises(TrainshedError) as caught:
        run_query(**asked)
    assert caught.value.code is ErrorCode.INVALID
    assert caught.value.path in ("ended", "before_seq")


def test_a_run_is_the_same_in_a_listing_and_by_itself(model: Model) -> None:
    ended = model.begun(labels={"é": "ü"}, arguments=["a b"], resources={"gpus": {"requested": 1}})
    model.made.complete(ended)
    running = model.begun()
    queued = model.made.submit({"entry_point": "/bin/later", "after": [running]})
    listed = {run["run_id"]: run for run in model.listing()["runs"]}
    assert list(listed) == [queued, running, ended]
    for run_id, record in listed.items():
        assert record == model.asked().run(run_id)["run"]
    assert listed[ended]["step"] == 1200 and listed[ended]["cancel_requested"] is False
    assert {"waits_for", "waiting"} <= listed[queued].keys()
    assert not {"waits_for", "waiting"} & listed[running].keys()


def test_a_live_run_tells_that_its_node_does_not_answer_and_a_slot_who_holds_it(model: Model) -> None:
    running, long = model.begun(run_name="näme"), model.begun(1, arguments=["x" * 500])
    ended = model.begun(2)
    model.made.complete(ended)
    assert not any("node_status" in run for run in model.listing()["runs"])
    model.made.by_dispatcher(NodeLost(node="gpu01", incarnation="gpu01-a", epoch=1, silent_s=15.0))
    told = {run["run_id"]: run.get("node_status") for run in model.listing()["runs"]}
    assert told == {running: "lost", long: "lost", ended: None}
    assert model.asked().run(running)["run"]["node_status"] == "lost"
    held = {slot["run_id"]: slot for slot in decoded(model.asked().queries.slots())["slots"]}
    assert held[long]["run_name"] == f"true {'x' * 500}"[:300]
    assert held[running]["run_name"] == "näme"
    assert "run_name" not in held[None]


@pytest.mark.parametrize(
    ("query", "index"), [(run_query(ended=True), "runs_ended"), (run_query(live=True), "runs_live")]
)
def test_what_ls_asks_first_needs_no_scan(model: Model, query: RunQuery, index: str) -> None:
    model.begun()
    model.asked()
    with model.database.reading() as connection:
        statement = selected(query).compile(connection, compile_kwargs={"literal_binds": True})
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}").all()
    assert [index in row[3] for row in plan] == [True], plan
