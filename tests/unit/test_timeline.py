"""A run's timeline: each kind of event about a run has data for it, and its data a sentence."""

from __future__ import annotations

import msgspec
import pytest

from events.change import EndedAttempt, RunChange
from events.run_machine import outcome
from events.state import Active, Ended, Pending, Placement, Run
from events.types import EVENT_KINDS, ArtifactsHashed, AttemptEnd, CancelRequested, Failed, Submitted
from projections.read_model import timeline
from tests.support.builders import EXAMPLES, START_NS, Story
from tests.support.timeline import entry
from tests.support.times import at
from trainshed_client.records import TimelineEntry
from trainshed_client.rendering.timeline import (
    DATA_TYPES,
    EndData,
    LateEnd,
    NextAttempt,
    SubmittedData,
    TimelineData,
    data_of,
    text,
    text_of_stored,
)
from trainshed_client.statuses import FailureReason, RunStatus
from trainshed_client.subjects import Scope

OF_RUNS = sorted(name for name, kind in EVENT_KINDS.items() if kind.scope is Scope.RUN)
PLACEMENT = Placement(node="n", incarnation="a", slots=(), cpus=1, memory_mb=0)
ACTIVE = Active(attempt=1, placements=(PLACEMENT,), dispatched_seq=2)


def some_run() -> Run:
    story = Story()
    story.submit("r1")
    return story.state.runs["r1"]


def data_of_example(name: str) -> TimelineData | None:
    run = some_run()
    assert isinstance(run.phase, Pending)
    _, event = EXAMPLES[name]
    match event:
        case Submitted():
            return timeline.submitted(run, event)
        case AttemptEnd():
            over = msgspec.structs.replace(run, phase=Ended(attempt=1, status=outcome(event)[0]))
            ended = EndedAttempt("r1", ACTIVE, *outcome(event))
            return timeline.of_end(event, ended, RunChange(run, over), START_NS)
        case ArtifactsHashed():
            return timeline.of_artifacts(event)
        case _:
            return timeline.of_event(event, RunChange(run, run))


@pytest.mark.parametrize("name", OF_RUNS)
def test_each_event_type_about_a_run_has_data_and_a_sentence(name: str) -> None:
    data = data_of_example(name)
    assert data is not None, f"add its data to projections/read_model/timeline.py ({name})"
    assert isinstance(data, DATA_TYPES[name])
    assert text(name, data) != "ended", f"add its sentence to trainshed_client/rendering/timeline.py ({name})"


@pytest.mark.parametrize("name", OF_RUNS)
def test_an_entry_reads_the_same_from_the_table_and_from_an_answer(name: str) -> None:
    data = data_of_example(name)
    assert data is not None
    kept = bytes(timeline.encoded(data)).decode()
    assert kept == msgspec.json.encode(data, order="sorted").decode(), (
        "the state hash is made of sorted fields"
    )
    assert text_of_stored(name, kept) == text(name, data)
    assert data_of(entry(1, "2026-11-24T09:00:00Z", name, data)) == data


def end(reason: FailureReason, **fields: object) -> EndData:
    return msgspec.convert({"failure_reason": reason, **fields}, EndData)


@pytest.mark.parametrize(
    ("kind", "data", "sentence"),
    [
        ("submitted", SubmittedData(by="ada", after=("a",), after_total=1), "submitted by ada, after run a"),
        (
            "submitted",
            SubmittedData(by="ada", after=("a", "b", "c"), after_total=5),
            "submitted by ada, after runs a, b, c and 2 more",
        ),
        (
            "failed",
            end(FailureReason.EXIT_CODE, exit_code=3, next=NextAttempt(attempt=2, wait_s=10.0)),
            "exit 3, queued again: attempt 2 in 10 s",
        ),
        ("failed", end(FailureReason.SIGNAL, signal=9, cancelled=True), "killed by signal 9, cancelled as requested"),
        (
            "failed",
            end(FailureReason.EXIT_CODE, exit_code=3, late=LateEnd(attempt=1, node="box")),
            "too late to count: box reported attempt 1 as exit 3",
        ),
        ("timed_out", end(FailureReason.WORKER_TIMEOUT), "silent for too long"),
        ("timed_out", end(FailureReason.TIME_LIMIT), "stopped at its time limit"),
        ("cancelled", end(FailureReason.DEPENDENCY_FAILED), "cancelled: a dependency failed"),
        ("node_removed", EndData(node="box", next=NextAttempt(attempt=2)), "node box was removed, queued again: attempt 2"),
    ],
)  # fmt: skip
def test_the_sentence_of_an_entry(kind: str, data: TimelineData, sentence: str) -> None:
    assert text(kind, data) == sentence


@pytest.mark.parametrize("reason", FailureReason)
@pytest.mark.parametrize("kind", ["failed", "timed_out"])
def test_no_reason_is_without_a_sentence(kind: str, reason: FailureReason) -> None:
    assert text(kind, EndData(failure_reason=reason)) != "ended"


def test_texts_of_anybodys_are_cut() -> None:
    run = some_run()
    asked = CancelRequested(run_id="r1", reason="x" * 999, requested_by="ada")
    failed = Failed(run_id="r1", attempt=1, failure_reason=FailureReason.SPAWN_ERROR, message="y" * 999)
    for name, data in (
        ("cancel_requested", timeline.of_event(asked, RunChange(run, run))),
        ("failed", timeline.of_late(failed, "box")),
    ):
        assert data is not None
        assert len(text(name, data)) < 400


def test_a_run_cancelled_however_its_attempt_ended_says_so() -> None:
    run = some_run()
    event = Failed(run_id="r1", attempt=1, failure_reason=FailureReason.EXIT_CODE, exit_code=3)
    over = msgspec.structs.replace(run, phase=Ended(attempt=1, status=RunStatus.CANCELLED))
    ended = EndedAttempt("r1", ACTIVE, *outcome(event))
    data = timeline.of_end(event, ended, RunChange(run, over), START_NS)
    assert text("failed", data) == "exit 3, cancelled as requested"


def test_what_another_release_sent_is_taken_as_its_text_alone() -> None:
    assert (
        data_of(
            TimelineEntry(
                seq=1, time=at("2026-11-24T09:00:00Z"), type="hatched", data={"by": "ada"}, text="hatched"
            )
        )
        is None
    )
    assert (
        data_of(
            TimelineEntry(
                seq=1, time=at("2026-11-24T09:00:00Z"), type="dispatched", text="dispatched to gpu01"
            )
        )
        is None
    )
    assert text_of_stored("hatched", "{}") == "hatched"
