"""What became of a run, from its log: what it waited for and when that changed, where it was placed, how it ended."""

from __future__ import annotations

import pytest

from events.types import Failed
from services.cli import past as module
from services.cli.past import RunPast
from services.cli.past_lines import past_lines
from services.cli.table import PLAIN
from tests.support.builders import Story
from trainshed_client.statuses import FailureReason, WaitReason
from trainshed_client.subjects import Role

ONE_GPU = {"resources": {"gpus": {"requested": 1}}}


def at(story: Story, seconds: float) -> Story:
    story.at_s = seconds
    return story


def two_before_it() -> Story:
    """One slot: ``a`` holds it and ``b`` is ahead when ``r1`` is submitted, which fails in the end."""
    story = Story()
    at(story, 0).elect()
    story.join(slots=1)
    story.submit("a", **ONE_GPU)
    story.dispatch("a", slots=(0,))
    story.start("a")
    at(story, 10).submit("b", **ONE_GPU)
    at(story, 20).submit("r1", **ONE_GPU)
    at(story, 80).complete("a")
    at(story, 80.5).dispatch("b", slots=(0,))
    story.start("b")
    at(story, 140).complete("b")
    at(story, 140.25).dispatch("r1", slots=(0,))
    at(story, 141).start("r1")
    at(story, 200).put(
        Role.AGENT,
        Failed(
            run_id="r1",
            attempt=1,
            failure_reason=FailureReason.EXIT_CODE,
            exit_code=3,
            output_tail="KeyError: 'lr'\n",
            output_of="stderr",
        ),
        "gpu01",
    )
    return story


def past_of(story: Story, run_id: str = "r1") -> RunPast:
    past = RunPast(run_id)
    for stored in story.log:
        past.take(stored)
    return past


def test_a_wait_is_told_by_what_held_the_slots_and_when_that_changed() -> None:
    [attempt] = past_of(two_before_it()).attempts
    parts = [
        (part.waiting.reason, [one.run_id for one in part.waiting.holders], part.seconds)
        for part in attempt.waits
    ]
    assert [part for part in parts if part[1]] == [
        (WaitReason.GPUS, ["a"], 60.0),
        (WaitReason.GPUS, ["b"], 59.5),
    ]
    assert attempt.waits[0].waiting.place == 2
    assert sum(part.seconds for part in attempt.waits) == attempt.waited_s == 120.25


def test_a_placement_and_an_end_have_their_times() -> None:
    [attempt] = past_of(two_before_it()).attempts
    assert attempt.grant is not None and attempt.end is not None
    assert (attempt.grant.node, attempt.grant.slots) == ("gpu01", (0,))
    assert (attempt.starting_s, attempt.ran_s) == (0.75, 59.0)
    assert (attempt.end.type, attempt.end.output_of, attempt.end.output_tail) == (
        "failed",
        "stderr",
        "KeyError: 'lr'\n",
    )


def test_it_reads_as_sentences() -> None:
    text = "\n".join(past_lines(past_of(two_before_it()).attempts, PLAIN))
    assert "for 1m: waiting for 1 free GPU (0 of 1 free); 2nd in the queue; held by a (" in text
    assert "ended:" in text and "exit 3, after 59s" in text
    assert text.endswith("the last of its stderr, as the log has it:\n  KeyError: 'lr'")


def test_a_retry_is_an_attempt_of_its_own_and_a_cancel_in_the_queue_ends_without_a_grant() -> None:
    story = two_before_it()
    at(story, 300).retry("r1")
    at(story, 310).cancel("r1")
    at(story, 311).cancelled_unstarted("r1", 2)
    first, second = past_of(story).attempts
    assert (first.attempt, second.attempt) == (1, 2)
    assert (second.grant, second.ran_s, second.waited_s) == (None, None, 11.0)
    assert second.end is not None and second.end.type == "cancelled"


def test_a_run_that_is_not_in_the_log_has_no_past() -> None:
    assert past_of(two_before_it(), "other").attempts == []


def test_of_a_wait_with_many_changes_it_says_where_it_stopped_looking(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MOST_LOOKS", 1)
    past = past_of(two_before_it())
    [attempt] = past.attempts
    assert attempt.partial
    assert ([part.seconds for part in attempt.waits], attempt.waited_s) == ([60.0], 120.25)
    assert "what changed after that was not looked at" in "\n".join(past_lines(past.attempts, PLAIN))


def test_an_attempt_that_is_followed_by_another_has_its_own_end() -> None:
    story = Story()
    at(story, 0).elect()
    story.join()
    story.submit(retry={"max_attempts": 2})
    at(story, 1).dispatch()
    story.start()
    at(story, 5).fail()
    at(story, 30).dispatch(attempt=2)
    story.start(attempt=2)
    at(story, 40).complete(attempt=2)
    first, second = past_of(story).attempts
    assert first.end is not None and second.end is not None
    assert (first.end.type, first.ran_s, second.end.type) == ("failed", 4.0, "completed")
    assert (first.waited_s, second.waited_s, second.ran_s) == (1.0, 25.0, 10.0)
