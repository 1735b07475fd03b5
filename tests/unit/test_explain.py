"""What `run.explain` tells of a run that waits: its place, what it waits for, the reservation, and who holds the slots."""

from __future__ import annotations

import msgspec
import pytest

from bench.log_maker import LogMaker
from events.types import CancelRequested, Completed, Device, Failed, NodeDrained, NodeJoined, NodeLost
from services.scheduling.explain import MOST_HOLDERS
from tests.support.read_model import Asked, fold, memory
from trainshed_client.answers import Explanation, Waiting
from trainshed_client.statuses import FailureReason


class Model:
    """A made log, folded into tables in memory before each question."""

    def __init__(self, slots: int = 4) -> None:
        self.made = LogMaker()
        self.made.elect()
        self.made.join(slots=slots, cpus=99)
        self._submitted = 0
        self._database = memory()
        self._folded = 0

    def submit(self, gpus: int, limit: float | None = None, **config: object) -> str:
        self._submitted += 1
        schedule = {} if limit is None else {"schedule": {"max_duration_seconds": limit}}
        return self.made.submit(
            {
                "entry_point": "/bin/true",
                "resources": {"gpus": {"requested": gpus}},
                "submission_key": str(self._submitted),
                **schedule,
                **config,
            }
        )

    def hold(self, *slots: int, limit: float | None = None, **config: object) -> str:
        run_id = self.submit(len(slots), limit, **config)
        self.made.dispatch(run_id, slots=slots)
        self.made.start(run_id, slots=slots)
        return run_id

    def asked(self) -> Asked:
        fold(self._database, [self.made.messages[self._folded :]])
        self._folded = len(self.made.messages)
        return Asked(self._database, lambda: self.made.now_ns)

    def explain(self, run_id: str) -> Explanation:
        return msgspec.convert(self.asked().explain(run_id), Explanation)

    def waiting(self, run_id: str) -> Waiting:
        waiting = self.explain(run_id).waiting
        assert waiting is not None
        return waiting


@pytest.fixture
def model() -> Model:
    return Model()


def test_the_place_counts_those_that_are_considered_before_it(model: Model) -> None:
    model.hold(0, 1, 2, 3)
    first = model.submit(1)
    model.submit(1, priority=-1)
    after = model.submit(1, after=[first])
    again = model.hold(retry={"max_attempts": 2, "backoff_s": 60})
    failed = Failed(run_id=again, attempt=1, failure_reason=FailureReason.EXIT_CODE, exit_code=1)
    model.made.by_agent(failed, "gpu01")
    late = model.submit(1)
    before = model.submit(1, priority=7)
    places = [(one.place, one.of) for one in map(model.waiting, (before, first, late))]
    assert places == [(1, 4), (2, 4), (3, 4)]
    for run_id, reason in ((after, "dependency"), (again, "backoff")):
        waiting = model.waiting(run_id)
        assert (waiting.place, waiting.of, waiting.reason) == (None, 4, reason)


def test_who_holds_the_slots_is_told_with_node_since_when_and_until_when_at_the_latest(model: Model) -> None:
    limited = model.hold(0, 2, limit=3_600, run_name="limited")
    endless = model.hold(1, run_name="endless")
    model.hold()  # no slot, so none of those
    waiting = model.waiting(model.submit(2))
    assert (waiting.reason, waiting.holders_total) == ("gpus", 2)
    one, two = waiting.holders
    assert (one.run_id, one.name, one.node, one.slots) == (limited, "limited", "gpu01", [0, 2])
    assert one.ends_by is not None and one.since < one.ends_by
    assert (two.run_id, two.slots, two.ends_by) == (endless, [1], None)


def test_no_more_holders_than_a_person_reads_but_how_many_there_are() -> None:
    model = Model(slots=60)
    for slot in range(60):
        model.hold(slot)
    waiting = model.waiting(model.submit(1))
    assert (len(waiting.holders), waiting.holders_total) == (MOST_HOLDERS, 60)


def test_the_first_that_waits_is_told_which_node_is_kept_for_it_and_until_when(model: Model) -> None:
    model.hold(0, limit=3_600)
    head = model.submit(4, run_name="large")
    waiting = model.waiting(head)
    assert waiting.reservation is not None
    assert (waiting.reservation.run_id, waiting.reservation.node) == (head, "gpu01")
    assert waiting.reservation.starts_by == waiting.holders[0].ends_by


