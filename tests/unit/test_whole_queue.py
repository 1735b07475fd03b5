"""The queue as one message: what it says is what explain says, and another one is sent where it says more."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from events.state import Pending, State
from services.scheduling import whole_queue
from services.scheduling.explain import Explainer
from services.scheduling.order import order_of
from services.scheduling.whole_queue import WholeQueue, is_news
from tests.support.builders import SECOND_NS, START_NS, Story, needs
from tests.unit.test_explain_properties import a_node, a_run, a_story
from trainshed_client.records import QueuePlace, QueueRecord, Wait
from trainshed_client.statuses import WaitReason
from trainshed_client.times import moment


def anew(state: State, seq: int, now_ns: int) -> QueueRecord:
    """By `explain` alone, run by run."""
    explainer = Explainer(state, now_ns)
    waiting = sorted((run for run in state.runs.values() if isinstance(run.phase, Pending)), key=order_of)
    said = [
        QueuePlace(run_id=run.run_id, place=explainer.explain(run).place, waiting=explainer.wait_of(run))
        for run in waiting
    ]
    placed = [one for one in said if one.place is not None]
    return QueueRecord(
        seq=seq,
        at=moment(now_ns),
        total=len(said),
        runs=[*placed, *(one for one in said if one.place is None)],
    )


@settings(max_examples=150)
@given(
    nodes=st.lists(a_node, min_size=1, max_size=3),
    runs=st.lists(a_run, min_size=4, max_size=10),
    steps=st.lists(st.integers(1, 12), max_size=6),
)
def test_followed_from_any_moment_to_any_other_it_is_what_explain_says(
    nodes: list[dict[str, Any]], runs: list[dict[str, Any]], steps: list[int]
) -> None:
    log = a_story(nodes, runs).log
    whole, told = WholeQueue(), Story()
    for step in [*steps, len(log)]:
        for one in log[told.seq : told.seq + step]:
            told.seq = one.seq
            told.fold(one)
        now_ns = START_NS + told.seq * SECOND_NS
        record = whole.at(told.state.copy(), told.seq, now_ns)
        assert record == anew(told.state, told.seq, now_ns)
        assert [one.place for one in record.runs if one.place] == [
            place for place, one in enumerate(record.runs, 1) if one.place
        ]
    due = whole.next_due_ns()
    if due is not None:  # time alone gives a run its place, and takes it from those that have none
        before = record.total
        record = whole.at(told.state.copy(), told.seq, due)
        assert record == anew(told.state, told.seq, due)
        assert record.total == before


@settings(max_examples=50)
@given(
    nodes=st.lists(a_node, min_size=1, max_size=3),
    runs=st.lists(a_run, min_size=4, max_size=10),
    share=st.floats(0, 1),
)
def test_a_copy_of_a_state_does_not_change_with_it(
    nodes: list[dict[str, Any]], runs: list[dict[str, Any]], share: float
) -> None:
    log = a_story(nodes, runs).log
    told, other, step = Story(), Story(), int(share * len(log))
    for one in log[:step]:
        told.fold(one)
        other.fold(one)
    copy = told.state.copy()
    for one in log[step:]:
        told.fold(one)
    assert {name: getattr(copy, name) for name in State.__slots__} == {
        name: getattr(other.state, name) for name in State.__slots__
    }


def test_only_the_first_are_named_and_all_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_queue, "MOST_RUNS", 3)
    story = Story()
    story.elect()
    story.submit("a")
    story.submit("b", priority=1)
    story.submit("c", after=["a"])
    story.submit("d", after=["a"], priority=9)
    record = WholeQueue().at(story.state.copy(), story.seq, START_NS)
    assert [(one.run_id, one.place) for one in record.runs] == [("b", 1), ("a", 2), ("d", None)]
    assert record.total == 4


def test_an_empty_queue_and_one_of_another_state_are_followed_too() -> None:
    whole = WholeQueue()
    assert whole.at(State(), 0, START_NS).runs == []
    story = Story()
    story.submit("a", resources=needs(1))
    assert [one.run_id for one in whole.at(story.state, 1, START_NS).runs] == ["a"]
    assert whole.at(State(), 1, START_NS).total == 0


def queue(
    seconds: float, *, left: float = 60, place: int | None = None, reason: WaitReason = WaitReason.BACKOFF
) -> QueueRecord:
    wait = Wait(reason=reason, numbers={"seconds": left, "gpus": 1})
    at = moment(START_NS + int(seconds * SECOND_NS))
    return QueueRecord(seq=7, at=at, total=1, runs=[QueuePlace(run_id="a", place=place, waiting=wait)])


def test_what_is_merely_counted_down_is_no_news() -> None:
    first = queue(0, left=60)
    assert not is_news(first, queue(0, left=60))
    assert not is_news(first, queue(30.5, left=30))
    assert not is_news(first, queue(100, left=0))
    assert is_news(first, queue(30, left=60))
    assert is_news(first, queue(1, left=30))


def test_a_place_a_reason_a_number_and_the_count_are_news() -> None:
    first = queue(0)
    assert is_news(first, queue(0, place=1))
    assert is_news(first, queue(0, reason=WaitReason.GPUS))
    assert is_news(first, msgspec.structs.replace(first, total=2))
    assert is_news(first, msgspec.structs.replace(first, runs=[]))
    (one,) = first.runs
    other = msgspec.structs.replace(one, waiting=Wait(reason=WaitReason.BACKOFF, numbers={"gpus": 1}))
    assert is_news(first, msgspec.structs.replace(first, runs=[other]))
    assert not is_news(first, msgspec.structs.replace(first, seq=8))
