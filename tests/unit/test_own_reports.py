"""Which events in its name a node takes for its own: its own always, whoever of its processes said them; others' never,
where it can know."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.codec import StoredEvent, Writer, decode
from events.types import (
    ArtifactsHashed,
    AttemptEnd,
    AttemptRef,
    Cancelled,
    Completed,
    Failed,
    RunEvent,
    Started,
    TimedOut,
)
from services.agent.folders.files import ExitFile, ExitReason, StopReason
from services.agent.reports.ends import end_of
from services.agent.reports.own_reports import OwnReports, is_own, is_report_on, strange
from trainshed_client.statuses import AtFault, FailureReason
from trainshed_client.subjects import Role

NODE = "gpu01"
REF = AttemptRef("a" * 26, 2)
WRITER = Writer(Role.AGENT, lambda: 1, node=NODE)
OF: dict[str, Any] = {"run_id": REF.run_id, "attempt": REF.attempt}

EXITS = st.builds(
    ExitFile,
    exit_code=st.none() | st.integers(0, 255),
    signal=st.none() | st.sampled_from([9, 15]),
    reason=st.sampled_from(ExitReason),
    stop_reason=st.none() | st.sampled_from(StopReason),
    at_fault=st.none() | st.sampled_from(AtFault),
    duration_s=st.floats(0, 1e6).map(lambda value: round(value, 6)),
    ended_at=st.just(0.0),
)
GUESSES = (ExitReason.NOT_STARTED, ExitReason.SHIM_LOST)


def stored(event: RunEvent, seq: int = 7) -> StoredEvent:
    """As another process, or anybody else, had it stored."""
    new = WRITER.new(event)
    found = decode(new.subject, new.body, seq, seq)
    assert isinstance(found, StoredEvent)
    return found


def reported(*said: RunEvent, launched: bool = False, running: bool = False) -> OwnReports:
    made = OwnReports()
    made.launched, made.running = launched, running
    for event in said:
        made.appends(WRITER.new(event))
    return made


def end(record: ExitFile, **more: Any) -> AttemptEnd:
    return end_of(REF, record, None, **more)


ENDS = [
    Completed(**OF, duration_s=1.0),
    Failed(**OF, duration_s=1.0, failure_reason=FailureReason.EXIT_CODE, exit_code=3),
    Failed(**OF, duration_s=1.0, failure_reason=FailureReason.SIGNAL, signal=9),
    Failed(**OF, failure_reason=FailureReason.NOT_STARTED),
    Failed(**OF, failure_reason=FailureReason.SHIM_LOST),
    Failed(**OF, failure_reason=FailureReason.SPAWN_ERROR),
    TimedOut(**OF, duration_s=1.0, failure_reason=FailureReason.TIME_LIMIT),
    Cancelled(**OF, duration_s=1.0, signal=15),
    Cancelled(**OF),
]
STARTED = Started(**OF, pid=5, host="here")
EVENTS: list[RunEvent] = [*ENDS, STARTED, ArtifactsHashed(**OF)]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_what_this_process_said_is_its_own_and_what_it_launched_has_no_other_word(event: RunEvent) -> None:
    own = reported(launched=True)
    new = WRITER.new(event)
    own.appends(new)
    there = decode(new.subject, new.body, 7, 7)
    assert isinstance(there, StoredEvent)
    for own.running in (True, False):
        assert is_own(there, own)
        assert not is_own(stored(event), own)  # word for word the same, and not said by this node


@given(EXITS, st.sampled_from([None, "cannot be launched"]), st.sampled_from([None, AtFault.NODE]))
def test_an_end_that_a_process_before_read_in_the_same_exit_file_is_its_own(
    record: ExitFile, message: str | None, at_fault: AtFault | None
) -> None:
    before = stored(end(record))
    assert is_own(before, reported(STARTED, end(record, message=message, at_fault=at_fault)))


@given(EXITS, EXITS)
def test_no_end_is_objected_to_that_a_process_may_have_guessed_or_this_one_guesses(
    one: ExitFile, other: ExitFile
) -> None:
    if one.reason in GUESSES or other.reason in GUESSES:
        assert is_own(stored(end(one)), reported(end(other)))


@given(EXITS, EXITS)
def test_an_end_that_says_something_else_than_the_exit_file_is_not_its_own(
    forged: ExitFile, true: ExitFile
) -> None:
    there, own = end(forged), end(true)
    guessed = (FailureReason.SHIM_LOST, FailureReason.NOT_STARTED, FailureReason.SPAWN_ERROR)
    if any(
        each.duration_s is None or getattr(each, "failure_reason", None) in guessed for each in (there, own)
    ):
        return
    facts = [
        (type(each), each.duration_s, *(getattr(each, name, None) for name in ("failure_reason", "signal")))
        for each in (there, own)
    ]
    codes = [getattr(each, "exit_code", None) for each in (there, own)]
    same = facts[0] == facts[1] and (isinstance(own, Completed) or codes[0] == codes[1])
    assert is_own(stored(there), reported(own)) == same


@pytest.mark.parametrize("event", ENDS, ids=lambda event: type(event).__name__)
def test_while_its_shim_answers_no_process_can_have_told_an_end_or_hashed_anything(event: AttemptEnd) -> None:
    assert not is_own(stored(event), reported(STARTED, running=True))
    assert not is_own(stored(ArtifactsHashed(**OF)), reported(STARTED, running=True))
    assert is_own(stored(event), reported(STARTED))  # after it an earlier process may have
    assert is_own(stored(ArtifactsHashed(**OF)), reported(STARTED, event))


def test_a_start_is_its_own_where_an_earlier_process_named_the_same_worker() -> None:
    renamed = Started(**OF, pid=5, host="renamed since")
    assert is_own(stored(renamed), reported(STARTED, running=True))
    assert is_own(stored(renamed), reported(running=True))  # what it will say itself is not known yet
    assert not is_own(stored(Started(**OF, pid=6, host="here")), reported(STARTED, running=True))
    ended = reported(STARTED)  # of a boot before: its pid may name another process now
    assert is_own(stored(Started(**OF, pid=6, host="here")), ended)


def test_what_is_wrong_is_said_with_what_the_node_knows() -> None:
    forged = stored(ENDS[0], 1_234)
    begin = f"event 1234 (completed of run {REF.run_id} attempt 2) stands in this node's name, and this node never said it: "
    for own, how in (
        (reported(running=True), "its worker still runs"),
        (reported(ENDS[1]), "by this node's word it ended as Failed (exit_code 3)"),
        (reported(ENDS[2]), "by this node's word it ended as Failed (signal 9)"),
        (reported(ENDS[6]), "by this node's word it ended as TimedOut (time_limit)"),
        (reported(ENDS[0]), "by this node's word it ended as Completed"),
        (reported(), "this node knows no such thing of it"),
    ):
        found = strange(forged, own)
        assert (found.seq, found.stored_ns, found.text) == (1_234, 1_234, begin + how)


def test_words_on_another_attempt_are_another_matter() -> None:
    assert is_report_on(STARTED, REF.run_id, 2)
    assert not is_report_on(STARTED, REF.run_id, 1)
    assert not is_report_on(STARTED, "b" * 26, 2)


def test_each_reason_not_to_know_is_heeded_and_the_same_end_at_another_moment_is_not_the_same() -> None:
    completed = ExitFile(reason=ExitReason.EXITED, exit_code=0, duration_s=1.0, ended_at=0.0)
    for reason in (ExitReason.SPAWN_ERROR, *GUESSES):
        guess = ExitFile(reason=reason, ended_at=0.0)
        assert is_own(stored(end(completed)), reported(end(guess)))
    for reason in GUESSES:
        for stop in (None, StopReason.CANCEL, StopReason.ENDED, StopReason.RECLAIMED):
            guess = ExitFile(reason=reason, stop_reason=stop, ended_at=0.0)
            assert is_own(stored(end(guess)), reported(end(completed)))
    for duration_s in (None, 0.5):
        forged = Completed(**OF, duration_s=duration_s)
        assert not is_own(stored(forged), reported(end(completed)))