def test_what_holds_a_device_on_another_node_is_told_and_for_whom_it_is_kept_there() -> None:
    model = Model(slots=2)
    for index in range(2):
        name = f"share-{index}"
        device = Device(index=0, uuid=f"GPU-gpu01-{index}")
        joined = NodeJoined(
            node=name, incarnation=f"{name}-a", host="lab", cpus=9, memory_mb=0, gpus=(device,)
        )
        model.made.by_agent(joined, name)
    holder = model.submit(1, limit=3_600)
    model.made.dispatch(holder, node="share-0")
    model.made.start(holder, node="share-0")
    head = model.submit(2, run_name="large")
    waiting = model.waiting(head)
    assert (waiting.reason, waiting.text) == ("gpus", "waiting for 2 free GPUs (1 of 2 free)")
    assert [(one.run_id, one.node, one.slots) for one in waiting.holders] == [(holder, "share-0", [0])]
    assert waiting.reservation is not None
    assert (waiting.reservation.run_id, waiting.reservation.node) == (head, "gpu01")
    assert waiting.reservation.starts_by == waiting.holders[0].ends_by
    waiting = model.waiting(model.submit(1))
    assert waiting.reason == "reservation"
    assert f"share-1 has room, but on devices that gpu01 keeps for run {head[:6]}" in waiting.text
    assert [one.run_id for one in waiting.holders] == [holder]
    assert model.waiting(model.submit(1, 60)).reason == "turn"


def test_a_run_behind_the_reservation_is_told_of_it_and_why_it_may_not_pass(model: Model) -> None:
    model.hold(0, limit=3_600)
    model.submit(99, priority=9)  # no node could hold it: it keeps nothing
    head = model.submit(4, run_name="large")
    endless, long, short = model.submit(1), model.submit(1, 7_200), model.submit(1, 60)
    for run_id, words in (
        (endless, "no time limit"),
        (long, "starts (2h and 5 s of grace, and 10 s are kept spare)"),
    ):
        waiting = model.waiting(run_id)
        assert waiting.reason == "reservation"
        assert words in waiting.text and head[:6] in waiting.text
        assert waiting.reservation is not None and waiting.reservation.name == "large"
        assert [one.slots for one in waiting.holders] == [[0]]
    assert model.waiting(short).reason == "turn"


def test_without_a_time_limit_of_what_is_in_the_way_the_reservation_has_no_time(model: Model) -> None:
    model.hold(0)
    model.submit(4)
    waiting = model.waiting(model.submit(1, 60))
    assert waiting.reason == "reservation"
    assert "no time limit" in waiting.text
    assert waiting.reservation is not None and waiting.reservation.starts_by is None


def test_a_node_that_takes_no_work_is_named_with_what_helps(model: Model) -> None:
    run_id = model.submit(1)
    model.made.by_gateway(NodeDrained(node="gpu01", incarnation="gpu01-a"))
    waiting = model.waiting(run_id)
    assert (waiting.reason, waiting.commands) == ("no_node", ["trainshed resume gpu01"])
    model.made.by_dispatcher(
        NodeLost(node="gpu01", incarnation="gpu01-a", epoch=model.made.epoch, silent_s=15)
    )
    assert model.waiting(run_id).commands == ["trainshed nodes"]


def test_a_run_after_others_names_them_and_how_to_ask_why_they_wait(model: Model) -> None:
    first = model.submit(1)
    waiting = model.waiting(model.submit(1, after=[first]))
    assert waiting.reason == "dependency"
    assert first in waiting.text
    assert waiting.commands == [f"trainshed explain {first[:6]}"]
    assert waiting.holders == []


def test_a_run_that_does_not_wait_has_no_such_answer(model: Model) -> None:
    run_id = model.hold(0)
    assert model.explain(run_id).waiting is None
    model.made.by_agent(Completed(run_id=run_id, attempt=1), "gpu01")
    explained = model.explain(run_id)
    assert explained.waiting is None
    assert explained.timeline[-1].text == "completed"


def test_a_record_in_a_listing_waits_for_the_same_as_a_record_alone(model: Model) -> None:
    model.hold(0, 1, 2)
    first = model.submit(4)
    model.made.by_gateway(CancelRequested(run_id=model.submit(2)))
    model.submit(1, after=[first])
    model.submit(0)
    model.submit(1, resources={"gpus": {"requested": 3, "mandatory": False}, "cpus": 99})
    model.submit(1, resources={"memory_mb": 99_000})
    model.submit(1)
    asked = model.asked()
    listed = asked.runs(status=["PENDING"])["runs"]
    reasons = [one["waits_for"]["reason"] for one in listed]
    assert reasons == ["reservation", "too_large", "cpus", "turn", "dependency", "cancel", "gpus"]
    for one in listed:
        assert asked.run(one["run_id"])["run"] == one
        explained = asked.explain(one["run_id"])["waiting"]
        assert explained["text"] == one["waits_for"]["text"]
        assert {name: explained[name] for name in one["waiting"]} == one["waiting"]
